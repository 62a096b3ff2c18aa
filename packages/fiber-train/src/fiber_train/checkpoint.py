"""Checkpoints that are whole or absent: written beside their target, then renamed.

A checkpoint is a model folder (weights, configuration, tokenizer, image settings), so that every tool can use it, with
one more file, `training.pt`, that a resumed run needs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fiber_heads import (
    FiberForCaptioning,
    FiberForGrounding,
    FiberForPretraining,
    FiberForQuestionAnswering,
    FiberForRetrieval,
    FiberForVisualReasoning,
    TaskModel,
)

_NAME = re.compile(r"step-(\d+)")
TRAINING_FILE = "training.pt"
MODEL_CLASSES: dict[str, type[TaskModel]] = {
    model.__name__: model
    for model in (
        FiberForPretraining,
        FiberForRetrieval,
        FiberForQuestionAnswering,
        FiberForVisualReasoning,
        FiberForCaptioning,
        FiberForGrounding,
    )
}


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


def load_task_model(path: str | Path) -> TaskModel:
    """The model, of whatever task, in a folder that `find_model` finds; in eval mode, on the CPU.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of no task that is known here.
    """
    folder = find_model(path)
    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_class")
    if name not in MODEL_CLASSES:
        raise ValueError(f"{folder} holds a {name}; expected one of {', '.join(MODEL_CLASSES)}")
    return MODEL_CLASSES[name].from_pretrained(folder)


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
        step: Optimiser steps done.
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
