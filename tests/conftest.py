"""The packages, as the tests that concern all of them see them."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
        for path in sorted((self.folder / "src").rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for name in imported_names(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", name.partition(".")[0]


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
