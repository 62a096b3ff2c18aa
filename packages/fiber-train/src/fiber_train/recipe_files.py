"""Where recipes are found by name: YAML files that come with the package or with a task, read as they stand."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from fiber_backbone.seams import available
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import CollectionNode, MappingNode, Node, SafeLoader, YAMLError, compose

DEFAULT_TASK = "pretraining"
LONGEST_NAME = 200  # characters of a task's
RECIPES = Path(__file__).parent / "recipes"
QUICKSTART = Path(__file__).parent / "pipelines" / "quickstart.yaml"
DEEPEST = 32  # levels of settings
LARGEST = 100_000  # values of a recipe
_DEEP = re.compile(rf"(?:[\[{{]\s*){{{DEEPEST + 1}}}")


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


def optional_steps(pipeline: Path) -> list[str]:
    """The names of the steps that a well-formed pipeline leaves out unless they are asked for."""
    return [str(step["name"]) for step in read_recipe(pipeline)["steps"] if step.get("optional")]


def describe_recipes() -> dict[str, str]:
    """The first sentence of each recipe's first comment, by the recipe's name; empty for one without a comment."""
    found = {}
    for name, (path, *_) in find_recipes().items():
        lines = takewhile(lambda line: line.startswith("# "), path.read_text(encoding="utf-8-sig").splitlines())
        found[name] = re.split(r"(?<=[^.])\. |\.$", " ".join(line[2:] for line in lines), maxsplit=1)[0]
    return found


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
    """The settings of a file, not yet checked. What looks like an interpolation of OmegaConf, `${...}`, is text.

    Raises:
        ValueError: The file is no YAML in UTF-8, holds no settings, or more than anybody writes.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file ({error}); save it as UTF-8") from error
    if _DEEP.search(text):  # at which the scanner would take seconds
        raise ValueError(f"{path}: settings must not be nested deeper than {DEEPEST} levels")
    document = parse_yaml(lambda content: compose(content, SafeLoader), text, str(path))
    if document is not None and not isinstance(document, MappingNode):
        raise ValueError(f"{path} must hold settings, `NAME: VALUE`, but holds a list or a single value")
    _measure(document, path)
    content = OmegaConf.to_container(parse_yaml(OmegaConf.create, text, str(path)))
    return OmegaConf.create(literal(content))


def _measure(document: Node | None, path: Path) -> None:
    """ValueError if a document is nested too deep, or too large once its aliases are written out."""
    sizes: dict[int, int] = {}  # of nodes, by identity: an alias is the node itself

    def size(node: Node | None, depth: int) -> int:
        if depth > DEEPEST:  # so is a node that holds itself
            raise ValueError(f"{path}: settings must not be nested deeper than {DEEPEST} levels")
        if not isinstance(node, CollectionNode):
            return 1
        if id(node) not in sizes:
            parts = chain.from_iterable(node.value) if isinstance(node, MappingNode) else node.value
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(node)]

    if size(document, 0) > LARGEST:
        raise ValueError(f"{path} must hold no more than {LARGEST} values, those of its aliases included")


def parse_yaml(make: Callable[[Any], Any], content: Any, source: str, key: str = "") -> Any:
    """What `make` makes of text from `source`, the value of `key`; ValueError if it is not YAML."""
    try:
        return make(content)
    except RecursionError:
        raise ValueError(f"{source}: settings must not be nested deeper than {DEEPEST} levels") from None
    except (YAMLError, ValueError, OmegaConfBaseException) as error:  # dates and numbers that are none; bad `${`
        where = f"the value of {key:.80}: " if key else ""
        raise ValueError(f"{source} is not YAML: {where}{' '.join(str(error).split()):.300}") from error


def literal(value: Any) -> Any:
    """Plain values so that OmegaConf takes and resolves them to what they are: `${...}` is text, tuples are lists."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: literal(each) for key, each in value.items()}
    return [literal(each) for each in value] if isinstance(value, list | tuple) else value


def task_name(layers: Sequence[tuple[str, Any]]) -> tuple[str, str]:
    """The name of the task of the last layer that names any, and what errors call that layer."""
    name, named = DEFAULT_TASK, ""
    for source, layer in layers:
        group = layer.get("task")
        if group is not None and not OmegaConf.is_dict(group):
            raise ValueError(f"{source}: task is a group of settings, not one; write task.NAME=")
        own = (group or {}).get("name")
        if own is not None and (not isinstance(own, str) or len(own) > LONGEST_NAME):
            raise ValueError(f"{source}: task.name must be the name of a task or an import path, is {own!r:.80}")
        name, named = (own, source) if own else (name, named)
    return name, named


@contextmanager
def one_sentence(recipe: object) -> Iterator[None]:
    """Turns what OmegaConf raises into a ValueError of one line that names the setting, or else the recipe."""
    try:
        yield
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key} is not set; give it as {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{f'{error.full_key or recipe}':.200}: {first:.300}") from error
    except RecursionError as error:
        raise ValueError(f"{recipe}: settings are nested too deep, or refer to each other in a circle") from error


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Plain values as YAML, which `read_recipe` reads again."""
    return OmegaConf.to_yaml(OmegaConf.create(literal(dict(settings))), resolve=True)
