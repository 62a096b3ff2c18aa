"""One case: a file of a target is mutated as a seed and a number say, read, and judged."""

from __future__ import annotations

import json
import os
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from fuzz import documents
from fuzz.content import mutate_content
from fuzz.judgment import Fault, Valid, judge_error, judge_result
from fuzz.odd_values import RAW_TEXTS
from fuzz.structure import mutate_document
from fuzz.target import Target

BYTES = 1 << 30  # that a case may need
_SHARE_OF_BYTES = 0.3


class HangError(BaseException):
    """A case took too long; no `Exception`, which what is tested may catch."""


@dataclass(frozen=True)
class Failure:
    """A case that is not right.

    Attributes:
        target: Its name.
        seed: Of the run.
        number: Of the case among those of the target.
        mutation: What happened to which file, in words.
        fault: What is wrong.
    """

    target: str
    seed: int
    number: int
    mutation: str
    fault: Fault


class Workplace:
    """A folder with the valid files of a target, in which one case after another is run.

    Args:
        target: What is read.
        folder: An empty one.

    Raises:
        Exception: The valid files cannot be read: what the target raises.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder = target, folder
        target.write(folder)
        self._mutated: str | None = None
        forms = {name: form for name in target.files if (form := target.form(name))}
        parsed = {name: documents.parse(target.files[name], form) for name, form in forms.items()}
        self._packed = {name: json.dumps(document, default=str) for name, document in parsed.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = target.read(folder)
        entries = {name: documents.entries(document, forms[name]) for name, document in parsed.items()}
        self.valid = Valid(folder, target.parts(result), parsed, entries)

    def run(self, seed: int, number: int) -> Failure | None:
        """Runs a case.

        Args:
            seed: Of the run.
            number: Of the case.
        """
        name, content, words = self.mutate(seed, number)
        if self._mutated not in (None, name):
            (self.folder / self._mutated).write_bytes(self.target.files[self._mutated])
        self._mutated = name
        (self.folder / name).write_bytes(content)
        fault = self._read(name, content)
        return None if fault is None else Failure(self.target.name, seed, number, f"{name}: {words}", fault)

    def mutate(self, seed: int, number: int) -> tuple[str, bytes, str]:
        """The file that a case mutates, what it then holds, and what happened to it in words."""
        draw = Random(f"{seed} {self.target.name} {number}")
        name = draw.choice(list(self.target.files))
        form = self.target.form(name)
        if form is None or draw.random() < _SHARE_OF_BYTES:
            is_text = form is not None and not documents.FORMS[form].is_packed
            others = [] if is_text else [each for other, each in self.target.files.items() if other != name]
            return name, *mutate_content(self.target.files[name], draw, is_text=is_text, others=others)
        document, words = mutate_document(json.loads(self._packed[name]), draw)
        return name, documents.write(document, form, RAW_TEXTS), words

    def _read(self, name: str, content: bytes) -> Fault | None:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            began = time.monotonic()
            try:
                with _alarm(self.target.seconds):
                    result = self.target.read(self.folder)
            except HangError:
                return Fault(f"takes more than {self.target.seconds:g} s", "no answer")
            except MemoryError:
                return Fault("needs more than a gigabyte", f"after {time.monotonic() - began:.1f} s")
            except Exception as error:
                return judge_error(self.target, self.valid, name, error)
        return judge_result(self.target, self.valid, name, content, result, [str(each.message) for each in heard])


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the block; in memory, if it can be, where a case takes a fraction of the time."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Raises MemoryError in the block where it takes more than `BYTES` beyond what the process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises HangError in the block once it has taken so long, unless it never comes back from a C function."""

    def ring(number: int, frame: FrameType | None) -> Any:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
