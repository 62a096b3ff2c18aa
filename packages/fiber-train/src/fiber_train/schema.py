"""What dataclasses say of the settings that they hold: names, types, ranges; and whether given settings fit."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fiber_backbone.ranges import Range, check_range, range_of
from omegaconf import DictConfig, OmegaConf

_SHOWN = 80  # characters of a value
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        type: Its annotation, without `None`.
        is_optional: Whether it may be `None`.
        bounds: Its range, if it has one.
    """

    type: Any
    is_optional: bool
    bounds: Range | None

    @property
    def is_text(self) -> bool:
        """Whether a value is text, taken as it is typed."""
        if get_origin(self.type) is Literal:
            return all(isinstance(each, str) for each in get_args(self.type))
        return self.type is str


Schema = dict[str, "Setting | Schema"]  # by name; a Schema for a group of settings


def schema_of(kind: type, **groups: type) -> Schema:
    """The settings of a dataclass, in which some groups are of other dataclasses than it says."""
    hints = get_type_hints(kind)
    found: Schema = {}
    for each in fields(kind):
        hint = groups.get(each.name, hints[each.name])
        if is_dataclass(hint):
            found[each.name] = schema_of(hint)  # type: ignore[arg-type]
        else:
            parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
            own = [part for part in parts if part is not type(None)]
            found[each.name] = Setting(own[0] if len(own) == 1 else Any, len(own) < len(parts), range_of(each))
    return found


def find_setting(schema: Schema, key: str) -> Setting | Schema | None:
    """What a key such as `"optim.options.momentum"` means; of a dictionary's entry its type; None if nothing."""
    node: Setting | Schema | None = schema
    for part in key.split("."):
        if isinstance(node, dict):
            node = node.get(part)
        elif node is not None:
            parts = get_args(node.type)
            held = parts[1] if get_origin(node.type) is dict and len(parts) == 2 else None
            node = None if held is None and node.type is not Any else Setting(held or Any, False, None)
    return node


def names(schema: Schema, prefix: str = "") -> list[str]:
    """The full names of all settings."""
    found: list[str] = []
    for key, node in schema.items():
        found += names(node, f"{prefix}{key}.") if isinstance(node, dict) else [f"{prefix}{key}"]
    return found


def check_layer(layer: Any, schema: Schema, source: str, everything: Sequence[str], prefix: str = "") -> None:
    """Refuses settings that do not exist, and lists and groups that are none.

    Args:
        layer: Settings as they were read, of OmegaConf.
        schema: What there is.
        source: What messages call the layer.
        everything: All names, to guess which was meant.
        prefix: What comes before the names of this group.

    Raises:
        ValueError: The message names the setting, and the nearest name for one that does not exist.
    """
    for key in layer:
        name, node = f"{prefix}{key}", schema.get(key)
        if node is None:
            guess = [each for each in everything if each.rpartition(".")[2] == key]
            guess += [f"{prefix}{near}" for near in get_close_matches(str(key), schema, n=1)]
            guess += get_close_matches(name, everything, n=1, cutoff=0.5)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise ValueError(f"{source}: no setting is called {name!r:.120}{hint}")
        if isinstance(node, dict):
            if not OmegaConf.is_dict(layer[key]):
                raise ValueError(f"{source}: {name} is a group of settings, not one; write {name}.NAME=")
            check_layer(layer[key], node, source, everything, f"{name}.")
        elif not OmegaConf.is_missing(layer, key) and not (layer[key] is None and node.is_optional):
            _check_container(f"{source}: {name}", _plain(layer[key]), node.type)
            for own, (kind, each) in _groups_of(layer[key], node).items():
                if not OmegaConf.is_dict(each):
                    raise ValueError(
                        f"{source}: {name}{own} must be written {{NAME: VALUE}}, is {str(each)!r:.{_SHOWN}}"
                    )
                inner = schema_of(kind)
                check_layer(each, inner, source, names(inner, f"{name}{own}."), f"{name}{own}.")


def _groups_of(value: Any, node: Setting) -> dict[str, tuple[type, Any]]:
    """The dataclass and the settings of a value that is a group, or of each in a list of such, by `""` or `[0]`."""
    kind = node.type
    if is_dataclass(kind):
        return {"": (kind, value)}  # type: ignore[dict-item]
    if get_origin(kind) is list and is_dataclass(item := get_args(kind)[0]):
        return {f"[{place}]": (item, each) for place, each in enumerate(value)}  # type: ignore[misc]
    return {}


def _check_container(name: str, value: Any, wanted: Any) -> None:
    """What OmegaConf does not check, or names badly: lists, tuples, and what they hold."""
    kind, parts = get_origin(wanted), get_args(wanted)
    if kind is dict and not isinstance(value, dict):
        raise ValueError(f"{name} must be written {{NAME: VALUE}}, is {value!r:.{_SHOWN}}")
    if kind not in (list, tuple):
        return
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, written [A, B], is {value!r:.{_SHOWN}}")
    several = kind is list or parts[-1:] == (Ellipsis,)
    if not several and len(value) != len(parts):
        raise ValueError(f"{name} must be {len(parts)} values, are {len(value)}: {value!r:.{_SHOWN}}")
    for index, each in enumerate(value):
        own = parts[0] if several else parts[index]
        if own in _WORDS and not _converts(each, own):
            raise ValueError(f"{name}[{index}] must be {_WORDS[own]}, is {each!r:.{_SHOWN}}")


def _converts(value: Any, wanted: type) -> bool:
    """Whether OmegaConf takes an element for one of this type; numbers may stand in quotes."""
    if wanted is str:
        return isinstance(value, str | int | float)
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    if isinstance(value, str):
        try:
            wanted(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int if wanted is int else int | float)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def check_ranges(config: DictConfig, schema: Schema, prefix: str = "") -> None:
    """Refuses values outside of their ranges.

    Raises:
        ValueError: The message has the full name of the setting.
    """
    for key, node in schema.items():
        if isinstance(node, dict):
            check_ranges(config[key], node, f"{prefix}{key}.")
        elif node.bounds is not None:
            check_range(f"{prefix}{key}", _plain(config[key]), node.bounds)
        elif not OmegaConf.is_missing(config, key) and config[key] is not None:
            for own, (kind, each) in _groups_of(config[key], node).items():
                check_ranges(each, schema_of(kind), f"{prefix}{key}{own}.")
