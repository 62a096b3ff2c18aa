"""Images and texts as they come, results that print, folders that bring their processor."""

from __future__ import annotations

import json
import sys
import types
import warnings
from html import escape
from importlib.metadata import EntryPoint
from io import BytesIO
from pathlib import Path
from typing import Any

import fiber_backbone.seams
import numpy as np
import pytest
import torch
from fiber_backbone import fiber_tiny
from fiber_heads import (
    Answer,
    AnsweringConfig,
    AutoFiber,
    Caption,
    Detections,
    FiberForQuestionAnswering,
    FiberForRetrieval,
    FiberForVisualReasoning,
    Judgment,
    Match,
    TaskOutput,
)
from PIL import Image
from torch import Tensor

from .test_answering import WordsAndPixels, randomize


class SavedProcessor(WordsAndPixels):
    """One that a folder can hold."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "preprocessor_config.json").write_text(json.dumps({"processor_class": "SavedProcessor"}))

    @classmethod
    def from_pretrained(cls, folder: Path) -> SavedProcessor:
        assert (Path(folder) / "preprocessor_config.json").is_file()
        return cls()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that declares the processor."""
    module = types.ModuleType("somebodys_processor")
    module.SavedProcessor = SavedProcessor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_processor", module)
    entry = EntryPoint("SavedProcessor", "somebodys_processor:SavedProcessor", "fiber.processors")
    found = fiber_backbone.seams.available
    monkeypatch.setattr(
        fiber_backbone.seams,
        "available",
        lambda group: {entry.name: entry} if group == "fiber.processors" else found(group),
    )


@pytest.fixture
def retrieval() -> FiberForRetrieval:
    torch.manual_seed(0)
    model = FiberForRetrieval(fiber_tiny()).eval()
    randomize(model.backbone)
    model.processor = WordsAndPixels()
    return model


def test_an_output_is_dictionary_tuple_and_attributes() -> None:
    loss, logits = torch.tensor(2.0), torch.zeros(1, 2)
    output = TaskOutput(loss, {"a": loss}, logits=logits)
    assert list(output) == ["loss", "losses", "metrics", "logits"]
    assert output["loss"] is output.loss is output[0]
    assert output.to_tuple() == (loss, {"a": loss}, {}, logits)
    assert TaskOutput(loss).losses == {}
    again = TaskOutput(dict(output))  # as libraries rebuild it
    assert again.logits is logits
    assert again.losses == {"a": loss}
    assert again.loss is loss


def test_images_and_texts_are_searched_as_they_come(retrieval: FiberForRetrieval) -> None:
    images, texts = list(torch.randn(3, 3, 64, 64)), ["a dog", "two cats", "one car", "a tree"]
    begun = retrieval.begin_images(images), retrieval.begin_texts(texts)
    torch.testing.assert_close(retrieval.search(images, texts), retrieval.search(*begun))
    assert retrieval.search(images[0], "a dog").shape == (1, 1)
    prepared = retrieval.encode_images(torch.stack(images))
    assert prepared.requires_grad
    torch.testing.assert_close(retrieval.encode_images(images, batch_size=2), prepared.detach())
    ids = retrieval.prepare(text=texts)
    torch.testing.assert_close(retrieval.encode_texts(texts), retrieval.encode_texts(**_renamed(ids)).detach())
    assert retrieval.encode_texts("a dog").shape == retrieval.encode_images(images[0]).shape
    pairs = retrieval.match(images, texts[:3])
    assert pairs.shape == (3, 2)
    torch.testing.assert_close(retrieval.match(images[0], texts[:3])[0], pairs[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="3 images do not fit 4 texts"):
        retrieval.match(images, texts)


def _renamed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"texts": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def test_a_folder_brings_its_processor(installed: None, tmp_path: Path) -> None:
    model = FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("yes", "no"))).eval()
    model.processor = SavedProcessor()
    model.save_pretrained(tmp_path)
    again = AutoFiber.from_pretrained(tmp_path)
    assert isinstance(again.processor, SavedProcessor)
    image = torch.randn(3, 64, 64)
    assert again.answer(image, "is it red") == model.answer(image, "is it red")


def test_a_processor_of_nobody_is_left_out_and_told(tmp_path: Path) -> None:
    model = FiberForVisualReasoning(fiber_tiny())
    model.save_pretrained(tmp_path)
    assert FiberForVisualReasoning.from_pretrained(tmp_path).processor is None
    for name, reason in (("Nobodys", "has no 'Nobodys'"), ("nobodys.module:Processor", "which to load would run")):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"processor_class": name}))
        with pytest.warns(UserWarning, match=f"is loaded without its processor: .*{reason}"):
            assert FiberForVisualReasoning.from_pretrained(tmp_path).processor is None
    path = f"{SavedProcessor.__module__}:SavedProcessor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"processor_class": path}))
    loaded = FiberForVisualReasoning.from_pretrained(tmp_path, trusted=[path])
    assert type(loaded.processor).__name__ == "SavedProcessor"


def test_a_name_on_the_hub_brings_its_processor(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FiberForVisualReasoning(fiber_tiny())
    model.processor = SavedProcessor()
    pushed: list[set[str]] = []

    class Hub:
        """What `push_to_hub` tells."""

        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return types.SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, folder_path: Path, **_: Any) -> str:
            pushed.append({path.name for path in Path(folder_path).iterdir()})
            return ""

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    model.push_to_hub("somebody/model")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= pushed[0]
    model.save_pretrained(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr("fiber_backbone.pretrained.hf_hub_download", lambda name, file, **_: str(tmp_path / file))
    monkeypatch.setattr(
        "fiber_heads.processing.snapshot_download", lambda name, **options: asked.append(options) or str(tmp_path)
    )
    loaded = AutoFiber.from_pretrained("somebody/model", revision="v1")
    assert isinstance(loaded.processor, SavedProcessor)
    assert asked[0]["revision"] == "v1"
    assert "*.safetensors" not in asked[0]["allow_patterns"]


def test_weights_keep_their_type_and_say_so(tmp_path: Path) -> None:
    model = FiberForVisualReasoning(fiber_tiny()).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"weights in torch.bfloat16, which stay so; give dtype=torch.float32"):
        kept = FiberForVisualReasoning.from_pretrained(tmp_path)
    assert {value.dtype for value in kept.parameters()} == {torch.bfloat16}
    assert kept.dtype == torch.bfloat16
    kept.processor = WordsAndPixels()
    (judgment,) = kept.judge(torch.randn(3, 64, 64), torch.randn(3, 64, 64), "both are red")  # pixels follow the type
    assert 0 < judgment.probability < 1
    with warnings.catch_warnings(action="error"):
        wide = FiberForVisualReasoning.from_pretrained(tmp_path, dtype=torch.float32)
    assert {value.dtype for value in wide.parameters()} == {torch.float32}


def test_answers_judgments_and_captions_print_and_become_json(capsys) -> None:
    cases = [
        (Answer("a <dog>", 0.25), "a <dog> (0.250)", {"text": "a <dog>", "probability": 0.25}),
        (Judgment("it is", 0.75), "it is: true (0.750 that it is true)", {"statement": "it is", "probability": 0.75}),
        (Caption([5, 6], -0.5, "a dog"), "a dog (-0.500)", {"token_ids": [5, 6], "score": -0.5, "text": "a dog"}),
        (Match(Path("a.png"), 0.5, 3), "a.png (0.500)", {"image": "a.png", "score": 0.5, "index": 3}),
        (Match(torch.zeros(3, 2, 2), 0.5, 3), "image 3 (0.500)", {"image": None, "score": 0.5, "index": 3}),
    ]
    for result, printed, plain in cases:
        assert str(result) == printed
        assert json.loads(json.dumps(result.to_dict())) == plain
        result.show()
        assert capsys.readouterr().out == f"{printed}\n"
        assert all(escape(str(value)) in result._repr_html_() for value in result.row().values())


def test_detections_print_draw_and_become_json(tmp_path: Path) -> None:
    boxes = torch.tensor([[2.0, 3, 30, 40], [5, 5, 20, 20]])
    found = Detections(boxes, torch.tensor([0.9, 0.5]), torch.tensor([1, 0]), ["a <cat>", "dog"])
    assert list(found) == ["boxes", "scores", "labels", "text_labels"]
    assert found["boxes"] is found.boxes
    header, first, _ = str(found).splitlines()
    assert header.split() == ["score", "label", "x1", "y1", "x2", "y2"]
    assert first.split() == ["0.900", "a", "<cat>", "2.0", "3.0", "30.0", "40.0"]
    assert json.loads(json.dumps(found.to_dict()))["boxes"][1] == [5.0, 5.0, 20.0, 20.0]
    assert "a &lt;cat&gt;" in found._repr_html_()
    assert "<img" not in found._repr_html_()
    with pytest.raises(ValueError, match="there is no image to draw on in None; give draw a path"):
        found.show()
    pixels = np.zeros((48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    file = (tmp_path / "image.png").read_bytes()
    for image in (
        pixels,
        torch.from_numpy(pixels).movedim(-1, 0),
        Image.fromarray(pixels),
        tmp_path / "image.png",
        file,
        BytesIO(file),
    ):
        drawn = np.asarray(found.draw(image))
        assert drawn.shape == pixels.shape
        assert drawn.any()
    whole = Detections(torch.tensor([[0.0, 0, 64, 48]]), torch.ones(1), torch.zeros(1).long(), [""])
    assert np.asarray(whole.draw(pixels))[40, 62:].any(axis=1).all()  # two pixels wide at the border too
    found.image = pixels
    assert "data:image/jpeg;base64," in found.best(1)._repr_html_()
    assert found.best(0).draw().size == (64, 48)
