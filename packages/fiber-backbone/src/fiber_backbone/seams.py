"""Where other people's parts come in: names in a configuration are entry points, or import paths.

A distribution declares its parts in its `pyproject.toml`, ours among them:

    [project.entry-points."fiber.streams"]
    swin = "fiber_backbone.swin:SwinStream"

A name that somebody typed may also be an import path, `package.module:Name`. A name that was found in a downloaded file
may not, unless it is repeated by the user: to import a module is to run it.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Collection
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def available(group: str) -> dict[str, EntryPoint]:
    """The parts that installed distributions declare.

    Args:
        group: Such as `"fiber.streams"`.

    Returns:
        Entry points by name, sorted; nothing is imported.
    """
    return dict(_declared(group, tuple(sys.path)))


@cache
def _declared(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """As of `available`; to read the metadata of every distribution takes milliseconds, and a model asks many times."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def load_object(path: str) -> Any:
    """What an import path names.

    Args:
        path: `"package.module:Name"`, or with a dot before the name, such as `"torch.optim.SGD"`.

    Raises:
        ValueError: The path is none, or there is no such module or name in it.
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module.strip(".") or not name or module.startswith("."):
        raise ValueError(f"{path!r} is not an import path; write it as package.module:Name")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path!r} cannot be imported ({error}); write it as package.module:Name") from error
    return found


def resolve(name: str, group: str, *, trusted: Collection[str] | None = None) -> Any:
    """The part that a name means.

    Args:
        name: Of an entry point of the group, or an import path.
        group: Such as `"fiber.streams"`.
        trusted: For a name that was found in a file from elsewhere, the import paths that the user allows beside the
            entry points; None for a name of the user's own, which may be any import path.

    Raises:
        ValueError: There is no such part, or it may not be imported.
    """
    entries = available(group)
    if name in entries:
        return entries[name].load()
    if ":" not in name:
        near = get_close_matches(name, entries, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{group} has no {name!r}, only {', '.join(entries)}, or package.module:Name{hint}")
    if trusted is not None and name not in trusted:
        raise ValueError(
            f"a file from elsewhere names {name!r}, which to load would run; if you know what it is, repeat it "
            f"(trusted=[{name!r}], or --trust {name}), or install a distribution that declares it in {group}"
        )
    return load_object(name)


def name_of(part: Any, group: str) -> str:
    """What a file may call a class or function: its entry point's name, or else its import path."""
    path = f"{part.__module__}:{part.__qualname__}"
    return next((name for name, entry in available(group).items() if entry.value == path), path)


def docstring(entry: EntryPoint) -> str:
    """The docstring of what an entry point names, read from the source: neither module nor object is imported.

    Packages around the module are. Empty if there is none, or no source, or a package does not import: one broken
    distribution must not keep the others from being listed.
    """
    body = _source(entry)
    node = _definition(body, entry.attr)
    return "" if node is None else ast.get_docstring(node) or ""


def stated(entry: EntryPoint, attribute: str) -> Any:
    """What the class that an entry point names has for an attribute, by importing the attribute's own module alone.

    Args:
        entry: Of a class whose body says `attribute = Name`, in a module that says `from module import Name`.
        attribute: Such as `"settings_class"`.

    Returns:
        The object, or None if the source does not say it so plainly.
    """
    body = _source(entry)
    node = _definition(body, entry.attr)
    values = [
        each.value.id
        for each in getattr(node, "body", ())
        if isinstance(each, ast.Assign)
        and isinstance(each.value, ast.Name)
        and any(isinstance(target, ast.Name) and target.id == attribute for target in each.targets)
    ]
    for each in body:
        if values and isinstance(each, ast.ImportFrom) and each.module and not each.level:
            for alias in each.names:
                if (alias.asname or alias.name) == values[-1]:
                    return load_object(f"{each.module}:{alias.name}")
    return None


def _source(entry: EntryPoint) -> list[ast.stmt]:
    """The statements of the module that an entry point names, which is not imported."""
    try:
        spec = find_spec(entry.module)
    except Exception:  # whatever a stranger's package raises
        return []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return []
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body


def _definition(body: list[ast.stmt], name: str) -> ast.FunctionDef | ast.ClassDef | None:
    found = (node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
    return next(found, None)
