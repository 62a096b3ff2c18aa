"""Visual reasoning: the original's numbers, statements judged, and what a wrong input is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny
from fiber_heads import FiberForPretraining
from fiber_heads.reasoning import FiberForVisualReasoning, Judgment
from torch import Tensor

from .golden import (
    assert_equal,
    assert_gradients,
    full_size_tensors,
    load_file,
    reference_inputs,
    reference_sizes,
    reference_tensors,
)
from .test_answering import WordsAndPixels, randomize


@pytest.fixture
def model() -> FiberForVisualReasoning:
    torch.manual_seed(0)
    model = FiberForVisualReasoning(fiber_tiny())
    randomize(model)
    model.processor = WordsAndPixels()
    return model.eval()


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_logits_loss_and_gradients_equal_the_original(coarse_case: Path, dtype: torch.dtype, relative: float) -> None:
    model = FiberForVisualReasoning(FiberBackbone.from_config(reference_sizes(coarse_case)))
    model.load_original_checkpoint(reference_tensors(coarse_case, "nlvr2"))
    model.to(dtype).eval()
    expected = load_file(coarse_case / "nlvr2.outputs_f64.safetensors")
    answers = json.loads((coarse_case / "meta.json").read_text())["nlvr2"]["answers"]
    inputs = reference_inputs(coarse_case, dtype)
    batch = {
        "pixel_values": torch.stack([inputs["image"], inputs["image_b"]], dim=1),
        "input_ids": inputs["text_ids"],
        "attention_mask": inputs["text_masks"],
        "labels": torch.tensor(answers).long(),
    }
    output = model(**batch)
    assert_equal(output.logits, expected["nlvr2.logits"], "logits", relative)
    assert_equal(output.loss, expected["nlvr2.loss"], "loss", relative)
    if dtype == torch.float64:
        output.loss.backward()
        assert_gradients(model, coarse_case, "nlvr2")


def test_every_key_of_the_full_size_checkpoint_has_a_place(coarse_reference: Path) -> None:
    tensors = full_size_tensors(coarse_reference, "nlvr2")
    with torch.device("meta"):
        model = FiberForVisualReasoning(FiberBackbone.from_config(FiberConfig()))
        report = model.load_original_checkpoint(tensors)
    found = report.taken + report.dead + report.left
    assert sorted(found) == sorted(tensors)
    assert not report.fresh
    assert report.left == []


def test_a_checkpoint_of_another_task_is_told(coarse_reference: Path, model: FiberForVisualReasoning, tmp_path: Path) -> None:  # fmt: skip
    with torch.device("meta"):
        full = FiberForVisualReasoning(FiberBackbone.from_config(FiberConfig()))
    with pytest.raises(
        ValueError, match=r"\(for FiberForVisualReasoning\) does not fit the model: 6 keys missing \(first: nlvr2"
    ):
        full.load_original_checkpoint(full_size_tensors(coarse_reference, "vqa"))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a FiberForVisualReasoning, not a FiberForPretraining"):
        FiberForPretraining.from_pretrained(tmp_path)


def test_weights_come_back(model: FiberForVisualReasoning, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = FiberForVisualReasoning.from_pretrained(tmp_path)
    again.processor = model.processor
    first, second = torch.randn(2, 3, 64, 64)
    assert again.judge(first, second, "both are red") == model.judge(first, second, "both are red")


def likely(judgments: list[Judgment]) -> Tensor:
    return torch.tensor([each.probability for each in judgments])


def test_each_pair_is_judged_by_itself_and_in_its_order(model: FiberForVisualReasoning) -> None:
    first, second = list(torch.randn(2, 3, 64, 64)), list(3 * torch.rand(2, 3, 64, 64) + 1)
    statements = ["both are red", "the left one has two dogs in it"]
    together = likely(model.judge(first, second, statements))
    assert ((together > 0) & (together < 1)).all()
    for row in range(2):
        alone = likely(model.judge(first[row], second[row], statements[row]))
        assert torch.allclose(alone, together[[row]], rtol=1e-4)
        swapped = likely(model.judge(second[row], first[row], statements[row]))
        assert not torch.allclose(alone, swapped, rtol=1e-3)


def test_a_text_and_a_shared_pair_of_pictures_are_begun_once(model: FiberForVisualReasoning) -> None:
    first, second = torch.randn(2, 3, 64, 64)
    statements, begun = ["both are red", "one is a dog", "none"], {"image": 0, "text": 0}
    parts = {"image": model.backbone.image_stream.patch_embed, "text": model.backbone.text_stream.embeddings.word_embeddings}  # fmt: skip
    handles = [
        module.register_forward_hook(
            lambda _module, inputs, _output, name=name: begun.__setitem__(name, begun[name] + len(inputs[0]))
        )
        for name, module in parts.items()
    ]
    together = model.judge(first, second, statements)
    assert begun == {"image": 2, "text": 3}
    for handle in handles:
        handle.remove()
    alone = [model.judge(first, second, statement)[0] for statement in statements]
    assert [each.statement for each in together] == statements
    assert [each.probability for each in together] == pytest.approx([each.probability for each in alone], rel=1e-4)


def test_it_learns_labels(model: FiberForVisualReasoning) -> None:
    batch = model.prepare(list(torch.randn(4, 3, 64, 64)), ["both are red", "one is a dog"])
    batch["pixel_values"] = batch["pixel_values"].unflatten(0, (2, 2))
    batch["labels"] = 1 - model(**batch).logits.argmax(dim=1)
    assert model(**batch).metrics["reasoning_accuracy"].item() == 0
    optimizer = torch.optim.Adam(model.reasoning_head.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
    assert output.loss.item() < 0.5
    assert output.metrics["reasoning_accuracy"].item() == 1
    assert output.metrics["reasoning_count"].item() == 2


def test_messages(model: FiberForVisualReasoning) -> None:
    with pytest.raises(ValueError, match="joint_projection=True"):
        FiberForVisualReasoning(fiber_tiny(joint_projection=False))
    first, second = list(torch.randn(3, 3, 64, 64)), list(torch.randn(3, 3, 64, 64))
    with pytest.raises(ValueError, match="3 sets of 2 images do not fit 2 texts"):
        model.judge(first, second, ["both are red", "one is a dog"])
    with pytest.raises(ValueError, match="there are 3 first and 2 second images"):
        model.judge(first, second[:2], ["both are red"] * 3)
    with pytest.raises(ValueError, match="text 0 of 1 is empty"):
        model.judge(first[0], second[0], " ")
    with pytest.raises(ValueError, match="there is no statement"):
        model.judge(first[0], second[0], [])
    batch = model.prepare(first, ["both are red"] * 3)
    with pytest.raises(ValueError, match=r"shape \(batch, 2, 3, height, width\), got \(3, 3, 64, 64\); stack"):
        model(**batch)
