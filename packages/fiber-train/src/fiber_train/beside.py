"""Training in other processes meanwhile, with a log in place of a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import sys
from contextlib import redirect_stderr
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

from fiber_train.config import TrainConfig
from fiber_train.run import train
from fiber_train.stopping import STATUS, stop_with_parent, stopping


class Beside:
    """Processes that train while a block goes on; the block's end waits for none: those that still run are stopped.

    Attributes:
        processes: By the name that they were given.
    """

    def __init__(self) -> None:
        self.processes: dict[str, BaseProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with stopping() as stop, stop.deferred():
            for process in self.processes.values():
                process.terminate()  # of a process that runs: it finishes its step and writes a checkpoint
                process.join()

    def train(self, name: str, config: TrainConfig) -> None:
        """Begins a run on another core; its log is `log.txt` in its folder."""
        method = multiprocessing.get_start_method()
        process = multiprocessing.get_context("spawn").Process(target=_train_with_log, args=(config, method))
        process.start()
        self.processes[name] = process

    def failed(self, name: str) -> bool:
        """Whether a run of this name ended before its last step; waits for its end."""
        if (process := self.processes.get(name)) is None:
            return False
        process.join()
        return bool(process.exitcode)


def _train_with_log(config: TrainConfig, start_method: str) -> None:
    # A spawned process would spawn its loaders' workers too, each of which would import torch anew.
    multiprocessing.set_start_method(start_method, force=True)
    if hasattr(os, "setsid"):
        os.setsid()  # a terminal asks the first process alone to stop, which asks this one
    stop_with_parent()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        if train(config) is None:
            sys.exit(STATUS)
