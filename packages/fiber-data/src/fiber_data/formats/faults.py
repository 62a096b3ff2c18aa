"""What is wrong with an annotation file: counted by kind, kept with what was parsed, said in one warning.

A reader makes one `Faults` for each file. What it can mend or leave out it notes there. An entry that is out of format
it reads inside of ``with faults:``, where the first one ends the reading; a check, which is not strict, leaves it out
and counts it like the others, so that all of them are seen at once.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

Sample = TypeVar("Sample")
BadEntries = Literal["count"] | None
"""What a reader does with entries that are out of format: leave them out and count them, or end with the first."""
_REFUSED = "entries"
_VALUES = re.compile(
    r", (found|only) .*|(?<=id )'[^']*'|-?\d[\d.e+]*", re.DOTALL
)  # what differs between faults of one kind

_LOCATION = re.compile(r"line \d|\w+\[\d")


@dataclass(frozen=True)
class Fault:
    """Faults of one kind in one file.

    Attributes:
        source: The annotation file.
        of: What the faulty ones are among, such as ``"the boxes"``; empty where the file itself is at fault.
        what: What they are, as it reads on after ``of`` and the count: ``"are cut, for they reach out of ..."``.
        count: How many there are.
        first: The first of them, such as ``"annotations[3]"``.
        refused: Whether a strict reader, such as a run's, does not go past it.
        outcome: What became of them, where ``what`` does not say it.
        samples: Of how many whole samples these are left out; 0 where what is faulty costs no sample.
    """

    source: str
    of: str
    what: str
    count: int
    first: str = ""
    refused: bool = False
    outcome: str = ""
    samples: int = 0

    @property
    def among(self) -> str:
        """What the faulty ones are among, with the number of samples where it is known."""
        return f"{self.samples:,} {self.of}" if self.samples else self.of

    def __str__(self) -> str:
        first = f" (the first: {self.first})" if self.first else ""
        return f"{self.count:,} {self.what}{first}{self.outcome and '; ' + self.outcome}" if self.of else self.what


class Samples(list[Sample]):
    """The samples of a reader.

    Args:
        samples: The samples.
        faults: What is wrong with their files.
    """

    def __init__(self, samples: Iterable[Sample] = (), faults: Iterable[Fault] = ()) -> None:
        super().__init__(samples)
        self.faults = tuple(faults)


def faults_of(samples: Any) -> tuple[Fault, ...]:
    """What was wrong with the files that samples were read from; nothing for samples of other origin."""
    return tuple(getattr(samples, "faults", ()))


class Faults:
    """Collects what is wrong with one annotation file.

    Args:
        source: The file; a reader that has to look for it gives the folder first, and sets it once it is found.
        strict: Whether an entry that is out of format ends the reading; else it is left out and counted.
    """

    def __init__(self, source: Path, strict: bool = True) -> None:
        self.source, self.strict = source, strict
        self._found: dict[tuple[str, ...], Fault] = {}
        self._others: list[Faults] = []

    def __iter__(self) -> Iterator[Fault]:
        return chain(self._found.values(), *self._others)

    def beside(self, source: Path) -> Faults:
        """Collects what is wrong with another file of the same samples, which comes and is told after this one."""
        self._others.append(Faults(source, self.strict))
        return self._others[-1]

    @property
    def refused(self) -> bool:
        """Whether entries were left out that a strict reader refuses."""
        return any(fault.refused for fault in self)

    def note(self, of: str, what: str, where: str = "", *, count: int = 1, outcome: str = "", samples: int = 0) -> None:
        """Counts what was mended or left out; ``of the boxes 3 are cut`` is `of` and `what` of three calls.

        Args:
            of: What it is among, such as ``"the boxes"``.
            what: What it is, such as ``"are cut"``.
            where: Its location, which is shown of the first.
            count: How many they are.
            outcome: What became of them, such as ``"these are left out"``.
            samples: Of how many whole samples these are left out.
        """
        first = self._short(where)
        self._add((of, what), Fault(str(self.source), of, what, count, first, outcome=outcome, samples=samples))

    def add(self, found: Iterable[Fault]) -> None:
        """Takes over what another reader counted, under the files that it names."""
        for fault in found:
            self._add((fault.source, fault.of, fault.what), fault)

    def _add(self, key: tuple[str, ...], fault: Fault) -> None:
        if (known := self._found.get(key)) is not None:
            fault = Fault(**{**vars(known), "count": known.count + fault.count})
        self._found[key] = fault

    def _short(self, where: str) -> str:
        return where.removeprefix(f"{self.source}: ")

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        """Counts an entry that is out of format, unless the reader is strict."""
        if self.strict or not isinstance(error, KeyError | ValueError):
            return False
        text = self._short(str(error.args[0]))
        where, _sep, what = text.partition(": ") if _LOCATION.match(text) else ("", "", text)
        found = Fault(str(self.source), _REFUSED, f"are refused: {what}", 1, where, refused=True)
        self._add((_REFUSED, _VALUES.sub("", what)), found)
        return True

    def warn(self, stacklevel: int = 3) -> None:
        """Says all that was mended or left out in one warning for each file, if anything was."""
        by_source: dict[str, dict[str, list[str]]] = {}
        for fault in self:
            by_source.setdefault(fault.source, {}).setdefault(fault.among, []).append(str(fault))
        for source, parts in by_source.items():
            text = "; ".join(f"of {of} {' and '.join(each)}" for of, each in parts.items())
            warnings.warn(f"{source}: {text}", stacklevel=stacklevel)
