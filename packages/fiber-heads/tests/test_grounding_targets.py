"""What the grounding head is taught and how its outputs become boxes, against the original's numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fiber_heads.grounding.assignment import assign_anchors, matched_boxes, matched_tokens
from fiber_heads.grounding.boxes import (
    box_areas,
    box_iou,
    box_sizes,
    class_nms,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    generalized_box_iou,
    is_at_least,
)
from fiber_heads.grounding.losses import centerness_targets, focal_loss_sum, grounding_losses
from fiber_heads.grounding.postprocess import DetectionSettings, class_scores, detect_boxes, merge_chunks
from safetensors.torch import load_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

REFERENCE = Path(os.environ.get("FIBER_REFERENCE", Path(__file__).resolve().parents[3].parent / "shared" / "reference"))
SETS = [("v2", "train"), ("v2", "one_each"), ("v3", "train"), ("v3", "no_box")]
POST = ["detection", "detection_small_topn", "detection_max", "mdetr", "mdetr_power", "refcoco"]


@pytest.fixture(scope="session")
def fine_reference() -> Path:
    folder = REFERENCE / "fine"
    if not folder.is_dir():
        reason = f"no reference numbers at {folder}; set FIBER_REFERENCE to the folder that holds fine/"
        (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
    return folder


def read_outputs(folder: Path) -> dict[str, Any]:
    """The head's stored outputs in float64, as the functions take them; all stored token columns stand for the rest."""
    stored, meta = load_file(folder / "forward.safetensors"), json.loads((folder / "meta.json").read_text())
    maps = [[stored[f"head.{name}.level{level}"].double() for level in range(5)] for name in ("bbox_reg", "centerness")]
    logits = torch.cat([stored[f"head.dot_product_logits.level{level}"].double() for level in range(5)], dim=1)
    rest = logits[..., -1:].expand(-1, -1, meta["max_query_len"] - logits.shape[2])
    deltas, centerness = (torch.cat([part.flatten(2).mT for part in parts], dim=1) for parts in maps)
    levels = [stored[f"anchors.level{level}"] for level in range(5)]
    return {
        "token_logits": torch.cat([logits, rest], dim=2),
        "deltas": deltas,
        "centerness": centerness.squeeze(2),
        "anchors": torch.cat(levels).double(),
        "anchors_per_level": [len(level) for level in levels],
        "text_mask": stored["attention_mask"],
        "image_sizes": stored["image_sizes"],
    }


def read_targets(folder: Path, name: str) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    stored = load_file(folder / "loss.safetensors")
    stored = {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}
    boxes = [stored["boxes0"].double(), stored["boxes1"].double()]
    return boxes, list(stored["positive_map"].split([len(own) for own in boxes])), stored


def losses_of(outputs: dict[str, Any], boxes: list[Tensor], maps: list[Tensor], **more: Any) -> dict[str, Tensor]:
    matched = assign_anchors(outputs["anchors"], outputs["anchors_per_level"], boxes, more.get("valid"))
    names = ("token_logits", "deltas", "centerness", "anchors", "text_mask")
    given = {name: outputs[name] for name in names}
    return grounding_losses(**given, matched=matched, boxes=boxes, positive_maps=maps, **more)


def picture(outputs: dict[str, Any], row: int) -> dict[str, Any]:
    """One picture of a batch as a batch of its own."""
    per_picture = ("token_logits", "deltas", "centerness", "text_mask", "image_sizes")
    return {name: value[row : row + 1] if name in per_picture else value for name, value in outputs.items()}


def expect_losses(losses: dict[str, Tensor], golden: dict[str, float], rel: float = 2e-5) -> None:
    names = {"box": "loss_reg", "centerness": "loss_centerness", "token": "loss_dot_product_token"}
    assert {ours: losses[ours].item() for ours in names} == pytest.approx(
        {ours: golden[theirs] for ours, theirs in names.items()}, rel=rel
    )


# Boxes


@pytest.fixture(scope="session")
def box_goldens(fine_reference: Path) -> dict[str, Any]:
    return json.loads((fine_reference / "data" / "data_goldens.json").read_text())["boxes"]


def test_boxes_are_measured_as_the_original_does(box_goldens: dict[str, Any]) -> None:
    golden = {key: torch.tensor(box_goldens[key]) for key in box_goldens if isinstance(box_goldens[key], list)}
    boxes, size = golden["input_xyxy"], golden["image_size_wh"].flip(0)
    assert torch.equal(box_areas(boxes), golden["area_xyxy"])
    assert torch.allclose(box_iou(boxes[:, None], golden["iou_other"]), golden["boxlist_iou_plus1"])
    clipped = clip_boxes(boxes, size)
    assert torch.equal(clipped, golden["clip_keep_all"])
    assert torch.equal(clipped[is_at_least(clipped, 0)], golden["remove_small_min0"])
    assert torch.equal(clipped[is_at_least(clipped, 5)], golden["remove_small_min5_after_clip"])
    assert torch.equal(boxes[is_at_least(boxes, 0)], golden["remove_small_min0_without_clip"])


def test_boxes_are_coded_as_the_original_does(box_goldens: dict[str, Any]) -> None:
    names = ("coder_anchors", "coder_gt", "coder_encode", "coder_decode_of_encode")
    anchors, boxes, deltas, decoded = (torch.tensor(box_goldens[name]) for name in names)
    assert torch.allclose(encode_boxes(boxes, anchors), deltas)
    assert torch.allclose(decode_boxes(deltas, anchors), decoded, atol=1e-4)
    exact = decode_boxes(encode_boxes(boxes.double(), anchors.double()), anchors.double())
    assert torch.allclose(exact, boxes.double(), atol=1e-10)
    huge = decode_boxes(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), anchors[:1])
    assert torch.allclose(box_sizes(huge), box_sizes(anchors[:1]) * 62.5)


@pytest.mark.parametrize("limit", [0.6, 0.75, 0.8])
def test_suppression_counts_the_last_pixel(box_goldens: dict[str, Any], limit: float) -> None:
    golden = box_goldens["nms"]
    boxes, scores, labels = (torch.tensor(golden[name]) for name in ("boxes", "scores", "labels"))
    kept = class_nms(boxes, scores, labels.long(), limit)
    assert sorted(kept.tolist()) == golden[f"keep_thr_{limit}".replace(".", "_")]
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)


def test_suppression_equals_its_definition_for_many_labels_and_an_overlap_at_the_limit() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 1300, (600, 2), generator=generator) / 8
    boxes = torch.cat([corner, corner + torch.randint(1, 200, (600, 2), generator=generator)], dim=1)
    boxes = torch.cat([boxes, torch.tensor([[2e3, 0, 2e3 + 9, 9], [2e3, 0, 2e3 + 9, 5]])])  # 60 of 100 pixels
    scores, labels = torch.rand(602, generator=generator), torch.randint(0, 3000, (602,), generator=generator) // 300
    labels[-2:] = 2999
    kept: list[int] = []
    for row in scores.argsort(descending=True).tolist():
        rivals = [other for other in kept if labels[other] == labels[row]]
        if not rivals or box_iou(boxes[rivals].double(), boxes[row].double()).max() <= 0.6:
            kept.append(row)
    assert class_nms(boxes, scores, labels, 0.6).tolist() == kept
    assert {600, 601} <= set(kept)
    assert len(kept) < 590


def test_the_generalised_iou_is_that_of_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 50, 4, generator=generator, dtype=torch.float64) * 100
    boxes[..., 2:] = boxes[..., :2] + boxes[..., 2:] / 2
    assert torch.allclose(1 - generalized_box_iou(*boxes), generalized_box_iou_loss(*boxes), atol=1e-12)
    swapped = torch.tensor([[50.0, 10.0, 20.0, 30.0]])
    assert torch.allclose(
        generalized_box_iou(swapped, torch.tensor([[0.0, 0.0, 60.0, 40.0]])),
        generalized_box_iou(torch.tensor([[50.0, 10.0, 50.0, 30.0]]), torch.tensor([[0.0, 0.0, 60.0, 40.0]])),
    )


# Assignment


@pytest.mark.parametrize(("case", "name"), SETS)
def test_anchors_and_targets_are_the_originals(fine_reference: Path, case: str, name: str) -> None:
    outputs = read_outputs(fine_reference / case)
    boxes, maps, golden = read_targets(fine_reference / case, name)
    anchors = outputs["anchors"]
    matched = assign_anchors(anchors, outputs["anchors_per_level"], boxes)
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
        central.append(centerness_targets(target[row], anchors)[positive])
    assert torch.allclose(torch.cat(central).float(), golden["centerness_targets"], atol=2e-5)


def test_anchors_in_the_padding_can_be_left_out(fine_reference: Path) -> None:
    """A picture's targets and loss are those of the smaller canvas."""
    outputs = picture(read_outputs(fine_reference / "v2"), 0)
    boxes, maps, _ = read_targets(fine_reference / "v2", "train")
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
def test_each_loss_is_the_originals(fine_reference: Path, case: str, name: str) -> None:
    outputs, golden = read_outputs(fine_reference / case), json.loads((fine_reference / case / "loss.json").read_text())
    boxes, maps, _ = read_targets(fine_reference / case, name)
    last = outputs["token_logits"].shape[2] - 1
    expect_losses(losses_of(outputs, boxes, maps, no_object_column=last), golden[name])
    if name == "train":
        expect_losses(losses_of(outputs, boxes, maps, no_object_column=last), golden["train_float64"], rel=2e-6)


def test_an_anchor_without_a_box_answers_to_no_token(fine_reference: Path) -> None:
    """Only where the text fills all positions does the original ask otherwise."""
    for case, same in (("v2", True), ("v3", False)):
        outputs = read_outputs(fine_reference / case)
        boxes, maps, _ = read_targets(fine_reference / case, "train")
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
    losses = losses_of(picture(outputs, rank), [boxes[rank]], [maps[rank]], no_object_column=last)
    torch.save(losses, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_the_counts(fine_reference: Path, tmp_path: Path) -> None:
    case = fine_reference / "v3"
    golden = json.loads((case / "loss.json").read_text())
    mp.spawn(loss_on_rank, (str(tmp_path), str(case)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, losses in enumerate(ranks):
        expect_losses(losses, golden["train_two_ranks_one_image_each"][f"rank{rank}"])
    expect_losses({name: (ranks[0][name] + ranks[1][name]) / 2 for name in ranks[0]}, golden["train"])


def test_a_process_without_boxes_counts_too(fine_reference: Path) -> None:
    """The mean over two processes is the loss of one, gradients included, when one of them holds no box."""
    outputs = read_outputs(fine_reference / "v3")
    boxes, maps, _ = read_targets(fine_reference / "v3", "no_box")
    names = ("token_logits", "deltas", "centerness")
    sums: list[Tensor] = []
    for row in range(2):  # what each process would add
        losses_of(picture(outputs, row), [boxes[row]], [maps[row]], reduce=lambda own: sums.append(own) or own)
    for name in names:
        outputs[name].requires_grad_()
    together = losses_of(outputs, boxes, maps)
    expected = torch.autograd.grad(sum(together.values()), [outputs[name] for name in names])
    apart = [
        losses_of(picture(outputs, row), [boxes[row]], [maps[row]], reduce=lambda own: sum(sums) / 2) for row in range(2)
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
    outputs |= {"anchors": anchors, "anchors_per_level": [16, 1], "text_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
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
        assert torch.allclose(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0], atol=1e-12)
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
        given: dict[str, Any] = {name: torch.empty(shape, requires_grad=name != "anchors") for name, shape in outputs.items()}
        given |= {"anchors_per_level": [16, 4, 1], "text_mask": torch.ones(2, 6)}
        boxes, maps = [torch.empty(3, 4), torch.empty(0, 4)], [torch.ones(3, 6), torch.ones(0, 6)]
        losses = losses_of(given, boxes, maps, valid=torch.ones(2, 21, dtype=torch.bool), no_object_column=5)
        sum(losses.values()).backward()
        assert all(given[name].grad is not None for name in ("token_logits", "deltas", "centerness"))


def test_a_map_of_another_width_is_named() -> None:
    outputs, boxes, maps = small_batch()
    with pytest.raises(ValueError, match=r"positive_maps\[0\] must have the shape \(boxes, tokens\) = \(2, 6\), got \(2, 5\)"):
        losses_of(outputs, boxes, [maps[0][:, :5], maps[1]])


# From outputs to boxes


@pytest.fixture(scope="session", params=["v2", "v3"])
def post_case(request: pytest.FixtureRequest, fine_reference: Path) -> Callable[[str], list[tuple[dict, dict]]]:
    """For each picture the detections under some settings, and the original's."""
    folder = fine_reference / request.param
    outputs, golden = read_outputs(folder), load_file(folder / "post.safetensors")
    notes = json.loads((folder / "post.json").read_text())
    del outputs["text_mask"]
    labels = torch.tensor([int(label) for label in notes["label_map"]])
    tokens = torch.zeros(len(labels), outputs["token_logits"].shape[2], dtype=torch.bool)
    for row, columns in enumerate(notes["label_map"].values()):
        tokens[row, columns] = True

    def run(name: str) -> list[tuple[dict, dict]]:
        note = notes[name]
        settings = DetectionSettings(
            score_threshold=note["pre_nms_thresh"],
            candidates_per_level=note["pre_nms_top_n"],
            max_iou=note["nms_thresh"],
            max_detections=note["detections_per_img"],
            aggregation=note["score_agg"].lower(),
        )
        found = detect_boxes(**outputs, class_tokens=[tokens] * 2, labels=[labels] * 2, settings=settings)
        return [
            (own, {key: golden[f"{name}.{key}{row}"] for key in ("boxes", "scores", "labels")})
            for row, own in enumerate(found)
        ]

    return run


@pytest.mark.parametrize("name", POST)
def test_detections_are_the_originals(post_case: Callable[[str], list[tuple[dict, dict]]], name: str) -> None:
    for found, golden in post_case(name):
        assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
        found, golden = by_score_then_label(found), by_score_then_label(golden)
        assert torch.allclose(found["scores"], golden["scores"], atol=2e-5)
        assert torch.equal(found["labels"], golden["labels"])
        assert torch.allclose(found["boxes"], golden["boxes"], atol=2e-5 * 320)


def by_score_then_label(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Classes that share a token tie under `max`, in whichever order."""
    keys = zip(found["scores"].neg().tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True)
    order = [row for _, row in sorted((key, row) for row, key in enumerate(keys))]
    return {name: value[order] for name, value in found.items()}


def two_levels(**changed: Any) -> dict[str, Any]:
    """One picture, two fine anchors and a coarse one, two tokens, every anchor sure of the first token."""
    given = {
        "token_logits": torch.tensor([[[3.0, -9.0], [2.0, -9.0], [1.0, -9.0]]]),
        "deltas": torch.zeros(1, 3, 4),
        "centerness": torch.full((1, 3), 9.0),
        "anchors": torch.tensor([[0.0, 0.0, 15.0, 15.0], [16.0, 0.0, 31.0, 15.0], [-8.0, -8.0, 55.0, 55.0]]),
        "anchors_per_level": [2, 1],
        "image_sizes": torch.tensor([[40, 60]]),
        "class_tokens": [torch.tensor([[1, 0], [0, 1]])],
    }
    return given | changed


def test_results_lie_within_the_unpadded_picture_and_carry_the_callers_labels() -> None:
    (found,) = detect_boxes(**two_levels(), labels=[torch.tensor([7, 4])])
    assert found["labels"].tolist() == [7, 7, 7]
    assert found["boxes"][2].tolist() == [0.0, 0.0, 55.0, 39.0]
    assert found["scores"][0].item() == pytest.approx((torch.tensor(3.0).sigmoid() * torch.tensor(9.0).sigmoid()).sqrt())
    assert detect_boxes(**two_levels())[0]["labels"].tolist() == [0, 0, 0]


def test_anchors_in_the_padding_detect_nothing_when_left_out() -> None:
    (found,) = detect_boxes(**two_levels(), valid=torch.tensor([[False, True, True]]))
    assert found["boxes"].tolist() == [[16.0, 0.0, 31.0, 15.0], [0.0, 0.0, 55.0, 39.0]]


@pytest.mark.parametrize("aggregation", ["mean", "max", "power"])
def test_nothing_to_find_is_an_empty_result(aggregation: str) -> None:
    """No class, no token of a class, no score above the threshold."""
    settings = DetectionSettings(aggregation=aggregation, score_threshold=0.0)
    silent = two_levels(token_logits=torch.full((1, 3, 2), -1e4))
    for tokens, given in (([[0, 0]], two_levels()), ([], two_levels()), ([[1, 1]], silent)):
        class_tokens = torch.tensor(tokens, dtype=torch.bool).reshape(len(tokens), 2)
        (found,) = detect_boxes(**given | {"class_tokens": [class_tokens]}, settings=settings)
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "boxes": (0, 4),
            "scores": (0,),
            "labels": (0,),
        }


def test_a_class_is_scored_over_its_tokens() -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.9], [0.5, 0.2, 0.3]])
    classes = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    expected = {
        "mean": [[0.25, 0.9, 0, 1.4 / 3], [0.35, 0.3, 0, 1 / 3]],
        "max": [[0.4, 0.9, 0, 0.9], [0.5, 0.3, 0, 0.5]],
        "power": [[0.2, 0.9, 0, 0.036 ** (1 / 3)], [0.1**0.5, 0.3, 0, 0.03 ** (1 / 3)]],
    }
    for name, scores in expected.items():
        assert torch.allclose(class_scores(probabilities.logit(), classes, name), torch.tensor(scores), atol=1e-6)


def test_prompts_of_one_picture_are_merged() -> None:
    first = {"boxes": torch.arange(8.0).view(2, 4), "scores": torch.tensor([0.9, 0.3]), "labels": torch.tensor([0, 1])}
    second = {name: value + 10 for name, value in first.items()} | {"scores": torch.tensor([0.5, 0.5])}
    merged = merge_chunks([first, second])
    assert merged["labels"].tolist() == [0, 10, 11, 1]
    assert merged["boxes"][1].tolist() == second["boxes"][0].tolist()
    assert merge_chunks([first, second], 1)["labels"].tolist() == [0]
    assert merge_chunks([first, second], 2)["labels"].tolist() == [0, 10, 11]  # the third ties
    with pytest.raises(ValueError, match="there is no result to merge"):
        merge_chunks([])


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="aggregation must be 'mean', 'max' or 'power', is 'MEAN'"):
        DetectionSettings(aggregation="MEAN")
    with pytest.raises(ValueError, match="must be at least 1, are 0 and 100"):
        DetectionSettings(candidates_per_level=0)
