"""Every backbone tensor and gradient of the image-text reference cases, in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_backbone import DecodingCache, FiberBackbone, original_backbone_map
from fiber_backbone.windows import partition
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, gelu, layer_norm, linear
from torch.utils.hooks import RemovableHandle

RELATIVE = 1e-9  # of the largest magnitude of a tensor


def assert_equal(ours: Tensor, reference: Tensor, name: str, tolerance: float = RELATIVE) -> None:
    assert ours.shape == reference.shape, name
    error = (ours - reference).abs().max().item() / reference.abs().max().item()
    assert error < tolerance, f"{name}: {error:.1e}"


@pytest.fixture(scope="module")
def inputs(coarse_case: Path) -> dict[str, Tensor]:
    tensors = load_file(coarse_case / "inputs.safetensors")
    return {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}


def test_fused_path(coarse_case: Path, coarse_model: FiberBackbone, inputs: dict[str, Tensor]) -> None:
    reference = load_file(coarse_case / "pretrain.outputs_f64.safetensors")
    with torch.no_grad():
        fused = coarse_model(inputs["image"], inputs["text_ids"], inputs["text_masks"])
    assert_equal(fused.text_features, reference["fused.text_feats"], "text")
    assert_equal(fused.image_features, reference["fused.image_feats"], "image")
    assert_equal(fused.pooled, reference["fused.cls_feats"], "pooled")


def test_caption_path(coarse_case: Path, coarse_model: FiberBackbone, inputs: dict[str, Tensor]) -> None:
    reference = load_file(coarse_case / "caption.outputs_f64.safetensors")
    ids, mask = inputs["text_ids"], inputs["text_masks"]
    with torch.no_grad():
        image = coarse_model.finish_image(coarse_model.begin_image(inputs["image"])).unnormalized
        masked = coarse_model.decode_text(ids, image, mask)
        whole = coarse_model.decode_text(ids, image)
        cache = DecodingCache()
        steps = [
            coarse_model.decode_text(ids[:, i : i + 1], image, cache=cache).text_features for i in range(ids.shape[1])
        ]
    assert_equal(image, reference["caption.image_embeds"], "image")
    assert_equal(masked.text_features, reference["caption.text_feats"], "masked")
    assert_equal(whole.text_features, reference["caption.text_feats_nomask"], "whole")
    assert_equal(torch.cat(steps, dim=1), reference["caption.text_feats_nomask"], "token by token")
    pooled = coarse_model.joint_projection.text_pooler(masked.text_features[:, 0]).tanh()
    assert_equal(pooled, reference["caption.cls_feats"], "pooled")


def watch_blocks(
    model: FiberBackbone, found: dict[str, Tensor]
) -> tuple[dict[str, tuple[int, int]], list[RemovableHandle]]:
    """Keep what every block puts out under the reference's names; tell (side, shift) of those cut into windows."""
    config, image_stream, text_stream = (
        model.config,
        model.image_stream,
        model.text_stream,
    )
    hooks: list[RemovableHandle] = []

    def keep(module: torch.nn.Module, name: str) -> None:
        hooks.append(module.register_forward_hook(lambda _m, _i, output: found.__setitem__(name, output)))

    keep(image_stream.patch_embed, "image.patch_embed")
    for stage in range(1, len(config.depths)):
        keep(image_stream.layers[stage].downsample, f"image.stage{stage - 1}")
    keep(image_stream.layers[-1].downsample, f"image.stage{len(config.depths) - 2}.downsample")
    keep(text_stream.embeddings.dropout, "text.embeddings")
    for layer in range(config.num_hidden_layers):
        keep(text_stream.encoder.layer[layer].output.LayerNorm, f"text.layer{layer}")
    windows = {}
    for index, (number, layer) in enumerate(model.pairs):
        stage = config.block_stages[number]
        block = number - sum(config.depths[:stage])
        name = f"image.stage{stage}.block{block}"
        keep(image_stream.cross_attention[index], f"{name}.attn_out")
        keep(image_stream.cross_attention[index].output, f"{name}.i2t_out")
        keep(text_stream.cross_attention[index].output, f"text.layer{layer}.t2i_out")
        side = config.image_size // config.strides[stage]
        shift = config.window_size // 2 if block % 2 and side > config.window_size else 0
        windows |= {f"{name}.attn_out": (side, shift), f"{name}.i2t_out": (side, shift)}
    return windows, hooks


def test_every_block(coarse_case: Path, coarse_model: FiberBackbone, inputs: dict[str, Tensor]) -> None:
    path = coarse_case / "pretrain.debug_activations.safetensors"
    if not path.is_file():
        pytest.skip(f"{coarse_case.name} has no activations of single blocks")
    reference = load_file(path)
    config, found = coarse_model.config, {}
    windows, hooks = watch_blocks(coarse_model, found)
    with torch.no_grad():
        image = coarse_model.begin_image(inputs["image"])
        fused = coarse_model.fuse(image, coarse_model.begin_text(inputs["text_ids"], inputs["text_masks"]))
    for hook in hooks:
        hook.remove()
    found[f"image.stage2.block{config.depths[2] - config.num_fusion_blocks + config.depths[3] - 1}"] = (
        image.hidden_state
    )
    found[f"image.stage3.block{config.depths[3] - 1}"] = fused.image_hidden_state
    found[f"text.layer{config.num_hidden_layers - 1}"] = fused.text_hidden_state

    compared = 0
    for name, value in found.items():
        if name not in reference:
            continue
        if name in windows:  # the reference is cut into shifted windows, ours is a whole map
            side, shift = windows[name]
            value = value.view(len(value), side, side, -1).roll((-shift, -shift), dims=(1, 2))
            value = partition(value, (config.window_size, config.window_size)).flatten(0, 1)
        assert_equal(value.reshape(reference[name].shape), reference[name].double(), name, 1e-6)  # stored in float32
        compared += 1
    assert compared >= 3 * config.num_fusion_blocks + config.num_hidden_layers + 4


def classifier(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """The original's two-layer classifier, so that a task's gradient reaches the backbone."""
    x = linear(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"])
    x = gelu(layer_norm(x, x.shape[-1:], weights[f"{name}.1.weight"], weights[f"{name}.1.bias"]))
    return linear(x, weights[f"{name}.3.weight"], weights[f"{name}.3.bias"])


def vqa_loss(
    model: FiberBackbone, inputs: dict[str, Tensor], weights: dict[str, Tensor], reference: dict[str, Tensor]
) -> Tensor:
    fused = model(inputs["image"], inputs["text_ids"], inputs["text_masks"])
    logits = classifier(fused.pooled, weights, "vqa_classifier")
    assert_equal(logits, reference["vqa.logits"], "vqa logits")
    return binary_cross_entropy_with_logits(logits, reference["vqa.targets"].double()) * logits.shape[1]


def nlvr2_loss(
    model: FiberBackbone, inputs: dict[str, Tensor], weights: dict[str, Tensor], reference: dict[str, Tensor]
) -> Tensor:
    text = model.begin_text(inputs["text_ids"], inputs["text_masks"])
    pooled = [model.fuse(model.begin_image(inputs[name]), text).pooled for name in ("image", "image_b")]
    logits = classifier(torch.cat(pooled, dim=-1), weights, "nlvr2_classifier")
    assert_equal(logits, reference["nlvr2.logits"], "nlvr2 logits")
    return cross_entropy(logits, reference["nlvr2.labels"].long())


def caption_loss(
    model: FiberBackbone, inputs: dict[str, Tensor], weights: dict[str, Tensor], reference: dict[str, Tensor]
) -> Tensor:
    image = model.finish_image(model.begin_image(inputs["image"])).unnormalized
    x = model.decode_text(inputs["text_ids"], image, inputs["text_masks"]).text_features
    x = gelu(linear(x, weights["mlm_score.transform.dense.weight"], weights["mlm_score.transform.dense.bias"]))
    norm = weights["mlm_score.transform.LayerNorm.weight"], weights["mlm_score.transform.LayerNorm.bias"]
    logits = linear(
        layer_norm(x, x.shape[-1:], *norm, eps=1e-12),
        weights["mlm_score.decoder.weight"],
        weights["mlm_score.bias"],
    )
    assert_equal(logits, reference["mle.logits"], "caption logits")
    return cross_entropy(logits.flatten(0, 1), reference["mle.labels"].long().flatten())


@pytest.mark.parametrize(("task", "gradients", "objective"), [
    ("vqa", "vqa.grads.json", vqa_loss),
    ("nlvr2", "nlvr2.grads.json", nlvr2_loss),
    ("caption", "caption.grads_mle.json", caption_loss),
])  # fmt: skip
def test_gradients(
    coarse_case: Path,
    coarse_model: FiberBackbone,
    inputs: dict[str, Tensor],
    task: str,
    gradients: str,
    objective,
) -> None:
    weights = {
        name: value.double() for name, value in load_file(coarse_case / f"{task}.heads.state_dict.safetensors").items()
    }
    reference = load_file(coarse_case / f"{task}.outputs_f64.safetensors")
    coarse_model.zero_grad()
    loss = objective(coarse_model, inputs, weights, reference)
    assert_equal(loss.detach(), reference[f"{'mle' if task == 'caption' else task}.loss"], "loss")
    loss.backward()

    expected = json.loads((coarse_case / gradients).read_text())
    largest = max(value[0] for value in expected.values() if value is not None)
    parameters = dict(coarse_model.named_parameters())
    originals = load_file(coarse_case / "backbone.state_dict.safetensors") | load_file(
        coarse_case / "caption.heads.state_dict.safetensors"
    )
    compared = 0
    for ours, names in original_backbone_map(coarse_model.config).pairs:
        gradient = parameters[ours].grad
        for name, part in zip(
            names,
            [None] * len(names) if gradient is None else gradient.split([len(originals[name]) for name in names]),
            strict=True,
        ):
            if expected.get(name) is None:  # no gradient in the original, or (for another task) no such tensor
                assert part is None or not part.any(), name
                continue
            flat = part.flatten()
            measured = torch.stack([flat.norm(), flat.sum(), (flat * torch.arange(len(flat)).double().cos()).sum()])
            error = (measured - torch.tensor(expected[name], dtype=torch.float64)).abs().max().item()
            assert error < max(RELATIVE * abs(expected[name][0]), RELATIVE * largest) * 10, f"{name}: {error:.1e}"
            compared += 1
    assert compared > 400
