"""The best weights of a finished run on a split that took no part in choosing them (`data.test_split`)."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fiber_data import load_processor
from lightning_fabric import Fabric

from fiber_train.checkpoint import find_model, load_task_model
from fiber_train.data import trusted_names
from fiber_train.evaluation import EVALUATION_FILE, Evaluation, write_json
from fiber_train.mixture import read_held_out
from fiber_train.stopping import say
from fiber_train.submission import judge_submission
from fiber_train.tasks.base import Task
from fiber_train.writing import replace_folder

FOLDER = "test"


def task_of_test(task: Task[Any]) -> Task[Any] | None:
    """The task, measured on the split of the test; None for a run without one."""
    data = task.config.data
    if data.test_split is None:
        return None
    made, held_out = copy(task), data.held_out
    own = replace(data, eval_split=data.test_split, held_out=held_out and replace(held_out, split=data.test_split))
    made.config = replace(task.config, data=own)
    return made


def measure_test(task: Task[Any], fabric: Fabric) -> Evaluation | None:
    """Measures, and writes numbers and predictions to `test/` in the run's folder.

    Args:
        task: Of a finished run.
        fabric: Its devices; all processes call.

    Raises:
        ValueError: The samples cannot be measured.
    """
    own = task_of_test(task)
    if own is None:
        return None
    out, trusted = Path(task.config.out), trusted_names(task.config)
    folder = find_model(out)
    model, processor = load_task_model(folder, trusted), load_processor(folder, trusted=trusted)
    model.processor = processor
    placed = fabric.strategy.precision.convert_module(model.to(fabric.device))
    found = own.measure(placed, read_held_out(own), processor, fabric)
    if fabric.is_global_zero:
        for sentence in judge_submission(own, found):
            say(sentence)
        replace_folder(out / FOLDER, partial(_write, found), "evaluation")
    fabric.barrier()
    return found


def _write(found: Evaluation, folder: Path) -> None:
    found.write_predictions(folder)
    write_json(folder / EVALUATION_FILE, found.to_json())
