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
from collections.abc import Collection
from difflib import get_close_matches
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
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def load_object(path: str) -> Any:
    """What an import path names.

    Args:
        path: `"package.module:Name"`, or with a dot before the name, such as `"torch.optim.SGD"`.

    Raises:
        ValueError: The path is none, or there is no such module or name in it.
    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not name:
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
    try:
        spec = find_spec(entry.module)
    except Exception:  # whatever a stranger's package raises
        return ""
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == entry.attr:
            return ast.get_docstring(node) or ""
    return ""
