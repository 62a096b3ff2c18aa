"""Captioning: the original's numbers, and what an objective must do whatever the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny, original_backbone_map
from fiber_heads.captioning import CachedDecoder, FiberForCaptioning, next_tokens
from fiber_heads.config import CaptioningConfig, GenerationConfig
from fiber_heads.generation import original_beams
from safetensors.torch import load_file
from torch import Tensor

from .golden import assert_equal, full_size_tensors, reference_inputs, reference_sizes, reference_tensors

ORIGINAL = GenerationConfig(num_beams=5, max_length=15, min_length=0, forbidden_token_ids=(4,), original=True)


def load_case(case: Path, objective: str) -> FiberForCaptioning:
    """The case's model with the original's settings, in float64; training on its surface only, as the case was."""
    config = replace(reference_sizes(case), decoder_projections=True)
    captioning = CaptioningConfig(objective, original=True, generation=ORIGINAL)
    model = FiberForCaptioning(FiberBackbone.from_config(config), captioning)
    report = model.load_original_checkpoint(reference_tensors(case, "caption"))
    assert report.left == []
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
    return model, model(**as_batch(inputs, "gold_text_ids" if objective == "gold" else "text_ids"), samples=samples)


@pytest.mark.parametrize("objective", ["mle", "gold", "cider"])
def test_losses_in_single_precision(coarse_case: Path, inputs, reference, objective: str) -> None:
    model, _ = original_step(coarse_case, objective, inputs, reference)
    model.float()
    if model._frozen is not None:
        model._frozen[0].float()
    batch = as_batch(inputs, "gold_text_ids" if objective == "gold" else "text_ids")
    with torch.no_grad():
        batch["pixel_values"] = batch["pixel_values"].float()
        samples = reference["scst.forced_samples"] if objective == "cider" else None
        loss = model(**batch, samples=samples).loss
    assert_equal(loss.double(), reference[f"{'scst' if objective == 'cider' else objective}.loss"], objective, 1e-4)


def test_states_and_likelihood(coarse_case: Path, inputs, reference) -> None:
    model = load_case(coarse_case, "mle")
    with torch.no_grad():
        features = model.encode_images(inputs["image"])
        text = model.backbone.decode_text(inputs["text_ids"], features, inputs["text_masks"]).text_features
        output = model(**as_batch(inputs))
    assert_equal(features, reference["caption.image_embeds"], "image")
    assert_equal(text, reference["caption.text_feats"], "text")
    assert_equal(output.logits, reference["mle.logits"], "logits")
    assert_equal(output.loss, reference["mle.loss"], "loss")
    labels = next_tokens(inputs["text_ids"], 1)
    assert torch.equal(labels, reference["mle.labels"].masked_fill(reference["mle.labels"] == 1, -100))


def test_gold(coarse_case: Path, inputs, reference) -> None:
    with torch.no_grad():
        model, output = original_step(coarse_case, "gold", inputs, reference)
        given = as_batch(inputs, "gold_text_ids")
        given = (given["pixel_values"], given["input_ids"], given["attention_mask"])
        weights = model._gold_weights(*given, next_tokens(inputs["gold_text_ids"], 1))
        model.eval()
        plain = model(**as_batch(inputs)).loss
    assert_equal(output.loss, reference["gold.loss"], "loss")
    assert_equal(weights, reference["gold.weights"], "weights")
    assert_equal(plain, reference["gold_eval.loss"], "in eval mode")


def test_reward(coarse_case: Path, inputs, reference) -> None:
    model = load_case(coarse_case, "cider")
    model.reward = lambda ids, references: seen.append((ids, references)) or reference["scst.rewards"]
    seen: list = []
    with torch.no_grad():
        output = model(**as_batch(inputs), samples=reference["scst.forced_samples"])
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
    pairs = [(f"backbone.{ours}", names) for ours, names in original_backbone_map(model.backbone.config).pairs]
    pairs += [(ours, names) for ours, names in model.original_head_map().pairs]
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


@pytest.mark.parametrize("file", ["caption", "caption_576"])
@pytest.mark.parametrize("gold", [False, True])
def test_every_key_of_the_full_size_checkpoints_has_a_place(coarse_reference: Path, file: str, gold: bool) -> None:
    tensors = full_size_tensors(coarse_reference, file)
    if gold:
        tensors |= {f"copy_module.{name}": value for name, value in tensors.items()}
    sizes = FiberConfig(decoder_projections=True)
    if file.endswith("576"):
        sizes = replace(sizes, image_size=576, window_size=18)
    with torch.device("meta"):
        model = FiberForCaptioning(FiberBackbone.from_config(sizes))
        report = model.load_original_checkpoint(tensors)
        of_heads = set(report.dead) - set(model.backbone.load_original_checkpoint(tensors).dead)
    ours = {f"backbone.{name}" for name, _ in original_backbone_map(sizes).pairs} | set(
        dict(model.original_head_map().pairs)
    )
    assert ours == {name for name, _ in model.named_parameters()}
    found = report.taken + report.dead + report.left
    assert sorted(found) == sorted(tensors)
    assert not report.fresh
    assert report.left == []
    contrast = 8  # built into every model of the original, not read by this one
    assert len(of_heads) == contrast + (len(tensors) // 2 if gold else 0)


def make(objective: str = "mle", **config) -> FiberForCaptioning:
    torch.manual_seed(0)
    backbone = fiber_tiny(decoder_projections=True, initial_gate=1.0, hidden_dropout=0.1)
    config = {"generation": GenerationConfig(max_length=8), **config}
    return FiberForCaptioning(backbone, CaptioningConfig(objective, **config))


def captions_of(batch: dict[str, Tensor]) -> dict:
    words = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    return {**words, "references": [["a dog"], ["a cat", "one cat"], ["two"], ["three"]]}


@pytest.mark.parametrize("objective", ["mle", "gold"])
def test_padding_changes_no_loss(batch: dict[str, Tensor], objective: str) -> None:
    model = make(objective).eval()
    model.training = True
    longer = {
        **batch,
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=1),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    torch.testing.assert_close(model(**longer).loss, model(**batch).loss)


def test_gold_weighs_by_a_copy_of_earlier_weights(batch: dict[str, Tensor], tmp_path: Path) -> None:
    model = make("gold", refresh_every=3).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def frozen() -> Tensor:
        return model._frozen[0]["word_head"].decoder.weight.clone()

    seen = []
    for _ in range(4):
        before = model.word_head.decoder.weight.detach().clone()
        model(**batch).loss.backward()
        seen.append((before, frozen()))
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(seen[0][0], seen[1][0])
    assert all(torch.equal(copy, seen[0][0]) for _, copy in seen[:3])
    assert torch.equal(seen[3][1], seen[3][0])
    assert not any("frozen" in name or "copy" in name for name in [*model.state_dict(), *dict(model.named_modules())])
    assert all(value.grad is None for value in model._frozen[0].parameters())
    model.save_pretrained(tmp_path / "model")
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == dict(model.named_parameters()).keys()


def test_a_resumed_gold_run_equals_an_uninterrupted_one(batch: dict[str, Tensor], tmp_path: Path) -> None:
    def steps(model: FiberForCaptioning, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss = model(**batch).loss
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
        return losses

    def fresh() -> FiberForCaptioning:
        model = make("gold", refresh_every=4).eval()
        model.training = True
        return model

    whole = steps(fresh(), 6)
    first = fresh()
    losses = steps(first, 2)
    torch.save((first.state_dict(), first.training_state()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt")
    second = fresh()
    second.load_state_dict(weights)
    second.load_training_state(state)
    assert losses + steps(second, 4) == whole
    assert len(set(whole)) == 6


def test_the_reward_moves_probability_to_what_it_likes(batch: dict[str, Tensor]) -> None:
    def likes_sevens(ids: Tensor, references: list[list[str]]) -> Tensor:
        assert references == captions_of(batch)["references"]
        assert ids.shape[0] == 4 * 6
        assert (ids[:, 0] == 0).all()
        return (ids == 7).float().mean(dim=1)

    model = make("cider", num_samples=6, reward_weight=1.0, baseline="samples").train()
    model.reward = likes_sevens
    with torch.no_grad():
        model.word_head.decoder.bias[7] += 4.0
    optimizer = torch.optim.SGD([model.word_head.decoder.bias], lr=0.005)
    before = model.word_head.decoder.bias.detach().clone()
    rewards = []
    for _ in range(12):
        output = model(**captions_of(batch))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rewards.append(output.metrics["reward"].item())
    assert (model.word_head.decoder.bias.detach() - before).argmax() == 7
    assert sum(rewards[-4:]) > sum(rewards[:4])


def test_samples_are_drawn_without_dropout_and_modes_come_back(batch: dict[str, Tensor]) -> None:
    model = make("cider").train()
    model.backbone.image_stream.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    during: list[bool] = []
    model.word_head.dense.register_forward_hook(lambda module, inputs, output: during.append(module.training))
    model.reward = lambda ids, references: torch.ones(len(ids))
    model(**captions_of(batch))
    assert during[0]  # the given captions
    assert not any(during[1:-1])  # each step of the samples
    assert during[-1]  # their likelihood
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_an_equal_reward_for_all_samples_teaches_nothing_against_each_other(batch: dict[str, Tensor]) -> None:
    model = make("cider", baseline="samples").train()
    model.reward = lambda ids, references: torch.full((len(ids),), 0.3)
    assert model(**captions_of(batch)).losses["cider"].abs() < 1e-4


class Words:
    """A processor of numbers: picture n is a constant, token n is the word `wn`."""

    tokenizer: Words

    def __init__(self) -> None:
        self.tokenizer = self

    def __call__(self, images=None, text=None) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack([torch.full((3, 64, 64), float(number)) for number in images])}

    def decode(self, token_ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(f"w{token}" for token in token_ids)


def test_captions_of_pictures(tmp_path: Path) -> None:
    model = make().train()
    model.processor = Words()
    captions = model.caption([1, -2, 3], num_captions=2, num_beams=3, min_length=2)
    assert model.training
    assert [len(row) for row in captions] == [2, 2, 2]
    for row in captions:
        assert row[0].score >= row[1].score
        for caption in row:
            assert caption.text == " ".join(f"w{token}" for token in caption.token_ids)
            assert 2 <= len(caption.token_ids) <= 8
            assert caption.score < 0
    assert captions == model.caption([1, -2, 3], num_captions=2, num_beams=3, min_length=2)
    model.save_pretrained(tmp_path / "model")
    loaded = FiberForCaptioning.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    pixel_values = model.prepare([1, -2])["pixel_values"]
    again = loaded.generate(pixel_values)
    assert [row[0].token_ids for row in again] == [row[0].token_ids for row in model.generate(pixel_values)]
    assert again[0][0].text is None


def test_bad_input_gets_a_sentence(batch: dict[str, Tensor]) -> None:
    rewarded = make("cider").train()
    cases = [
        (
            lambda: FiberForCaptioning(fiber_tiny()),
            ValueError,
            r"FiberConfig\(joint_projection=True, decoder_projections",
        ),
        (lambda: CaptioningConfig("ciderd"), ValueError, "must be one of mle, gold, cider, is 'ciderd'"),
        (lambda: CaptioningConfig(baseline="greedy"), ValueError, "'constant' or 'samples', is 'greedy'"),
        (lambda: CaptioningConfig(baseline="samples", num_samples=1), ValueError, "num_samples must be at least 2"),
        (lambda: rewarded(**batch), KeyError, "the batch lacks references"),
        (lambda: rewarded(**captions_of(batch)), ValueError, "needs a reward; set model.reward"),
        (lambda: make().caption(["picture.jpg"]), ValueError, "no processor to prepare images"),
        (
            lambda: make().generate(batch["pixel_values"], GenerationConfig(max_length=65)),
            ValueError,
            "max_length is 65; this model has positions for 64 tokens",
        ),
        (
            lambda: make().generate(batch["pixel_values"], GenerationConfig(max_length=9, pad_token_id=3)),
            ValueError,
            "pad_token_id is 3; this model's is 1",
        ),
    ]
    for call, kind, sentence in cases:
        with pytest.raises(kind, match=sentence):
            call()
    rewarded.reward = lambda ids, references: torch.ones(4)
    with pytest.raises(ValueError, match=r"each of the 20 samples, shape \(20,\); it gave \(4,\)"):
        rewarded(**captions_of(batch))
