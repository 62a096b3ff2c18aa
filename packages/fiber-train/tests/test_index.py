"""Runs that map their samples: the numbers of those that read them, and nothing read twice."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from fiber_train.config import load_config
from fiber_train.run import train

from .conftest import SMALL

OWN = ["trainer.max_steps=2", "data.captions=each"]


@pytest.fixture
def holed(scenes: Path, tmp_path: Path) -> Path:
    """Scenes of which an image is gone."""
    root = Path(shutil.copytree(scenes, tmp_path / "holed", ignore=shutil.ignore_patterns(".fiber_index")))
    next((root / "images" / "train").iterdir()).unlink()
    return root


def run(root: Path, out: Path, *overrides: str) -> tuple[list[str], str, list[str]]:
    """Its numbers but for times, what was wrong with its files, and what it warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(load_config("quickstart", [f"data.root={root}", f"out={out}", *SMALL, *OWN, *overrides]))
    rows = [row for row in (out / "metrics.csv").read_text().splitlines() if "time/" not in row]
    return (
        rows,
        (out / "data_check.json").read_text(),
        [str(each.message) for each in said if "lack" in str(each.message)],
    )


def tokens(root: Path) -> dict[str, str]:
    return {str(path): json.loads(path.read_text())["token"] for path in root.glob(".fiber_index/*/table.json")}


def test_a_run_from_an_index_is_that_without(holed: Path, tmp_path: Path) -> None:
    plain = run(holed, tmp_path / "plain", "data.index=off")
    assert not (holed / ".fiber_index").exists() and len(plain[0]) > 5
    assert len(plain[2]) == 1 and "lack an image" in plain[1]
    assert run(holed, tmp_path / "made") == plain
    made = tokens(holed)
    assert len(made) == 2
    assert run(holed, tmp_path / "mapped") == plain and tokens(holed) == made
    assert (
        run(holed, tmp_path / "elsewhere", f"data.index={tmp_path / 'kept'}") == plain
        and len(tokens(tmp_path / "kept")) == 2
    )


def test_a_run_goes_on_with_another_index(holed: Path, tmp_path: Path) -> None:
    run(holed, tmp_path / "run", "data.index=off")
    run(holed, tmp_path / "run", "trainer.max_steps=4")
    expected, *_ = run(holed, tmp_path / "whole", "trainer.max_steps=4", "data.index=off")
    last = [row for row in expected if row.startswith("4,")]
    assert last and last == [row for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines() if row in last]


def test_the_first_of_two_processes_makes_it(
    holed: Path, tmp_path: Path, train_by_two: Callable[[list[str], list[str]], None]
) -> None:
    options = [f"data.root={holed}", *SMALL, *OWN]
    train_by_two(["quickstart"], [*options, f"out={tmp_path / 'plain'}", "data.index=off"])
    train_by_two(["quickstart"], [*options, f"out={tmp_path / 'mapped'}"])
    rows = [
        [row for row in (tmp_path / out / "metrics.csv").read_text().splitlines() if "time/" not in row]
        for out in ("plain", "mapped")
    ]
    assert rows[0] == rows[1] and len(tokens(holed)) == 2
