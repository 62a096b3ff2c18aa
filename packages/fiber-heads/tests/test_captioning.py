"""Captioning: the original's numbers, and what an objective must do whatever the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny, original_key_map
from fiber_heads.captioning import CachedDecoder, CaptioningConfig, FiberForCaptioning, gold_weights, next_words
from fiber_heads.checkpoints import original_head_map
from fiber_heads.generation import GenerationConfig, original_beams, sample
from safetensors.torch import load_file
from torch import Tensor

from .golden import assert_equal, full_size_tensors, reference_inputs, reference_sizes, reference_tensors

ORIGINAL = GenerationConfig(num_beams=5, max_length=15, min_length=0, forbidden_token_ids=(4,), original=True)


def load_case(case: Path, objective: str) -> FiberForCaptioning:
    """The case's model with the original's settings, in float64; training on its surface only, as the case was."""
    config = replace(reference_sizes(case), decoder_projections=True)
    captioning = CaptioningConfig(objective, original=True, generation=ORIGINAL)
    model = FiberForCaptioning(FiberBackbone(config), captioning)
    report = model.load_original_checkpoint(reference_tensors(case, "caption"))
    assert all("_itc." in name for name in report.left)  # of the contrast, which captioning never reads
    model.double().eval().training = True
    return model


@pytest.fixture
def inputs(coarse_case: Path) -> dict[str, Tensor]:
    return reference_inputs(coarse_case)


@pytest.fixture
def reference(coarse_case: Path) -> dict[str, Tensor]:
    return load_file(coarse_case / "caption.outputs_f64.safetensors")


def as_batch(inputs: dict[str, Tensor], words: str = "text_ids") -> dict:
    size = len(inputs["image"])
    return {
        "pixel_values": inputs["image"],
        "input_ids": inputs[words],
        "attention_mask": inputs["text_masks"],
        "references": [[f"a ref {i}", f"another ref {i}"] for i in range(size)],
    }


def original_step(case: Path, objective: str, inputs: dict[str, Tensor], reference: dict[str, Tensor]):
    """The model after one step of an objective, as the reference ran it."""
    model = load_case(case, objective)
    if objective == "gold":
        frozen = load_case(case, objective)
        frozen.load_original_checkpoint(reference_tensors(case, "caption_copy_module"))
        frozen._refresh()
        model.load_training_state({**frozen.training_state(), "batches": torch.tensor(1)})
    model.reward = lambda ids, references: reference["scst.rewards"]
    samples = reference["scst.forced_samples"] if objective == "cider" else None
    return model, model(as_batch(inputs, "gold_text_ids" if objective == "gold" else "text_ids"), samples)


def test_states_and_likelihood(coarse_case: Path, inputs, reference) -> None:
    model = load_case(coarse_case, "mle")
    with torch.no_grad():
        features = model.encode_images(inputs["image"])
        text = model.backbone.decode_text(inputs["text_ids"], features, inputs["text_masks"]).text_features
        output = model(as_batch(inputs))
    assert_equal(features, reference["caption.image_embeds"], "image")
    assert_equal(text, reference["caption.text_feats"], "text")
    assert_equal(output.logits, reference["mle.logits"], "logits")
    assert_equal(output.loss, reference["mle.loss"], "loss")
    labels = next_words(inputs["text_ids"], 1)
    assert torch.equal(labels, reference["mle.labels"].masked_fill(reference["mle.labels"] == 1, -100))


def test_gold(coarse_case: Path, inputs, reference) -> None:
    with torch.no_grad():
        model, output = original_step(coarse_case, "gold", inputs, reference)
        weights = model._gold_weights(as_batch(inputs, "gold_text_ids"), next_words(inputs["gold_text_ids"], 1))
        model.eval()
        plain = model(as_batch(inputs)).loss
    assert_equal(output.loss, reference["gold.loss"], "loss")
    assert_equal(weights, reference["gold.weights"], "weights")
    assert_equal(plain, reference["gold_eval.loss"], "in eval mode")


def test_reward(coarse_case: Path, inputs, reference) -> None:
    model = load_case(coarse_case, "cider")
    model.reward = lambda ids, references: seen.append((ids, references)) or reference["scst.rewards"]
    seen: list = []
    with torch.no_grad():
        output = model(as_batch(inputs), reference["scst.forced_samples"])
    ((ids, references),) = seen
    assert torch.equal(ids, reference["scst.sampled_text_ids"])
    assert references == as_batch(inputs)["references"]
    for name, ours in (("rl_loss", output.losses["cider"]), ("loss", output.loss)):
        error = (ours - reference[f"scst.{name}"]).abs() / reference[f"scst.{name}"].abs()
        assert error < 1e-8, name  # the original keeps a length in float32


@pytest.mark.parametrize(("objective", "file"), [("mle", "mle"), ("gold", "gold"), ("cider", "scst")])
def test_gradients(coarse_case: Path, inputs, reference, objective: str, file: str) -> None:
    model, output = original_step(coarse_case, objective, inputs, reference)
    output.loss.backward()
    expected = json.loads((coarse_case / f"caption.grads_{file}.json").read_text())
    tensors = reference_tensors(coarse_case, "caption")
    largest = max(value[0] for value in expected.values() if value is not None)
    parameters = dict(model.named_parameters())
    pairs = [(f"backbone.{ours}", names) for ours, names in original_key_map(model.backbone.config)]
    pairs += [(ours, [name]) for ours, name in original_head_map(model).items()]
    compared = set()
    for ours, names in pairs:
        gradient = parameters[ours].grad
        parts = gradient.split([len(tensors[name]) for name in names]) if gradient is not None else ()
        for name, part in zip(names, parts, strict=gradient is not None):
            flat = part.flatten()
            measured = torch.stack([flat.norm(), flat.sum(), (flat * torch.arange(len(flat)).double().cos()).sum()])
            if expected[name] is None:
                assert not flat.any(), name
                continue
            error = (measured - torch.tensor(expected[name], dtype=torch.float64)).abs().max().item()
            assert error < 1e-8 * max(expected[name][0], largest), f"{name}: {error:.1e}"
            compared.add(name)
    assert compared == {name for name, value in expected.items() if value is not None and not name.startswith("copy_")}


def test_beam_search_token_for_token(coarse_case: Path, inputs, reference) -> None:
    runs = sorted({name.split(".tokens")[0] for name in reference if name.endswith(".tokens")})
    assert len(runs) == 3
    model = load_case(coarse_case, "mle").eval()
    bias = model.word_head.decoder.bias.detach().clone()
    for run in runs:
        with torch.no_grad():
            model.word_head.decoder.bias.copy_(bias)
            model.word_head.decoder.bias[2] += float(run.partition("+")[2] or 0)
            decoder = CachedDecoder(model.backbone, model.word_head, model.encode_images(inputs["image"]))
            states = list(original_beams(decoder, ORIGINAL))
        assert len(states) - 1 == len(reference[f"{run}.trace_step"])
        for step, state in enumerate(states[1:]):
            assert torch.equal(state.ids, reference[f"{run}.trace_text_ids"][step]), (run, step)
            assert_equal(state.sums, reference[f"{run}.trace_sum_logp"][step], f"{run} {step}")
            assert torch.equal(state.lengths, reference[f"{run}.trace_length"][step]), (run, step)
            assert torch.equal(state.ended, reference[f"{run}.trace_ended"][step].bool()), (run, step)
        captions = model.generate(inputs["image"], ORIGINAL)
        expected = [[token for token in row if token != 1] for row in reference[f"{run}.tokens"].tolist()]
        assert [row[0].token_ids for row in captions] == expected
