"""Where recipes are found by name: YAML files that come with the package or with a task, read as they stand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fiber_backbone.seams import available
from omegaconf import OmegaConf
from yaml import YAMLError

RECIPES = Path(__file__).parent / "recipes"


def find_recipes() -> dict[str, list[Path]]:
    """The recipes by name, each with its files: the one of no task, if there is one, then those of tasks.

    A task's recipes lie in the folder `recipes/` beside the module that its entry point names, which is not imported.
    """
    folders = [RECIPES]
    for entry in available("fiber.tasks").values():
        try:
            spec = find_spec(entry.module)
        except ModuleNotFoundError:
            continue
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / "recipes")
    found: dict[str, list[Path]] = {}
    for path in (path for folder in dict.fromkeys(folders) for path in sorted(folder.glob("*.yaml"))):
        found.setdefault(path.stem, []).append(path)
    return dict(sorted(found.items()))


def own_recipes(task: type) -> Path | None:
    """The folder of a task's own recipes."""
    file = getattr(sys.modules.get(task.__module__), "__file__", None)
    return None if file is None else Path(file).parent / "recipes"


def recipe_files(recipe: str | Path, known: dict[str, list[Path]], own: Path | None) -> list[Path]:
    """The files of a recipe: that of no task and, over it, what the run's task brings under the same name.

    With `RECIPES` for `own`, the task not being known yet, what tasks lay over a recipe of no task is left out.
    """
    candidates = known.get(str(recipe), [])
    if not candidates:
        if not Path(recipe).is_file():
            raise FileNotFoundError(f"{recipe}: no such recipe or file; the recipes are {', '.join(known)}")
        return [Path(recipe)]
    chosen = [path for path in candidates if path.parent in (RECIPES, own)]
    if not chosen and len(candidates) > 1 and own != RECIPES:
        raise ValueError(f"{recipe} is a recipe of several tasks: {', '.join(map(str, candidates))}; give one's path")
    return chosen or candidates[: len(candidates) == 1]


def read_recipe(path: Path) -> Any:
    """The settings of a file, not yet checked."""
    return parse_yaml(OmegaConf.create, path.read_text(encoding="utf-8"), str(path))


def parse_yaml(make: Callable[[Any], Any], content: Any, source: str) -> Any:
    """What `make` makes of text from `source`; ValueError if it is not YAML."""
    try:
        return make(content)
    except YAMLError as error:
        raise ValueError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
