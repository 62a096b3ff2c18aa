"""Ranges of settings: declared beside the default, checked wherever a value comes from.

A dataclass that derives from `Ranged` cannot be made with a number outside:

    @dataclass
    class Settings(Ranged):
        rate: float = ranged(0.1, least=0, below=1)
        sizes: tuple[int, ...] = ranged((8, 16), least=1)  # each of them

Types come from files too, which Python does not check: a ranged setting is a number, and a whole one if its annotation
names no float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

_KEY = "range"  # in the metadata of a field
_SHOWN = 80  # characters of a value


@dataclass(frozen=True)
class Range:
    """What a number has to be; None leaves a side open. NaN is never inside.

    Attributes:
        least: It, or more.
        above: More than it.
        most: It, or less.
        below: Less than it.
        whole: Whether the number has no fraction.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    whole: bool = False

    def check(self, name: str, value: object) -> None:
        """Refuses a value that is not such a number.

        Args:
            name: What the message calls it.
            value: It; None is always inside.

        Raises:
            ValueError: It is outside, or no number.
        """
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            what = "a whole number" if self.whole else "a number"
            raise ValueError(f"{name} must be {what}, is {value!r:.{_SHOWN}}")
        inside = (
            value == value
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise ValueError(f"{name} must be {self}, is {value!r:.{_SHOWN}}")

    def __str__(self) -> str:
        if self.above is not None and self.below is not None:
            return f"between {_number(self.above)} and {_number(self.below)}"
        sides = [("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below)]
        return " and ".join(f"{words} {_number(bound)}" for words, bound in sides if bound is not None)


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def ranged(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a dataclass with a range, that of its elements if it is a list or tuple; None is in any range."""
    metadata = {_KEY: {"least": least, "above": above, "most": most, "below": below}}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def range_of(setting: Field[Any]) -> Range | None:
    """The range of a field; None if it has none."""
    bounds: Mapping[str, Any] | None = setting.metadata.get(_KEY)
    return None if bounds is None else Range(**bounds, whole="float" not in str(setting.type))


def check_range(name: str, value: object, bounds: Range) -> None:
    """`Range.check` of a value, or of each in a list or tuple.

    Raises:
        ValueError: One is outside, or no number.
    """
    if isinstance(value, list | tuple):
        for index, each in enumerate(value):
            bounds.check(f"{name}[{index}]", each)
    else:
        bounds.check(name, value)


class Ranged:
    """A dataclass whose fields are checked against their ranges when it is made.

    Raises:
        ValueError: A value is outside; the message names the field and its range.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            if (bounds := range_of(each)) is not None:
                check_range(each.name, getattr(self, each.name), bounds)
