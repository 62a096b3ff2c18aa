"""The task that a model folder was trained for."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fiber_backbone.seams import available, resolve
from fiber_heads import TaskModel
from omegaconf import OmegaConf

from fiber_train.config import load_config
from fiber_train.ownership import is_ours
from fiber_train.recipe_files import LONGEST_NAME, as_yaml, read_recipe
from fiber_train.run_folder import CONFIG_FILE
from fiber_train.tasks.base import Task

TASK_FILE = "task.yaml"
# Where a computation takes place: not taken from a run, which may have had another machine.
MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.threads")
# What an evaluation obeys, beside the task's own settings.
OBEYED = (
    "data.root",
    "data.index",
    "data.format",
    "data.format_options",
    "data.train_split",  # of which a share may be held out
    "data.eval_split",
    "data.mlm_probability",
    "data.num_workers",
    "data.exif",
    "data.max_pixels",
    "data.blind",
    "trainer.seed",
    "trainer.precision",
    *MACHINE,
)


def write_task(task: Task[Any], folder: Path) -> None:
    """Writes the task's settings beside a model, as a layer of a configuration."""
    (folder / TASK_FILE).write_text(as_yaml({"task": asdict(task.settings)}), encoding="utf-8")


def task_of_model(folder: Path, model: TaskModel, overrides: Sequence[str], trusted: Collection[str] = ()) -> Task[Any]:
    """The task that a model was trained for, with the settings of its run as far as an evaluation has a use for them.

    They are those of the folder's `task.yaml` and, where it lies in a run, of the run's `config.yaml`. Where to compute
    (`trainer.devices`, ...) is decided anew.

    Args:
        folder: The model's.
        model: What it holds.
        overrides: Settings of the user's; `task.name` among them decides.
        trusted: Import paths that the folder's files may name; entry points they always may.

    Raises:
        ValueError: The folder names what may not be imported, or no task is for this model, or several are; or a
            setting of the user's is one that an evaluation cannot obey.
    """
    typed = {word.partition("=")[0]: word.partition("=")[2] for word in overrides}
    layers = _layers(folder)
    written = ""
    for source, layer in layers:
        _check_types(source, layer)
        written = OmegaConf.select(layer, "task.name") or written
    name = typed.get("task.name") or written or _name_by_class(model)
    is_written = name == written and "task.name" not in typed
    try:
        kind = resolve(name, "fiber.tasks", trusted=trusted if is_written else None)
    except ValueError as error:
        raise ValueError(f"{layers[-1][0]}: {error}" if is_written else str(error)) from error
    if name != written:  # the settings are of another task
        layers = [
            (source, OmegaConf.masked_copy(layer, [key for key in layer if key != "task"])) for source, layer in layers
        ]
    _check_imports(layers, typed, trusted)
    words = [f"out={folder}", *(f"task.{key}={json.dumps(value)}" for key, value in kind.settings_of(model).items())]
    config = load_config([], [*words, *overrides], task=kind, below=layers)
    for key in typed:
        check_obeyed(kind, key)
    return kind(config)


def _layers(folder: Path) -> list[tuple[str, Any]]:
    """What a model's folder and its run say of settings that an evaluation has a use for, each with its file."""
    layers: list[tuple[str, Any]] = []
    if folder.is_file():  # of the original, whatever lies around it
        return layers
    for run in (folder, *folder.resolve().parents[:2]):  # run/best, run/checkpoints/step-1
        if (path := run / CONFIG_FILE).is_file() and is_ours(run):
            layer = read_recipe(path)
            found = {key: OmegaConf.select(layer, key) for key in ("task", *OBEYED)}
            layers.append((str(path), OmegaConf.create()))
            for key, value in found.items():
                if value is not None and key not in MACHINE:
                    OmegaConf.update(layers[-1][1], key, value)
            break
    if (path := folder / TASK_FILE).is_file():
        layers.append((str(path), read_recipe(path)))
    return layers


def _check_imports(layers: Sequence[tuple[str, Any]], typed: Collection[str], trusted: Collection[str]) -> None:
    """Refuses import paths in a folder's files that the user neither trusts nor replaces."""
    for source, layer in layers:
        for key in ("data.format", "task.metrics"):
            found = None if key in typed else OmegaConf.select(layer, key)
            for path in [found] if isinstance(found, str) else found or []:
                if path not in trusted and path not in available("fiber.formats"):
                    raise ValueError(
                        f"{source}: {key} names {path!r:.120}, which to load would run; if you know what it is, "
                        f"--trust {path!s:.120}"
                    )


def _check_types(source: str, layer: Any) -> None:
    """Refuses names of tasks and metrics that are none, before anything is sought by them."""
    task = OmegaConf.select(layer, "task") if OmegaConf.is_dict(layer) else layer
    if not OmegaConf.is_dict(layer) or not (task is None or OmegaConf.is_dict(task)):
        raise ValueError(f"{source}: expected settings with a group task, found {type(task).__name__}; save it again")
    name = OmegaConf.select(layer, "task.name")
    if name is not None and (not isinstance(name, str) or len(name) > LONGEST_NAME):
        raise ValueError(f"{source}: expected task.name as the name of a task, found {name!r:.80}; save it again")
    metrics = OmegaConf.select(layer, "task.metrics")
    if metrics is not None and not (OmegaConf.is_list(metrics) and all(isinstance(each, str) for each in metrics)):
        raise ValueError(f"{source}: expected task.metrics as a list of import paths, found {str(metrics)!r:.80}")


def check_obeyed(task: type[Task[Any]], key: str) -> None:
    """Refuses a setting that the evaluation of a finished model cannot obey.

    Raises:
        ValueError: The message names it.
    """
    part = key.removeprefix("task.")
    of_training = key.startswith("task.") and any(f"{part}.".startswith(f"{each}.") for each in task.training_settings)
    if of_training or not (f"{key}.".startswith("task.") or any(f"{key}.".startswith(f"{each}.") for each in OBEYED)):
        raise ValueError(
            f"{key} cannot be changed in an evaluation: it is for training, or the model has it fixed; leave it out"
        )


def _name_by_class(model: TaskModel) -> str:
    """Of the task whose models are of this class."""
    names = [name for name, entry in available("fiber.tasks").items() if entry.load().model_class is type(model)]
    if len(names) == 1:
        return names[0]
    kind = type(model).__name__
    if not names:
        raise ValueError(f"no installed task is for a {kind}; name one, task.name=package.module:Name")
    raise ValueError(f"several tasks are for a {kind}: {', '.join(names)}; name one, task.name={names[0]}")
