"""Boxes as people see them: on images, and in a report, right ones told from wrong ones."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from fiber_data import load_image, read_grounding
from fiber_heads.grounding.detections import Detections
from fiber_heads.grounding.drawing import WORDS, label_colors
from fiber_train.tasks.grounding.boxes import BoxData
from fiber_train.tasks.grounding.examples import show_boxes


class Finder:
    """Finds what it was told to."""

    def __init__(self, found: Detections) -> None:
        self.found = found

    def prepare(self, images: Any, text: str) -> None:
        raise ValueError("there is no network, so nothing to see of where it looks")

    def ground(self, image: Any, caption: str, **options: Any) -> list[Detections]:
        return [self.found]


def test_a_report_tells_right_boxes_from_wrong_ones(scenes: Path) -> None:
    """A box on the right thing under another phrase is wrong."""
    (sample, *_) = (each for each in read_grounding(scenes, "val") if len(each["phrases"]) == 2)
    rows = [
        next(box for box, own in zip(sample["boxes"], sample["spans"], strict=True) if own == phrase)
        for phrase in sample["phrases"]
    ]

    def marks(labels: list[int]) -> list[str]:
        found = Detections(torch.tensor(rows), torch.tensor([0.9, 0.8]), torch.tensor(labels), ["a", "b"])
        shown = show_boxes(Finder(found), BoxData(captions={"scenes": [sample]}), 1)
        (image,) = shown.examples[0].images
        assert sum(mark.kind == "true" for mark in image.marks) == 2
        return [f"{mark.kind} {mark.label}" for mark in image.marks if mark.kind != "true"]

    assert marks([0, 1]) == ["right ✓1 0.90", "right ✓2 0.80"]
    assert marks([1, 0]) == ["wrong ✗2 0.90", "wrong ✗1 0.80"]


def test_detections_are_drawn_where_they_are(scenes: Path) -> None:
    image = load_image(next((scenes / "images" / "val").glob("*.png")))
    found = Detections(
        torch.tensor([[10.0, 20.0, 40.0, 50.0]]), torch.tensor([0.9]), torch.tensor([1]), ["a yellow circle"]
    )
    drawn = found.draw(image)
    assert drawn.getpixel((39, 40)) == label_colors(["", "a yellow circle"])[1] == WORDS["yellow"]
    assert drawn.getpixel((50, 60)) == tuple(image[:, 60, 50].tolist())
    assert torch.equal(load_image(found.best(0).draw(image)), image)


def test_lines_of_boxes_in_a_report_have_no_hue() -> None:
    """Where a caption says "a red circle", a red line for "wrong" would contradict it, as a green one for "right"."""
    page = resources.files("fiber_train").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    rules = dict(re.findall(r"^\s*(rect[^{]*) \{(.*?)\}", page, re.MULTILINE))
    strokes = {color for rule in rules.values() for color in re.findall(r"stroke: (\S+);", rule)}
    assert strokes == {"#fff", "#111"}
    dashed = {name: "dasharray" in rule for name, rule in rules.items() if name.startswith("rect.mark-")}
    assert dashed == {"rect.mark-right, rect.mark-wrong": False, "rect.mark-wrong": True, "rect.mark-true": True}
