"""The settings of a processor, checked where it is made: those of a file are written by hand too."""

from collections.abc import Sequence
from typing import Any

from fiber_data.formats.ids import number, shown, whole

Channels = tuple[float, float, float]
LEAST_SIDE = 2  # pixels; torch fails to resize some images to a single one
_LARGEST = 2**31 - 1  # pixels or tokens: more than there is memory for
_LEAST_STD, _LARGEST_STD = 1e-6, 1e6  # what 32 bits divide by


def read_whole(value: Any, key: str, *, least: int = 1) -> int:
    """A number of pixels or tokens.

    Args:
        value: What was given; 7.0, as some tools write it, is 7.
        key: The name of the setting.
        least: The least that is of use.

    Raises:
        ValueError: It is no whole number, or too small or large.
    """
    found = whole(value)
    if found is None or not least <= found <= _LARGEST:
        raise ValueError(f"expected {key} as a whole number of at least {least}, found {shown(value)}")
    return found


def read_mean(value: Any) -> Channels:
    """The mean of each color channel.

    Raises:
        ValueError: It is not three numbers from 0 to 1.
    """
    found = _three(value)
    if found is None or not all(0 <= each <= 1 for each in found):
        what = "expected mean as three numbers from 0 to 1"
        raise ValueError(f"{what}, found {shown(value)}; divide numbers on the scale [0, 255] by 255")
    return found


def read_std(value: Any) -> Channels:
    """The standard deviation of each color channel.

    Raises:
        ValueError: It is not three positive numbers.
    """
    found = _three(value)
    if found is None or not all(_LEAST_STD <= each <= _LARGEST_STD for each in found):
        what = f"expected std as three positive numbers, {_LEAST_STD:g} or more"
        raise ValueError(f"{what}, found {shown(value)}; it is on the scale [0, 1], as mean is")
    return found


def _three(value: Any) -> Channels | None:
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    found = [one for one in map(number, given) if one is not None]
    return (found[0], found[1], found[2]) if len(found) == len(given) == 3 else None
