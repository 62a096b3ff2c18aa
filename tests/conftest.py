"""The packages, as the tests that concern all of them see them."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What limits a process's memory and files, and sends it signals, is tested where a system has them as Linux does.
collect_ignore = [] if Path("/proc/self/statm").is_file() else ["test_accidents.py", "test_fuzz.py"]


@dataclass(frozen=True)
class Package:
    """One package of the repository: its name, its folder and what its pyproject.toml says."""

    name: str
    folder: Path
    project: dict[str, Any]

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    def imports(self) -> Iterator[tuple[str, str]]:
        """(place, top-level module) of every import in the sources, inside functions and type checks too."""
        for path in self.modules().values():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for name in imported_names(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", name.partition(".")[0]

    def modules(self) -> dict[str, Path]:
        """The source files by their modules' names."""
        source = self.folder / "src"
        return {module_name(path.relative_to(source)): path for path in sorted(source.rglob("*.py"))}

    def module_graph(self) -> dict[str, set[str]]:
        """For each module those of the package that it imports, inside functions and type checks too."""
        modules = self.modules()
        graph: dict[str, set[str]] = {}
        for name, path in modules.items():
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            graph[name] = {found for node in nodes for found in imported_modules(node, package, modules)} - {name}
        return graph


def module_name(path: Path) -> str:
    """`package.module` of a file below a source folder; a package is named after its folder."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported_modules(node: ast.AST, package: str, modules: Container[str]) -> set[str]:
    """Which of some modules a syntax node imports that stands in a package: of `from a import b` it is `a.b` or `a`."""
    if isinstance(node, ast.ImportFrom):
        base = resolve_name("." * node.level + (node.module or ""), package)
        names = {found if (found := f"{base}.{alias.name}") in modules else base for alias in node.names}
    else:
        names = set(imported_names(node))
    return {name for name in names if name in modules}


def imported_names(node: ast.AST) -> list[str]:
    """The absolute module names that a syntax node imports, `import_module("name")` among them."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            return [module]
    return []


def read_packages() -> dict[str, Package]:
    packages = {}
    for path in sorted(ROOT.glob("packages/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        packages[project["name"]] = Package(project["name"], path.parent, project)
    return packages


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "package" in metafunc.fixturenames:
        metafunc.parametrize("package", read_packages().values(), ids=lambda package: package.name)


@pytest.fixture(scope="session")
def packages() -> dict[str, Package]:
    return read_packages()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
