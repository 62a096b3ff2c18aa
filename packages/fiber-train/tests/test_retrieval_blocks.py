"""Retrieval in blocks: the numbers of one matrix, whatever the blocks and the processes, in the memory of a share."""

from __future__ import annotations

import io
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from fiber_backbone import TextState
from fiber_data import load_processor, read_captions
from fiber_eval import retrieval_recall
from fiber_train.build import build_model
from fiber_train.config import load_config
from fiber_train.tasks.base import make_task
from fiber_train.tasks.retrieval.scores import ScoreBlocks
from lightning_fabric import Fabric

from .conftest import FEW

OBJECTIVES = ("itc", "itm", "itc,itm")


def lengths(outputs: Any, samples: Any) -> dict[str, float]:
    """A metric that reads the scores of every image."""
    return {"sum": float(sum(float(outputs[sample["id"]].double().clamp(min=-100).mean()) for sample in samples))}


@pytest.fixture
def prepared(scenes: Path, coarse: Path, tmp_path: Path):
    """`prepared(objectives, *overrides)`: task, model, twelve images with their captions, processor."""

    def make(objectives: str, *overrides: str) -> tuple[Any, Any, Any, Any]:
        given = [f"data.root={scenes}", f"out={tmp_path / 'run'}", f"model.checkpoint={coarse}", *FEW, *overrides]
        task = make_task(load_config(["retrieval_itm", "small"], [*given, f"task.model.objectives=[{objectives}]"]))
        start = load_processor(coarse / "model")
        processor = task.make_processor(start.tokenizer, start)
        torch.manual_seed(0)
        model = build_model(task, None, processor)[0].eval()
        model.processor = processor
        return task, model, list(read_captions(scenes, "val"))[:12], processor

    return make


def scores_of(found: Any) -> np.ndarray:
    return np.load(io.BytesIO(found.predictions["predictions.npz"]))["scores"]


@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_the_numbers_are_those_of_one_matrix(objectives: str, prepared) -> None:
    task, model, samples, processor = prepared(objectives, "task.rerank=2", "task.block_size=5")
    found = task.measure(model, samples, processor, Fabric(accelerator="cpu"))
    images = model.begin_images([sample["image"] for sample in samples])
    texts = TextState.cat([model.begin_texts(sample["captions"]) for sample in samples])
    scores = model.search(images, texts, top_k=2)
    torch.testing.assert_close(torch.from_numpy(scores_of(found)), scores, rtol=1e-4, atol=1e-4, check_dtype=False)
    owners = [row for row, sample in enumerate(samples) for _ in sample["captions"]]
    expected = retrieval_recall(scores, owners)
    assert {name: found[name] for name in expected} == pytest.approx({k: float(v) for k, v in expected.items()})
    for row, sample in enumerate(samples):
        np.testing.assert_array_equal(found.outputs[sample["id"]].numpy(), scores_of(found)[row])


@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_blocks_change_nothing(objectives: str, prepared) -> None:
    ways = (("task.block_size=1", "task.pair_batch_size=7"), ("task.block_size=50", "task.pair_batch_size=64"))
    made = []
    for options in ways:
        task, model, samples, processor = prepared(objectives, "task.rerank=2", *options)
        made.append(task.measure(model, samples, processor, Fabric(accelerator="cpu")))
    assert made[0].numbers() == pytest.approx(made[1].numbers())
    np.testing.assert_allclose(*map(scores_of, made), rtol=1e-4, atol=1e-4)


def member(rank: int, port: int, prepared: tuple[Any, ...], out: Path) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.set_num_threads(1)
    task, model, samples, processor = prepared
    held: list[int] = []
    whole = ScoreBlocks.in_order

    def watched(self: ScoreBlocks) -> Any:
        held.append(sum(map(len, self.rows)))
        return whole(self)

    ScoreBlocks.in_order = watched  # type: ignore[method-assign]
    found = task.measure(model, samples, processor, fabric)
    (out / f"{rank}.pickle").write_bytes(pickle.dumps((found.numbers(), dict(found.predictions), held[0])))


@pytest.mark.parametrize("objectives", OBJECTIVES)
def test_two_processes_hold_a_share_each_and_agree_to_the_bit(objectives: str, prepared, tmp_path: Path) -> None:
    options = ["task.rerank=2", "task.block_size=5", f"task.metrics=[{__name__}:lengths]"]
    parts = prepared(objectives, *options)
    expected = parts[0].measure(*parts[1:], Fabric(accelerator="cpu"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(member, (port, parts, tmp_path), nprocs=2, start_method="fork")
    held = []
    for rank in range(2):
        numbers, predictions, rows = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert numbers == expected.numbers()
        assert rank or predictions == dict(expected.predictions)
        held.append(rows)
    assert sum(held) == 12 and min(held) >= (0 if objectives == "itc" else 5)


def test_a_large_file_of_scores_lies_on_the_disk(prepared, tmp_path: Path, monkeypatch) -> None:
    task, model, samples, processor = prepared("itm")
    small = task.measure(model, samples, processor, Fabric(accelerator="cpu"))
    monkeypatch.setattr("fiber_train.tasks.retrieval.scores.MOST_IN_MEMORY", 100)
    large = task.measure(model, samples, processor, Fabric(accelerator="cpu"))
    assert not isinstance(large.predictions["predictions.npz"], bytes)
    large.write_predictions(tmp_path)
    assert (tmp_path / "predictions.npz").read_bytes() == small.predictions["predictions.npz"]
