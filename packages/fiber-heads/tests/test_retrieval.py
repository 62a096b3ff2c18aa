"""Retrieval: the original's scores and recalls, and search in two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny
from fiber_heads import FiberForPretraining, PretrainingConfig
from fiber_heads.retrieval import FiberForRetrieval
from torch import Tensor

from .golden import assert_equal, full_size_tensors, load_file, reference_inputs, reference_sizes, reference_tensors
from .test_answering import WordsAndPixels, randomize

CAPTIONS = ["a dog", "two red cars on a road", "nothing", "a cat on the mat", "a street"]


@pytest.fixture
def model() -> FiberForRetrieval:
    torch.manual_seed(0)
    model = FiberForRetrieval(fiber_tiny())
    randomize(model.backbone)
    model.processor = WordsAndPixels()
    return model.double().eval()


@pytest.fixture
def pictures() -> list[Tensor]:
    return list(torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def recalls(scores: Tensor, owner: Tensor) -> dict[str, float]:
    """Shares of queries with a right answer among their best K, of pictures (tr) and texts (ir)."""
    right = owner == torch.arange(len(scores))[:, None]
    found = {}
    for name, matrix, hits in (("tr", scores, right), ("ir", scores.T, right.T)):
        ranked = hits.gather(1, matrix.argsort(dim=1, descending=True))
        found |= {f"{name}_r{k}": ranked[:, :k].any(dim=1).double().mean().item() for k in (1, 5, 10)}
    return found


def golden(case: Path, dtype: torch.dtype) -> tuple[FiberForRetrieval, Tensor, dict[str, Tensor]]:
    """The model, 4 B pictures, and the captions with the original's scores."""
    model = FiberForRetrieval(
        FiberBackbone.from_config(reference_sizes(case)), PretrainingConfig(objectives=("itc", "itm"), queue_size=0)
    )
    model.load_original_checkpoint(reference_tensors(case, "pretrain"))
    inputs = reference_inputs(case, dtype)
    pictures = torch.cat([inputs["image"], inputs["image_b"]])
    return model.to(dtype).eval(), torch.cat([pictures, pictures.flip(2)]), load_file(case / "retrieval.safetensors")


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_scores_and_recalls_equal_the_original(coarse_reference: Path, dtype: torch.dtype, relative: float) -> None:
    case = coarse_reference / "c96"
    model, pictures, expected = golden(case, dtype)
    images = model.begin_images(pictures, batch_size=5)
    texts = model.backbone.begin_text(expected["text_ids"], expected["text_masks"])
    cosines = model.image_features(images, batch_size=6) @ model.text_features(texts, batch_size=7).T
    assert_equal(cosines, expected["itc_scores"], "cosines", relative)
    matches = model.score_pairs(images, texts, chunk_size=50)
    assert_equal(matches, expected["itm_scores"], "matches", relative)
    every = model.rerank(images, texts, cosines, top_k=1000, chunk_size=50)
    assert torch.equal(every, matches.double())
    shares = json.loads((case / "retrieval.json").read_text())
    assert recalls(cosines, expected["text_owner"]) == shares["itc"]
    assert recalls(every, expected["text_owner"]) == shares["itm"]


@pytest.mark.parametrize(("file", "objective"), [("irtr_itc_576", "itc"), ("irtr_itm_384", "itm")])
def test_every_key_of_the_full_size_checkpoints_has_a_place(coarse_reference: Path, file: str, objective: str) -> None:
    tensors = full_size_tensors(coarse_reference, file)
    sizes = FiberConfig(image_size=576, window_size=18) if file.endswith("576") else FiberConfig()
    with torch.device("meta"):
        config = PretrainingConfig(objectives=(objective,), queue_size=0)
        report = FiberForRetrieval(FiberBackbone.from_config(sizes), config).load_original_checkpoint(tensors)
    found = report.taken + report.dead + report.left
    assert sorted(found) == sorted(tensors)
    assert not report.fresh
    # The original builds the contrast's layers into every model; matching does not read them.
    assert report.left == []


def test_a_checkpoint_of_another_task_is_told(coarse_reference: Path, model: FiberForRetrieval, tmp_path: Path) -> None:
    with torch.device("meta"):
        full = FiberForRetrieval(FiberBackbone.from_config(FiberConfig()))
    for file in ("vqa", "caption"):
        with pytest.raises(
            ValueError,
            match=r"\(for FiberForRetrieval\) does not fit the model: .* keys missing \(first: .*build the model with the settings",
        ):
            full.load_original_checkpoint(full_size_tensors(coarse_reference, file))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a FiberForRetrieval, not a FiberForPretraining"):
        FiberForPretraining.from_pretrained(tmp_path)


def test_two_steps_put_the_matched_before_the_rest(model: FiberForRetrieval, pictures: list[Tensor]) -> None:
    images, texts = model.begin_images(pictures), model.begin_texts(CAPTIONS)
    matches = model.score_pairs(images, texts)
    first = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    by_image = torch.zeros(4, 5, dtype=torch.bool).scatter_(1, first.topk(2, dim=1).indices, True)
    by_text = torch.zeros(4, 5, dtype=torch.bool).scatter_(0, first.topk(2, dim=0).indices, True)
    asked = {"images": by_image, "texts": by_text, "both": by_image | by_text}
    for queries, again in asked.items():
        scores = model.rerank(images, texts, first, top_k=2, queries=queries)
        assert torch.allclose(scores[again], matches[again]), queries
        assert scores[~again].max() < scores[again].min(), queries
        assert torch.equal(scores[~again].argsort(), first[~again].argsort()), queries


def test_only_the_asked_pairs_are_fused_and_nothing_is_begun_twice(
    model: FiberForRetrieval, pictures: list[Tensor]
) -> None:
    counted = {"image": 0, "text": 0, "pair": 0}
    stream = model.backbone.image_stream
    parts = {"image": stream.patch_embed, "text": model.backbone.text_stream.embeddings.word_embeddings, "pair": stream.cross_attention[0].query}  # fmt: skip
    for name, module in parts.items():
        module.register_forward_hook(
            lambda _module, inputs, _output, name=name: counted.__setitem__(name, counted[name] + len(inputs[0]))
        )
    images, texts = model.begin_images(pictures, batch_size=3), model.begin_texts(CAPTIONS, batch_size=2)
    scores = model.search(images, texts, top_k=1)
    pairs = counted.pop("pair")
    assert counted == {"image": 4, "text": 5}
    assert 5 <= pairs <= 4 + 5
    assert scores.shape == (4, 5)


def test_search_uses_what_the_model_has(pictures: list[Tensor]) -> None:
    for objective in ("itc", "itm"):
        model = FiberForRetrieval(fiber_tiny(), PretrainingConfig(objectives=(objective,))).double().eval()
        model.processor = WordsAndPixels()
        images, texts = model.begin_images(pictures), model.begin_texts(CAPTIONS)
        itm = objective == "itm"
        expected = model.score_pairs(images, texts) if itm else model.image_features(images) @ model.text_features(texts).T  # fmt: skip
        assert torch.equal(model.search(images, texts), expected)


def test_begun_pictures_are_those_of_the_backbone(model: FiberForRetrieval, pictures: list[Tensor]) -> None:
    pixels = torch.stack(pictures)
    expected = model.backbone.begin_image(pixels).hidden_state
    for given in (pictures, pixels):
        assert torch.allclose(model.begin_images(given, batch_size=3, keep_on="cpu").hidden_state, expected)
    assert torch.allclose(model.begin_images(pictures[2]).hidden_state, expected[2:3])
    assert torch.allclose(model.image_features(model.begin_images(pictures)), model.encode_images(pixels))
    assert torch.allclose(model.begin_texts("a dog").hidden_state, model.begin_texts(CAPTIONS[:1]).hidden_state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_states_on_the_host_score_as_those_on_the_device(model: FiberForRetrieval, pictures: list[Tensor]) -> None:
    model.cuda()
    scores = [
        model.search(model.begin_images(pictures, keep_on=place), model.begin_texts(CAPTIONS, keep_on=place), top_k=2)
        for place in ("cpu", "cuda")
    ]
    assert scores[0].device.type == "cuda"
    assert torch.allclose(scores[0], scores[1])


def test_fine_tuning_trains_its_objectives(model: FiberForRetrieval, pictures: list[Tensor], tmp_path: Path) -> None:
    batch = model.prepare(pictures, CAPTIONS[:4])
    for objectives in (("itc",), ("itm",), ("itc", "itm")):
        one = FiberForRetrieval(fiber_tiny(), PretrainingConfig(objectives=objectives, queue_size=8)).double().train()
        assert one.start_from(model).fresh == []
        output = one(**batch)
        output.loss.backward()
        assert set(output.losses) == set(objectives)
        assert all(torch.isfinite(value.grad).all() for value in one.parameters() if value.grad is not None)
        one.save_pretrained(tmp_path)
        assert FiberForRetrieval.from_pretrained(tmp_path).config == one.config


def test_messages(model: FiberForRetrieval, pictures: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="retrieval is trained by 'itc' and 'itm', objectives are"):
        FiberForRetrieval(fiber_tiny(), PretrainingConfig())
    images, texts = model.begin_images(pictures), model.begin_texts(CAPTIONS)
    with pytest.raises(ValueError, match="there is no image"):
        model.begin_images([])
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        model.begin_texts(["a dog", ""])
    with pytest.raises(ValueError, match=r"shape \(images, texts\) = \(4, 5\), got \(5, 4\)"):
        model.rerank(images, texts, torch.zeros(5, 4))
    with pytest.raises(ValueError, match="they are -1 and 'both'"):
        model.rerank(images, texts, torch.zeros(4, 5), top_k=-1)
    with pytest.raises(ValueError, match="4 images and 0 texts"):
        model.score_pairs(images, texts[:0])
    contraster = FiberForRetrieval(fiber_tiny(), PretrainingConfig(objectives=("itc",))).double()
    with pytest.raises(ValueError, match="without the 'itm' objective"):
        contraster.score_pairs(images, texts)
