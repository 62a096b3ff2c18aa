"""Every backbone tensor of the detector's reference cases: float32 numbers, compared at 2e-5 of the maximum."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FusedFeatures
from safetensors.torch import load_file
from torch import Tensor


def assert_close(ours: Tensor, reference: Tensor, name: str) -> None:
    assert ours.shape == reference.shape, name
    error = (ours - reference).abs().max().item()
    assert error < 2e-5 * max(1.0, reference.abs().max().item()), f"{name}: {error:.1e}"


def run(model: FiberBackbone, reference: dict[str, Tensor], length: int | None = None) -> FusedFeatures:
    image = model.begin_image(reference["images_q"].float().flip(1) / 32, return_pyramid=True)
    text = model.begin_text(reference["input_ids"][:, :length], reference["attention_mask"][:, :length])
    with torch.no_grad():
        return model.fuse(image, text)


def test_pyramid_and_language(fine_case: Path, fine_model: FiberBackbone) -> None:
    reference = load_file(fine_case / "forward.safetensors")
    with torch.no_grad():
        fused = run(fine_model, reference)
    for level, ours in enumerate(fused.pyramid, start=2):
        assert_close(ours, reference[f"C{level}"], f"C{level}")
    assert_close(fused.text_hidden_state, reference["lang_hidden"], "hidden")
    embedded = fused.text_hidden_state * fused.attention_mask[..., None]
    assert_close(embedded, reference["lang_embedded"], "embedded")
    aggregate = embedded.sum(dim=1) / fused.attention_mask.sum(dim=1, keepdim=True)
    assert_close(aggregate, reference["lang_aggregate"], "aggregate")


def test_captions_need_no_padding_beyond_the_batch(fine_case: Path, fine_model: FiberBackbone) -> None:
    reference = load_file(fine_case / "forward.safetensors")
    longest = int(reference["attention_mask"].sum(dim=1).max())
    with torch.no_grad():
        fused = run(fine_model, reference, longest)
    for level, ours in enumerate(fused.pyramid, start=2):
        assert_close(ours, reference[f"C{level}"], f"C{level}")
    real = fused.attention_mask.bool()
    assert_close(fused.text_hidden_state[real], reference["lang_hidden"][:, :longest][real], "hidden")


def test_single_blocks(fine_case: Path, fine_model: FiberBackbone) -> None:
    path = fine_case / "debug.safetensors"
    if not path.is_file():
        pytest.skip(f"{fine_case.name} has no activations of single blocks")
    reference, inputs = load_file(path), load_file(fine_case / "forward.safetensors")
    found: dict[str, Tensor] = {}
    hooks = []
    for layer in range(fine_model.config.num_hidden_layers):
        norm = fine_model.text_stream.encoder.layer[layer].output.LayerNorm
        hooks.append(
            norm.register_forward_hook(
                lambda _m, _i, output, name=f"text_layer{layer}": found.__setitem__(name, output)
            )
        )
    with torch.no_grad():
        image = fine_model.begin_image(inputs["images_q"].float().flip(1) / 32)
        fused = fine_model.fuse(image, fine_model.begin_text(inputs["input_ids"], inputs["attention_mask"]))
    for hook in hooks:
        hook.remove()
    found["stage2_block13"] = image.hidden_state.flatten(1, 2)
    found["stage3_block1"] = fused.image_hidden_state
    names = found.keys() & reference.keys()
    assert len(names) >= 8
    for name in names:
        assert_close(found[name][:, : reference[name].shape[1]], reference[name], name)
