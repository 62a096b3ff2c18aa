"""Parts of a model by name: a module or parameter with all below it, or a pattern such as "backbone.*.bias"."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


def find_parameters(model: nn.Module, pattern: str, setting: str) -> dict[str, nn.Parameter]:
    """The parameters that a name or pattern means.

    Args:
        model: Whose they are.
        pattern: The name of a module or parameter; `*`, `?` and `[...]` stand for any characters, dots among them.
        setting: What the message calls the setting that the pattern is of.

    Raises:
        ValueError: It means none; the message gives the nearest names.
    """
    found = {name: value for name, value in model.named_parameters() if _means(pattern, name)}
    if not found:
        parts = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
        raise ValueError(no_part(pattern, [*parts, *(name for name, _ in model.named_parameters())], setting))
    return found


def no_part(pattern: str, names: list[str], setting: str) -> str:
    """The sentence for a pattern that means none of the names, with the nearest of them."""
    *most, last = map(repr, get_close_matches(pattern, names, n=3 if any(map(pattern.count, "*?[")) else 1, cutoff=0))
    near = f"{', '.join(most)} or {last}" if most else last
    return f"{setting}: the model has no part {pattern!r}; did you mean {near}?"


def _means(pattern: str, name: str) -> bool:
    """Whether a pattern is the name of a parameter, or of a module that it is in."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))
