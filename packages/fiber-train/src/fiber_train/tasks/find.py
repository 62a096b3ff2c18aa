"""The task that a model folder was trained for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fiber_backbone.seams import available, resolve
from fiber_heads import TaskModel
from omegaconf import OmegaConf

from fiber_train.config import LONGEST_NAME, load_config
from fiber_train.recipe_files import read_recipe
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
    name, metrics = _read_task(path)
    if given not in (None, name):
        kind = resolve(given, "fiber.tasks")
        return kind(load_config([], overrides, task=kind))
    try:
        kind = resolve(name, "fiber.tasks", trusted=None if given else trusted)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for metric in metrics:
        if metric not in trusted:
            raise ValueError(
                f"{path} names {metric!r:.200}, which to load would run; if you know what it is, --trust {metric:.200}"
            )
    return kind(load_config([path], overrides, task=kind))


def _read_task(path: Path) -> tuple[str, list[str]]:
    """The name of the task in a file that `write_task` wrote, and the import paths of its metrics.

    Raises:
        ValueError: It names none.
    """
    content = read_recipe(path)
    group = content.get("task") if OmegaConf.is_dict(content) else None
    written = OmegaConf.to_container(group) if OmegaConf.is_dict(group) else {}
    assert isinstance(written, dict), "made from a dictionary"
    name, metrics = written.get("name"), written.get("metrics", [])
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise ValueError(f"{path}: expected task.name as the name of a task, found {name!r:.80}; save the model again")
    if not isinstance(metrics, list) or not all(isinstance(metric, str) for metric in metrics):
        raise ValueError(f"{path}: expected task.metrics as a list of import paths, found {metrics!r:.80}")
    return name, metrics


def _name_by_class(model: TaskModel) -> str:
    """Of the task whose models are of this class."""
    names = [name for name, entry in available("fiber.tasks").items() if entry.load().model_class is type(model)]
    if len(names) == 1:
        return names[0]
    kind = type(model).__name__
    if not names:
        raise ValueError(f"no installed task is for a {kind}; name one, task.name=package.module:Name")
    raise ValueError(f"several tasks are for a {kind}: {', '.join(names)}; name one, task.name={names[0]}")
