"""The package's door: names come when they are asked for, and every model has an entry point."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import fiber_heads
from fiber_backbone.seams import available, docstring, name_of


def test_to_import_the_package_imports_no_torch() -> None:
    code = "import sys, fiber_heads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_where_the_type_checker_finds_it() -> None:
    tree = ast.parse(Path(fiber_heads.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(told) == sorted(fiber_heads.__all__)
    for name, module in told.items():
        assert getattr(fiber_heads, name) is getattr(sys.modules[module], name)


def test_every_model_is_described_without_an_import() -> None:
    own = {entry.name for entry in distribution("fiber-heads").entry_points if entry.group == "fiber.models"}
    models = {name for name in fiber_heads.__all__ if name.startswith("FiberFor")}
    assert own == models
    for name in models:
        assert docstring(available("fiber.models")[name])
        assert name_of(getattr(fiber_heads, name), "fiber.models") == name
