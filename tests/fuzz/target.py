"""What is to be read: valid files, a call that reads them, what it may raise, and what its result consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from fuzz.documents import FORMS

Documents = Mapping[str, Any]
"""What the files of a target hold, by their names."""
DOCUMENTED = (FileNotFoundError, ValueError, KeyError)


class Target(ABC):
    """Something that reads files of people's.

    Args:
        name: What the command calls it.
        files: Valid content by name, relative to the target's folder; one of them is mutated in each case. Or what
            makes it, called when it is first needed.
        beside: Names of files that have to be there, whatever they hold.
        forms: By file, the suffix of the form that it is in where its own does not say it.
        covers: The entry points that it reads by, each "group:name".
        share: Cases in comparison with other targets, for what is slow.
    """

    documented: ClassVar[tuple[type[Exception], ...]] = DOCUMENTED
    """What it may raise, with a sentence."""
    seconds: float = 5.0
    """That a reading may take."""

    def __init__(
        self,
        name: str,
        files: Mapping[str, str | bytes] | Callable[[], Mapping[str, bytes]],
        *,
        beside: tuple[str, ...] = (),
        forms: Mapping[str, str] | None = None,
        covers: tuple[str, ...] = (),
        share: float = 1.0,
    ) -> None:
        self.name = name
        self._given = files
        self.beside = beside
        self.forms = forms or {}
        self.covers = covers
        self.share = share

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Valid content by name."""
        given = self._given() if callable(self._given) else self._given
        return {path: text.encode() if isinstance(text, str) else text for path, text in given.items()}

    def write(self, folder: Path) -> None:
        """Writes the valid files to a folder."""
        for path, content in {**dict.fromkeys(self.beside, b""), **self.files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

    def form(self, name: str) -> str | None:
        """The key in `documents.FORMS` of a file's form; None for one that is mutated as bytes only."""
        suffix = self.forms.get(name, Path(name).suffix)
        return suffix if suffix in FORMS else None

    def names(self, message: str) -> bool:
        """Whether a sentence that names no file says by other means what is meant."""
        return False

    @abstractmethod
    def read(self, folder: Path) -> Any:
        """What the folder's files hold."""

    @abstractmethod
    def parts(self, result: Any) -> Counter[str]:
        """What a result consists of: as many parts differ as entries of the files do, or those of a warning."""

    def breaches(self, result: Any) -> list[str]:
        """In which ways a result is not what the call promises, in words."""
        return []

    def expected(self, documents: Documents) -> Mapping[str, int]:
        """How many things of each kind the files hold, the larger kinds first; empty if it cannot be said.

        What was left out has to be told: the result has as many, less those that the warnings count.
        """
        return {}

    def found(self, result: Any) -> Mapping[str, int]:
        """How many things of each of these kinds a result holds."""
        return {}

    def budget(self, documents: Documents, touched: int) -> int | None:
        """How many parts of a result may differ where so many entries of the files do; None for all."""
        return 2 * touched  # an entry that moves changes where it was and where it is


def rounded(value: Any) -> Any:
    """A result without the last digits of its numbers, which the order of a sum changes."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value
