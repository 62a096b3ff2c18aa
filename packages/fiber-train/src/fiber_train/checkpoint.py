"""Checkpoints: written whole, verified on reading.

A checkpoint is a model folder (weights, configuration, tokenizer, image settings, the task's settings), so that every
tool can use it, with what a resumed run needs beside: `training.pt`, and in `training/` the tensors of it, such as the
optimizer's. `fiber.json` lists its files with their sizes and checksums.

Several processes write a checkpoint together, each its share of `training/`, into a folder that all of them see; the
first one does the rest, and puts the folder in its place when all are done.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from fiber_data import load_processor
from fiber_heads import AutoFiber, TaskModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor
from torch import distributed as dist

from fiber_train.original import check_kind, describe, load_original
from fiber_train.ownership import MARKER, find_damage, is_ours
from fiber_train.shards import Like, cut, put_together, take_apart, write_tensors
from fiber_train.stopping import say
from fiber_train.writing import WriteError, replace_folder, restore, temporary

_NAME = re.compile(r"step-(\d+)")
TRAINING_FILE, TENSORS, WEIGHTS_FILE = "training.pt", "training", "model.safetensors"
_HUB_NAME = re.compile(r"[\w.-]*\w/\w[\w.-]*")


def find_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoints of a run's folder, oldest first."""
    folder = Path(run) / "checkpoints"
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def find_model(path: str | Path) -> Path:
    """Where the model is that a user means.

    Args:
        path: A model folder or checkpoint itself, or a run, of which its best, finished or newest model is taken; a
            file of the original; or, if nothing of that name is here, the name of a repository on the hub.

    Returns:
        A folder, or the original's file.

    Raises:
        FileNotFoundError: There is none; the message says what was sought.
    """
    given = Path(path)
    candidates = [given, given / "best", given / "model", *reversed(find_checkpoints(given))]
    if given.name == WEIGHTS_FILE:
        candidates.append(given.parent)
    for folder in candidates:
        if (folder / "config.json").is_file() and (folder / "preprocessor_config.json").is_file():
            return folder
    if given.is_file():
        return given
    if not given.exists() and _HUB_NAME.fullmatch(str(path)):
        return _download(str(path))
    raise FileNotFoundError(
        f"{given} holds no model; expected the folder of a run, of a checkpoint, or one with config.json, "
        "model.safetensors and preprocessor_config.json; a checkpoint file of the original; or the name of a "
        "repository on the hub"
    )


def _download(name: str) -> Path:
    """The folder of a repository on the hub, without what only a resumed run needs."""
    try:
        return Path(snapshot_download(name, ignore_patterns=[TRAINING_FILE]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:  # no network, no such repository
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(
            f"{name} holds no model: there is no such file or folder here, and the hub gave no repository of that name "
            f"({reason:.200})"
        ) from error


def load_task_model(
    path: str | Path,
    trusted: Collection[str] = (),
    *,
    kind: type[TaskModel] = TaskModel,
    tokenizer: str | Path | None = None,
    answers: str | Path | None = None,
) -> TaskModel:
    """The model, of whatever task, that `find_model` finds; in eval mode, in float32, on the CPU.

    Args:
        path: A folder, a file of the original, or a name on the hub.
        trusted: Import paths that the folder's files may name; entry points they always may.
        kind: The class that the model must be of.
        tokenizer: For a file of the original, as of `fiber_train.original.load_original`.
        answers: Likewise.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not of `kind`, of a class that no installed package declares, or its weights are not those
            that were written.
    """
    folder = find_model(path)
    if folder.is_file():
        original, found = load_original(folder, kind=kind, tokenizer=tokenizer, answers=answers)
        for sentence in describe(folder, found):
            say(sentence)
        return original.float()
    if is_ours(folder):
        if damage := find_damage(folder, names=(WEIGHTS_FILE,)):
            raise ValueError(f"{folder} is damaged: {damage}; use another checkpoint of the run, or copy it again")
        if change := find_damage(
            folder, but=(WEIGHTS_FILE, TRAINING_FILE, TENSORS, MARKER)
        ):  # it may be somebody's intention
            warnings.warn(f"{folder}: {change}; it is used as it is now", stacklevel=2)
    model = AutoFiber.from_pretrained(folder, trusted=trusted)
    if not isinstance(model, TaskModel):
        raise ValueError(f"{folder} holds a {type(model).__name__}, which is the model of no task; give that of a run")
    check_kind(folder, type(model), kind)
    return model.float()  # as batches are, in whatever type a run computed


def load_model(
    checkpoint: str | Path,
    *,
    kind: type[TaskModel] = TaskModel,
    trusted: Collection[str] = (),
    tokenizer: str | Path | None = None,
    answers: str | Path | None = None,
) -> tuple[Any, Any]:
    """The model, in eval mode on the best device, and its processor.

    Args:
        checkpoint: A run, of which its best model is taken, else the finished or the newest one; a checkpoint or model
            folder; a file of the original; or a name on the hub.
        kind: The class that the model must be of.
        trusted: Import paths that the folder's files may name; entry points they always may.
        tokenizer: For a file of the original, as of `fiber_train.original.load_original`.
        answers: Likewise.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: It is of another task.
    """
    folder = find_model(checkpoint)
    model = load_task_model(folder, trusted, kind=kind, tokenizer=tokenizer, answers=answers)
    if model.processor is None:
        model.processor = load_processor(folder, trusted=trusted)  # or says why there is none
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), model.processor


def save_checkpoint(
    run: str | Path,
    step: int,
    write_model: Callable[[Path], None],
    state: Mapping[str, Any],
    keep: int,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Writes one checkpoint and deletes the oldest beyond `keep`.

    Args:
        run: The run's folder.
        step: Optimizer steps done.
        write_model: Fills a folder with the model and its processor; the first process calls it.
        state: What else a resumed run needs: tensors, numbers and plain containers only.
        keep: How many checkpoints stay.
        group: Of several processes, on the CPU; all of them call this. None for one process.

    Returns:
        The checkpoint's folder.

    Raises:
        WriteError: It cannot be written; the message names the last one that is whole.
        SystemExit: It cannot be written, on other processes than the first.
    """
    return write_checkpoint(run, step, write_model, *take_apart(state), keep, group)


def write_checkpoint(
    run: str | Path,
    step: int,
    write_model: Callable[[Path], None],
    plain: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    keep: int,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """`save_checkpoint` of a state that was taken apart."""
    target = Path(run) / "checkpoints" / f"step-{step:06}"
    if group is not None and dist.get_rank(group):
        if _told(group):
            with suppress(OSError):  # the first process has it too, and says it
                write_tensors(temporary(target) / TENSORS, tensors, group)
            if _told(group):
                return target
        raise SystemExit(0)

    def write(folder: Path) -> None:
        write_model(folder)
        (folder / TENSORS).mkdir()
        _told(group, True)
        write_tensors(folder / TENSORS, tensors, group)
        _save_tensors(folder / TRAINING_FILE, dict(plain))

    try:
        replace_folder(target, write, "checkpoint")
    except BaseException as error:
        _told(group, False)
        if not isinstance(error, WriteError):
            raise
        before = find_checkpoints(run)
        raise WriteError(f"{error} from {before[-1].name if before else 'its beginning'}") from error
    _told(group, True)
    for old in filter(is_ours, find_checkpoints(run)[:-keep]):
        shutil.rmtree(old, ignore_errors=True)
    return target


def _told(group: dist.ProcessGroup | None, good: bool = True) -> bool:
    """What the first process says of how it goes."""
    said = [good]
    if group is not None:
        dist.broadcast_object_list(said, group=group, group_src=0)
    return said[0]


def _save_tensors(path: Path, state: dict[str, Any]) -> None:
    """`torch.save`, whose failures to write are of the file system's kind.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's words are of positions in the file; the reason came before them
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def newest_checkpoint(run: str | Path) -> Path | None:
    """The newest checkpoint whose files are those that were written; None if the run has no checkpoint yet.

    Damaged ones that are newer are renamed, so that nothing takes them for whole, and told of.

    Raises:
        ValueError: There are only damaged ones, or a newer version wrote it.
    """
    damaged: list[tuple[Path, str]] = []
    whole = None
    for folder in reversed(find_checkpoints(run)):
        if (why := find_damage(folder)) is None:
            whole = folder
            break
        damaged.append((folder, why))
    if damaged and whole is None:
        folder, why = damaged[0]
        raise ValueError(
            f"{folder} is damaged ({why}), and there is no older one that is whole; restore it, or begin anew in "
            "another folder"
        )
    for folder, why in damaged:
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        say(f"{folder} is damaged ({why}); it is now called {aside.name}, and the run goes on from {whole}")
    return whole


def tidy(run: str | Path) -> None:
    """Undoes what a killed run left half done: puts back what was about to be replaced, removes what is not whole."""
    folder = Path(run)
    names = {path.name[1:].rpartition(".")[0] for path in (folder / "checkpoints").glob(".step-*.*")}
    checkpoints = [folder / "checkpoints" / name for name in names]
    for target in (*checkpoints, *(folder / name for name in ("best", "model", "predictions"))):
        restore(target)


def load_training_state(checkpoint: Path, like: Like = lambda path: None) -> dict[str, Any]:
    """What `save_checkpoint` was given as `state`, read without executing anything.

    Args:
        checkpoint: The folder.
        like: By the keys that lead to a tensor one whose pieces of it this process needs; the others come whole.

    Raises:
        FileNotFoundError: The folder has no such file (a model folder, not a checkpoint).
        ValueError: The file is cut off, or to read it would execute something.
    """
    path = checkpoint / TRAINING_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{checkpoint} has no {TRAINING_FILE}; a run resumes from a checkpoint of its own")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive makes zip, pickle and torch raise almost anything
        raise ValueError(
            f"{path} cannot be read safely: it is damaged, or holds more than tensors and plain values; use another "
            "checkpoint of the run"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, no training state; use another checkpoint of the run")
    if "tensors" not in state:  # written by 0.3 or before: they are in it
        return cut(state, like)
    return put_together(state, checkpoint / TENSORS, like)
