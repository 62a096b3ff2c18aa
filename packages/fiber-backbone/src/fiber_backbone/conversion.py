"""Weights under other names and shapes than ours: one pure function, one report of what became of each tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

Pair = tuple[str, Sequence[str]]


@dataclass(frozen=True)
class KeyMap:
    """How foreign weights become ours.

    Attributes:
        pairs: Our name, and the foreign tensors that make it up; several are concatenated along their first dimension.
        rename: From the foreign name as it is found to the spelling of `pairs`, `dead` and `left`.
        change: Functions of foreign tensors by their name as it is found, such as one that turns channels round.
        optional: Beginnings of our names that the foreign weights need not have; they stay as they are.
        dead: Foreign names that have no effect on the model's outputs.
        left: Foreign names that belong to other parts.
        hints: What to do where all missing tensors have a text in their names.
        resize: From our name, a value and the shape that is wanted to a value of that shape, if it can be had.
    """

    pairs: Sequence[Pair]
    rename: Callable[[str], str] = str
    change: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    dead: re.Pattern[str] | None = None
    left: re.Pattern[str] | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    resize: Callable[[str, Tensor, torch.Size], Tensor] | None = None


@dataclass
class LoadReport:
    """What became of each tensor of foreign weights, by the names that they have there.

    Attributes:
        taken: Those whose values are now in the model.
        resized: Those of `taken` that were interpolated or reshaped.
        fresh: Parameters of the model, by our names, that keep the values that they had.
        left: Those that belong to other parts.
        dead: Those that have no effect on this model's outputs.
        notes: Sentences about what else was noticed.
    """

    taken: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: LoadReport) -> LoadReport:
        return LoadReport(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __str__(self) -> str:
        counts = (
            f"{len(self.taken)} tensors taken ({len(self.resized)} resized), {len(self.left)} left over, "
            f"{len(self.dead)} without effect, {len(self.fresh)} parameters fresh"
        )
        return "; ".join([counts, *self.notes])


def convert(
    tensors: Mapping[str, Tensor],
    key_map: KeyMap,
    shapes: Mapping[str, torch.Size],
    origin: str = "the state dict",
) -> tuple[dict[str, Tensor], LoadReport]:
    """Foreign weights as ours; nothing is changed in place.

    Args:
        tensors: By their foreign names.
        key_map: What is what.
        shapes: Of our parameters by name; those that no pair names must be optional.
        origin: Where the tensors are from, for the message.

    Returns:
        The values by our names, and what became of each tensor.

    Raises:
        ValueError: Tensors are missing, unknown, of another shape, no floats or not finite; the message counts them
            and names the first.
    """
    found = {key_map.rename(key): key for key in tensors}
    report, values, claimed = LoadReport(), dict[str, Tensor](), set[str]()
    missing, mismatched, unusable = list[str](), list[str](), list[str]()
    for ours, foreign in key_map.pairs:
        claimed.update(foreign)
        if absent := [name for name in foreign if name not in found]:
            if ours.startswith(key_map.optional):
                report.fresh.append(ours)
            else:
                missing.extend(absent)
            continue
        keys = [found[name] for name in foreign]
        wanted = shapes[ours]
        try:
            value = _made_of([(key, tensors[key]) for key in keys], key_map)
            if value.shape != wanted and key_map.resize is not None:
                value = key_map.resize(ours, value, wanted)
                report.resized.extend(keys if value.shape == wanted else [])
        except (RuntimeError, ValueError, IndexError) as error:  # of shapes that the rules of the map cannot have
            mismatched.append(f"{keys[0]} {tuple(tensors[keys[0]].shape)!s:.120}: {error!s:.120}".partition("\n")[0])
            continue
        if value.shape != wanted:
            mismatched.append(f"{keys[0]} {tuple(value.shape)!s:.120} where {ours} has {tuple(wanted)}")
        elif not value.is_floating_point() or not (value.is_meta or value.isfinite().all()):
            unusable.append(keys[0])
        values[ours] = value
        report.taken.extend(keys)
    named = {ours for ours, _ in key_map.pairs}
    report.fresh.extend(name for name in shapes if name not in named and name.startswith(key_map.optional))
    missing.extend(name for name in shapes if name not in named and not name.startswith(key_map.optional))
    unknown = _sort_others({name: key for name, key in found.items() if name not in claimed}, key_map, report)
    if missing or unknown or mismatched:
        raise ValueError(_explain(origin, missing, unknown, mismatched, key_map.hints))
    if unusable:
        raise ValueError(
            f"{origin} holds {len(unusable)} tensors with numbers that are not finite, or are no floats (first: "
            f"{unusable[0]}); copy it again, or take one from before its training diverged"
        )
    return values, report


def _made_of(given: Sequence[tuple[str, Tensor]], key_map: KeyMap) -> Tensor:
    parts = [key_map.change[key](value) if key in key_map.change else value for key, value in given]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sort_others(others: Mapping[str, str], key_map: KeyMap, report: LoadReport) -> list[str]:
    """Notes what no parameter of ours is made of; gives the keys that nobody knows."""
    unknown = []
    for name, key in others.items():
        if key_map.left is not None and key_map.left.search(name):
            report.left.append(key)
        elif key_map.dead is not None and key_map.dead.search(name):
            report.dead.append(key)
        else:
            unknown.append(key)
    return unknown


def _explain(
    origin: str, missing: list[str], unknown: list[str], mismatched: list[str], hints: Mapping[str, str]
) -> str:
    """One sentence for weights that do not fit."""
    kinds = (("keys missing", missing), ("keys unknown", unknown), ("shapes that differ", mismatched))
    problems = [f"{len(found)} {kind} (first: {found[0]:.300})" for kind, found in kinds if found]
    hint = "build the model with the settings that the weights were trained with"
    hint = next((hints[text] for text in hints if missing and all(text in name for name in missing)), hint)
    return f"{origin} does not fit the model: {', '.join(problems)}; {hint}"
