"""What the grounding head is taught, against the original's numbers."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fiber_heads.grounding.assignment import assign_anchors, matched_boxes, matched_tokens
from fiber_heads.grounding.boxes import shrink_boxes
from fiber_heads.grounding.losses import GroundingLoss, centerness_targets, focal_loss_sum
from fiber_heads.grounding.model import PIXEL_MARGIN
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import sigmoid_focal_loss

from .grounding_golden import encode_boxes, fine_folder, picture, read_outputs, read_targets

SETS = [("v2", "train"), ("v2", "one_each"), ("v3", "train"), ("v3", "no_box")]


def losses_of(outputs: dict[str, Any], boxes: list[Tensor], maps: list[Tensor], **more: Any) -> dict[str, Tensor]:
    """The losses of anchors that the assignment matched; `more` are settings, and the valid anchors."""
    valid = more.pop("valid", None)
    margin = more.get("margin", 0.0)
    matched = assign_anchors(outputs["anchors"], outputs["anchors_per_level"], boxes, valid, margin=margin)
    names = ("token_logits", "deltas", "centerness", "anchors", "text_mask")
    given = {name: outputs[name] for name in names}
    loss = GroundingLoss(**more)
    return loss.means(loss.sums(**given, matched=matched, boxes=boxes, positive_maps=maps, valid=valid))


def test_losses_of_images_make_up_the_losses() -> None:
    outputs = read_outputs(fine_folder("v2"))
    boxes, maps, _ = read_targets(fine_folder("v2"), "train")
    matched = assign_anchors(outputs["anchors"], outputs["anchors_per_level"], boxes)
    given = {name: outputs[name] for name in ("token_logits", "deltas", "centerness", "anchors", "text_mask")}
    loss = GroundingLoss()
    sums = loss.sums(**given, matched=matched, boxes=boxes, positive_maps=maps)
    losses, of_images = loss.means(sums), sums.by_sample()
    for name, (own, counts) in of_images.items():
        assert (own.sum() / counts.sum()).item() == pytest.approx(losses[name].item(), rel=1e-5)
    for row in range(2):
        alone = {name: value if name == "anchors" else value[row : row + 1] for name, value in given.items()}
        part = loss.sums(
            **alone, matched=matched[row : row + 1], boxes=boxes[row : row + 1], positive_maps=maps[row : row + 1]
        )
        for name, value in loss.means(part).items():
            own, count = of_images[name][:, row]
            assert value.item() == pytest.approx((own / count).item(), rel=1e-5)


def expect_losses(losses: dict[str, Tensor], golden: dict[str, float], rel: float = 2e-5) -> None:
    names = {"box": "loss_reg", "centerness": "loss_centerness", "token": "loss_dot_product_token"}
    assert {ours: losses[ours].item() for ours in names} == pytest.approx(
        {ours: golden[theirs] for ours, theirs in names.items()}, rel=rel
    )


# Assignment


@pytest.mark.parametrize(("case", "name"), SETS)
def test_anchors_and_targets_are_the_originals(case: str, name: str) -> None:
    outputs = read_outputs(fine_folder(case))
    boxes, maps, golden = read_targets(fine_folder(case), name)
    anchors = outputs["anchors"]
    matched = assign_anchors(anchors, outputs["anchors_per_level"], boxes, margin=PIXEL_MARGIN)
    target, central = matched_boxes(anchors, boxes, matched), []
    for row in range(2):
        positive = matched[row] >= 0
        assert torch.equal(matched[row], golden[f"matched_gt{row}"])
        labels = torch.cat([torch.zeros(1, dtype=torch.int64), golden[f"labels{row}"]])
        assert torch.equal(labels[matched[row] + 1], golden[f"cls_labels{row}"])
        deltas = encode_boxes(target[row], anchors)
        assert torch.allclose(deltas[positive].float(), golden[f"reg_targets{row}"][positive], atol=2e-5)
        assert not deltas[~positive].any()
        tokens = matched_tokens(maps[row], matched[row])
        assert torch.equal(tokens[positive].float(), golden[f"token_labels_pos{row}"])
        assert not tokens[~positive].any()
        central.append(centerness_targets(shrink_boxes(target[row], PIXEL_MARGIN), anchors)[positive])
    assert torch.allclose(torch.cat(central).float(), golden["centerness_targets"], atol=2e-5)


def test_anchors_in_the_padding_can_be_left_out() -> None:
    """A picture's targets and loss are those of the smaller canvas."""
    outputs = picture(read_outputs(fine_folder("v2")), 0)
    boxes, maps, _ = read_targets(fine_folder("v2"), "train")
    centers = (outputs["anchors"][:, :2] + outputs["anchors"][:, 2:]) / 2
    valid = (centers < torch.tensor([264, 200])).all(dim=1)
    small = {name: outputs[name][:, valid] for name in ("token_logits", "deltas", "centerness")}
    small |= {"anchors": outputs["anchors"][valid], "text_mask": outputs["text_mask"]}
    small["anchors_per_level"] = [int(part.sum()) for part in valid.split(outputs["anchors_per_level"])]
    assert min(small["anchors_per_level"]) < 9 < max(small["anchors_per_level"])
    matched = assign_anchors(outputs["anchors"], outputs["anchors_per_level"], boxes[:1], valid[None])
    alone = assign_anchors(small["anchors"], small["anchors_per_level"], boxes[:1])
    assert torch.equal(matched[:, valid], alone)
    assert (matched[:, ~valid] == -1).all()
    masked, expected = losses_of(outputs, boxes[:1], maps[:1], valid=valid[None]), losses_of(small, boxes[:1], maps[:1])
    for name in expected:
        assert masked[name].item() == pytest.approx(expected[name].item(), rel=1e-12)
    assert masked["token"].item() != pytest.approx(losses_of(outputs, boxes[:1], maps[:1])["token"].item(), rel=1e-3)


def test_the_levels_must_add_up() -> None:
    with pytest.raises(ValueError, match=r"must add up to the number of anchors, 5; got \[2, 2\], which is 4"):
        assign_anchors(torch.zeros(5, 4), [2, 2], [torch.zeros(0, 4)])


# Losses


@pytest.mark.parametrize(("case", "name"), SETS)
def test_each_loss_is_the_originals(case: str, name: str) -> None:
    outputs, golden = read_outputs(fine_folder(case)), json.loads((fine_folder(case) / "loss.json").read_text())
    boxes, maps, _ = read_targets(fine_folder(case), name)
    last = outputs["token_logits"].shape[2] - 1
    expect_losses(losses_of(outputs, boxes, maps, no_object_column=last, margin=PIXEL_MARGIN), golden[name])
    if name == "train":
        expect_losses(
            losses_of(outputs, boxes, maps, no_object_column=last, margin=PIXEL_MARGIN),
            golden["train_float64"],
            rel=2e-6,
        )


def test_an_anchor_without_a_box_answers_to_no_token() -> None:
    """Only where the text fills all positions does the original ask otherwise."""
    for case, same in (("v2", True), ("v3", False)):
        outputs = read_outputs(fine_folder(case))
        boxes, maps, _ = read_targets(fine_folder(case), "train")
        last = outputs["token_logits"].shape[2] - 1
        mended, original = (losses_of(outputs, boxes, maps, no_object_column=column) for column in (None, last))
        assert (mended["token"] == original["token"]).item() is same
        assert mended["box"] == original["box"]
    short = outputs | {"token_logits": outputs["token_logits"][:1, :, :40], "text_mask": torch.ones(1, 40)}
    short |= {name: outputs[name][:1] for name in ("deltas", "centerness")}
    both = [losses_of(short, boxes[:1], [maps[0][:, :40]], no_object_column=column) for column in (None, 63)]
    assert both[0]["token"] == both[1]["token"]


def loss_on_rank(rank: int, folder: str, case: str) -> None:
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timeout)
    outputs, (boxes, maps, _) = read_outputs(Path(case)), read_targets(Path(case), "train")
    last = outputs["token_logits"].shape[2] - 1
    losses = losses_of(picture(outputs, rank), [boxes[rank]], [maps[rank]], no_object_column=last, margin=PIXEL_MARGIN)
    torch.save(losses, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_the_counts(tmp_path: Path) -> None:
    case = fine_folder("v3")
    golden = json.loads((case / "loss.json").read_text())
    mp.start_processes(loss_on_rank, (str(tmp_path), str(case)), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, losses in enumerate(ranks):
        expect_losses(losses, golden["train_two_ranks_one_image_each"][f"rank{rank}"])
    expect_losses({name: (ranks[0][name] + ranks[1][name]) / 2 for name in ranks[0]}, golden["train"])


def test_a_process_without_boxes_counts_too() -> None:
    """The mean over two processes is the loss of one, gradients included, when one of them holds no box."""
    outputs = read_outputs(fine_folder("v3"))
    boxes, maps, _ = read_targets(fine_folder("v3"), "no_box")
    names = ("token_logits", "deltas", "centerness")
    sums: list[Tensor] = []
    for row in range(2):  # what each process would add
        losses_of(picture(outputs, row), [boxes[row]], [maps[row]], reduce=lambda own: sums.append(own) or own)
    for name in names:
        outputs[name].requires_grad_()
    together = losses_of(outputs, boxes, maps)
    expected = torch.autograd.grad(sum(together.values()), [outputs[name] for name in names])
    apart = [
        losses_of(picture(outputs, row), [boxes[row]], [maps[row]], reduce=lambda own: sum(sums) / 2)
        for row in range(2)
    ]
    assert apart[1]["box"] == 0
    for name in together:
        assert ((apart[0][name] + apart[1][name]) / 2).item() == pytest.approx(together[name].item(), rel=1e-12)
    total = sum(sum(losses.values()) for losses in apart) / 2
    for ours, theirs in zip(torch.autograd.grad(total, [outputs[name] for name in names]), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def small_batch() -> tuple[dict[str, Any], list[Tensor], list[Tensor]]:
    """Two pictures of 64 x 64, the second without a box, on two levels."""
    generator = torch.Generator().manual_seed(3)
    cells = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).flip(1) * 16
    fine = torch.cat([cells - 8, cells + 23], dim=1)
    anchors = torch.cat([fine, torch.tensor([[-16.0, -16.0, 47.0, 47.0]])]).double()
    outputs = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) / 3
        for name, shape in {"token_logits": (2, 17, 6), "deltas": (2, 17, 4), "centerness": (2, 17)}.items()
    }
    outputs |= {
        "anchors": anchors,
        "anchors_per_level": [16, 1],
        "text_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
    }
    boxes = [torch.tensor([[5.0, 9.0, 33.0, 40.0], [20.0, 20.0, 60.0, 58.0]]).double(), torch.zeros(0, 4).double()]
    maps = [torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]), torch.zeros(0, 6)]
    return outputs, boxes, maps


@pytest.mark.parametrize("column", [None, 5])
def test_the_gradients_are_those_of_the_losses(column: int | None) -> None:
    outputs, boxes, maps = small_batch()

    def total(token_logits: Tensor, deltas: Tensor, centerness: Tensor) -> tuple[Tensor, ...]:
        given = outputs | {"token_logits": token_logits, "deltas": deltas, "centerness": centerness}
        return tuple(losses_of(given, boxes, maps, no_object_column=column).values())

    inputs = tuple(outputs[name].requires_grad_() for name in ("token_logits", "deltas", "centerness"))
    assert all(loss > 0 for loss in total(*inputs))
    assert torch.autograd.gradcheck(total, inputs)


def test_no_box_at_all_teaches_only_silence() -> None:
    """And an anchor without a box sends nothing back through its deltas, however wild they are."""
    outputs, _, _ = small_batch()
    outputs["deltas"] = torch.full_like(outputs["deltas"], torch.inf)
    inputs = [outputs[name].requires_grad_() for name in ("token_logits", "deltas", "centerness")]
    losses = losses_of(outputs, [torch.zeros(0, 4)] * 2, [torch.zeros(0, 6)] * 2)
    sum(losses.values()).backward()
    assert losses["box"] == losses["centerness"] == 0 < losses["token"]
    assert not inputs[1].grad.any()
    assert not inputs[2].grad.any()
    assert (inputs[0].grad[0] > 0).all()
    assert (inputs[0].grad[1, :, 4:] == 0).all()  # the padding of the second text


def test_the_token_loss_is_that_of_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(40, 9, generator=generator, dtype=torch.float64) * 4).requires_grad_()
    targets, counts = (torch.rand(2, 40, 9, generator=generator) > 0.6).unbind()
    for alpha, gamma in ((0.25, 2.0), (0.4, 1.5), (0.5, 0.0)):
        expected = (sigmoid_focal_loss(logits, targets.double(), alpha, gamma) * counts).sum()
        loss = focal_loss_sum(logits, targets, counts, alpha, gamma)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.allclose(
            torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0], atol=1e-12
        )
    extreme = torch.tensor([-5e4, 5e4], requires_grad=True)
    focal_loss_sum(extreme, torch.tensor([True, True]), torch.tensor([True, True])).backward()
    assert extreme.grad.tolist() == [-0.25, 0.0]


def test_half_precision_is_computed_in_full() -> None:
    outputs, boxes, maps = small_batch()
    half = outputs | {name: outputs[name].bfloat16() for name in ("token_logits", "deltas", "centerness")}
    exact = outputs | {name: half[name].float() for name in ("token_logits", "deltas", "centerness")}
    inputs = [half[name].requires_grad_() for name in ("token_logits", "deltas", "centerness")]
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(half, boxes, maps)
    assert losses == losses_of(exact, boxes, maps)
    sum(losses.values()).backward()
    assert all(value.grad.dtype == torch.bfloat16 and value.grad.any() for value in inputs)


def test_no_value_leaves_the_device_in_the_loss() -> None:
    """Fake tensors have no values: any read of one raises."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        outputs = {"token_logits": (2, 21, 6), "deltas": (2, 21, 4), "centerness": (2, 21), "anchors": (21, 4)}
        given: dict[str, Any] = {
            name: torch.empty(shape, requires_grad=name != "anchors") for name, shape in outputs.items()
        }
        given |= {"anchors_per_level": [16, 4, 1], "text_mask": torch.ones(2, 6)}
        boxes, maps = [torch.empty(3, 4), torch.empty(0, 4)], [torch.ones(3, 6), torch.ones(0, 6)]
        losses = losses_of(given, boxes, maps, valid=torch.ones(2, 21, dtype=torch.bool), no_object_column=5)
        sum(losses.values()).backward()
        assert all(given[name].grad is not None for name in ("token_logits", "deltas", "centerness"))


def test_a_map_of_another_width_is_named() -> None:
    outputs, boxes, maps = small_batch()
    with pytest.raises(
        ValueError, match=r"positive_maps\[0\] must have the shape \(boxes, tokens\) = \(2, 6\), got \(2, 5\)"
    ):
        losses_of(outputs, boxes, [maps[0][:, :5], maps[1]])
