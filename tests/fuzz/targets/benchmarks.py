"""The benchmarks of `fiber-eval`: annotation files and result files to scores."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.target import Documents, Target, rounded
from fuzz.targets.box_readers import boxes, lvis_boxes
from fuzz.targets.caption_readers import coco_captions
from fuzz.targets.question_readers import vqa_annotations

_ABSENT = -1.0  # COCO's average over nothing


class BenchmarkTarget(Target):
    """A benchmark of `fiber.benchmarks`.

    Args:
        name: What the command calls it.
        benchmark: Its entry point.
        files: As of `Target`.
        annotations: The file or folder of annotations.
        results: The file or folder of results.
        options: More arguments of the benchmark.
        highest: The largest score that there is.
        by_sample: How the names of scores begin that are of one sample each; of others no one can say how much an
            entry may change them, unless it is nothing.
        ordered: Whether the order of entries means something.
        forms: As of `Target`.
    """

    def __init__(
        self,
        name: str,
        benchmark: str,
        files: Mapping[str, str | bytes],
        annotations: str = "truth.json",
        results: str = "results.json",
        *,
        options: Mapping[str, Any] | None = None,
        highest: float = 1.0,
        by_sample: str | None = None,
        ordered: bool = False,
        forms: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, files, forms=forms, covers=(f"fiber.benchmarks:{benchmark}",), share=0.5)
        self.benchmark, self.annotations, self.results = benchmark, annotations, results
        self.options, self.highest, self.by_sample, self.ordered = options or {}, highest, by_sample, ordered

    def read(self, folder: Path) -> Any:
        return dict(
            _numbers(_benchmark(self.benchmark)(folder / self.annotations, folder / self.results, **self.options), "")
        )

    def parts(self, result: Any) -> Counter[str]:
        return Counter(
            f"{name}={rounded(value)}"
            for name, value in result.items()
            if self.by_sample is None or name.startswith(self.by_sample)
        )

    def breaches(self, result: Any) -> list[str]:
        return [
            f"a score is not between 0 and {self.highest:g}: {name} is {value}"
            for name, value in result.items()
            if not (isinstance(value, int | float) and math.isfinite(value))
            or not (value == _ABSENT or 0 <= value <= self.highest + 1e-6)
        ]

    def budget(self, documents: Documents, touched: int) -> int | None:
        if self.ordered or (touched and self.by_sample is None):
            return None
        return 2 * touched


@cache
def _benchmark(name: str) -> Callable[..., Any]:
    from fiber_eval import benchmarks

    return benchmarks.load(benchmarks.available()[name])


def _numbers(scores: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(scores, Mapping):
        for key, value in scores.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, scores


def _detections(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Boxes near the annotated ones, the first one wrong."""
    return [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": [entry["bbox"][0] + row % 2, *entry["bbox"][1:]],
            "score": round(0.95 - row / 10, 2),
        }
        for row, entry in enumerate(annotations)
    ]


def _answers() -> list[dict[str, Any]]:
    given = ("brown", "two", "no", "left")
    return [{"question_id": 1000 + row, "answer": answer} for row, answer in enumerate(given)]


def _masks() -> dict[str, str]:
    content = boxes()
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    counts = {"size": [48, 64], "counts": [100, 200, 48 * 64 - 300]}
    found = [{key: entry[key] for key in ("image_id", "category_id")} for entry in content["annotations"]]
    results = [
        {
            **entry,
            "score": 0.9 - row / 10,
            "segmentation": counts if row % 2 else content["annotations"][row]["segmentation"],
        }
        for row, entry in enumerate(found)
    ]
    return {"truth.json": json.dumps(content), "results.json": json.dumps(results)}


def _expressions() -> dict[str, Any]:
    images = [{"id": row, "dataset_name": "refcoco" if row < 2 else "refcoco+"} for row in range(4)]
    return {"images": images, "annotations": [{"image_id": row, "bbox": [row, 2, 20, 10]} for row in range(4)]}


def _expression_results() -> dict[str, Any]:
    return {
        str(row): {"boxes": [[row, 2, row + 20, 12], [0, 0, 5, 5]], "scores": [0.9 - row / 10, 0.1]} for row in range(4)
    }


def _flickr() -> dict[str, str]:
    box = "<bndbox>\n<xmin>{}</xmin>\n<ymin>10</ymin>\n<xmax>60</xmax>\n<ymax>60</ymax>\n</bndbox>"
    things = [f"<object>\n<name>{row}</name>\n{box.format(row)}\n</object>" for row in (1, 2)]
    scene = "<object>\n<name>3</name>\n<scene>1</scene>\n<nobndbox>1</nobndbox>\n</object>"
    annotation = "\n".join(["<annotation>", "<filename>7.jpg</filename>", *things, scene, "</annotation>"])
    sentences = (
        "[/EN#1/animals A dog] beside [/EN#2/people/other a man] .\n[/EN#2/people Ein Mann] läuft on [/EN#3/scene it]\n"
    )
    results = [
        {"image_id": "7", "sentence_id": 0, "boxes": [[[1, 10, 60, 50]], [[9, 9, 60, 60], [0, 0, 5, 5]]]},
        {"image_id": "7", "sentence_id": 1, "boxes": [[[2, 10, 60, 60]]]},
    ]
    files = {"truth/test.txt": "7\n", "truth/Sentences/7.txt": sentences, "truth/Annotations/7.xml": annotation}
    return {**files, "results.json": json.dumps(results)}


def _odinw() -> dict[str, str]:
    content = json.dumps(boxes())
    results = json.dumps(_detections(boxes()["annotations"]))
    return {f"{part}/{name}.json": text for part, text in (("truth", content), ("found", results)) for name in "ab"}


def _packed(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _pair(annotations: Any, results: Any) -> dict[str, str]:
    return {
        "truth.json": json.dumps(annotations, ensure_ascii=False),
        "results.json": json.dumps(results, ensure_ascii=False),
    }


_LABELS = "".join(
    json.dumps({"identifier": f"dev-1-{row // 2}-{row % 2}", "sentence": "Ein Hund läuft.", "label": str(row % 2 == 0)})
    + "\n"
    for row in range(4)
)
_PREDICTIONS = "dev-1-0-0,True\ndev-1-0-1,False\ndev-1-1-0,true\ndev-1-1-1,True\n"
_CAPTIONS = [
    {"image_id": 11 + row, "caption": text} for row, text in enumerate(["a dog runs", "a cat", "a man", "x", "boat"])
]
_SCORES = {"scores": [[0.9, 0.2, 0.3], [0.3, 0.1, 0.8]], "text_image_index": [0, 1, 1]}
_EXPRESSION_ROWS = [{**entry, "score": 0.5 + entry["image_id"] / 10} for entry in _expressions()["annotations"]]
TARGETS = [
    BenchmarkTarget(
        "score_vqa",
        "vqa",
        _pair({"info": {}, "annotations": vqa_annotations()}, _answers()),
        options={"per_question": True},
        highest=100.0,
        by_sample="perQuestion.",
    ),
    BenchmarkTarget(
        "score_nlvr2",
        "nlvr2",
        {"dev.json": _LABELS, "predictions.csv": _PREDICTIONS},
        "dev.json",
        "predictions.csv",
        forms={"dev.json": ".jsonl"},
    ),
    BenchmarkTarget(
        "score_retrieval",
        "retrieval",
        _pair(_SCORES, _SCORES),
        options={"ks": [1, 2]},
        highest=10.0,  # ranks are among the scores
        ordered=True,
    ),
    BenchmarkTarget(
        "score_retrieval_arrays",
        "retrieval",
        {"scores.npz": _packed(_SCORES)},
        "scores.npz",
        "scores.npz",
        options={"ks": [1, 2]},
        highest=10.0,
    ),
    BenchmarkTarget("score_captions", "captions", _pair(coco_captions(), _CAPTIONS), highest=10.0),
    BenchmarkTarget("score_refcoco", "refcoco", _pair(_expressions(), _expression_results()), options={"ks": [1, 2]}),
    BenchmarkTarget("score_refcoco_rows", "refcoco", _pair(_expressions(), _EXPRESSION_ROWS)),
    BenchmarkTarget("score_flickr30k", "flickr30k", _flickr(), "truth", options={"ks": [1, 2]}, ordered=True),
    BenchmarkTarget("score_coco", "coco", _pair(boxes(), _detections(boxes()["annotations"]))),
    BenchmarkTarget("score_coco_masks", "coco", _masks(), options={"iou_type": "segm"}),
    BenchmarkTarget("score_lvis", "lvis", _pair(lvis_boxes(), _detections(boxes()["annotations"]))),
    BenchmarkTarget("score_odinw", "odinw", _odinw(), "truth", "found", options={"datasets": ["a", "b"]}),
]
