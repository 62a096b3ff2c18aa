"""What reports show of a grounding model: boxes for phrases, expressions or categories, right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fiber_data import GroundingSample, load_image
from fiber_heads import FiberForGrounding
from torchvision.ops import box_iou, nms

from fiber_train.drawing import show_look
from fiber_train.examples import Example, Mark, Said, Shown, show_image, spread
from fiber_train.tasks.grounding.boxes import BoxData

LEAST_SCORE = 0.3  # of a box that is shown
SAME_THING = 0.6  # overlap of two boxes that claim one thing, of which the one with the higher score is shown
HIT = 0.5  # overlap with the true box, of the benchmarks
_MEASURED = 100  # samples, for calibration


def show_boxes(model: FiberForGrounding, samples: BoxData, number: int) -> Shown:
    """Boxes found for the phrases of captions or expressions; without these, for the categories of the data."""
    shown = Shown(
        note="Solid line, ✓: found where it is. Dashed line, ✗: found where it is not, or a box on the right thing "
        "under the wrong phrase. Thin dotted line: where it is. The number is the phrase's, then the score. Lines have "
        "no colors, which would speak against the words. Beside it where the first phrase of a sentence looks, by "
        "Grad-CAM."
    )
    if samples.texts:
        for place, sample in enumerate(spread(samples.texts, max(number, _MEASURED))):
            _show_phrases(model, sample, shown, place < number)
    elif samples.detection is not None:
        names = samples.detection.categories
        for place, each in enumerate(spread(samples.detection.samples, max(number, _MEASURED))):
            _show_categories(model, each, names, shown, place < number)
    boxes = [right for each in shown.confidences.values() for _, right in each]
    if boxes:
        shown.note += f" Of {len(boxes):,} boxes found in {max(number, _MEASURED)} samples, {sum(boxes):,} are right."
    return shown


def _show_phrases(model: FiberForGrounding, sample: GroundingSample, shown: Shown, show: bool) -> None:
    spans = [phrase[0] for phrase in sample["phrases"]]
    image = load_image(sample["image"], size=sample["size"])  # turned as the true boxes are
    found = model.ground(image, sample["caption"], spans=[spans], threshold=LEAST_SCORE)[0]
    true = [
        torch.tensor([box for box, own in zip(sample["boxes"], sample["spans"], strict=True) if set(own) & set(phrase)])
        for phrase in sample["phrases"]
    ]
    kept = nms(found.boxes, found.scores, SAME_THING).tolist()
    rows = [(found.boxes[row], float(found.scores[row]), int(found.labels[row])) for row in kept]
    marks = _judge(rows, {number: boxes.reshape(-1, 4) for number, boxes in enumerate(true)}, shown, "phrases")
    if show:
        missed = [number for number in range(len(spans)) if number not in {label for _, _, label in rows}]
        said = tuple(Said(f"{number + 1} {_words(sample, number)}: no box", None, False) for number in missed)
        images = [show_image(image, marks), *show_look(model, image, sample["caption"], word=spans[0])]
        shown.examples.append(Example(tuple(images), _numbered(sample["caption"], spans), said))


def _show_categories(model: FiberForGrounding, sample: Any, names: Mapping[int, str], shown: Shown, show: bool) -> None:
    image, numbers = load_image(sample["image"], size=sample["size"]), list(names)
    found = model.detect(image, list(names.values()), threshold=LEAST_SCORE)[0]
    true: dict[int, Any] = {}
    for box, label in zip(sample["boxes"], sample["labels"], strict=True):
        true.setdefault(numbers.index(label), []).append(box)
    rows = [(found.boxes[row], float(score), int(found.labels[row])) for row, score in enumerate(found.scores.tolist())]
    boxes = {place: torch.tensor(each) for place, each in true.items()}
    marks = _judge(rows, boxes, shown, "boxes", list(names.values()))
    if show:
        shown.examples.append(Example((show_image(image, marks),)))


def _judge(
    rows: Sequence[tuple[torch.Tensor, float, int]],
    true: Mapping[int, torch.Tensor],
    shown: Shown,
    kind: str,
    names: Sequence[str] | None = None,
) -> list[Mark]:
    """The true boxes and the found ones, each of which is right where it covers one of its own phrase's."""
    marks = [Mark(_corners(box), "true") for boxes in true.values() for box in boxes]
    for box, score, label in rows:
        own = true.get(label, torch.empty(0, 4))
        right = len(own) > 0 and bool(box_iou(box[None].cpu(), own).max() >= HIT)
        shown.confidences.setdefault(kind, []).append((score, right))
        name = str(label + 1) if names is None else names[label]
        marks.append(Mark(_corners(box), "right" if right else "wrong", f"{'✓' if right else '✗'}{name} {score:.2f}"))
    return marks


def _corners(box: torch.Tensor) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom


def _words(sample: GroundingSample, number: int) -> str:
    start, end = sample["phrases"][number][0]
    return sample["caption"][start:end]


def _numbered(caption: str, spans: Sequence[tuple[int, int]]) -> tuple[tuple[str, int | None], ...]:
    """The caption in pieces; of spans that overlap the earlier keeps its number."""
    pieces: list[tuple[str, int | None]] = []
    place = 0
    for (start, end), number in sorted(zip(spans, range(1, len(spans) + 1), strict=True)):
        if start >= place:
            pieces += [(caption[place:start], None), (caption[start:end], number)]
            place = end
    return (*pieces, (caption[place:], None))
