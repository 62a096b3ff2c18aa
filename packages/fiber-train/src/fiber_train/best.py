"""The best weights of a run so far, by its task's measure."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

from fiber_train.evaluation import EVALUATION_FILE, Evaluation, write_json
from fiber_train.tasks.base import WAYS_OUT
from fiber_train.writing import replace_folder


def keep_best(
    out: Path, monitor: str | None, found: Evaluation, step: int, write_model: Callable[[Path], None]
) -> None:
    """Writes `best/`, weights, numbers and predictions, if these are the best so far by the measure `monitor`.

    A value that is not finite is never the best. Without a monitor nothing is kept.

    Raises:
        ValueError: The evaluation has no such measure.
    """
    if monitor is None:
        return
    if monitor not in found:
        raise ValueError(
            f"task.monitor: the evaluation has no measure {monitor!r} to keep the best by; it has {found.names()}; set "
            f"{WAYS_OUT}"
        )
    measure, path = found.find(monitor), out / "best" / EVALUATION_FILE
    if not math.isfinite(measure.value):
        warnings.warn(f"{monitor} is {measure.value} after step {step}, which is never kept as the best", stacklevel=2)
        return
    old = Evaluation.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Evaluation()
    if monitor in old:  # else it was kept by another
        best = old[monitor]
        if best >= measure.value if measure.higher_is_better else best <= measure.value:
            return

    def write(folder: Path) -> None:
        write_model(folder)
        found.write_predictions(folder)
        write_json(folder / EVALUATION_FILE, {"step": step, **found.to_json()})

    replace_folder(out / "best", write)
