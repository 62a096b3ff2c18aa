"""The ways to fuse: each shares work exactly, ignores padding, trains, and counts what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fiber_backbone import DecodingCache, FiberBackbone, FiberConfig
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

FUSIONS = ("gated", "late", "merged")
TINY = FiberConfig.from_preset("fiber_tiny", initial_gate=0.5)
VIT = replace(TINY, image_stream="vit", embed_dim=48, depths=(4,), image_num_heads=(4,), patch_size=8, image_size=64)
CONFIGS = {"swin": TINY, "padded": TINY.fine_stage(), "vit": VIT}
Batch = dict[str, Tensor]


def build(fusion: str, kind: str = "swin", **settings: object) -> FiberBackbone:
    torch.manual_seed(0)
    model = FiberBackbone.from_config(replace(CONFIGS[kind], fusion=fusion, drop_path_rate=0.0, **settings))
    return model.double().eval()


@pytest.fixture
def batch(batch: Batch) -> Batch:
    return {**batch, "pixel_values": batch["pixel_values"].double()}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_sharing_changes_no_number(fusion: str, kind: str, batch: Batch) -> None:
    """Pairs by an index, one by one and all at once agree, and padding of the text is not read."""
    model = build(fusion, kind)
    with torch.no_grad():
        image, text = (
            model.begin_image(batch["pixel_values"]),
            model.begin_text(batch["input_ids"], batch["attention_mask"]),
        )
        rows = torch.tensor([2, 0, 1, 1])
        shared = model.fuse(image[rows], text[torch.tensor([0, 1, 1, 2])])
        for row, (i, t) in enumerate(zip(rows.tolist(), (0, 1, 1, 2), strict=True)):
            length = int(batch["attention_mask"][t].sum())
            alone = model(batch["pixel_values"][[i]], batch["input_ids"][[t], :length])
            torch.testing.assert_close(
                shared.image_hidden_state[[row]], alone.image_hidden_state, rtol=1e-10, atol=1e-10
            )
            torch.testing.assert_close(
                shared.text_hidden_state[[row], :length], alone.text_hidden_state, rtol=1e-10, atol=1e-10
            )


@pytest.mark.parametrize("kind", ["swin", "vit"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_both_sides_read_and_everything_learns(fusion: str, kind: str, batch: Batch) -> None:
    model = build(fusion, kind).train()
    fused = model(**batch)
    other = model(
        **{**batch, "input_ids": batch["input_ids"].roll(1, 0), "attention_mask": batch["attention_mask"].roll(1, 0)}
    )
    assert not torch.allclose(fused.image_hidden_state, other.image_hidden_state, rtol=1e-3)
    other = model(**{**batch, "pixel_values": batch["pixel_values"].roll(1, 0)})
    assert not torch.allclose(fused.text_hidden_state, other.text_hidden_state, rtol=1e-3)
    assert fused.pooled is not None
    assert fused.text_features is not None
    (
        fused.pooled.square().sum() + fused.text_features.square().sum() + fused.image_hidden_state.square().sum()
    ).backward()
    silent = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    final = {
        name for name in silent if ".norm." in name or name.endswith(("key.bias", "LayerNorm.weight", "LayerNorm.bias"))
    }
    assert not {name for name in silent - final if "cross_attention" in name}, silent


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradient_checkpointing_changes_no_number(fusion: str, batch: Batch) -> None:
    gradients = []
    for enable in (False, True):
        model = build(fusion).train()
        model.set_gradient_checkpointing(enable)
        model(**batch).pooled.square().sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, value in gradients[0].items():
        assert (value is None) == (gradients[1][name] is None)
        if value is not None:
            torch.testing.assert_close(value, gradients[1][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fusion", ["gated", "merged"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_cached_decoding_equals_the_whole(fusion: str, repeats: int, batch: Batch) -> None:
    model = build(fusion, decoder_projections=True)
    ids = batch["input_ids"].repeat_interleave(repeats, dim=0).clamp(min=5)
    with torch.no_grad():
        features = model.finish_image(model.begin_image(batch["pixel_values"])).unnormalized
        whole, cache = model.decode_text(ids, features).hidden_state, DecodingCache()
        for start, stop in ((0, 1), (1, 2), (2, 7), (7, 12)):
            part = model.decode_text(ids[:, start:stop], features, cache=cache).hidden_state
            torch.testing.assert_close(part, whole[:, start:stop], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("kind", ["swin", "vit"])
def test_cost_is_what_is_computed(fusion: str, kind: str) -> None:
    """Against torch's count of a fused forward less that of the two streams alone."""
    model = build(fusion, kind, joint_projection=False)
    pixel_values, ids = torch.zeros(1, 3, 64, 64).double(), torch.full((1, 12), 7)
    counts = []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        image, text = model.begin_image(pixel_values), model.begin_text(ids)
        for run in (lambda: model.fuse(image, text), lambda: (model.finish_image(image), model.finish_text(text))):
            with FlopCounterMode(display=False) as counter:
                run()
            counts.append(counter.get_total_flops())
    cost = model.fusion_cost(64, 12)
    assert counts[0] - counts[1] == cost.flops > 0
    assert cost.parameters == sum(
        value.numel() for name, value in model.named_parameters() if "cross_attention" in name
    )


def test_late_fusion_finishes_the_streams_first(batch: Batch) -> None:
    model = build("late")
    with torch.no_grad():
        image = model.begin_image(batch["pixel_values"])
        layers = model.image_stream.cross_attention
        seen = {}
        handle = layers[0].register_forward_hook(lambda module, inputs, output: seen.update(image=inputs[0]))
        model.fuse(image, model.begin_text(batch["input_ids"], batch["attention_mask"]))
        handle.remove()
        assert torch.equal(seen["image"], model.finish_image(image).hidden_state)
    assert not model.has_pyramid
    with pytest.raises(ValueError, match="SwinStream with LateFusion has no fused pyramid"):
        model.begin_image(batch["pixel_values"], return_pyramid=True)
    with pytest.raises(ValueError, match="LateFusion cannot decode text, which decoder_projections=True asks for"):
        build("late", decoder_projections=True)


def test_a_fresh_merged_model_is_not_its_streams(batch: Batch) -> None:
    """There is no gate; a fresh gated model equals them, see the tests of zero gates."""
    model = build("merged")
    with torch.no_grad():
        image = model.begin_image(batch["pixel_values"])
        fused = model.fuse(image, model.begin_text(batch["input_ids"], batch["attention_mask"]))
        assert not torch.allclose(fused.image_hidden_state, model.finish_image(image).unnormalized, rtol=1e-3)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_saving_and_loading(fusion: str, tmp_path: Path, batch: Batch) -> None:
    model = build(fusion)
    model.save_pretrained(tmp_path)
    loaded = FiberBackbone.from_pretrained(tmp_path).double()
    assert type(loaded.fusion) is type(model.fusion)
    assert loaded.to_config() == model.to_config()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).pooled, model.float().double()(**batch).pooled, rtol=1e-5, atol=1e-5)
