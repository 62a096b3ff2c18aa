"""Checkpoints that are whole or absent: written beside their target, then renamed.

A checkpoint is a model folder (weights, configuration, tokenizer, image settings, the task's settings), so that every
tool can use it, with one more file, `training.pt`, that a resumed run needs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from fiber_data import load_processor
from fiber_heads import AutoFiber, TaskModel

_NAME = re.compile(r"step-(\d+)")
TRAINING_FILE = "training.pt"


def find_checkpoints(run: str | Path) -> list[Path]:
    """The whole checkpoints of a run's folder, oldest first."""
    folder = Path(run) / "checkpoints"
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def find_model(path: str | Path) -> Path:
    """The model folder that a user means: a model folder or checkpoint itself, or a run's best, finished or newest one.

    Raises:
        FileNotFoundError: There is none; the message says what was looked for.
    """
    given = Path(path)
    candidates = [given, given / "best", given / "model", *reversed(find_checkpoints(given))]
    for folder in candidates:
        if (folder / "config.json").is_file() and (folder / "preprocessor_config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"{given} holds no model; expected the folder of a run, of a checkpoint, or one with config.json, "
        "model.safetensors and preprocessor_config.json"
    )


def load_task_model(path: str | Path, trusted: Collection[str] = ()) -> TaskModel:
    """The model, of whatever task, in a folder that `find_model` finds; in eval mode, in float32, on the CPU.

    Args:
        path: The folder.
        trusted: Import paths that the folder's files may name; entry points they always may.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of a class that no installed package declares.
    """
    folder = find_model(path)
    model = AutoFiber.from_pretrained(folder, trusted=trusted)
    if not isinstance(model, TaskModel):
        raise ValueError(f"{folder} holds a {type(model).__name__}, which is the model of no task; give that of a run")
    return model.float()  # as batches are, in whatever type a run computed


def load_model(
    checkpoint: str | Path, *, kind: type[TaskModel] = TaskModel, trusted: Collection[str] = ()
) -> tuple[Any, Any]:
    """The model, in eval mode on the best device, and the processor of a run, checkpoint or model folder.

    Args:
        checkpoint: Of a run its best model is taken, else the finished or the newest one.
        kind: The class that the model must be of.
        trusted: Import paths that the folder's files may name; entry points they always may.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: It is of another task.
    """
    folder = find_model(checkpoint)
    model = load_task_model(folder, trusted)
    if not isinstance(model, kind):
        raise ValueError(f"{folder} holds a {type(model).__name__}, but a {kind.__name__} is needed; train one first")
    if model.processor is None:
        model.processor = load_processor(folder, trusted=trusted)  # or says why there is none
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), model.processor


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder beside `target` and then puts it in its place; a crash leaves the old one whole."""
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write(temporary)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def save_checkpoint(
    run: str | Path, step: int, write_model: Callable[[Path], None], state: dict[str, Any], keep: int
) -> Path:
    """Writes one checkpoint and deletes the oldest beyond `keep`.

    Args:
        run: The run's folder.
        step: Optimizer steps done.
        write_model: Fills a folder with the model and its processor.
        state: What else a resumed run needs: tensors, numbers and plain containers only.
        keep: How many checkpoints stay.

    Returns:
        The checkpoint's folder.
    """

    def write(folder: Path) -> None:
        write_model(folder)
        torch.save(state, folder / TRAINING_FILE)

    target = Path(run) / "checkpoints" / f"step-{step:06}"
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(target, write)
    for old in find_checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_training_state(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` put into `training.pt`, read without executing anything.

    Raises:
        FileNotFoundError: The folder has no such file (a model folder, not a checkpoint).
    """
    path = checkpoint / TRAINING_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{checkpoint} has no {TRAINING_FILE}; a run resumes from a checkpoint of its own")
    return torch.load(path, map_location="cpu", weights_only=True)
