"""Reading the samples of a run, and what was wrong with their files: said once, kept in the run's folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fiber_data.formats import faults_of
from lightning_fabric import Fabric

from fiber_train.evaluation import write_json
from fiber_train.mixture import read_held_out, read_training
from fiber_train.tasks.base import Task

DATA_CHECK_FILE = "data_check.json"
Found = TypeVar("Found")


def read_samples(task: Task[Any], fabric: Fabric) -> tuple[Any, Any]:
    """The samples to learn from and the held-out ones.

    To read annotations is to check them: what a run cannot use ends it here, before the first image is read. What was
    mended or left out is a warning of the first process, and `data_check.json` in the run's folder, by split.

    Raises:
        FileNotFoundError: A file is missing.
        KeyError: A file is out of format.
        ValueError: A file is out of format.
    """
    data = task.config.data
    with warnings.catch_warnings():
        if not fabric.is_global_zero:
            warnings.simplefilter("ignore")
        samples, held_out = _first_alone(fabric, lambda: (read_training(task), read_held_out(task)))
    if fabric.is_global_zero:
        found = {data.train_split: samples, data.eval_split: held_out}
        faults = {split: [asdict(fault) for fault in faults_of(part)] for split, part in found.items()}
        write_json(Path(task.config.out) / DATA_CHECK_FILE, faults)
    return samples, held_out


def _first_alone(fabric: Fabric, read: Callable[[], Found]) -> Found:
    """What each process reads, the first one before the others, which then map the index that it made."""
    failure: Exception | None = None
    with fabric.rank_zero_first():
        try:
            found = read()
        except Exception as error:  # the others are to go on, and meet it too
            failure = error
    if failure is not None:
        raise failure
    return found
