"""The grounding head: the reference's numbers, padding that must not matter, two ways of one convolution."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads.grounding.alignment import Alignment
from fiber_heads.grounding.anchors import level_anchors
from fiber_heads.grounding.checkpoints import original_grounding_map
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.deformable import DeformableConv
from fiber_heads.grounding.dyhead import reread, resizing_matrix
from fiber_heads.grounding.extents import level_extents
from fiber_heads.grounding.head import GroundingHead, GroundingPredictions
from fiber_heads.grounding.pyramid import drop_blocks
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from .conftest import REFERENCE
from .grounding_golden import half_open

CASES = ("v2", "v3")


def reference(name: str) -> Path:
    path = REFERENCE / "fine" / name
    if not path.exists():
        reason = f"no reference numbers at {path}; set FIBER_REFERENCE to the folder that holds fine/"
        (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
    return path


def assert_close(ours: Tensor, theirs: Tensor, name: str) -> None:
    assert ours.shape == theirs.shape, name
    error = (ours - theirs).abs().max().item()
    assert error < 2e-5 * max(1.0, theirs.abs().max().item()), f"{name}: {error:.1e}"


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """A case's settings, its forward pass and its checkpoint, in float64."""
    folder = reference(request.param)
    tensors = [load_file(folder / f"{name}.safetensors") for name in ("forward", "state_dict")]
    tensors = [{k: v.double() if v.is_floating_point() else v for k, v in part.items()} for part in tensors]
    return json.loads((folder / "meta.json").read_text()), *tensors


def original_head(settings: dict, weights: dict[str, Tensor], **overrides: Any) -> GroundingHead:
    config = GroundingConfig.as_original(
        channels=settings["dyhead_channels"],
        norm_groups=settings["group_norm_groups"],
        num_blocks=settings["num_dyconv"],
        max_tokens=settings["max_query_len"],
        **overrides,
    )
    width = settings["swin"]["embed_dim"]
    head = GroundingHead((2 * width, 4 * width, 8 * width), settings["text"]["hidden_size"], config)
    head.load_original_checkpoint(weights)
    return head.double().eval()


def run(head: GroundingHead, numbers: dict[str, Tensor], length: int | None = None) -> GroundingPredictions:
    maps = [numbers[f"C{level}"] for level in (3, 4, 5)]
    with torch.no_grad():
        return head(maps, numbers["lang_hidden"][:, :length], numbers["lang_masks"][:, :length], numbers["image_sizes"])


def flat(numbers: dict[str, Tensor], name: str) -> Tensor:
    """The reference's maps of all levels, in our order of anchors."""
    return torch.cat([numbers[f"head.{name}.level{level}"].flatten(2).mT for level in range(5)], dim=1)


@pytest.mark.parametrize("path", ["operator", "plain"])
def test_every_tensor_of_the_reference(case: tuple, path: str) -> None:
    settings, numbers, weights = case
    head = original_head(settings, weights, deformable=path)
    found: dict[str, Tensor] = {}
    modules = {f"dyconv{index}.level": block for index, block in enumerate(head.tower.blocks)}
    for name, module in {"P": head.pyramid, **modules}.items():
        module.register_forward_hook(
            lambda _m, _i, levels, name=name: found.update(
                {f"{name}{index + 3 * (name == 'P')}": x for index, x in enumerate(levels)}
            )
        )
    predictions = run(head, numbers)
    assert len(found) == 35
    for name, ours in found.items():
        assert_close(ours, numbers[name], name)
    assert_close(predictions.deltas, flat(numbers, "bbox_reg"), "boxes")
    assert_close(predictions.centerness, flat(numbers, "centerness")[..., 0], "centerness")
    logits = torch.cat([numbers[f"head.dot_product_logits.level{level}"] for level in range(5)], dim=1)
    assert_close(predictions.token_logits[..., : logits.shape[2]], logits, "words")
    anchors = half_open(torch.cat([numbers[f"anchors.level{level}"] for level in range(5)]))
    assert torch.equal(predictions.anchors.double(), anchors)
    assert predictions.valid.all()


def test_texts_need_no_padding_beyond_the_longest(case: tuple) -> None:
    settings, numbers, weights = case
    head = original_head(settings, weights)
    longest = int(numbers["lang_masks"].sum(dim=1).max())
    whole, short = run(head, numbers).token_logits, run(head, numbers, longest).token_logits
    torch.testing.assert_close(short, whole[..., :longest], rtol=1e-12, atol=1e-12)


def random_head(**overrides: Any) -> GroundingHead:
    """A small head whose every parameter is random and whose offsets reach about two cells."""
    torch.manual_seed(0)
    config = GroundingConfig(channels=16, norm_groups=4, num_blocks=3, **overrides)
    head = GroundingHead((8, 12, 16), 10, config)
    for name, parameter in head.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if parameter.ndim < 2 else 0.1)
        if name.endswith("offset.weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    return head.eval()


def batch_of(sizes: list[tuple[int, int]], canvas: tuple[int, int], dtype: torch.dtype) -> list[list[Tensor]]:
    """Backbone maps for pictures of these sizes: each alone on its canvas, then the batch on another canvas.

    The padding of the batch holds rubbish, as a backbone's biases leave there.
    """
    generator = torch.Generator().manual_seed(5)
    alone: list[list[Tensor]] = []
    together = [
        torch.randn(len(sizes), width, canvas[0] // stride, canvas[1] // stride, generator=generator, dtype=dtype)
        for width, stride in ((8, 8), (12, 16), (16, 32))
    ]
    for image, size in enumerate(sizes):
        height, width = (-(-side // 32) * 32 for side in size)
        alone.append(
            [x[image : image + 1, :, : height // s, : width // s] for x, s in zip(together, (8, 16, 32), strict=True)]
        )
    return [*alone, together]


def on_grid(predictions: GroundingPredictions, image: int) -> Tensor:
    """All outputs of a picture's own anchors, (A, 5 + L)."""
    parts = (predictions.deltas, predictions.centerness[..., None], predictions.token_logits)
    return torch.cat(parts, dim=2)[image][predictions.valid[image]]


UNEVEN = ([(100, 290), (160, 130), (33, 64)], (256, 352))  # none a multiple of 128, one a single cell at the coarsest
NEARLY_ALIKE = ([(128, 128), (128, 96)], (128, 128))  # both own all of the two coarsest levels


@pytest.mark.parametrize("flat_offsets", [False, True])
@pytest.mark.parametrize("path", ["operator", "plain"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("sizes", "canvas"), [UNEVEN, NEARLY_ALIKE])
def test_padding_of_the_batch_changes_nothing(
    flat_offsets: bool, path: str, dtype: torch.dtype, tolerance: float, sizes: list, canvas: tuple
) -> None:
    head = random_head(flat_offsets=flat_offsets, deformable=path).to(dtype)
    *alone, together = batch_of(sizes, canvas, dtype)
    text, mask = torch.randn(len(sizes), 6, 10, dtype=dtype), torch.ones(len(sizes), 6)
    with torch.no_grad():
        batched = head(together, text, mask, torch.tensor(sizes))
        for image, maps in enumerate(alone):
            size = torch.tensor(sizes[image : image + 1])
            single = head(maps, text[image : image + 1], mask[:1], size)
            assert single.valid.all()
            expected, ours = on_grid(single, 0), on_grid(batched, image)
            assert ours.shape == expected.shape
            error = (ours - expected).abs().max() / expected.abs().max()
            assert error < tolerance, f"image {image}: {error:.1e}"


def test_the_original_lets_padding_in() -> None:
    sizes, head = [(100, 290), (160, 130)], random_head(padding_aware=False)
    alone, _, together = batch_of(sizes, (256, 352), torch.float32)
    text, mask = torch.randn(2, 6, 10), torch.ones(2, 6)
    with torch.no_grad():
        batched, single = head(together, text, mask, torch.tensor(sizes)), head(alone, text[:1], mask[:1])
    height, width = alone[0].shape[2:]
    first = batched.centerness[0, : together[0][0, 0].numel()].view(together[0].shape[2:])[:height, :width]
    assert (first.flatten() - single.centerness[0, : height * width]).abs().max() > 1e-2
    assert batched.valid.all()


def test_resizing_is_bilinear_with_aligned_corners() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    small, large = level_extents([(4, 5), (8, 9)], (8, 4), None, x)
    rows, columns = (resizing_matrix(small, large, axis, x)[0] for axis in (0, 1))
    expected = interpolate(x, size=(8, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(rows @ x @ columns.T, expected)


def test_rereading_takes_the_first_numbers_in_memory() -> None:
    x = torch.arange(2 * 18 * 6 * 5.0).view(2, 18, 6, 5)
    fine, coarse = level_extents([(6, 5), (3, 3)], (8, 16), None, x)
    assert torch.equal(reread(x, fine, coarse), x.flatten(1)[:, : 18 * 9].view(2, 18, 3, 3))


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_pass_through_masks(autocast: bool) -> None:
    head = random_head().train()
    *_, together = batch_of([(100, 290), (160, 130)], (160, 320), torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = head(together, torch.randn(2, 6, 10), torch.ones(2, 6), torch.tensor([(100, 290), (160, 130)]))
    (out.deltas.square().mean() + out.centerness.square().mean() + out.token_logits.square().mean()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("reach", [0.0, 1.0, 30.0])
def test_the_two_deformable_paths_agree(stride: int, reach: float) -> None:
    torch.manual_seed(0)
    size = (-(-11 // stride), -(-8 // stride))
    inputs = (torch.randn(2, 6, 11, 8), reach * torch.randn(2, 18, *size), torch.rand(2, 9, *size))
    results = []
    for path in ("operator", "plain"):
        torch.manual_seed(1)
        conv = DeformableConv(6, stride, path).double()
        torch.nn.init.normal_(conv.bias)
        parts = [part.double().requires_grad_() for part in inputs]
        y = conv(*parts)
        direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
        results.append([y, *torch.autograd.grad((y * direction).sum(), [*parts, *conv.parameters()])])
        with torch.no_grad():
            torch.testing.assert_close(conv(*parts), y, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_exported_path_agrees(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = DeformableConv(8, stride).double()
    generator = torch.Generator().manual_seed(0)
    x, offsets, modulation = (
        torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
        for channels, size in (
            (8, (9, 12)),
            (18, (-(-9 // stride), 12 // stride)),
            (9, (-(-9 // stride), 12 // stride)),
        )
    )
    expected = conv(x, 4 * offsets, modulation)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(conv(x, 4 * offsets, modulation), expected, atol=1e-10, rtol=1e-10)


def test_offsets_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"offsets must have the shape \(batch, 18, 4, 5\).*got \(1, 18, 8, 10\)"):
        DeformableConv(4)(torch.zeros(1, 4, 4, 5), torch.zeros(1, 18, 8, 10), torch.zeros(1, 9, 8, 10))


class Outputs(torch.nn.Module):
    """A head whose outputs are plain tensors."""

    def __init__(self, head: GroundingHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: list[Tensor], text: Tensor, mask: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.head(maps, text, mask, sizes)
        return out.deltas, out.centerness, out.token_logits


def test_the_plain_path_exports_without_torchvision() -> None:
    head = random_head(deformable="plain")
    head.tower.blocks = head.tower.blocks[:1]
    *_, maps = batch_of([(64, 96)], (64, 96), torch.float32)
    inputs = (maps, torch.randn(1, 6, 10), torch.ones(1, 6))
    with torch.no_grad():
        program = torch.export.export(Outputs(head), (*inputs, torch.tensor([[64, 96]])))
    assert not any("torchvision" in str(node.target) for node in program.graph.nodes)
    size = torch.tensor([[64, 50]])  # other padding than it was exported with
    with torch.no_grad():
        expected = Outputs(head)(*inputs, size)
        for ours, theirs in zip(program.module()(*inputs, size), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_drop_block_drops_squares_and_keeps_the_sum() -> None:
    torch.manual_seed(0)
    (extent,) = level_extents([(40, 40)], (8,), torch.tensor([[320, 320], [160, 320]]), torch.zeros(()))
    x = extent.clear(torch.ones(2, 3, 40, 40))
    y = drop_blocks(x, 0.3, 3, extent)
    assert torch.equal(y[:, 0], y[:, 1])  # all channels alike
    assert y.sum() == pytest.approx(x.sum().item(), rel=1e-5)
    dropped = (y[:, :1] == 0) & (x[:, :1] > 0)
    assert 0.15 < dropped.float().sum() / x[:, :1].sum() < 0.4
    whole = -max_pool2d(-dropped[:1].float(), 3, 1)  # centres of squares that are dropped wholly
    squares = max_pool2d(pad(whole, (2, 2, 2, 2)), 3, 1) > 0
    assert torch.equal(squares[..., 2:-2, 2:-2], dropped[:1, :, 2:-2, 2:-2])  # the border cuts others


def test_drop_block_acts_in_training_only() -> None:
    head = random_head()
    *_, together = batch_of([(160, 160)], (160, 160), torch.float32)
    extents = level_extents([(20, 20), (10, 10), (5, 5), (3, 3), (2, 2)], head.config.strides, None, together[0])
    with torch.no_grad():
        still, dropped = head.pyramid.eval()(together, extents), head.pyramid.train()(together, extents)
    equal = [torch.equal(a, b) for a, b in zip(still, dropped, strict=True)]
    assert equal == [False, False, True, True, True]


def test_a_fresh_head_expects_no_word() -> None:
    logits = Alignment(8, 10, prior=0.01)(torch.zeros(1, 3, 8), torch.randn(1, 4, 10), torch.ones(1, 4))
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 3, 4), 0.01))


@torch.no_grad()
def test_prompt_vectors_are_each_of_their_own_position() -> None:
    head, plain = random_head(prompt_vectors=True), random_head()
    plain.load_state_dict({name: value for name, value in head.state_dict().items() if name != "prompt"})
    maps, text, mask = batch_of([(64, 64)], (64, 64), torch.float32)[0], torch.randn(1, 6, 10), torch.ones(1, 6)
    expected = plain(maps, text, mask).token_logits
    assert not GroundingHead((8, 12, 16), 10, head.config).prompt.any(), "zero at first"
    head.prompt.zero_()
    assert torch.equal(head(maps, text, mask).token_logits, expected)
    head.prompt[2] += 1
    changed = (head(maps, text, mask).token_logits - expected).abs().amax(dim=(0, 1))
    assert (changed > 0).tolist() == [False, False, True, False, False, False]


def test_anchors_of_a_level() -> None:
    anchors = level_anchors([(2, 3), (1, 1)], (8, 128), 8.0)
    assert anchors[0][4].tolist() == [-20.0, -20.0, 44.0, 44.0]  # second row, second column
    assert anchors[1].tolist() == [[-448.0, -448.0, 576.0, 576.0]]


@pytest.mark.parametrize("version", CASES)
def test_backbone_and_head_account_for_every_key(version: str) -> None:
    keys = json.loads(reference(f"keys_fiber_base_fine_{version}.json").read_text())
    kinds = {"float32": torch.float32, "int64": torch.int64}
    with torch.device("meta"):
        tensors = {name: torch.empty(shape, dtype=kinds[kind]) for name, (shape, kind) in keys.items()}
        backbone = FiberBackbone.from_config(FiberConfig().fine_stage(normalize_image_query=version == "v3"))
        head = GroundingHead((256, 512, 1024), 768, GroundingConfig.as_original())
        below, above = backbone.load_original_checkpoint(tensors), head.load_original_checkpoint(tensors)
    assert set(dict(original_grounding_map(head.config).pairs)) == {name for name, _ in head.named_parameters()}
    assert sorted(above.taken + above.dead) == sorted(below.left)
    assert sorted(below.taken + below.dead) == sorted(above.left)
    assert sorted(below.taken + below.dead + above.taken + above.dead) == sorted(keys)
    assert len(above.dead) == 7


def test_checkpoints_that_do_not_fit_are_refused(case: tuple) -> None:
    settings, _, weights = case
    name = "rpn.head.bbox_pred.weight"
    with pytest.raises(ValueError, match=f"for the grounding head.* 1 keys missing .first: {name}.; build the model"):
        original_head(settings, {key: value for key, value in weights.items() if key != name})
    with pytest.raises(
        ValueError, match=r"1 shapes that differ \(first: rpn.head.bbox_pred.weight \(4, 7\) where box.weight has \(4, "
    ):
        original_head(settings, weights | {name: torch.zeros(4, 7, 1, 1)})
    with pytest.raises(ValueError, match=r"1 keys unknown .*rpn.head.new"):
        original_head(settings, weights | {"rpn.head.new": torch.zeros(1)})


def test_original_weights_bring_the_reading_of_offsets_that_they_were_trained_with(case: tuple) -> None:
    settings, numbers, weights = case
    expected = run(original_head(settings, weights), numbers).token_logits
    head = original_head(settings, weights, flat_offsets=False)
    assert head.config.flat_offsets
    assert head.config.inclusive_boxes
    assert torch.equal(run(head, numbers).token_logits, expected)
    head.read_as(GroundingConfig())
    assert (run(head, numbers).token_logits - expected).abs().max() > 0.1


def test_maps_that_do_not_halve_are_refused() -> None:
    head = random_head()
    maps = [torch.zeros(1, 8, 9, 8), torch.zeros(1, 12, 4, 4), torch.zeros(1, 16, 2, 2)]
    with pytest.raises(ValueError, match=r"strides 8, 16 and 32.*multiples of 32"):
        head(maps, torch.zeros(1, 2, 10), torch.ones(1, 2))


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"norm_groups \(5\) must divide channels \(256\)"):
        GroundingConfig(norm_groups=5)
    with pytest.raises(ValueError, match="no field 'chanels'"):
        GroundingConfig.as_original(chanels=3)
