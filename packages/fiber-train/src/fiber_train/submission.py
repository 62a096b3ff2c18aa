"""Whether the server of a task's benchmark would take the predictions of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fiber_eval.submissions import check_submission

from fiber_train.evaluation import Evaluation
from fiber_train.tasks.base import Task

FILES = ("predictions.json", "predictions.csv", "detections.json")  # of those that have a server


def judge_submission(task: Task[Any], found: Evaluation) -> Iterator[str]:
    """A sentence for each file that a server would refuse."""
    for name, content in found.predictions.items():
        if not task.submission or name not in FILES or not isinstance(content, str | bytes):
            continue
        try:
            check_submission(task.submission, content)
        except ValueError as error:
            yield f"{name}: a server for {task.submission} would refuse this: {error}"
