"""Where other people's parts come in: a name is an entry point of a group, or an import path.

A distribution declares its parts in its `pyproject.toml`, ours among them:

    [project.entry-points."fiber.formats"]
    vqav2 = "fiber_data.formats.vqav2:read_vqav2"

A name that somebody typed may also be an import path, `package.module:Name`. A name that was found in a downloaded file
may not, unless the user repeats it: to import a module is to run it.
"""

import sys
from collections.abc import Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def available(group: str) -> dict[str, EntryPoint]:
    """The parts that installed distributions declare.

    Args:
        group: Such as ``"fiber.formats"``.

    Returns:
        Entry points by name, sorted; nothing is imported.
    """
    return dict(_declared(group, tuple(sys.path)))


@cache
def _declared(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """As of `available`; to read the metadata of every distribution takes milliseconds, and readers ask many times."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def resolve(name: str, group: str, *, trusted: Collection[str] | None = None) -> Any:
    """The part that a name means.

    Args:
        name: Of an entry point of the group, or an import path ``package.module:Name``.
        group: Such as ``"fiber.formats"``.
        trusted: For a name that was found in a file from elsewhere, the import paths that the user allows beside the
            entry points; None for a name of the user's own, which may be any import path.

    Raises:
        ValueError: There is no such part, or it may not be imported.
    """
    entries = available(group)
    if name in entries:
        return entries[name].load()
    if ":" not in name:
        raise ValueError(f"{group} has no {name!r}, only {', '.join(entries)}, or an import path package.module:Name")
    if trusted is not None and name not in trusted:
        raise ValueError(
            f"a file from elsewhere names {name!r}, which to load would run; if you know what it is, repeat it "
            f"(trusted=[{name!r}], or --trust {name}), or install a distribution that declares it in {group}"
        )
    try:
        return EntryPoint(name, name, group).load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported ({error}); write it as package.module:Name") from error


def name_of(part: type, group: str) -> str:
    """What a file may call a class: its entry point's name, or else its import path."""
    path = f"{part.__module__}:{part.__qualname__}"
    return next((name for name, entry in available(group).items() if entry.value == path), path)
