"""Captions from elsewhere, for the tasks that are there: a format is a function, rows are mapped as they are read."""

from __future__ import annotations

import csv
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


def map_captions(rows: Any) -> MappedSamples[CaptionSample]:
    """Rows {id, image, text} of a Hugging Face `datasets.Dataset`, whose images are decoded when they are asked for.

    Example:
        train(config, samples={split: map_captions(load_dataset("me/captions", split=split)) for split in ("train", "val")})
    """
    return MappedSamples(rows, _caption, columns={"id": rows["id"], "captions": [[text] for text in rows["text"]]})


def _caption(row: dict[str, Any]) -> CaptionSample:
    return {"image": row["image"], "captions": [row["text"]], "id": row["id"]}
