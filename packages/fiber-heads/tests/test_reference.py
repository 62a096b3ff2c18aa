"""Losses, logits, sampling weights, queue and gradients of the original's pre-training, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberConfig, original_backbone_map
from fiber_backbone.backbone import FiberBackbone
from fiber_heads import FiberForPretraining, Negatives, PretrainingConfig
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from .golden import assert_equal, assert_gradients, full_size_tensors, reference_inputs


@pytest.fixture
def inputs(coarse_case: Path) -> dict[str, Tensor]:
    return reference_inputs(coarse_case)


@pytest.fixture
def reference(coarse_case: Path) -> dict[str, Tensor]:
    return load_file(coarse_case / "pretrain.outputs_f64.safetensors")


def as_batch(inputs: dict[str, Tensor], rows: slice | Tensor = slice(None)) -> dict[str, Tensor]:
    names = {
        "pixel_values": "image",
        "input_ids": "text_ids",
        "attention_mask": "text_masks",
        "mlm_input_ids": "text_ids_mlm",
        "mlm_labels": "text_labels_mlm",
    }
    return {ours: inputs[theirs][rows] for ours, theirs in names.items()}


def drawn(reference: dict[str, Tensor], step: str) -> Negatives:
    text, image = reference[f"{step}.neg_text_idx"], reference[f"{step}.neg_image_idx"]
    exists = torch.ones_like(text, dtype=torch.bool)
    return Negatives(text, image, exists, exists)


def test_dual_encoder(original_model: FiberForPretraining, inputs, reference) -> None:
    with torch.no_grad():
        images = original_model.encode_images(inputs["image"])
        texts = original_model.encode_texts(inputs["text_ids"], inputs["text_masks"])
    assert_equal(images, reference["image_only.cls_feats"], "images")
    assert_equal(texts, reference["text_only.cls_feats"], "texts")


def test_one_step(original_model: FiberForPretraining, inputs, reference) -> None:
    with torch.no_grad():
        output = original_model(**as_batch(inputs), negatives=drawn(reference, "itc_step1"))
    assert_equal(output.mlm_logits, reference["mlm.logits"], "mlm logits")
    assert_equal(output.losses["mlm"], reference["mlm.loss"], "mlm loss")
    assert_equal(output.losses["itc"], reference["itc_step1.loss"], "itc loss")
    assert_equal(output.itm_logits, reference["itm_hardneg.logits"], "itm logits")
    assert torch.equal(output.itm_labels, reference["itm_hardneg.labels"])
    assert_equal(output.losses["itm"], reference["itm_hardneg.loss"], "itm loss")
    assert_equal(output.loss, reference["total.loss"], "total")


def test_matching_without_contrast(original_model: FiberForPretraining, inputs, reference) -> None:
    backbone, labels = original_model.backbone, reference["itm_plain.labels"]
    pixels = torch.where(labels.bool()[:, None, None, None], inputs["image"], inputs["image_b"])
    with torch.no_grad():
        text = backbone.begin_text(inputs["text_ids"], inputs["text_masks"])
        logits = original_model.match(backbone.begin_image(pixels), text)
        rank = original_model.match(backbone.begin_image(inputs["image"]), text)[:, 1]
    assert_equal(logits, reference["itm_plain.logits"], "logits")
    assert_equal(cross_entropy(logits, labels), reference["itm_plain.loss"], "loss")
    assert_equal(rank, reference["fused.rank_score"], "rank score")


def test_sampling_weights_and_queue_over_two_steps(
    original_model: FiberForPretraining, original_tensors, inputs, reference
) -> None:
    model, queue = original_model, original_model.queue
    source = original_tensors["image_input_queue"].clone()

    def features(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model.encode_images(batch["pixel_values"]), model.encode_texts(
            batch["input_ids"], batch["attention_mask"]
        )

    with torch.no_grad():
        filled, queue.filled = queue.filled, 0
        contrast = model.contrastive_head(*features(as_batch(inputs)), queue)
        queue.filled = filled
        assert_equal(contrast.loss, reference["itc_empty.loss"], "empty loss")
        assert_equal(contrast.image_to_text, reference["itc_empty.weights_i2t"], "empty i2t")
        assert_equal(contrast.text_to_image, reference["itc_empty.weights_t2i"], "empty t2i")

        for step, order in (("itc_step1", slice(None)), ("itc_step2", torch.arange(len(inputs["image"])).flip(0))):
            batch = as_batch(inputs, order)
            contrast = model.contrastive_head(*features(batch), queue)
            assert_equal(contrast.loss, reference[f"{step}.loss"], f"{step} loss")
            assert_equal(contrast.image_to_text, reference[f"{step}.weights_i2t"], f"{step} i2t")
            assert_equal(contrast.text_to_image, reference[f"{step}.weights_t2i"], f"{step} t2i")
            # The texts that the drawn columns stand for are those that the original re-encoded.
            texts = torch.cat([batch["input_ids"], queue.input_ids[: queue.filled]])
            assert torch.equal(texts[reference[f"{step}.neg_text_idx"]], reference[f"{step}.text_neg"])
            # The root flag of the reference: the objective trains, dropout does not.
            model.training = True
            model(**batch, negatives=drawn(reference, step))
            model.training = False
            assert_equal(queue.image, reference[f"{step}.after.image_queue"].T, f"{step} image queue")
            assert_equal(queue.text, reference[f"{step}.after.text_queue"].T, f"{step} text queue")
            assert torch.equal(queue.input_ids, reference[f"{step}.after.text_input_queue"])
            assert torch.equal(queue.attention_mask, reference[f"{step}.after.text_input_mask_queue"])
            rows = reference[f"{step}.after.image_input_queue_source"]
            source[rows >= 0] = batch["pixel_values"][rows[rows >= 0]].float()
            assert torch.equal(queue.pixels, source)
            assert queue.pointer == int(reference[f"{step}.after.queue_ptr"])
            assert queue.filled == min(int(reference[f"{step}.after.queue_total"]), queue.size)


def test_gradients(coarse_case: Path, original_model: FiberForPretraining, inputs, reference) -> None:
    original_model(**as_batch(inputs), negatives=drawn(reference, "itc_step1")).loss.backward()
    assert_gradients(original_model, coarse_case, "pretrain")


@pytest.mark.parametrize("file", ["pretrain", "irtr_itc_576", "irtr_itm_384"])
def test_every_key_of_the_full_size_checkpoints_has_a_place(coarse_reference: Path, file: str) -> None:
    tensors = full_size_tensors(coarse_reference, file)
    sizes = FiberConfig(image_size=576, window_size=18) if file.endswith("576") else FiberConfig()
    objectives = {"pretrain": ("itc", "itm", "mlm"), "irtr_itc_576": ("itc",), "irtr_itm_384": ("itm",)}[file]
    with torch.device("meta"):
        model = FiberForPretraining(
            FiberBackbone.from_config(sizes), PretrainingConfig(objectives=objectives, queue_size=0)
        )
        report = model.load_original_checkpoint(tensors)
    ours = {f"backbone.{name}" for name, _ in original_backbone_map(sizes).pairs} | set(
        dict(model.original_head_map().pairs)
    )
    assert ours == {name for name, _ in model.named_parameters()}
    found = report.taken + report.dead + report.left
    assert sorted(found) == sorted(tensors)
    assert not report.fresh
