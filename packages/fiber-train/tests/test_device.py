"""`benchmarks/device.py` by itself: a Python without our packages, at tiny sizes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "device.py"


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has what we have installed, but neither our packages nor timm."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for path in Path(find_spec("torch").origin).parents[1].iterdir():
        if not path.name.startswith(("fiber", "timm", "_", "distutils")) and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of timm."""
    source, folder = Path(find_spec("timm").origin).parent, tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / "timm-1.0.0-py3-none-any.whl", "w") as wheel:
        for path in source.rglob("*.py"):
            wheel.write(path, path.relative_to(source.parent))
    return folder


def run(python: Path | str, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    # Without bytecode each process would compile torch's sources again.
    environment = {name: os.environ[name] for name in os.environ.keys() - {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}}
    line = [str(python), str(SCRIPT), *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env={**environment, **variables}, timeout=300)


def test_checks_run_beside_one_that_fails(bare_python: Path, wheels: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "numbers.json", ("--cpu", "--wheels", wheels, "--only", "deformable,distributed")
    done = run(bare_python, *words, "--out", out, GLOO_SOCKET_IFNAME="nowhere0")
    assert done.returncode == 1, done.stderr
    record = json.loads(out.read_text())
    card, deformable, distributed = record["rows"]
    assert card["numbers"]["device"] == "cpu" and record["torch"] == card["numbers"]["torch"]
    assert deformable["status"] == "ok"
    assert 0 <= deformable["numbers"]["difference"] < 1e-4 and deformable["numbers"]["s operator"] > 0
    assert distributed["status"] == "failed" and "nowhere0" in distributed["reason"]
    table = out.with_suffix(".md").read_text()
    assert done.stdout == table
    assert table.startswith(
        f"CPU, torch {record['torch']}, {record['date']}:\n\n| check | what | result |\n|---|---|---|\n"
    )
    assert [line.split(" | ")[0] for line in table.splitlines()[4:]] == ["| card", "| deformable", "| distributed"]
    assert f"**failed**: {distributed['reason']}" in table


def test_a_missing_module_is_named(bare_python: Path, tmp_path: Path) -> None:
    done = run(bare_python, "--cpu", "--out", tmp_path / "numbers.json")
    said = "device.py: the module timm is missing; install it, or pass --wheels a folder with its wheel\n"
    assert (done.returncode, done.stderr, done.stdout) == (1, said, "")


def test_what_does_not_fit_into_the_time_is_told(bare_python: Path, tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    done = run(bare_python, "--cpu", "--minutes", 0.0001, "--only", "forward", "--out", out)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["check"], row["status"]) for row in rows] == [("card", "skipped"), ("forward", "skipped")]
    assert all("its share of the time" in row["reason"] for row in rows)


def test_without_an_accelerator_that_is_said(tmp_path: Path) -> None:
    words = ("--out", tmp_path / "numbers.json")
    done = run(sys.executable, *words, CUDA_VISIBLE_DEVICES="", HIP_VISIBLE_DEVICES="", ZE_AFFINITY_MASK="none")
    if "there is no accelerator" not in done.stdout:
        pytest.skip("there is one that cannot be hidden")
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and not list(tmp_path.iterdir())
