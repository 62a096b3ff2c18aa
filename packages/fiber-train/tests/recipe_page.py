"""Writes RECIPES.md: of every recipe the original's settings beside ours. `python recipe_page.py` writes it anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from fiber_train.config import load_config

PAGE = Path(__file__).resolve().parents[1] / "RECIPES.md"
ORIGINAL = Path(__file__).with_name("original_settings.yaml")
HEAD = """# The recipes and the original's settings

Written by `nox -s recipes` from the recipes and from `tests/original_settings.yaml`, which holds what the configurations
of [FIBER](https://github.com/microsoft/FIBER) say, and of [GLIP](https://github.com/microsoft/GLIP) where it follows
that: few-shot detection, linear probing, prompt tuning. Where ours differ, the last column says why; all else is equal.

| recipe | setting | original | ours | why |
|---|---|---|---|---|
"""


def read_original() -> dict[str, dict[str, Any]]:
    """The original's settings by recipe."""
    content = yaml.safe_load(ORIGINAL.read_text(encoding="utf-8"))
    return {name: entry for name, entry in content.items() if not name.startswith("_")}


def ours(entry: dict[str, Any]) -> dict[str, Any]:
    """Our value of each setting that the original has."""
    config = asdict(load_config(entry["layers"], ["data.root=DATA", "out=OUT"]))
    return {key: _find(config, key) for key in entry["settings"]}


def _find(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node[part]
    return list(node) if isinstance(node, tuple) else node


def write_page() -> str:
    """The page."""
    rows = [row for name, entry in read_original().items() for row in _rows(name, entry)]
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(name: str, entry: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    recipe, why = f"`{' '.join(entry['layers'])}`", entry.get("why", {})
    mine = ours(entry)
    for key, value in sorted(entry["settings"].items()):
        yield (
            recipe,
            f"`{key}`",
            _shown(value),
            _shown(mine[key]) if mine[key] != value else "=",
            (why.get(key, "") if mine[key] != value else ""),
        )
    for what, original, own, reason in entry.get("beside", []):
        yield recipe, what, original, own, reason


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
