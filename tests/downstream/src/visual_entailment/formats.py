"""Captions from elsewhere, for the tasks that are there: a format is a function, rows are mapped as they are read."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fiber_data import CaptionSample, MappedSamples


def read_captions_table(root: str | Path, split: str, *, delimiter: str = ",") -> list[CaptionSample]:
    """Captions of `<split>.csv`, an image and a caption a line: `data.format=captions_table`.

    Args:
        root: Folder of the file and the images.
        split: Name of the file.
        delimiter: Between the two: `data.format_options.delimiter`.
    """
    with (Path(root) / f"{split}.csv").open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, delimiter=delimiter)
        return [{"image": Path(root) / image, "captions": [caption], "id": image} for image, caption in rows]


def map_captions(rows: Sequence[Mapping[str, Any]]) -> MappedSamples[CaptionSample]:
    """Rows {image, text} of a Hugging Face `datasets.Dataset`, each decoded when it is asked for.

    Example:
        train(config, samples={"train": map_captions(load_dataset("me/captions", split="train")), ...})
    """
    return MappedSamples(rows, lambda row: {"image": row["image"], "captions": [row["text"]], "id": row["id"]})
