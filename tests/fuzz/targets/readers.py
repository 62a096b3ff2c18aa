"""What the targets of readers share: a sample is a part of the result, and of the types that its class declares."""

from __future__ import annotations

import math
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.documents import parse
from fuzz.target import Documents, Target

Counts = Callable[[Documents], Mapping[str, int]]


class ReaderTarget(Target):
    """A reader of `fiber.formats`.

    Args:
        name: What the command calls it.
        files: As of `Target`.
        format: The reader's entry point.
        split: Which split is read.
        sample: The name of the class of its samples in `fiber_data.formats`.
        counted: Keys of a sample with lists whose lengths are counted, by what these things are called; the samples
            themselves are counted as "samples".
        expected: As many as the documents of the files hold.
        options: More arguments of the reader.
        beside: As of `Target`, like `forms`.
        forms: See there.
        share: See there.
        uncompared: Keys of samples that are not compared, such as an id that is the number of a row.
    """

    def __init__(
        self,
        name: str,
        files: Mapping[str, str | bytes] | Callable[[], Mapping[str, bytes]],
        *,
        format: str,
        split: str | None,
        sample: str,
        counted: Mapping[str, str],
        expected: Counts,
        options: Mapping[str, Any] | None = None,
        beside: tuple[str, ...] = (),
        forms: Mapping[str, str] | None = None,
        share: float = 1.0,
        uncompared: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, files, beside=beside, forms=forms, covers=(f"fiber.formats:{format}",), share=share)
        self.format, self.split, self.sample = format, split, sample
        self.counted, self._expected, self.options = counted, expected, options or {}
        self._uncompared = uncompared

    def read(self, folder: Path) -> Any:
        return _reader(self.format)(folder, self.split, **self.options)

    def samples(self, result: Any) -> Iterable[Mapping[str, Any]]:
        """The samples of what the reader gives."""
        return result

    def parts(self, result: Any) -> Counter[str]:
        return Counter(
            str({key: _plain(value) for key, value in sample.items() if key not in self._uncompared})
            for sample in self.samples(result)
        )

    def breaches(self, result: Any) -> list[str]:
        import fiber_data.formats

        types_of_keys = _types(getattr(fiber_data.formats, self.sample))
        return [
            f"{key} of a sample is no {_name(kind)}: {sample[key]!r:.200}"
            for sample in self.samples(result)
            for key, kind in types_of_keys.items()
            if key in sample and not _fits(sample[key], kind)
        ]

    def budget(self, documents: Documents, touched: int) -> int | None:
        tables = [name for name in documents if self.form(name) in (".csv", ".tsv")]
        heads = (parse(self.files[name], self.form(name) or "")[:1] == documents[name][:1] for name in tables)
        return super().budget(documents, touched) if all(heads) else None  # the names of all columns

    def expected(self, documents: Documents) -> Mapping[str, int]:
        try:
            return self._expected(documents)
        except (
            TypeError,
            KeyError,
            AttributeError,
            IndexError,
            ValueError,
            StopIteration,
        ):  # of another form, which the reader bears with
            return {}

    def found(self, result: Any) -> Mapping[str, int]:
        samples = list(self.samples(result))
        things = {what: sum(len(sample[key]) for sample in samples) for what, key in self.counted.items()}
        return {"samples": len(samples), **things}


def _plain(value: Any) -> Any:
    """A value without what depends on the order of a list or on the place of an image in its file."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if type(value).__name__ in ("StoredImage", "TableImage"):
        try:
            return value.read()
        except OSError:
            return "unreadable"
    return sorted(map(str, value)) if isinstance(value, list) else value


@cache
def _reader(format: str) -> Callable[..., Any]:
    from fiber_data.seams import resolve

    return resolve(format, "fiber.formats")


@cache
def _types(sample: type) -> dict[str, Any]:
    """The types of a sample's keys."""
    from fiber_data.formats import ShardImage
    from fiber_data.formats.tables import StoredImage, TableImage

    return typing.get_type_hints(sample, localns={"ImageSource": Path | ShardImage | StoredImage | TableImage})


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type: True is no number, and a number is finite."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value)
    if origin is tuple:
        same = isinstance(value, tuple) and len(value) == len(arguments)
        return same and all(map(_fits, value, arguments))
    if kind is Path and isinstance(value, str):
        return value.startswith(("http://", "https://"))  # an address is taken as it is
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
