"""COCO average precision: plain pycocotools, its faster twin, and ours, from lists in memory to the twelve numbers.

Synthetic images with as many objects, sizes and crowds as COCO's, and detections of which most are wrong. Medians over
interleaved rounds, in wall and process CPU seconds; a ratio above 1 is faster than the baseline:

    python packages/fiber-eval/benchmarks/detection.py [--images 5000] [--detections 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO as FastCOCO
from faster_coco_eval import COCOeval_faster
from fiber_eval.detection import CocoAP, coco_ap
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BASELINE = "pycocotools"
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CATEGORIES = 80
OBJECTS = 7.3  # an image, as in val2017
CROWDS = 0.012  # of the objects, too

Entries = list[dict[str, Any]]


def synthesize(num_images: int, num_detections: int) -> tuple[dict[str, Any], Entries]:
    """Annotations and detections; those near an object score higher, and scores tie."""
    random = np.random.default_rng(0)
    truths: Entries = []
    found: Entries = []
    for image_id in range(1, num_images + 1):
        count = random.poisson(OBJECTS)
        sizes = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
        boxes = np.concatenate([random.uniform(0, 1, (count, 2)) * (640 - sizes), sizes], axis=1).round(2)
        labels = random.integers(1, CATEGORIES + 1, count)
        for box, label, is_crowd in zip(boxes, labels, random.random(count) < CROWDS, strict=True):
            entry = {"id": len(truths) + 1, "image_id": image_id, "category_id": int(label), "bbox": box.tolist()}
            truths.append(entry | {"area": float(box[2] * box[3] * 0.7), "iscrowd": int(is_crowd)})
        for number in range(num_detections):
            if number < 2 * count:
                row = number % count
                box, label = boxes[row] + random.normal(0, 0.08, 4) * boxes[row, [2, 3, 2, 3]], labels[row]
                score = random.beta(4, 2)
            else:
                box = np.concatenate([random.uniform(0, 400, 2), random.uniform(8, 240, 2)])
                label, score = random.integers(1, CATEGORIES + 1), random.beta(1, 6)
            entry = {"image_id": image_id, "category_id": int(label), "bbox": np.maximum(box, 1).round(2).tolist()}
            found.append(entry | {"score": round(float(score), 3)})
    images = [{"id": image_id, "width": 640, "height": 640} for image_id in range(1, num_images + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, CATEGORIES + 1)]
    return {"images": images, "annotations": truths, "categories": categories}, found


def as_predictions(annotations: dict[str, Any], found: Entries) -> dict[int, dict[str, torch.Tensor]]:
    """The detections as a detector gives them."""
    rows: dict[int, Entries] = {image["id"]: [] for image in annotations["images"]}
    for entry in found:
        rows[entry["image_id"]].append(entry)
    return {
        image_id: {
            "boxes": torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).reshape(-1, 4),
            "scores": torch.tensor([entry["score"] for entry in entries], dtype=torch.float64),
            "labels": torch.tensor([entry["category_id"] for entry in entries], dtype=torch.int64),
        }
        for image_id, entries in rows.items()
    }


def plain(dataset_class: Any, evaluator_class: Any, annotations: dict[str, Any], found: Entries) -> list[float]:
    """The way of the official demo."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = dataset_class()
        truth.dataset = annotations
        truth.createIndex()
        evaluator = evaluator_class(truth, truth.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats[:12]]


def metric(annotations: dict[str, Any], predictions: dict[int, dict[str, torch.Tensor]]) -> list[float]:
    """In batches of eight, as a validation loop does."""
    scorer = CocoAP(annotations, box_format="xywh")
    ids = list(predictions)
    for start in range(0, len(ids), 8):
        scorer.update([predictions[i] for i in ids[start : start + 8]], ids=ids[start : start + 8])
    result = scorer.compute()
    return [result[name].item() for name in NAMES]


def contenders(annotations: dict[str, Any], found: Entries) -> dict[str, Callable[[], Callable[[], list[float]]]]:
    """What takes turns. Each first makes the copies that the evaluators write into, untimed, then the timed call."""
    predictions = as_predictions(annotations, found)

    def with_copies(call: Callable[[dict[str, Any], Entries], list[float]]) -> Callable[[], Callable[[], list[float]]]:
        def prepare() -> Callable[[], list[float]]:
            copies = copy.deepcopy(annotations), [dict(entry) for entry in found]
            return lambda: call(*copies)

        return prepare

    def ours(backend: Any) -> Callable[[], Callable[[], list[float]]]:
        def call(annotations: dict[str, Any], found: Entries) -> list[float]:
            result = coco_ap(found, annotations, backend=backend)
            return [result[name].item() for name in NAMES]

        return with_copies(call)

    return {
        BASELINE: with_copies(lambda *lists: plain(COCO, COCOeval, *lists)),
        "faster-coco-eval": with_copies(lambda *lists: plain(FastCOCO, COCOeval_faster, *lists)),
        "coco_ap on pycocotools (ours)": ours("pycocotools"),
        "coco_ap, by default (ours)": ours("faster_coco_eval"),
        "CocoAP, updates and compute (ours)": lambda: lambda: metric(annotations, predictions),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    annotations, found = synthesize(arguments.images, arguments.detections)
    objects = len(annotations["annotations"])
    print(f"{arguments.images} images, {objects} objects, {len(found)} detections, {CATEGORIES} categories")
    calls = contenders(annotations, found)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    results: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for name, prepare in calls.items():
            call = prepare()
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = call()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in times.items()}
    for name, (wall, cpu) in medians.items():
        off = max(abs(a - b) for a, b in zip(results[name], results[BASELINE], strict=True))
        print(
            f"{name:36s} {wall:7.2f} s wall {cpu:7.2f} s CPU   ratio {medians[BASELINE][0] / wall:5.2f} (wall) "
            f"{medians[BASELINE][1] / cpu:5.2f} (CPU)   AP {results[name][0]:.6f}, at most {off:.0e} away"
        )


if __name__ == "__main__":
    main()
