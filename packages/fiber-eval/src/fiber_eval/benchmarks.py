"""The benchmarks that `fiber-eval` scores: entry points of the group `fiber.benchmarks`, ours and others'.

    [project.entry-points."fiber.benchmarks"]
    vqa = "fiber_eval.question_answering:score_files"

Each names a function `(annotations: Path, results: Path, *, options...) -> Mapping[str, ...]`. What it reads and whose
numbers it gives stand in its docstring, under `Args:` and after `Source:`, which is read from the source file: a list
of benchmarks imports none of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GROUP = "fiber.benchmarks"
UNTOLD = "not documented"  # of a benchmark whose docstring cannot be read or lacks it


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that scores files, as the docstring of its function describes it.

    Attributes:
        name: What the command calls it.
        path: The import path of its function.
        annotations: The form of the annotation file.
        results: The form of the result file.
        paper: The paper whose numbers are meant, with a link.
        options: What each option of the function is, with its default, by name.
    """

    name: str
    path: str
    annotations: str = UNTOLD
    results: str = UNTOLD
    paper: str = UNTOLD
    options: Mapping[str, str] = field(default_factory=dict)


def available() -> dict[str, EntryPoint]:
    """The benchmarks that installed distributions declare, by name, sorted; nothing is imported.

    Of a name that two distributions declare, the one counts that Python finds first, as of modules.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        found.setdefault(entry.name, entry)
    return found


def describe(entry: EntryPoint) -> Benchmark:
    """The description of a benchmark from its function's source; of its packages, only `__init__` files are run.

    A function that cannot be found without running its module, or at all, is described as not documented.
    """
    try:
        function, constants = _read(entry)
    except Exception:  # another project's package may fail at anything; its benchmark says why when it is asked for
        return Benchmark(entry.name, entry.value)
    text = ast.get_docstring(function) or ""
    told = _arguments(text)
    source = re.search(r"^Source: *(.+(?:\n.+)*)", text, re.MULTILINE)
    return Benchmark(
        entry.name,
        entry.value,
        annotations=told.get("annotations", UNTOLD),
        results=told.get("results", UNTOLD),
        paper=_joined(source[1]) if source else UNTOLD,
        options={name: f"{told.get(name, UNTOLD)}{default}" for name, default in _options(function, constants)},
    )


def load(entry: EntryPoint) -> Callable[..., Mapping[str, Any]]:
    """The function of a benchmark.

    Raises:
        ValueError: Its module has no such function.
        ImportError: Its module cannot be imported.
    """
    try:
        return entry.load()
    except AttributeError as error:
        raise ValueError(f"benchmark {entry.name} cannot be loaded from {entry.value}: {error}") from error


def _read(entry: EntryPoint) -> tuple[ast.FunctionDef, dict[str, ast.expr]]:
    """The definition of the function and the constants of its module, for its defaults."""
    spec = find_spec(entry.module)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(entry.module)
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    constants = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    [function] = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == entry.attr)
    return function, constants


def _arguments(docstring: str) -> dict[str, str]:
    """What stands under `Args:` of each argument, in one line."""
    section = re.search(r"^Args:\n((?: +.*(?:\n|$))+)", docstring, re.MULTILINE)
    entries = re.findall(
        r"^ {4}\**(\w+)(?: \(.*?\))?: *(.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE
    )
    return {name: _joined(text) for name, text in entries}


def _options(function: ast.FunctionDef, constants: Mapping[str, ast.expr]) -> list[tuple[str, str]]:
    """The name of each argument after the two files, and the sentence that tells its default."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*required, *arguments.defaults, *arguments.kw_defaults]
    options = []
    for argument, default in list(zip([*positional, *arguments.kwonlyargs], defaults, strict=True))[2:]:
        if isinstance(default, ast.Name):
            default = constants.get(default.id, default)
        options.append((argument.arg, f" Default: {ast.unparse(default)}" if default else ""))
    return options + ([(arguments.kwarg.arg, "")] if arguments.kwarg else [])


def _joined(text: str) -> str:
    return " ".join(text.split())
