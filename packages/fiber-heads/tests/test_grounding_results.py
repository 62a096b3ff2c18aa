"""How the grounding head's outputs become boxes, and how boxes are measured, against the original's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fiber_heads.grounding.boxes import (
    box_areas,
    box_iou,
    box_sizes,
    class_nms,
    clip_boxes,
    decode_boxes,
    generalized_box_iou,
    is_at_least,
)
from fiber_heads.grounding.config import DetectionSettings
from fiber_heads.grounding.postprocess import class_scores, detect_boxes, merge_chunks, merge_views, mirror_boxes
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from .grounding_golden import encode_boxes, fine_folder, half_open, read_outputs

POST = ["detection", "detection_small_topn", "detection_max", "mdetr", "mdetr_power", "refcoco"]


# Boxes


@pytest.fixture(scope="session")
def box_goldens() -> dict[str, Any]:
    return json.loads((fine_folder("data") / "data_goldens.json").read_text())["boxes"]


def test_boxes_are_measured_as_the_original_does(box_goldens: dict[str, Any]) -> None:
    golden = {key: torch.tensor(box_goldens[key]) for key in box_goldens if isinstance(box_goldens[key], list)}
    boxes, size = half_open(golden["input_xyxy"]), golden["image_size_wh"].flip(0)
    assert torch.equal(box_areas(boxes), golden["area_xyxy"])
    assert torch.allclose(box_iou(boxes[:, None], half_open(golden["iou_other"])), golden["boxlist_iou_plus1"])
    clipped = clip_boxes(boxes, size, least=1)
    assert torch.equal(clipped, half_open(golden["clip_keep_all"]))
    assert torch.equal(clipped[is_at_least(clipped, 0)], half_open(golden["remove_small_min0"]))
    assert torch.equal(clipped[is_at_least(clipped, 5)], half_open(golden["remove_small_min5_after_clip"]))
    assert torch.equal(boxes[is_at_least(boxes, 0)], half_open(golden["remove_small_min0_without_clip"]))


def test_boxes_are_coded_as_the_original_does(box_goldens: dict[str, Any]) -> None:
    names = ("coder_anchors", "coder_gt", "coder_encode", "coder_decode_of_encode")
    anchors, boxes, deltas, decoded = (torch.tensor(box_goldens[name]) for name in names)
    anchors, boxes, decoded = half_open(anchors), half_open(boxes), half_open(decoded)
    assert torch.allclose(encode_boxes(boxes, anchors), deltas)
    assert torch.allclose(decode_boxes(deltas, anchors), decoded, atol=1e-4)
    exact = decode_boxes(encode_boxes(boxes.double(), anchors.double()), anchors.double())
    assert torch.allclose(exact, boxes.double(), atol=1e-10)
    huge = decode_boxes(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), anchors[:1])
    assert torch.allclose(box_sizes(huge), box_sizes(anchors[:1]) * 62.5)


@pytest.mark.parametrize("limit", [0.6, 0.75, 0.8])
def test_suppression_is_the_originals(box_goldens: dict[str, Any], limit: float) -> None:
    golden = box_goldens["nms"]
    boxes, scores, labels = (torch.tensor(golden[name]) for name in ("boxes", "scores", "labels"))
    kept = class_nms(half_open(boxes), scores, labels.long(), limit)
    assert sorted(kept.tolist()) == golden[f"keep_thr_{limit}".replace(".", "_")]
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)


def test_suppression_equals_its_definition_for_many_labels_and_an_overlap_at_the_limit() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 1300, (600, 2), generator=generator) / 8
    boxes = torch.cat([corner, corner + torch.randint(1, 200, (600, 2), generator=generator)], dim=1)
    boxes = torch.cat([boxes, torch.tensor([[2e3, 0, 2e3 + 10, 10], [2e3, 0, 2e3 + 10, 6]])])  # 60 of 100 pixels
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


# From outputs to boxes


@pytest.fixture(scope="session", params=["v2", "v3"])
def post_case(request: pytest.FixtureRequest) -> Callable[[str], list[tuple[dict, dict]]]:
    """For each picture the detections under some settings, and the original's."""
    folder = fine_folder(request.param)
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
        found = detect_boxes(
            **outputs, class_tokens=[tokens] * 2, labels=[labels] * 2, settings=settings, keep_outside=True
        )
        return [
            (
                own,
                {key: golden[f"{name}.{key}{row}"] for key in ("scores", "labels")}
                | {"boxes": half_open(golden[f"{name}.boxes{row}"])},
            )
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
        "anchors": torch.tensor([[0.0, 0.0, 16.0, 16.0], [16.0, 0.0, 32.0, 16.0], [-8.0, -8.0, 56.0, 56.0]]),
        "anchors_per_level": [2, 1],
        "image_sizes": torch.tensor([[40, 60]]),
        "class_tokens": [torch.tensor([[1, 0], [0, 1]])],
    }
    return given | changed


def test_results_lie_within_the_unpadded_picture_and_carry_the_callers_labels() -> None:
    (found,) = detect_boxes(**two_levels(), labels=[torch.tensor([7, 4])])
    assert found["labels"].tolist() == [7, 7, 7]
    assert found["boxes"][2].tolist() == [0.0, 0.0, 56.0, 40.0]
    assert found["scores"][0].item() == pytest.approx(
        (torch.tensor(3.0).sigmoid() * torch.tensor(9.0).sigmoid()).sqrt()
    )
    assert detect_boxes(**two_levels())[0]["labels"].tolist() == [0, 0, 0]


def test_anchors_in_the_padding_detect_nothing_when_left_out() -> None:
    (found,) = detect_boxes(**two_levels(), valid=torch.tensor([[False, True, True]]))
    assert found["boxes"].tolist() == [[16.0, 0.0, 32.0, 16.0], [0.0, 0.0, 56.0, 40.0]]


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
    with pytest.raises(ValueError, match="candidates_per_level must be at least 1, is 0"):
        DetectionSettings(candidates_per_level=0)


# Several views of an image


def test_one_view_is_what_it_is_and_two_become_one() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    view = {"boxes": boxes, "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([1, 2])}
    alone, twice = merge_views([view], DetectionSettings()), merge_views([view, view], DetectionSettings())
    for name, value in view.items():
        assert torch.equal(alone[name], value)
        assert torch.equal(twice[name], value), "what both views found is found once"
    assert len(merge_views([view, view], DetectionSettings(), max_detections=1)["scores"]) == 1


def test_boxes_of_one_thing_vote_and_those_of_another_class_do_not() -> None:
    first = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "scores": torch.tensor([0.6]), "labels": torch.tensor([1])}
    second = {"boxes": torch.tensor([[1.0, 0, 11, 10]]), "scores": torch.tensor([0.3]), "labels": torch.tensor([1])}
    other = {**second, "labels": torch.tensor([2]), "scores": torch.tensor([0.1])}
    found = merge_views([first, second, other], DetectionSettings(), "vote")
    assert found["labels"].tolist() == [1, 2]
    assert found["scores"].tolist() == pytest.approx([0.6, 0.1])
    assert found["boxes"][0].tolist() == pytest.approx([1 / 3, 0, 10 + 1 / 3, 10])
    assert found["boxes"][1].tolist() == [1, 0, 11, 10]
    kept = merge_views([first, second, other], DetectionSettings(), "nms")
    assert kept["boxes"][0].tolist() == [0, 0, 10, 10]


def test_mirrored_boxes_hold_the_mirrored_pixels() -> None:
    image, box = torch.zeros(8, 11), torch.tensor([[2.0, 1, 5, 7]])
    image[1:7, 2:5] = 1
    x1, y1, x2, y2 = mirror_boxes(box, 11)[0].int().tolist()
    assert image.flip(1)[y1:y2, x1:x2].sum() == image.sum()
    assert torch.equal(mirror_boxes(mirror_boxes(box, 11), 11), box)
