"""The part of a report that shows boxes: held-out images, their captions, and what a grounding model found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fiber_data import GroundingSample, ImageSource, load_image
from fiber_heads import FiberForGrounding
from torchvision.ops import nms

from fiber_train.checkpoint import load_model
from fiber_train.drawing import label_colors

_LEAST_SCORE = 0.3  # of a box that is drawn
_SAME_THING = 0.6  # overlap of two boxes


@dataclass(frozen=True)
class DrawnBox:
    """A box as SVG draws it, in pixels of the image."""

    x: float
    y: float
    width: float
    height: float
    color: str


@dataclass(frozen=True)
class Grounded:
    """A held-out image with a caption.

    Attributes:
        image: As `fiber_data.load_image` takes it.
        width: Of the image, in pixels.
        height: Likewise.
        words: Pieces of the caption, each with the color of its phrase, or an empty text.
        found: Boxes found for the phrases.
        true: Their right boxes.
    """

    image: ImageSource
    width: int
    height: int
    words: list[tuple[str, str]]
    found: list[DrawnBox]
    true: list[DrawnBox]


@torch.inference_mode()
def ground_examples(run: str | Path, samples: Sequence[GroundingSample], number: int = 9) -> list[Grounded]:
    """Looks for the phrases of some captions, spread evenly over the samples.

    Args:
        run: The folder of a run of the fine stage, or of its model.
        samples: Held-out captions with boxes.
        number: How many to show.
    """
    model, _ = load_model(run, kind=FiberForGrounding)
    chosen = [samples[place] for place in range(0, len(samples), max(1, len(samples) // number))][:number]
    return [_ground(model, sample) for sample in chosen]


def _ground(model: Any, sample: GroundingSample) -> Grounded:
    spans = [phrase[0] for phrase in sample["phrases"]]
    colors = [f"rgb{color}" for color in label_colors(len(spans))]
    image = load_image(sample["image"], size=sample["size"])  # turned as the right boxes are
    found = model.ground(image, sample["caption"], spans=[spans])[0]
    kept = nms(found["boxes"], found["scores"], _SAME_THING)  # of phrases that claim one thing the highest-scoring
    kept = kept[found["scores"][kept] >= _LEAST_SCORE]
    pairs = zip(found["boxes"][kept].tolist(), found["labels"][kept].tolist(), strict=True)
    true = [
        _drawn(box, colors[place])
        for place, phrase in enumerate(sample["phrases"])
        for box, own in zip(sample["boxes"], sample["spans"], strict=True)
        if set(own) & set(phrase)
    ]
    height, width = sample["size"]
    words = _colored(sample["caption"], spans, colors)
    return Grounded(image, width, height, words, [_drawn(box, colors[label]) for box, label in pairs], true)


def _drawn(box: Sequence[float], color: str) -> DrawnBox:
    return DrawnBox(box[0], box[1], box[2] - box[0], box[3] - box[1], color)


def _colored(caption: str, spans: Sequence[tuple[int, int]], colors: Sequence[str]) -> list[tuple[str, str]]:
    """The caption in pieces; of spans that overlap the earlier keeps its color."""
    pieces, place = [], 0
    for (start, end), color in sorted(zip(spans, colors, strict=True)):
        if start >= place:
            pieces += [(caption[place:start], ""), (caption[start:end], color)]
            place = end
    return [*pieces, (caption[place:], "")]
