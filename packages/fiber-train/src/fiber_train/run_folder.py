"""The folder of a run: whose it is, what it may go on with, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lightning_fabric import Fabric
from omegaconf import OmegaConf

from fiber_train.checkpoint import newest_checkpoint, tidy
from fiber_train.config import TrainConfig, to_yaml
from fiber_train.ownership import check_ours, locked, mark, read_marker
from fiber_train.recipe_files import read_recipe
from fiber_train.stopping import say
from fiber_train.writing import explained, write_file

# What may change between the parts of a run without changing its numbers; and its length.
FREE_SETTINGS = (
    "out",
    "data.root",
    "data.index",
    "data.num_workers",
    "data.max_unreadable",
    "data.test_split",
    "model.gradient_checkpointing",
    "model.trusted",
    "task.monitor",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.compile",
    "trainer.threads",
    "trainer.log_every",
    "trainer.loggers",
    "trainer.eval_every",
    "trainer.patience",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.async_checkpoints",
    "trainer.tensorboard",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.profile",
)
CONFIG_FILE = "config.yaml"
NAMES = (
    CONFIG_FILE,
    "best",
    "checkpoints",
    "data_check.json",
    "evaluation.json",
    "metrics.csv",
    "model",
    "processor",
    "profile",
    "test",
)
# Settings that name files: the same ones however they were spelt, and wherever the command was called.
PATHS = ("data.tokenizer", "model.checkpoint", "model.text_weights", "task.answers", "task.entities")
Found = TypeVar("Found")


@contextmanager
def claimed(config: TrainConfig, fabric: Fabric) -> Iterator[Path | None]:
    """Keeps other processes out of a run's folder, and gives the checkpoint to go on from, if there is one.

    Raises:
        FileExistsError: The folder holds files of somebody else's that would be overwritten.
        ValueError: Another process has the folder, or it holds a run of another configuration; the message names what
            differs. Or its checkpoints are damaged.
        WriteError: It cannot be written to.
    """
    out = Path(config.out)
    with ExitStack() as stack:

        def claim() -> Path | None:
            with explained(out):
                check_ours(out, "run", NAMES)
                stack.enter_context(locked(out))
            tidy(out)
            checkpoint = newest_checkpoint(out)
            if checkpoint is not None:
                _check_settings(out, config)
            with explained(out):
                mark(out, "run", paths=_resolved(flat(asdict(config))))
            write_file(out / CONFIG_FILE, to_yaml(config))
            return checkpoint

        yield on_first(fabric, claim)


def on_first(fabric: Fabric, action: Callable[[], Found]) -> Found:
    """What the first process finds, for all; if it fails there, the others end quietly."""
    found: Any = None
    failure: Exception | None = None
    if fabric.is_global_zero:
        try:
            found = action()
        except Exception as error:
            failure = error
    failed, found = fabric.broadcast((failure is not None, found))
    if failure is not None:
        raise failure
    if failed:
        raise SystemExit(0)
    return found


def _check_settings(out: Path, config: TrainConfig) -> None:
    path = out / CONFIG_FILE
    if not path.is_file():
        return
    new = flat(asdict(config))
    unsaid = flat(asdict(TrainConfig(task=type(config.task)())))  # of settings that are newer than the run
    old = {**unsaid, **flat(OmegaConf.to_container(read_recipe(path), resolve=True))}
    before = (read_marker(out) or {}).get("paths", _resolved(old))
    gone = {key: None for key in old if key not in new and key.rpartition(".")[0] in new}  # of a group that is none now
    differing = [
        f"{key} (was {old.get(key)!r}, is {value!r})"
        for key, value in {**new, **gone}.items()
        if not key.startswith(FREE_SETTINGS) and not _same(key, old.get(key), value, before)
    ]
    if differing:
        raise ValueError(
            f"{out} holds a run with other settings: {', '.join(differing[:4])}; choose another out, or go on from "
            "its weights with model.checkpoint"
        )
    for key in ("trainer.max_steps", "trainer.max_epochs"):
        if old.get(key) != new[key]:
            say(f"{key} was {old.get(key)}, is {new[key]}; from here on learning rates are those of the new length")


def _resolved(settings: Mapping[str, Any]) -> dict[str, str]:
    """The absolute paths, without links, of the settings that name existing files or folders."""
    return {key: str(Path(settings[key]).resolve()) for key in PATHS if settings.get(key) and _exists(settings[key])}


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # such as a name that is too long
        return False


def _same(key: str, old: Any, new: Any, before: Mapping[str, str]) -> bool:
    """Whether a setting is what it was; `before` are the paths of `_resolved` then."""
    if (was := before.get(key)) is None or new is None or not (_exists(was) and _exists(new)):
        return old == new  # no paths, or moved
    return was == str(Path(new).resolve())


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested settings by their full names."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return leaves
