"""The folder of a run: whose it is, what it may go on with, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lightning_fabric import Fabric
from omegaconf import OmegaConf

from fiber_train.checkpoint import newest_checkpoint, tidy
from fiber_train.config import TrainConfig, to_yaml
from fiber_train.ownership import locked, mark
from fiber_train.recipe_files import read_recipe
from fiber_train.stopping import say
from fiber_train.writing import explained, write_file

# What may change between the parts of a run without changing its numbers; and its length.
FREE_SETTINGS = (
    "out",
    "data.root",
    "data.num_workers",
    "model.gradient_checkpointing",
    "model.trusted",
    "task.monitor",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.threads",
    "trainer.log_every",
    "trainer.eval_every",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.tensorboard",
    "trainer.max_steps",
    "trainer.max_epochs",
)
CONFIG_FILE = "config.yaml"
Found = TypeVar("Found")


@contextmanager
def claimed(config: TrainConfig, fabric: Fabric) -> Iterator[Path | None]:
    """Keeps other processes out of a run's folder, and gives the checkpoint to go on from, if there is one.

    Raises:
        ValueError: Another process has the folder, or it holds a run of another configuration; the message names what
            differs. Or its checkpoints are damaged.
        WriteError: It cannot be written to.
    """
    out = Path(config.out)
    with ExitStack() as stack:

        def claim() -> Path | None:
            with explained(out):
                stack.enter_context(locked(out))
            tidy(out)
            checkpoint = newest_checkpoint(out)
            if checkpoint is not None:
                _check_settings(out, config)
            with explained(out):
                mark(out, "run")
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
    old, new = _flat(OmegaConf.to_container(read_recipe(path), resolve=True)), _flat(asdict(config))
    differing = [
        f"{key} (was {old.get(key)!r}, is {value!r})"
        for key, value in new.items()
        if not key.startswith(FREE_SETTINGS) and old.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"{out} holds a run with other settings: {', '.join(differing[:4])}; choose another out, or go on from "
            "its weights with model.checkpoint"
        )
    for key in ("trainer.max_steps", "trainer.max_epochs"):
        if old.get(key) != new[key]:
            say(f"{key} was {old.get(key)}, is {new[key]}; from here on learning rates are those of the new length")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return leaves
