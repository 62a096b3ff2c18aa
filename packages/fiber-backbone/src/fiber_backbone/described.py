"""Dataclasses of settings from the files that describe a model: every value is of the type that its field declares.

A person may edit `config.json`, a disk may spoil it: `"false"` is no truth value, and 1e999 is no number.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar

Settings = TypeVar("Settings")
SHOWN = 80  # characters of a value in a message
_LARGEST = 2**63  # what a tensor's shape holds


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: It is no JSON in UTF-8, or no object; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the latter: nested without end
        raise ValueError(f"{path} is not JSON ({error!s:.200}); save the model again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; save the model again")
    return content


def from_mapping(kind: type[Settings], given: Any) -> Settings:
    """Settings from what a file holds of them.

    Args:
        kind: A dataclass; fields of other dataclasses are made of mappings likewise.
        given: Values by the names of its fields; those that have a default may be absent.

    Raises:
        ValueError: A field does not exist, is missing, or has a value of another type; or what the dataclass itself
            raises.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{kind.__name__} must be an object of settings, is {_shown(given)}")
    declared = {each.name: each for each in fields(kind) if each.init}  # type: ignore[arg-type]
    for name in given:
        if name not in declared:
            guess = get_close_matches(str(name), declared, n=1)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise ValueError(f"{kind.__name__} has no field {_shown(name)}{hint}")
    for name, each in declared.items():
        if name not in given and each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{kind.__name__} lacks {name}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(value, hints[name], f"{kind.__name__}.{name}") for name, value in given.items()})


def _read(value: Any, hint: Any, name: str) -> Any:
    """A value as its field declares it: a list for a tuple and a whole number for a float are what JSON has."""
    if isinstance(hint, type) and is_dataclass(hint):
        return from_mapping(hint, value)
    if not _fits(value, hint):
        what = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
        raise ValueError(f"{name} must be of type {what.replace('typing.', '')}, is {_shown(value)}")
    return tuple(value) if typing.get_origin(hint) is tuple else value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if origin in (tuple, list):
        is_list = isinstance(value, list | tuple)
        if is_list and origin is tuple and arguments[-1] is not ...:
            return len(value) == len(arguments) and all(map(_fits, value, arguments))
        return is_list and all(_fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint in (int, float):
        is_number = isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
        return is_number and abs(value) < _LARGEST and math.isfinite(value)
    return isinstance(value, hint)


def _shown(value: Any) -> str:
    return f"{value!r:.{SHOWN}}"
