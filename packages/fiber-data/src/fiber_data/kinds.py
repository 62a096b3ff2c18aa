"""Kinds of the values that samples hold: found in some samples, kept in typed columns, given back exactly.

A kind is what JSON holds, so that a table can say its own:

- "bool", "int" (64 bits), "float", "str", "bytes", "path", "null";
- ["list", K] and ["tuple", K], of values of one kind, None for one that is not known yet;
- ["dict", {key: K}], of a dict with these keys; ["ShardImage", {field: K}] and the like, of an image inside of a file;
- ["either", [K, ...]], such as ids of which some are numbers and some are text.

What fits no column is written as text by `to_text`, beside it. Nothing is pickled: tables may come from elsewhere.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fiber_data.formats.shard_index import ShardImage
from fiber_data.formats.tables import StoredImage, TableImage

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Any  # as above
_PATH = type(Path())
_SCALARS: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "str", bytes: "bytes", _PATH: "path"}
_MOST_ALTERNATIVES = 8
_IMAGES: dict[str, type[Any]] = {kind.__name__: kind for kind in (ShardImage, StoredImage, TableImage)}
_FIELDS = {name: [each.name for each in fields(kind)] for name, kind in _IMAGES.items()}


class UnkeptError(TypeError):
    """A value is of a type that no table keeps, such as an image in memory."""


class MisfitError(ValueError):
    """A value is not of the kind of its column."""


def kind_of(value: Any) -> Kind:
    """The kind of a value.

    Raises:
        UnkeptError: It has none.
    """
    own = type(value)
    if own in _SCALARS:
        return _SCALARS[own]
    if value is None:
        return "null"
    if own in (list, tuple):
        return [own.__name__, common_kind(value)]
    if own is dict and value and all(type(key) is str for key in value):
        return ["dict", {key: kind_of(each) for key, each in value.items()}]
    if own in _IMAGES.values():
        return [own.__name__, {name: kind_of(getattr(value, name)) for name in _FIELDS[own.__name__]}]
    if isinstance(value, np.generic):
        return kind_of(value.item())
    raise UnkeptError(own.__name__)


def common_kind(values: Iterable[Any]) -> Kind:
    """The kind of all of some values, None if there are none.

    Raises:
        UnkeptError: One has none, or they are of too many kinds.
    """
    return reduce(_merged, map(kind_of, values), None)


def _merged(one: Kind, other: Kind) -> Kind:
    if one is None or one == other:
        return other
    if other is None:
        return one
    found = _alternatives(one)
    for kind in _alternatives(other):
        for place, own in enumerate(found):
            if (joined := _joined(own, kind)) is not None:
                found[place] = joined
                break
        else:
            found.append(kind)
    if len(found) > _MOST_ALTERNATIVES:
        raise UnkeptError("too many kinds of values")
    return found[0] if len(found) == 1 else ["either", found]


def _alternatives(kind: Kind) -> list[Kind]:
    return list(kind[1]) if kind[0] == "either" else [kind]


def _joined(one: Kind, other: Kind) -> Kind | None:
    """The kind of values of two kinds of one form."""
    if one == other:
        return one
    if isinstance(one, str) or isinstance(other, str) or one[0] != other[0]:
        return None
    if one[0] in ("list", "tuple"):
        return [one[0], _merged(one[1], other[1])]
    if one[1].keys() != other[1].keys():
        return None
    return [one[0], {key: _merged(own, other[1][key]) for key, own in one[1].items()}]


def arrow_type(kind: Kind) -> pa.DataType:
    """The type of a column of a kind."""
    import pyarrow as pa

    if isinstance(kind, str):
        scalars = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.string()}
        return scalars.get(kind, pa.null() if kind == "null" else pa.binary())
    if kind is None:
        return pa.null()
    if kind[0] in ("list", "tuple"):
        return pa.list_(arrow_type(kind[1]))
    if kind[0] == "either":
        return pa.struct([(str(number), arrow_type(each)) for number, each in enumerate(kind[1])])
    return pa.struct([(key, arrow_type(each)) for key, each in kind[1].items()])


def encode(kind: Kind, value: Any) -> Any:
    """A value as Arrow takes it.

    Raises:
        MisfitError: It is of another kind.
    """
    if isinstance(kind, str):
        return _encode_scalar(kind, value)
    own = type(value)
    if kind is None:
        raise MisfitError
    if kind[0] == "either":
        for number, each in enumerate(kind[1]):
            try:
                return {str(number): encode(each, value)}
            except MisfitError:
                continue
    elif kind[0] in ("list", "tuple") and own.__name__ == kind[0]:
        return [encode(kind[1], each) for each in value]
    elif kind[0] == "dict" and own is dict and value.keys() == kind[1].keys():
        return {key: encode(each, value[key]) for key, each in kind[1].items()}
    elif _IMAGES.get(kind[0]) is own:
        return {key: encode(each, getattr(value, key)) for key, each in kind[1].items()}
    raise MisfitError


def _encode_scalar(kind: str, given: Any) -> Any:
    value: Any = given.item() if isinstance(given, np.generic) else given
    if ("null" if value is None else _SCALARS.get(type(value))) != kind or (
        kind == "int" and not -(2**63) <= value < 2**63
    ):
        raise MisfitError
    if kind == "str" and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half a character
            raise MisfitError from error
    return os.fsencode(value) if kind == "path" else value


def decoder(kind: Kind) -> Callable[[Any], Any] | None:
    """What makes a value of what Arrow gives of it; None if that is the value."""
    if isinstance(kind, str) or kind is None:
        return (lambda given: Path(os.fsdecode(given))) if kind == "path" else None
    if kind[0] in ("list", "tuple"):
        each = decoder(kind[1])
        if kind[0] == "tuple":
            return tuple if each is None else lambda given: tuple(map(each, given))
        return None if each is None else lambda given: list(map(each, given))
    if kind[0] == "either":
        ways = [(str(number), decoder(own)) for number, own in enumerate(kind[1])]
        return lambda given: next(
            (given[name] if way is None else way(given[name]) for name, way in ways if given[name] is not None), None
        )
    parts = {key: decoder(own) for key, own in kind[1].items()}
    if kind[0] == "dict" and not any(parts.values()):
        return None
    make: Callable[..., Any] = _IMAGES.get(kind[0], dict)
    return lambda given: make(**{key: given[key] if way is None else way(given[key]) for key, way in parts.items()})


def to_text(value: Any) -> str:
    """A value as JSON, which `from_text` reads.

    Raises:
        UnkeptError: It holds something that cannot be kept.
    """
    return json.dumps(_tagged(value))


def from_text(text: str) -> Any:
    """The value that `to_text` wrote."""
    return _untagged(json.loads(text))


def _tagged(value: Any) -> Any:
    own = type(value)
    if value is None or own in (bool, int, float, str):
        return value
    if own is list:
        return [_tagged(each) for each in value]
    if own is tuple:
        return {"tuple": [_tagged(each) for each in value]}
    if own is dict:
        return {"dict": [[_tagged(key), _tagged(each)] for key, each in value.items()]}
    if own is _PATH or own is bytes:
        content = base64.b64encode(os.fsencode(value) if own is _PATH else value).decode()
        return {"path" if own is _PATH else "bytes": content}
    if own in _IMAGES.values():
        return {own.__name__: [_tagged(getattr(value, name)) for name in _FIELDS[own.__name__]]}
    if isinstance(value, np.generic):
        return _tagged(value.item())
    raise UnkeptError(own.__name__)


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag in ("path", "bytes"):
        decoded = base64.b64decode(content)
        return Path(os.fsdecode(decoded)) if tag == "path" else decoded
    parts = [_untagged(each) for each in content]
    if tag == "tuple":
        return tuple(parts)
    return dict(parts) if tag == "dict" else _IMAGES[tag](*parts)
