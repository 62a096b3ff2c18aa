"""Mutations of a document: something in it is dropped, doubled, of another type, or stands elsewhere."""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from fuzz.documents import TWIN, shown
from fuzz.odd_values import ODD_VALUES

Node = tuple[Any, Any, str]
"""A list or dict, the position or key of a value in it, and the place in words."""


def mutate_document(document: Any, draw: Random) -> tuple[Any, str]:
    """A document with one mutation, seldom two or three.

    Args:
        document: Is changed in place.
        draw: Decides.

    Returns:
        The document and what happened to it, in words.
    """
    words = []
    for _ in range(draw.choices((1, 2, 3), (80, 15, 5))[0]):
        nodes = list(_nodes(document, ""))
        if not nodes or draw.random() < 0.02:
            document, done = _of_all(document, draw)
        else:
            done = _of_one(nodes, draw)
        words.append(done)
    return document, " and ".join(words)


def _nodes(parent: Any, place: str) -> Iterator[Node]:
    items = parent.items() if isinstance(parent, dict) else enumerate(parent) if isinstance(parent, list) else ()
    for key, value in items:
        here = f"{place}[{key}]" if isinstance(parent, list) else f"{place}.{key}"
        yield parent, key, here.removeprefix(".")
        yield from _nodes(value, here)


def _of_all(document: Any, draw: Random) -> tuple[Any, str]:
    """Something else in place of the whole document."""
    name, other = draw.choice(
        [
            ("an empty list", []),
            ("an empty object", {}),
            ("null", None),
            ("a text", "text"),
            ("a number", 5),
            ("itself in a list", [document]),
            ("itself in an object", {"data": document}),
            ("its values", list(document.values()) if isinstance(document, dict) else document),
            ("itself twice", [document, document]),
        ]
    )
    return other, f"the document became {name}"


def _of_one(nodes: list[Node], draw: Random) -> str:
    name = draw.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    parent, key, place = draw.choice(nodes)
    if name == _RENAMED and isinstance(parent, list):
        name = "became"
    done = _KINDS[name][1](parent, key, nodes, draw)
    return f"{place} {name}{done}"


def _drop(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    del parent[key]
    return ""


def _replace(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    parent[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    return f" {shown(parent[key])}"


def _retype(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    value = parent[key]
    choices = [[value], str(value), {"value": value}, json.dumps(value)]
    if isinstance(value, int | float):
        choices += [float(value), bool(value), f" {value} ", str(float(value))]
    if isinstance(value, dict):
        choices += [list(value.values()), list(value), list(value.items())]
    if isinstance(value, list):
        choices += [dict(enumerate(value)), value[0] if value else None]
    if isinstance(value, str):
        choices += [value.split(), list(value), {value: value}, len(value)]
    parent[key] = draw.choice(choices)
    return f" {shown(parent[key])}"


def _shift(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    """A number that is off, a text that is written otherwise."""
    value = parent[key]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _replace(parent, key, nodes, draw)
    if isinstance(value, str):
        forms = [value + "\n", f" {value}", "\ufeff" + value, value.upper(), value.replace("/", "\\"), value[:-1]]
        forms += [unicodedata.normalize("NFD", value + "\u00e9"), value + "\U0001f415", value * 50, value + "\x00"]
        forms += [f"./{value}", value.replace(" ", "\u00a0"), value + "\u2028x", value.replace(".", "")]
    else:
        forms = [-value, value + 1, value - 1, value + 0.5, value * 1000, value * 10**40, value / 7]
    parent[key] = draw.choice(forms)
    return f" {shown(parent[key])}"


def _like_another(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    """The value that another entry has under the same key, so that ids repeat."""
    others = [(other, place) for other, name, place in nodes if name == key and other is not parent]
    if not others:
        return _replace(parent, key, nodes, draw)
    other, place = draw.choice(others)
    parent[key] = copy.deepcopy(other[key])
    return f" that of {place}"


def _double(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    """A second entry of a list that is the same or nearly, a second key of an object."""
    if isinstance(parent, dict):
        value = parent[key] if draw.random() < 0.3 else copy.deepcopy(draw.choice(ODD_VALUES))
        parent[f"{TWIN}{key}"] = value
        return f" with {shown(value)}"
    twin = copy.deepcopy(parent[key])
    words = ""
    if isinstance(twin, dict) and twin and draw.random() < 0.7:
        name = draw.choice(list(twin))
        twin[name] = f"{twin[name]}x" if isinstance(twin[name], str) else copy.deepcopy(draw.choice(ODD_VALUES))
        words = f" with {name} {shown(twin[name])}"
    parent.insert(draw.randrange(len(parent) + 1), twin)
    return words


def _swap(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    other = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key], parent[other] = parent[other], parent[key]
    return f" that of {other}"


def _rename(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    name = draw.choice([f"{key}s", str(key).upper(), f" {key}", str(key)[:-1], "", "id", str(key).replace("_", "-")])
    parent[name] = parent.pop(key)
    return f" {name!r}"


def _reorder(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    """The same content in another order, which no reader may care about more than the format does."""
    if isinstance(parent, dict):
        items = list(parent.items())
        draw.shuffle(items)
        parent.clear()
        parent.update(items)
    else:
        draw.shuffle(parent)
    return ""


def _empty(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    parent[key] = type(parent[key])() if parent[key] is not None else None
    return ""


def _deepen(parent: Any, key: Any, nodes: list[Node], draw: Random) -> str:
    depth = draw.choice((2, 5, 50))
    for _ in range(depth):
        parent[key] = [parent[key]] if draw.random() < 0.5 else {"a": parent[key]}
    return f" {depth} levels"


_RENAMED = "was renamed"
Kind = Callable[[Any, Any, list[Node], Random], str]
_KINDS: dict[str, tuple[int, Kind]] = {  # by what the words say, with how often it is drawn
    "dropped": (12, _drop),
    "became": (28, _replace),
    "became, of another type,": (12, _retype),
    "became, not far off,": (12, _shift),
    "took": (10, _like_another),
    "doubled": (10, _double),
    "swapped with": (4, _swap),
    _RENAMED: (6, _rename),
    "stands among others in another order": (2, _reorder),
    "was emptied": (4, _empty),
    "was put deeper by": (2, _deepen),
}
