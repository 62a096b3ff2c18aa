"""Numbers: of result files for `fiber-eval entailment`, and one to be measured beside a task's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def entailment_accuracy(predictions: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, float]:
    """The share of hypotheses that are judged as annotated, 0..1.

    Args:
        predictions: By id; each labeled id needs one.
        labels: By id.

    Returns:
        `accuracy`, and beside it `most_frequent`, what the most frequent label alone would reach.

    Raises:
        ValueError: There is no label, or a labeled hypothesis has no prediction.
    """
    if not labels:
        raise ValueError("there is nothing to score: no hypothesis has a label")
    if absent := [name for name in labels if name not in predictions]:
        raise ValueError(f"{len(absent)} of {len(labels)} hypotheses have no prediction; the first is {absent[0]!r}")
    right = sum(predictions[name] == label for name, label in labels.items())
    counts = [list(labels.values()).count(label) for label in set(labels.values())]
    return {"accuracy": right / len(labels), "most_frequent": max(counts) / len(labels)}


def score_files(annotations: Path, results: Path, *, split: str | None = None) -> dict[str, float]:
    """Score a file of labels.

    Args:
        annotations: entailment.jsonl, an object {id, image, hypothesis, label, split} a line
        results: JSON lines, an object {id, label} a line
        split: The split that the results are of; all of the file by default.

    Source: Xie et al. 2019, Visual Entailment, https://arxiv.org/abs/1901.06706
    """
    rows = [row for row in read_lines(annotations) if split in (None, row["split"])]
    labels = {row["id"]: row["label"] for row in rows}
    return entailment_accuracy({row["id"]: row["label"] for row in read_lines(results)}, labels)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def caption_length(predictions: Mapping[Any, str], samples: Sequence[Any]) -> dict[str, float]:
    """Mean words of predicted captions: `task.metrics=[visual_entailment.metrics:caption_length]`."""
    return {"words": sum(len(caption.split()) for caption in predictions.values()) / max(1, len(predictions))}
