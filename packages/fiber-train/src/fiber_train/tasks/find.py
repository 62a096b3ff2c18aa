"""The task that a model folder was trained for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fiber_backbone.seams import available, resolve
from fiber_heads import TaskModel
from omegaconf import OmegaConf

from fiber_train.config import load_config
from fiber_train.tasks.base import Task

TASK_FILE = "task.yaml"


def write_task(task: Task[Any], folder: Path) -> None:
    """Writes the task's settings beside a model, as a layer of a configuration."""
    settings = OmegaConf.create({"task": OmegaConf.to_container(OmegaConf.structured(task.settings))})
    (folder / TASK_FILE).write_text(OmegaConf.to_yaml(settings), encoding="utf-8")


def task_of_model(folder: Path, model: TaskModel, overrides: Sequence[str], trusted: Collection[str] = ()) -> Task[Any]:
    """The task that a model was trained for, with the settings of its run where the folder has them.

    Args:
        folder: The model's.
        model: What it holds.
        overrides: Settings of the user's; `task.name` among them decides.
        trusted: Import paths that the folder's files may name; entry points they always may.

    Raises:
        ValueError: The folder names what may not be imported, or no task is for this model, or several are.
    """
    given = OmegaConf.select(OmegaConf.from_dotlist([word for word in overrides if "=" in word]), "task.name")
    path = folder / TASK_FILE
    if not path.is_file():
        kind = resolve(given or _name_by_class(model), "fiber.tasks")
        return kind(load_config([], overrides, task=kind))
    written = OmegaConf.load(path).task
    if given not in (None, written.name):
        kind = resolve(given, "fiber.tasks")
        return kind(load_config([], overrides, task=kind))
    kind = resolve(written.name, "fiber.tasks", trusted=None if given else trusted)
    for metric in written.metrics:
        if metric not in trusted:
            raise ValueError(
                f"{path} names {metric!r}, which to load would run; if you know what it is, --trust {metric}"
            )
    return kind(load_config([path], overrides, task=kind))


def _name_by_class(model: TaskModel) -> str:
    """Of the task whose models are of this class."""
    names = [name for name, entry in available("fiber.tasks").items() if entry.load().model_class is type(model)]
    if len(names) == 1:
        return names[0]
    kind = type(model).__name__
    if not names:
        raise ValueError(f"no installed task is for a {kind}; name one, task.name=package.module:Name")
    raise ValueError(f"several tasks are for a {kind}: {', '.join(names)}; name one, task.name={names[0]}")
