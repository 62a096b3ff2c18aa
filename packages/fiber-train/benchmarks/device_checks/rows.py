"""Rows of results: a file of JSON lines, written at once, so that they outlive the process that measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Skip(Exception):
    """The reason why something cannot be checked here."""


def make_row(check: str, case: str = "", status: str = "ok", reason: str = "", **numbers: Any) -> dict[str, Any]:
    """A result with what is known in numbers; `status` is ok, failed, skipped or missing (of a module)."""
    known = {name.replace("_", " "): value for name, value in numbers.items() if value is not None}
    return {"check": check, "case": case, "status": status, "reason": reason, "numbers": known}


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Writes a row behind those of before."""
    with path.open("a", encoding="utf-8") as file:
        print(json.dumps(row), file=file)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a file, none if there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
