"""Exported parts against the model: size, difference, speed in fp32 and int8, and what eight bits cost on scenes.

    python packages/fiber-train/benchmarks/export.py RUN... [--data SCENES] [--batch 8] [--rounds 15] [--part NAME]

RUN is a folder of a model or run, such as `quickstart/coarse` and `quickstart/fine`, SCENES the folder of its scenes.
Eager, ONNX and int8 take turns, each with one thread: medians of wall time, and of CPU time of this process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fiber_data import read_grounding, read_karpathy
from fiber_heads import FiberForGrounding, TaskModel
from fiber_heads.exported import ExportPart
from fiber_heads.grounding.boxes import box_iou
from fiber_train import load_model
from fiber_train.export import choose_parts, write_part
from onnxruntime import InferenceSession, SessionOptions

Run = Callable[[dict[str, torch.Tensor]], Sequence[Any]]


def open_session(path: Path) -> Run:
    """An ONNX file as a function of tensors, with one thread."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(str(path), options)
    return lambda inputs: session.run(None, {name: value.numpy() for name, value in inputs.items()})


def make_inputs(model: TaskModel, part: ExportPart, batch: int) -> dict[str, torch.Tensor]:
    """Inputs of the model's nominal image size and texts of 16 tokens."""
    torch.manual_seed(0)
    sides, made = model.backbone.image_size, {}
    sizes = {"batch": batch, "length": 16, "texts": 1, "past": 8, "image_tokens": 16}
    for name, value in part.inputs.items():
        axes = part.axes[name]
        shape = [
            -(-sides // axes[place].multiple) * axes[place].multiple
            if place in axes and axes[place].multiple > 1
            else sizes.get(axes[place].name, sides)
            if place in axes
            else size
            for place, size in enumerate(value.shape)
        ]
        made[name] = torch.randn(shape) if value.is_floating_point() else torch.full(shape, 7)
        if name == "attention_mask":
            made[name] = torch.ones_like(made[name])
        if name == "image_sizes":
            made[name] = torch.full(shape, sides)
    return made


def timed(ways: dict[str, Run], inputs: dict[str, torch.Tensor], rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of wall time and of CPU of each way, medians of rounds in which they take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(inputs)
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (1000 * statistics.median(a for a, _ in each), 1000 * statistics.median(b for _, b in each))
        for name, each in found.items()
    }


def recall(model: TaskModel, image: Run, text: Run, data: Path, count: int = 100) -> float:
    """Share of texts whose image is the best of `count`, by unit vectors of two parts."""
    samples = list(read_karpathy(data, "val"))[:count]
    texts = [sample["captions"][0] for sample in samples]
    vectors = [
        np.concatenate([np.asarray(run(model.prepare(**given))[1]) for given in batches])
        for run, batches in (
            (image, [{"images": [s["image"] for s in samples[i : i + 20]]} for i in range(0, len(samples), 20)]),
            (text, [{"text": texts[i : i + 20]} for i in range(0, len(texts), 20)]),
        )
    ]
    return float(((vectors[1] @ vectors[0].T).argmax(axis=1) == np.arange(len(samples))).mean())


def phrase_recall(model: FiberForGrounding, detect: Run, data: Path, count: int = 100) -> tuple[float, int]:
    """Share of phrases of `count` captions whose best box has an IoU of 0.5 with a right one, and their number."""
    stride, right = model.config.strides[-1], []
    for sample in list(read_grounding(data, "val"))[:count]:
        spans = list(dict.fromkeys(span for of_box in sample["spans"] for span in of_box))
        prompts = model.processor.phrase_prompts([sample["caption"]], [spans])
        given = model.prepare([sample["image"]], [sample["caption"]])
        beyond = [-side % stride for side in given["pixel_values"].shape[2:]]
        inputs = {name: given[name] for name in ("image_sizes", "input_ids", "attention_mask")}
        inputs["pixel_values"] = torch.nn.functional.pad(given["pixel_values"], (0, beyond[1], 0, beyond[0]))
        boxes, centerness, token_scores = (torch.as_tensor(each)[0] for each in detect(inputs))
        words = prompts["phrase_maps"][0].float()
        scores = token_scores @ (words / words.sum(dim=1, keepdim=True)).T * centerness[:, None]
        scale = given["original_sizes"][0].flip(0) / given["image_sizes"][0].flip(0)
        found = boxes[scores.argmax(dim=0)] * scale.repeat(2)
        for span, box in zip(spans, found, strict=True):
            own = [one for one, of_box in zip(sample["boxes"], sample["spans"], strict=True) if span in of_box]
            right.append(bool((box_iou(box, torch.tensor(own)) >= 0.5).any()))
    return statistics.fmean(right), len(right)


def measure_part(
    model: TaskModel, name: str, part: ExportPart, folder: Path, batch: int, rounds: int
) -> dict[str, Run]:
    """Exports a part, prints its row, and gives the three ways to compute it."""
    write_part(part, folder, name, "onnx", int8=True)
    files = {"fp32": folder / f"{name}.onnx", "int8": folder / f"{name}.int8.onnx"}
    ways: dict[str, Run] = {"eager": lambda inputs: part.module(**inputs)}
    ways |= {kind: open_session(path) for kind, path in files.items()}
    inputs = make_inputs(model, part, batch)
    results = {kind: [np.asarray(x) for x in way(inputs)] for kind, way in ways.items()}
    worst = [max(np.abs(a - b).max() for a, b in zip(results[kind], results["eager"], strict=True)) for kind in files]
    speed = timed(ways, inputs, rounds)
    cells = [name, *(f"{path.stat().st_size / 1e6:.1f}" for path in files.values()), *(f"{each:.1e}" for each in worst)]
    print(f"| {' | '.join([*cells, *(f'{wall:.1f} ({cpu:.1f})' for wall, cpu in speed.values())])} |", flush=True)
    return ways


def main() -> None:
    """Prints a row for each part of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--part", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| part | MB fp32 | MB int8 | difference fp32 | int8 | ms (CPU ms) eager | fp32 | int8 |")
    print("|---|---|---|---|---|---|---|---|")
    for run in options.runs:
        model, _ = load_model(run)
        with tempfile.TemporaryDirectory() as name, torch.no_grad():
            ways = {
                part_name: measure_part(model, part_name, part, Path(name), options.batch, options.rounds)
                for part_name, part in choose_parts(model, options.part).items()
            }
            if options.data is not None and {"image", "text"} <= ways.keys():
                for kind in ("eager", "fp32", "int8"):
                    found = recall(model, ways["image"][kind], ways["text"][kind], options.data)
                    print(f"{run}, {kind}: {found:.0%} of 100 captions find their image first", flush=True)
            if options.data is not None and "detector" in ways and isinstance(model, FiberForGrounding):
                for kind in ("eager", "fp32", "int8"):
                    share, count = phrase_recall(model, ways["detector"][kind], options.data)
                    print(f"{run}, {kind}: the best boxes of {share:.1%} of {count} phrases are right", flush=True)


if __name__ == "__main__":
    main()
