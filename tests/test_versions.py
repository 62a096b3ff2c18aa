"""What is installed is what the repository says."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Package


def test_version_is_that_of_pyproject(package: Package) -> None:
    assert importlib.import_module(package.module).__version__ == package.project["version"]


def test_types_are_shipped(package: Package) -> None:
    assert (Path(importlib.import_module(package.module).__file__).parent / "py.typed").is_file()
