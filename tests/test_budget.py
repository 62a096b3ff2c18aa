"""Small modules, small functions, and files named after what they hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MODULE_LINES = 400
FUNCTION_LINES = 50  # without its docstring
# One job that needs more: the path from the repository's root, and its lines at the most.
LONG_MODULES: dict[str, int] = {
    "packages/fiber-heads/src/fiber_heads/grounding/model.py": 425,  # one model, asked in three ways
    "packages/fiber-heads/src/fiber_heads/task.py": 455,  # the whole contract of a task model
    "packages/fiber-train/src/fiber_train/tasks/base.py": 455,  # the whole contract of a task
    "packages/fiber-train/src/fiber_train/tasks/grounding/evaluation.py": 420,  # three benchmarks of boxes
}


@pytest.fixture(scope="module")
def modules(root: Path) -> list[Path]:
    folders = [*root.glob("packages/*/src"), *root.glob("packages/*/tests"), *root.glob("packages/*/benchmarks")]
    found = [path for folder in [*folders, root / "tests"] for path in folder.rglob("*.py")]
    assert len(folders) >= 10, f"no packages below {root}"
    return [*found, root / "noxfile.py"]


def test_modules_are_small(modules: list[Path], root: Path) -> None:
    lengths = {str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    long = {path: lines for path, lines in lengths.items() if lines > LONG_MODULES.get(path, MODULE_LINES)}
    assert LONG_MODULES.keys() <= {path for path, lines in lengths.items() if lines > MODULE_LINES}
    assert not long, f"more than {MODULE_LINES} lines; split by job: {long}"


def test_functions_are_small(modules: list[Path]) -> None:
    long = {}
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0] if ast.get_docstring(node) else None
                lines = node.end_lineno - node.lineno + 1
                lines -= docstring.end_lineno - docstring.lineno + 1 if docstring else 0
                if lines > FUNCTION_LINES:
                    long[f"{path}:{node.lineno} {node.name}"] = lines
    assert not long, f"more than {FUNCTION_LINES} lines; split by job: {long}"


def test_files_are_named_after_what_they_hold(modules: list[Path]) -> None:
    vague = [str(path) for path in modules if path.name in {"utils.py", "misc.py"}]
    assert not vague, f"name these after what they hold: {vague}"
