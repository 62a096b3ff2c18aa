"""The API under its public names: `fiber_backbone.SwinStream`, not `fiber_backbone.swin.SwinStream`.

`.. public-names:: PACKAGE` describes every name of a package's `__all__`, but for those that an earlier page describes:
a table first, then each from its docstring. What annotations and docstrings call by the module that defines it is found
at its public place; what has none stays without a link, if there is such a thing at all.
"""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature

HOMES: dict[str, str] = {}  # where a thing is defined: where it is public
PAGES: dict[str, list[str]] = {}  # for each module the names that its page describes


class PublicNames(SphinxDirective):
    """The names of a package."""

    required_arguments = 1
    kinds: ClassVar = {"Classes": ("autoclass", inspect.isclass), "Functions": ("autofunction", inspect.isroutine)}

    def run(self) -> list[nodes.Node]:
        """Tables of the names, then all of them."""
        module, values = self.arguments[0], {}
        for name in PAGES[module]:
            values[name] = getattr(import_module(module), name)
        lines = [f".. automodule:: {module}", "   :no-members:", ""]
        for title, (_, fits) in {**self.kinds, "Values": ("autodata", _is_value)}.items():
            if names := [name for name, value in values.items() if fits(value)]:
                lines += [f".. rubric:: {title}", "", ".. autosummary::", "   :nosignatures:", ""]
                lines += [*(f"   {name}" for name in names), ""]
        for directive, fits in [*self.kinds.values(), ("autodata", _is_value)]:
            for name, value in values.items():
                if fits(value):
                    lines += [f".. {directive}:: {module}.{name}", ""]
        return self.parse_text_to_nodes("\n".join(lines))


def _is_value(value: object) -> bool:
    return not inspect.isclass(value) and not inspect.isroutine(value)


def find_names(app: Sphinx, config: Config) -> None:
    """Ask for every public name, so that the packages import it, and note where it is described."""
    modules = [path.stem for path in Path(app.srcdir, "api").glob("fiber_*.rst")]
    for module_name in sorted(modules, key=lambda name: (name.count("."), name)):
        module, PAGES[module_name] = import_module(module_name), []
        for name in module.__all__:
            value = getattr(module, name)
            definition = f"{getattr(value, '__module__', module_name)}.{getattr(value, '__qualname__', name)}"
            if HOMES.setdefault(definition, f"{module_name}.{name}") == f"{module_name}.{name}":
                PAGES[module_name].append(name)


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Find a definition's public place, of a method too; without one, the words as they are."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    home, rest = target, ""
    while home and home not in HOMES:
        home, _, last = home.rpartition(".")
        rest = f".{last}{rest}"
    if home:
        place = HOMES[home] + rest
        found = env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", place, node, content)
        return found or (content if exists(target) else None)
    return content if exists(target) else None


@cache
def exists(name: str) -> bool:
    """Whether a module of ours, or something in one, is called so."""
    parts = name.split(".")
    if not parts[0].startswith("fiber_"):
        return False
    value, used = None, 0
    for used in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:used]))
            break
        except ImportError:
            continue
    for part in parts[used:]:
        if part in getattr(value, "__annotations__", {}) or part in getattr(value, "__dataclass_fields__", {}):
            return True
        value = getattr(value, part, None)
    return value is not None


def drop_docs_of_types(
    app: Sphinx, what: str, name: str, value: object, options: dict[str, Any], lines: list[str]
) -> None:
    """A value without words of its own is not described by those of `dict` or `str`."""
    if what in {"data", "attribute"} and inspect.getdoc(value) == inspect.getdoc(type(value)):
        lines.clear()


def sign_by_init(
    app: Sphinx, what: str, name: str, value: Any, options: dict[str, Any], signature: str, returns: str
) -> tuple[str, str] | None:
    """A class is called as its `__init__` says, though the hub's mixin has a `__new__` that takes anything."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    own = signature_of(value.__init__, bound_method=True)
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and what finds names."""
    app.add_directive("public-names", PublicNames)
    app.connect("config-inited", find_names)
    app.connect("autodoc-process-docstring", drop_docs_of_types)
    app.connect("autodoc-process-signature", sign_by_init)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
