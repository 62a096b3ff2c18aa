"""The boxes of a split: by category, by phrases of captions, of referring expressions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiber_data import DetectionData, GroundingSample, Wording
from fiber_data.formats import Fault, faults_of, has_plain, hold_out, read_expressions, read_phrases
from fiber_data.formats import read_boxes as read_detection

from fiber_train.tasks.grounding.settings import BoxFiles


@dataclass
class BoxData:
    """The boxes of a split.

    Attributes:
        detection: By category.
        captions: By phrases of captions; a list for each file by its name.
        expressions: Of referring expressions, likewise.
    """

    detection: DetectionData | None = None
    captions: Mapping[str, Sequence[GroundingSample]] = field(default_factory=dict)
    expressions: Mapping[str, Sequence[GroundingSample]] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What was wrong with the files."""
        parts = (self.detection, *self.captions.values(), *self.expressions.values())
        return tuple(fault for part in parts for fault in faults_of(part))

    @property
    def texts(self) -> Sequence[GroundingSample]:
        """All captions and expressions; of a single file as they are, such as mapped lazily."""
        parts = [*self.captions.values(), *self.expressions.values()]
        return parts[0] if len(parts) == 1 else [sample for part in parts for sample in part]

    @property
    def parts(self) -> dict[str, Sequence[Any]]:
        """The samples of each file, by what messages call it."""
        detection = {} if self.detection is None else {"detection": self.detection.samples}
        captions = {f"captions {name!r}": part for name, part in self.captions.items()}
        expressions = {f"expressions {name!r}": part for name, part in self.expressions.items()}
        return {**detection, **captions, **expressions}


def has_box_to_learn(sample: Mapping[str, Any]) -> bool:
    """Whether a sample has a box that is no crowd and, where words name boxes, has words."""
    boxes, named = sample["boxes"], sample.get("spans", [True] * len(sample["boxes"]))
    rows = zip(boxes, named, sample["iscrowd"], strict=True)
    return any(words and not crowd and is_box(box) for box, words, crowd in rows)


def is_box(box: Sequence[float]) -> bool:
    """Whether corners (x1, y1, x2, y2) are finite, and hold something."""
    return all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]


def files_of(root: str | Path, split: str, files: BoxFiles) -> BoxFiles:
    """The files that settings name; where they name none, those of the plain form that the folder holds.

    Args:
        root: Folder of the data set.
        split: Such as `"train"`.
        files: What settings name.
    """
    if files.detection or files.captions or files.expressions:
        return files
    detection, captions, expressions = (
        has_plain(Path(root), name, split) for name in ("boxes", "phrases", "expressions")
    )
    return BoxFiles(detection, ["phrases"] * captions, ["expressions"] * expressions)


def read_boxes(read: Callable[..., Any], split: str, files: BoxFiles, setting: str, share: float | None) -> BoxData:
    """The files of a split.

    Args:
        read: Gives what a reader of a split gives, `read(reader, split, **options)`.
        split: Such as `"train"`.
        files: Which ones, see `files_of`.
        setting: Name of the setting that says which, for the message.
        share: As `hold_out` of readers.

    Raises:
        ValueError: No file is named.
    """
    if not (files.detection or files.captions or files.expressions):
        raise ValueError(
            f"{setting} names no file; set {setting}.detection=true, {setting}.captions=[mixed] or "
            f"{setting}.expressions=[refcoco], by the names of the files, or give a folder with boxes.jsonl, "
            "phrases.jsonl or expressions.jsonl"
        )
    detection = read(read_detection, split, hold_out=share) if files.detection else None
    captions = {name: read(read_phrases, split, name=name, hold_out=share) for name in files.captions}
    expressions = {name: read(read_expressions, split, name=name, hold_out=share) for name in files.expressions}
    return BoxData(detection, captions, expressions)


def as_boxes(samples: Any) -> BoxData:
    """Samples of whatever format: `BoxData`, `DetectionData`, or a sequence of captions, called "captions"."""
    if isinstance(samples, BoxData):
        return samples
    return BoxData(detection=samples) if isinstance(samples, DetectionData) else BoxData(captions={"captions": samples})


def take_share(data: BoxData, share: float, *, held: bool) -> BoxData:
    """Boxes of about this share of the images, chosen by their ids alone, or (`held` false) those of all others."""
    captions, expressions = (
        {name: hold_out(samples, share, held=held) for name, samples in files.items()}
        for files in (data.captions, data.expressions)
    )
    detection = None if data.detection is None else hold_out(data.detection, share, held=held)
    return BoxData(detection, captions, expressions)


def worded_categories(data: DetectionData, wording: dict[str, str]) -> dict[int, str | Wording]:
    """Names of categories, or what `task.wording` says instead of them.

    Raises:
        ValueError: A wording is for no category, or has no name in braces.
    """
    if unknown := wording.keys() - set(data.categories.values()):
        raise ValueError(
            f"task.wording: {sorted(unknown)[0]!r} is no category of {data.path}; it has "
            f"{', '.join(sorted(data.categories.values())[:8])}"
        )
    return {number: _worded(wording[name]) if name in wording else name for number, name in data.categories.items()}


def _worded(text: str) -> Wording:
    parts = re.fullmatch(r"([^{}]*)\{([^{}]+)\}([^{}]*)", text)
    if parts is None:
        raise ValueError(f"task.wording: expected one name in braces, as in 'some {{holes}}', got {text!r}")
    return Wording(parts[2], prefix=parts[1], suffix=parts[3])
