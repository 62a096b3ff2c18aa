"""Saving a run's checkpoints, at once or while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from torch import distributed as dist

from fiber_train.checkpoint import write_checkpoint
from fiber_train.shards import staged, take_apart


class Saver:
    """Writes one checkpoint after the other, with all processes.

    In the background, a save costs training the time of a copy to the host's memory, and what the one before still
    needs. The folder appears when it is whole, and `announce` is called the next time that somebody waits.

    Args:
        run: The run's folder.
        keep: How many checkpoints stay.
        announce: Called by the first process, of each checkpoint that is written, with its `step` and `folder`.
        background: Whether training goes on meanwhile.
    """

    def __init__(self, run: Path, keep: int, announce: Callable[..., object], background: bool = False) -> None:
        self.background = background
        self._run, self._keep, self._announce = run, keep, announce
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # A group of its own, since what the training tells each other must not come between.
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if several else None
        self._is_first = not several or dist.get_rank() == 0
        self._executor = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, Future[Path]] | None = None

    def save(self, step: int, write_model: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Saves a state; when this returns, it may change.

        Args:
            step: Optimizer steps done.
            write_model: As of `save_checkpoint`; in the background, of copies.
            state: As of `save_checkpoint`.

        Raises:
            WriteError: This checkpoint, or in the background the one before, cannot be written.
        """
        self.wait()
        plain, tensors = take_apart(state)
        if not self.background:
            self._written(step, write_checkpoint(self._run, step, write_model, plain, tensors, self._keep, self._group))
            return
        arguments = (self._run, step, write_model, deepcopy(plain), staged(tensors), self._keep, self._group)
        self._pending = step, self._executor.submit(write_checkpoint, *arguments)

    def wait(self) -> None:
        """Until what was saved is on the disk.

        Raises:
            WriteError: It cannot be written.
        """
        if self._pending is not None:
            (step, future), self._pending = self._pending, None
            self._written(step, future.result())

    def _written(self, step: int, folder: Path) -> None:
        if self._is_first:
            self._announce(step=step, folder=folder)


@contextmanager
def saving(saver: Saver) -> Iterator[Saver]:
    """Waits at the end for what is being written, whatever ended the block."""
    try:
        yield saver
        saver.wait()
    finally:
        saver._executor.shutdown()
