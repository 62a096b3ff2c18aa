"""A killed run, resumed, ends in the bits of the uninterrupted one (`nox -s kill` kills a hundred)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .kill import differing, finish, kill_and_resume, make_data


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    folder = tmp_path_factory.mktemp("kill")
    data = make_data(folder / "data")
    began = time.monotonic()
    finish(data, folder / "straight")
    return data, folder / "straight", time.monotonic() - began


@pytest.mark.parametrize("share", [0.35, 0.6, 0.85])
def test_killed_and_resumed(straight: tuple[Path, Path, float], tmp_path: Path, share: float) -> None:
    data, whole, seconds = straight
    kill_and_resume(data, tmp_path / "killed", share * seconds)
    assert differing(whole, tmp_path / "killed") == []


def test_two_killed_and_resumed(straight: tuple[Path, Path, float], tmp_path: Path) -> None:
    data, _, _ = straight
    began = time.monotonic()
    finish(data, tmp_path / "whole", "fsdp")
    kill_and_resume(data, tmp_path / "killed", 0.7 * (time.monotonic() - began), "fsdp")
    assert differing(tmp_path / "whole", tmp_path / "killed") == []
