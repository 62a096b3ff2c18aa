"""Boxes between the image as it came and the prepared one: half-open outside, the original's inside where it is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from fiber_heads.grounding.boxes import box_sizes, clip_boxes, decode_boxes, outermost_pixels
from fiber_heads.grounding.postprocess import detect_boxes
from fiber_heads.grounding.scaling import Scaling
from torch import Tensor

from .grounding_golden import encode_boxes, fine_folder, half_open

INCLUSIVE = pytest.mark.parametrize("inclusive", [False, True], ids=["half-open", "inclusive"])


@pytest.fixture(scope="module")
def box_goldens() -> dict[str, Any]:
    return json.loads((fine_folder("data") / "data_goldens.json").read_text())["boxes"]


@pytest.mark.parametrize(("name", "size"), [("resize_uniform_640x480", (480, 640)), ("resize_nonuniform_480x300", (300, 480))])  # fmt: skip
def test_inclusive_boxes_are_resized_as_the_original_does(
    box_goldens: dict[str, Any], name: str, size: tuple[int, int]
) -> None:
    """On the way in and on the way out; the last box of the goldens has swapped corners."""
    boxes, resized = (half_open(torch.tensor(box_goldens[key][:-1])) for key in ("input_xyxy", name))
    came, other = torch.tensor([box_goldens["image_size_wh"][::-1]]), torch.tensor([size])
    ratio = (other / came).flip(1).repeat(1, 2)
    (taught,) = Scaling(other, came, inclusive=True).to_taught([boxes * ratio])
    assert torch.allclose(taught, resized, atol=1e-3)
    (found,) = Scaling(came, other, inclusive=True).to_original([{"boxes": boxes}])
    assert torch.allclose(found["boxes"], resized, atol=1e-3)
    assert torch.allclose(box_sizes(boxes), torch.tensor(box_goldens["to_xywh"])[:-1, 2:])  # the original's rows


@INCLUSIVE
@pytest.mark.parametrize("shorter", [64, 800])
def test_a_box_that_is_learned_exactly_is_found_exactly(inclusive: bool, shorter: int) -> None:
    """Random boxes of at least a pixel, many of which meet the border, in images of all shapes."""
    generator = torch.Generator().manual_seed(shorter)
    for _ in range(300):
        came = torch.cat([torch.randint(1, limit, (1,), generator=generator) for limit in (3000, 3000)])
        if torch.rand(1, generator=generator) < 0.3:
            came[torch.randint(2, (1,), generator=generator)] = torch.randint(1, 20, (1,), generator=generator)
        ratio = min(shorter / came.min().item(), 1.666 * shorter / came.max().item())
        prepared = (came * ratio).round().clamp(min=1).long()
        width_height = came.flip(0)
        sides = 1 + torch.rand(8, 2, generator=generator) * (width_height - 1)
        start = torch.rand(8, 2, generator=generator) * (width_height - sides)
        boxes = torch.cat([start, start + sides], dim=1)
        boxes[:3, 2:], boxes[2:5, :2] = width_height.float(), 0.0
        scaling = Scaling(prepared[None], came[None], inclusive)
        (taught,) = scaling.to_taught([boxes * (prepared / came).flip(0).repeat(2)])
        side = 2.0 ** torch.randint(3, 10, (8, 1), generator=generator)
        center = torch.rand(8, 2, generator=generator) * prepared.flip(0)
        anchors = torch.cat([center - side / 2, center + side / 2], dim=1).double()
        decoded = decode_boxes(encode_boxes(taught.double(), anchors), anchors).float()
        reachable = (box_sizes(taught) < 62 * side).all(dim=1)
        cut = clip_boxes(decoded, scaling.limits[0], least=float(inclusive))
        (found,) = scaling.to_original([{"boxes": cut}])
        assert (found["boxes"] - boxes)[reachable].abs().max() < 1e-3, (came, prepared)


def detections(boxes: list[list[float]], **options: Any) -> Tensor:
    """What comes out for anchors that are the boxes themselves, each of a class of its own."""
    (found,) = detect_boxes(
        torch.eye(len(boxes)).mul(18)[None] - 9,
        torch.zeros(1, len(boxes), 4),
        torch.zeros(1, len(boxes)),
        anchors=torch.tensor(boxes),
        anchors_per_level=[len(boxes)],
        image_sizes=torch.tensor([[40, 60]]),
        class_tokens=[torch.eye(len(boxes)).bool()],
        **options,
    )
    return found["boxes"][found["labels"].argsort()]


def test_what_lies_beyond_the_image_is_no_detection() -> None:
    """In the padding, or in what tiny images are padded to; the original makes it the image's outermost pixels."""
    boxes = [[10.0, 30.0, 20.0, 50.0], [10.0, 40.0, 20.0, 50.0], [61.0, 10.0, 70.0, 20.0], [-9.0, -9.0, -1.0, 5.0]]
    assert detections(boxes).tolist() == [[10, 30, 20, 40]]
    kept = [[10, 30, 20, 40], [10, 39, 20, 40], [59, 10, 60, 20], [0, 0, 1, 5]]
    assert detections(boxes, keep_outside=True).tolist() == kept


def test_inclusive_boxes_have_a_pixel() -> None:
    """Narrower ones as well, as in the original where it reads them, and when they are found in a reduced image."""
    scaling = Scaling(torch.tensor([[100, 100]]), torch.tensor([[1000, 1000]]), inclusive=True)
    thin = torch.tensor([[10.0, 10.0, 10.01, 20.0]])
    (taught,) = scaling.to_taught([thin])
    assert torch.allclose(taught, torch.tensor([[10.0, 10.0, 11.0, 20.9]]))
    (found,) = scaling.to_original([{"boxes": thin}])
    assert torch.allclose(found["boxes"], torch.tensor([[100.0, 100.0, 101.0, 191.0]]), atol=1e-3)


def test_boxes_are_drawn_on_the_pixels_that_they_touch() -> None:
    boxes = torch.tensor([[0.0, 0.0, 60.0, 40.0], [2.6, 3.0, 4.2, 3.5], [7.0, 7.0, 7.0, 7.0]])
    assert outermost_pixels(boxes).tolist() == [[0, 0, 59, 39], [2, 3, 4, 3], [7, 7, 7, 7]]
