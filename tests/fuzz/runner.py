"""Many cases, in processes that may hang, crash, or run out of memory."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fuzz.case import Failure, Workplace, limited_memory, scratch_folder
from fuzz.judgment import Fault
from fuzz.target import Target

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked process would wait for threads that it does not have
_PATIENCE = 3  # times the seconds of a case, with one that no alarm reaches, being in a C function
_FORK = multiprocessing.get_context("fork")  # what the first reading imported is there in every process


def run_cases(target: Target, seed: int, numbers: Sequence[int], *, workers: int = 1) -> Iterator[Failure]:
    """Runs cases of a target.

    Args:
        target: What is read.
        seed: Of the run.
        numbers: Of the cases.
        workers: How many processes share them.

    Yields:
        The failures, those of several processes as they come.

    Raises:
        Exception: The valid files cannot be read: what the target raises.
    """
    with scratch_folder() as scratch:
        Workplace(target, Path(mkdtemp(dir=scratch)))  # imports what the target needs
        running = [_Worker(target, seed, numbers[start::workers], scratch) for start in range(workers)]
        try:
            while running:
                wait([worker.results for worker in running], timeout=1)
                for worker in list(running):
                    yield from worker.failures()
                    if worker.is_done:
                        running.remove(worker)
        finally:
            for worker in running:
                worker.stop()


@dataclass
class _Progress:
    """What a process tells without a word: the position of its case, and when it began."""

    position: Any
    began: Any


class _Worker:
    """A process that runs cases, and another one from the next case on if it dies."""

    def __init__(self, target: Target, seed: int, numbers: Sequence[int], scratch: Path) -> None:
        self.target, self.seed, self.numbers, self.scratch = target, seed, numbers, scratch
        self.is_done = False
        self._start()

    def _start(self) -> None:
        self._progress = _Progress(_FORK.RawValue("q", -1), _FORK.RawValue("d", time.monotonic()))
        self.results, sender = _FORK.Pipe(duplex=False)
        work = (self.target, self._folder(), self.seed, self.numbers, self._progress, sender)
        self._process = _FORK.Process(target=_work, args=work, daemon=True)
        self._process.start()
        sender.close()  # so that the end is seen

    def failures(self) -> Iterator[Failure]:
        """What came since the last call; also the case at which the process died or had to be stopped."""
        try:
            while self.results.poll():
                if (message := self.results.recv()) is None:
                    self.is_done = True
                    self._process.join()
                    return
                if isinstance(message, str):
                    raise RuntimeError(f"{self.target.name}: the test itself failed\n{message}")
                yield message
        except EOFError:
            self._process.join()
            yield from self._go_on(f"ends the process with exit code {self._process.exitcode}")
            return
        if time.monotonic() - self._progress.began.value > _PATIENCE * self.target.seconds:
            self.stop()
            yield from self._go_on(f"does not come back from a C function in {_PATIENCE * self.target.seconds:g} s")

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _folder(self) -> Path:
        return Path(mkdtemp(dir=self.scratch))

    def _go_on(self, kind: str) -> Iterator[Failure]:
        """Names the case that was last begun, and starts again behind it."""
        position = self._progress.position.value
        if position < 0:
            raise RuntimeError(f"{self.target.name}: the process {kind} before its first case")
        number = self.numbers[position]
        name, _, words = Workplace(self.target, self._folder()).mutate(self.seed, number)
        yield Failure(self.target.name, self.seed, number, f"{name}: {words}", Fault(kind, "no answer"))
        self.numbers = self.numbers[position + 1 :]
        self._start()


def _work(
    target: Target, folder: Path, seed: int, numbers: Sequence[int], progress: _Progress, sender: Connection
) -> None:
    number: int | None = None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries write there what they think of a file
    try:
        workplace = Workplace(target, folder)
        with limited_memory():
            for position, number in enumerate(numbers):
                progress.began.value, progress.position.value = time.monotonic(), position
                if failure := workplace.run(seed, number):
                    sender.send(failure)
        sender.send(None)
    except Exception:
        sender.send(f"case {number}: {traceback.format_exc()}")
