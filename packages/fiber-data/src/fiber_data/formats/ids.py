"""Ids and numbers as people's files hold them, checked in one place: of images, annotations, categories, questions."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Container
from pathlib import Path
from typing import Any

Id = int | str
_LARGEST = 2**63  # what a tensor holds
_LONGEST_PATH = 240  # characters in a message

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlong = 30


def shown(value: Any) -> str:
    """A value of a file as a message shows it: never long, however deep or large it is."""
    return _short.repr(value)


def shown_path(path: Path | str) -> str:
    """A path whose names come from a file as a message shows it: in one line, without the middle of a long one."""
    text = str(path) if str(path).isprintable() else repr(str(path))[1:-1]
    return text if len(text) <= _LONGEST_PATH else f"{text[: _LONGEST_PATH // 2]}...{text[-_LONGEST_PATH // 2 :]}"


def whole(value: Any) -> int | None:
    """A whole number, 7 and 7.0 alike; None for anything else, such as a truth value or more than 64 bits hold."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value < _LARGEST
    return value if is_whole else None


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # of a whole number that no float holds
        return None


def read_id(value: Any, what: str, where: str, seen: Container[Id] = ()) -> Id:
    """An id: a whole number (397133.0, as some tools write it, is 397133) or a text.

    Args:
        value: What the file holds.
        what: Whose it is, such as ``"image id"``.
        where: File and location in it, such as ``captions.json: images[3]``.
        seen: Ids that are taken.

    Raises:
        ValueError: It is neither (null, a truth value, a fraction, a list, an empty text), or taken.
    """
    found = value if isinstance(value, str) and value.strip() else whole(value)
    if found is None:
        raise ValueError(f"{where}: expected {what} as a whole number or text, found {shown(value)}")
    if found in seen:
        raise ValueError(f"{where}: {what} {shown(found)} occurs more than once; keep one of each")
    return found
