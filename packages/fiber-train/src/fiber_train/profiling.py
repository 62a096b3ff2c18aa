"""A trace of some steps of a run (`trainer.profile`), for chrome://tracing or Perfetto."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fiber_train.callbacks import Callback
from fiber_train.stopping import say

FOLDER = "profile"


def parse_steps(text: str) -> range:
    """The steps that `trainer.profile` names.

    Args:
        text: Such as `"10:15"`, first and last, both included; or a single number.

    Raises:
        ValueError: It is neither.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last:
        raise ValueError(f"trainer.profile must be steps such as 10:15, the first and the last one, is {text!r:.80}")
    return range(first, last + 1)


class Profile(Callback):
    """Records steps and writes `profile/steps-FIRST-LAST-processN.json` to the run's folder, a file for each process.

    Args:
        steps: Which, counted from 1.
        out: The run's folder.
    """

    def __init__(self, steps: range, out: Path) -> None:
        self.steps, self.folder, self.rank = steps, out / FOLDER, 0
        self._running: profile | None = None

    def on_train_start(self, *, loop: Any, **_: Any) -> None:
        """Begins, if the next step is one."""
        self.rank = loop.fabric.global_rank
        self._follow(loop.step)

    def on_step_end(self, *, step: int, **_: Any) -> None:
        """Begins before the first of the steps, ends after the last."""
        self._follow(step)

    def on_train_end(self, **_: Any) -> None:
        """Ends, if the run does before the last of the steps."""
        self._end()

    def _follow(self, done: int) -> None:
        if done + 1 not in self.steps:
            self._end()
        elif self._running is None:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._running = profile(activities=activities)
            self._running.start()

    def _end(self) -> None:
        if self._running is None:
            return
        self._running.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"steps-{self.steps[0]}-{self.steps[-1]}-process{self.rank}.json"
        self._running.export_chrome_trace(str(path))
        self._running = None
        say(f"a trace of the steps {self.steps[0]} to {self.steps[-1]} is in {path}")
