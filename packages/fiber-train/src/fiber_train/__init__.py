"""Training, evaluation and prediction for FIBER; names are imported when they are first asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fiber_train.callbacks import Callback
    from fiber_train.checkpoint import load_model
    from fiber_train.config import TaskSettings, TrainConfig, load_config
    from fiber_train.evaluation import Evaluation, LeftOut, Measure
    from fiber_train.inputs import find_images
    from fiber_train.options import add_checkpoint, load_checkpoint
    from fiber_train.recipe_files import find_recipes
    from fiber_train.report import write_report
    from fiber_train.run import dry_run, train
    from fiber_train.tasks.base import Task, fill_in, make_task
    from fiber_train.tasks.retrieval.folder import retrieve

_HOMES = {
    "callbacks": ("Callback",),
    "checkpoint": ("load_model",),
    "config": ("TaskSettings", "TrainConfig", "load_config"),
    "recipe_files": ("find_recipes",),
    "evaluation": ("Evaluation", "LeftOut", "Measure"),
    "options": ("add_checkpoint", "load_checkpoint"),
    "report": ("write_report",),
    "run": ("dry_run", "train"),
    "tasks.base": ("Task", "fill_in", "make_task"),
    "inputs": ("find_images",),
    "tasks.retrieval.folder": ("retrieve",),
}
_HOME_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "Callback",
    "Evaluation",
    "LeftOut",
    "Measure",
    "Task",
    "TaskSettings",
    "TrainConfig",
    "add_checkpoint",
    "dry_run",
    "fill_in",
    "find_images",
    "find_recipes",
    "load_checkpoint",
    "load_config",
    "load_model",
    "make_task",
    "retrieve",
    "train",
    "write_report",
]

__version__ = version("fiber-train")


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
