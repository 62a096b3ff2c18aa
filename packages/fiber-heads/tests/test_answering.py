"""Question answering: the original's numbers, answers to questions, and what a wrong input is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny
from fiber_heads.answering import AnsweringConfig, FiberForQuestionAnswering
from fiber_heads.reasoning import FiberForVisualReasoning
from torch import Tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from .golden import (
    assert_equal,
    assert_gradients,
    full_size_tensors,
    load_file,
    reference_inputs,
    reference_sizes,
    reference_tensors,
)

ANSWERS = ("yes", "no", "two", "red", "a dog")


class WordsAndPixels:
    """Prepares pictures that are tensors, and texts word by word."""

    def __call__(self, images: Any = None, text: Any = None) -> dict[str, Tensor]:
        if images is not None:
            return {"pixel_values": torch.stack(images) if isinstance(images, list) else images[None]}
        words = [one.split() for one in text]
        ids = torch.ones(len(words), max(map(len, words)), dtype=torch.int64)
        for row, some in zip(ids, words, strict=True):
            row[: len(some)] = torch.tensor([5 + sum(map(ord, word)) % 400 for word in some])
        return {"input_ids": ids, "attention_mask": (ids != 1).long()}


def randomize(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.1)


@pytest.fixture
def model() -> FiberForQuestionAnswering:
    torch.manual_seed(0)
    model = FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(ANSWERS))
    randomize(model)
    model.processor = WordsAndPixels()
    return model.eval()


def golden_batch(case: Path, targets: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    inputs = reference_inputs(case, dtype)
    return {
        "pixel_values": inputs["image"],
        "input_ids": inputs["text_ids"],
        "attention_mask": inputs["text_masks"],
        "answer_targets": targets,
    }


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_logits_loss_and_gradients_equal_the_original(coarse_case: Path, dtype: torch.dtype, relative: float) -> None:
    answers = tuple(map(str, range(json.loads((coarse_case / "config.json").read_text())["model_config"]["vqav2_label_size"])))  # fmt: skip
    model = FiberForQuestionAnswering(FiberBackbone.from_config(reference_sizes(coarse_case)), AnsweringConfig(answers))
    model.load_original_checkpoint(reference_tensors(coarse_case, "vqa"))
    model.to(dtype).eval()
    expected = load_file(coarse_case / "vqa.outputs_f64.safetensors")
    meta = json.loads((coarse_case / "meta.json").read_text())["vqa"]
    targets = torch.zeros(len(meta["vqa_labels"]), len(answers), dtype=dtype)
    for row, labels, scores in zip(targets, meta["vqa_labels"], meta["vqa_scores"], strict=True):
        row[labels] = torch.tensor(scores, dtype=dtype)
    output = model(**golden_batch(coarse_case, targets, dtype))
    assert_equal(output.logits, expected["vqa.logits"], "logits", relative)
    assert_equal(output.loss, expected["vqa.loss"], "loss", relative)
    if dtype == torch.float64:
        output.loss.backward()
        assert_gradients(model, coarse_case, "vqa")


@pytest.mark.parametrize("file", ["vqa", "vqa_576"])
def test_every_key_of_the_full_size_checkpoints_has_a_place(coarse_reference: Path, file: str) -> None:
    tensors = full_size_tensors(coarse_reference, file)
    sizes = FiberConfig(image_size=576, window_size=18) if file.endswith("576") else FiberConfig()
    with torch.device("meta"):
        model = FiberForQuestionAnswering(
            FiberBackbone.from_config(sizes), AnsweringConfig(tuple(map(str, range(3129))))
        )
        report = model.load_original_checkpoint(tensors)
    found = report.taken + report.dead + report.left
    assert sorted(found) == sorted(tensors)
    assert not report.fresh
    # The original builds the contrast's layers into every model; answering does not read them.
    assert report.left == []


@pytest.mark.parametrize(("file", "first"), [("caption", "vqa_classifier.0.weight"), ("nlvr2", "vqa_classifier")])
def test_a_checkpoint_of_another_task_is_told(coarse_reference: Path, file: str, first: str) -> None:
    with torch.device("meta"):
        model = FiberForQuestionAnswering(FiberBackbone.from_config(FiberConfig()), AnsweringConfig(ANSWERS))
    with pytest.raises(
        ValueError,
        match=rf"\(for FiberForQuestionAnswering\) does not fit.* keys missing \(first: {first}.*build the model with the settings",
    ):
        model.load_original_checkpoint(full_size_tensors(coarse_reference, file))


def test_a_checkpoint_with_other_answers_is_told(coarse_reference: Path) -> None:
    with torch.device("meta"):
        model = FiberForQuestionAnswering(FiberBackbone.from_config(FiberConfig()), AnsweringConfig(ANSWERS))
    with pytest.raises(
        ValueError, match=r"vqa_classifier.3.weight \(3129, 1536\) where answer_head.decoder.weight has \(5, 1536\)"
    ):
        model.load_original_checkpoint(full_size_tensors(coarse_reference, "vqa"))


def test_answers_come_back_with_the_weights(model: FiberForQuestionAnswering, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = FiberForQuestionAnswering.from_pretrained(tmp_path)
    again.processor = model.processor
    picture = torch.randn(3, 64, 64)
    assert again.answer(picture, "is it red", top_k=5) == model.answer(picture, "is it red", top_k=5)
    with pytest.raises(ValueError, match="holds a FiberForQuestionAnswering, not a FiberForVisualReasoning"):
        FiberForVisualReasoning.from_pretrained(tmp_path)


def test_answers_are_those_of_the_logits(model: FiberForQuestionAnswering) -> None:
    pictures, questions = list(torch.randn(2, 3, 64, 64)), ["how many dogs are there", "is it red"]
    answers = model.answer(pictures, questions, top_k=3)
    with torch.no_grad():
        logits = model(**model.prepare(pictures, questions)).logits
    for row, given in zip(logits.sigmoid(), answers, strict=True):
        order = row.argsort(descending=True)[:3]
        assert [answer.text for answer in given] == [ANSWERS[place] for place in order]
        assert [answer.probability for answer in given] == pytest.approx(row[order].tolist())
    assert len(model.answer(pictures, questions, top_k=9)[0]) == len(ANSWERS)


def test_a_picture_of_many_questions_is_begun_once(model: FiberForQuestionAnswering) -> None:
    picture, questions = torch.randn(3, 64, 64), ["how many dogs are there", "is it red", "what is this"]
    begun: list[int] = []
    handle = model.backbone.image_stream.patch_embed.register_forward_hook(
        lambda _module, inputs, _output: begun.append(len(inputs[0]))
    )
    together = model.answer(picture, questions)
    assert begun == [1]
    handle.remove()
    for question, answers in zip(questions, together, strict=True):
        ((alone,),) = model.answer(picture, question)
        assert alone.text == answers[0].text
        assert alone.probability == pytest.approx(answers[0].probability, rel=1e-4)


def test_accuracy_is_the_target_of_the_best_answer(model: FiberForQuestionAnswering) -> None:
    batch = model.prepare(list(torch.randn(2, 3, 64, 64)), ["is it red", "what is this"])
    best = model(**batch).logits.argmax(dim=1)
    batch["answer_targets"] = torch.zeros(2, len(ANSWERS))
    batch["answer_targets"][[0, 1], best] = torch.tensor([0.3, 1.0])
    metrics = model(**batch).metrics
    assert metrics["answer_accuracy"].item() == pytest.approx(0.65)
    assert metrics["answer_count"].item() == 2


def test_no_value_leaves_the_device_in_a_step(model: FiberForQuestionAnswering) -> None:
    """Fake tensors have no values: any read of one raises."""
    mode = FakeTensorMode()
    with FakeCopyMode(mode):
        fake = copy.deepcopy(model.train())
    with mode:
        ids = torch.ones(3, 7, dtype=torch.int64)
        batch = {"pixel_values": torch.empty(1, 3, 64, 64), "input_ids": ids, "attention_mask": ids}
        fake(**batch, answer_targets=torch.empty(3, len(ANSWERS))).loss.backward()


def test_messages(model: FiberForQuestionAnswering) -> None:
    with pytest.raises(ValueError, match="answers is empty; give every answer"):
        AnsweringConfig(())
    with pytest.raises(ValueError, match="answers holds 'no' 2 times"):
        AnsweringConfig(("no", "yes", "no"))
    with pytest.raises(ValueError, match="joint_projection=True"):
        FiberForQuestionAnswering(fiber_tiny(joint_projection=False), AnsweringConfig(ANSWERS))
    pictures = list(torch.randn(3, 3, 64, 64))
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        model.answer(pictures[0], ["is it red", " "])
    with pytest.raises(ValueError, match="there is no question"):
        model.answer(pictures[0], [])
    with pytest.raises(ValueError, match="3 images do not fit 2 texts; give one for all texts, or one for each"):
        model.answer(pictures, ["is it red", "what is this"])
    with pytest.raises(ValueError, match="top_k must be at least 1, is 0"):
        model.answer(pictures[0], "is it red", top_k=0)
    batch = model.prepare(pictures[0], "is it red")
    with pytest.raises(ValueError, match=r"answer_targets must have the shape \(questions, answers\) = \(1, 5\), got"):
        model(**batch, answer_targets=torch.zeros(1, 4))
    with pytest.raises(KeyError, match="the batch lacks pixel_values"):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    model.processor = None
    with pytest.raises(ValueError, match="has no processor"):
        model.answer(pictures[0], "is it red")
