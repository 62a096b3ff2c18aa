"""Where the reference numbers are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REFERENCE = Path(os.environ.get("FIBER_REFERENCE", Path(__file__).resolve().parents[3].parent / "shared" / "reference"))


def reference_folder(name: str) -> Path:
    """A folder of reference numbers; skips where there is none, fails where there must be one."""
    folder = REFERENCE / name
    if not folder.is_dir():
        reason = f"no reference numbers at {folder}; set FIBER_REFERENCE to their folder"
        if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def eval_reference() -> Path:
    """The folder that holds a folder of reference numbers for each benchmark."""
    return reference_folder("eval")


@pytest.fixture(scope="session")
def retrieval_reference(eval_reference: Path) -> Path:
    return eval_reference / "retrieval"


@pytest.fixture(scope="session")
def coarse_reference() -> Path:
    return reference_folder("coarse/c96")
