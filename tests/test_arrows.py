"""Imports run one way, between packages and inside them; each package declares what it imports, and its doors open."""

from __future__ import annotations

import re
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import EntryPoint, distribution, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if TYPE_CHECKING:
    from conftest import Package

ARROWS: dict[str, set[str]] = {
    "fiber-backbone": set(),
    "fiber-data": set(),
    "fiber-eval": set(),
    "fiber-heads": {"fiber-backbone"},
    "fiber-train": {"fiber-backbone", "fiber-heads", "fiber-data", "fiber-eval"},
}
NOT_IMPORTED = {
    "fiber-data": {"s3fs"},  # an extra that fsspec imports
    "fiber-heads": {"onnxscript"},  # an extra that torch.onnx imports
    "fiber-train": {"tensorboard"},  # torch.utils.tensorboard imports it
    "fiber-eval": {"pycocoevalcap"},  # an extra that is not imported: it brings METEOR's jar
}
DISTRIBUTIONS = packages_distributions()


def test_every_package_has_its_arrows(packages: dict[str, Package]) -> None:
    assert set(packages) == set(ARROWS)


def test_no_import_runs_against_the_arrows(package: Package) -> None:
    modules = {name.replace("-", "_") for name in ARROWS}
    allowed = {name.replace("-", "_") for name in ARROWS[package.name] | {package.name}}
    wrong = [f"{place} imports {module}" for place, module in package.imports() if module in modules - allowed]
    assert not wrong, f"{package.name} may import {sorted(allowed)} of our packages; but " + "; ".join(wrong)


def test_no_import_runs_in_a_circle(package: Package) -> None:
    try:
        TopologicalSorter(package.module_graph()).prepare()
    except CycleError as error:
        circle = " imports ".join(reversed(error.args[1]))
        pytest.fail(f"{circle}; move what they share into a module that both import", pytrace=False)


def test_every_import_is_declared(package: Package) -> None:
    known = names(requirements(package)) | {package.name}
    third_party = [(place, module) for place, module in package.imports() if module not in sys.stdlib_module_names]
    missing = [f"{place} imports {module}" for place, module in third_party if not distributions(module) & known]
    assert not missing, f"declare these in packages/{package.name}/pyproject.toml: " + "; ".join(missing)


def test_every_dependency_is_imported(package: Package) -> None:
    imported = {name for _, module in package.imports() for name in distributions(module)}
    unused = names(requirements(package)) - imported
    assert unused == NOT_IMPORTED.get(package.name, set()), (
        f"take out of packages/{package.name}/pyproject.toml what no module imports, or name it in NOT_IMPORTED if a"
        " library needs it for us"
    )


def test_siblings_are_compatible_ranges(package: Package, packages: dict[str, Package]) -> None:
    for requirement in requirements(package):
        if requirement.name in packages:
            current = Version(packages[requirement.name].project["version"])
            following = f"{current.major}.{current.minor + 1}" if current.major == 0 else f"{current.major + 1}"
            wanted = rf">={current.major}\.\d+(\.\d+)?,<{re.escape(following)}"
            text = ",".join(sorted(map(str, requirement.specifier), reverse=True))
            assert re.fullmatch(wanted, text), f"{package.name}: {requirement} should read like >=0.1,<{following}"
            assert current in requirement.specifier, f"{package.name}: {requirement} leaves out our own {current}"


def test_every_entry_point_opens(package: Package) -> None:
    declared = entry_points(package)
    installed = {entry for entry in distribution(package.name).entry_points if entry.group.startswith("fiber.")}
    assert installed == declared, f"install {package.name} again: its pyproject.toml declares other entry points"
    closed = []
    for entry in declared:
        try:
            assert entry.load() is not None
        except (ImportError, AttributeError) as error:
            closed.append(f"{entry.group}: {entry.name} = {entry.value} ({error})")
    assert not closed, f"mend these in packages/{package.name}/pyproject.toml: " + "; ".join(closed)


def test_every_group_of_entry_points_is_explained(packages: dict[str, Package], root: Path) -> None:
    groups = {entry.group for package in packages.values() for entry in entry_points(package)}
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert groups
    assert not {group for group in groups if f"`{group}`" not in text}, "explain these in CONTRIBUTING.md"


def entry_points(package: Package) -> set[EntryPoint]:
    """The parts of ours that the package declares."""
    groups = package.project.get("entry-points", {})
    return {EntryPoint(name, value, group) for group, named in groups.items() for name, value in named.items()}


def requirements(package: Package) -> list[Requirement]:
    """What the package declares, its extras among it."""
    extras = package.project.get("optional-dependencies", {})
    return [Requirement(line) for group in (package.project["dependencies"], *extras.values()) for line in group]


def names(lines: list[Requirement]) -> set[str]:
    return {normalized(line.name) for line in lines}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(module: str) -> set[str]:
    """The installed distributions that hold a module; of one that is not installed we suppose its own name."""
    return {normalized(name) for name in DISTRIBUTIONS.get(module, [module])}
