"""Where the reference numbers are."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

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


def _member(rank: int, work: Callable[[int, str], None], folder: str) -> None:
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timeout)
    work(rank, folder)
    dist.destroy_process_group()


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[[Callable[[int, str], None]], None]:
    """Calls `work(rank, folder)` in two processes of one group; `folder` is the test's own."""

    def run(work: Callable[[int, str], None]) -> None:
        # Forked, they need not import everything again: most of the time of these tests.
        mp.start_processes(_member, (work, str(tmp_path)), nprocs=2, start_method="fork")

    return run
