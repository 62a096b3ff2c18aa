"""Accidents of the commands that do not train: a full disk, a place that is none, Ctrl-C. One sentence, nothing half."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fiber_data.cli import main as data_command
from fiber_eval.cli import main as eval_command

STOPPED = 3


def start(module: str, *words: object) -> subprocess.Popen:
    """A command in a process of its own, which hears of Ctrl-C even where these tests, in the background, do not."""
    line = [sys.executable, "-m", f"{module}.cli", *map(str, words)]
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow further, as on a full disk."""
    before, bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # of modules that are imported here it would be cut off, and stay so
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = bytecode


def told(process: subprocess.Popen) -> tuple[int, str]:
    """Status, and what was said on standard error without the lines of progress."""
    _, said = process.communicate(timeout=100)
    return process.returncode, said.rsplit("\r", 1)[-1].strip()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert fiber_data("scenes", "--out", folder, "--train", 20, "--val", 20) == 0
    return folder


@pytest.fixture(scope="module")
def detections(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Words of a command that scores."""
    annotations, results = scenes / "annotations" / "instances_val.json", tmp_path_factory.mktemp("r") / "results.json"
    found = json.loads(annotations.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    results.write_text(json.dumps([{**{key: row[key] for key in keys}, "score": 1} for row in found]))
    return ["coco", "--annotations", annotations, "--results", results]


def fiber_data(*words: object) -> int:
    return data_command(list(map(str, words)))


def fiber_eval(*words: object) -> int:
    return eval_command(list(map(str, words)))


def test_a_full_disk_is_a_sentence_with_the_path(
    scenes: Path, detections: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, shards, images, sheet = (tmp_path / name for name in ("numbers.json", "shards", "scenes", "a.html"))
    commands = {
        numbers: lambda: fiber_eval(*detections, "--out", numbers),
        shards: lambda: fiber_data("pack", scenes, "--out", shards),
        images: lambda: fiber_data("scenes", "--out", images, "--train", 20, "--val", 20),
        sheet: lambda: fiber_data("show", scenes, "--out", sheet),
    }
    for path, command in commands.items():
        capsys.readouterr()
        with largest_file(100):
            assert command() == 1
        said = capsys.readouterr().err
        assert "File too large" in said and str(path) in said and said.count("\n") == 1
    assert not numbers.exists() and not list(shards.glob("*.tar"))


def test_a_place_below_a_file_is_a_sentence_with_the_path(
    scenes: Path, detections: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    capsys.readouterr()
    for command in (
        lambda: fiber_eval(*detections, "--out", file / "x"),
        lambda: fiber_data("pack", scenes, "--out", file / "x"),
        lambda: fiber_data("scenes", "--out", file / "x"),
        lambda: fiber_data("show", scenes, "--out", file / "x.html"),
    ):
        assert command() == 1
        said = capsys.readouterr().err
        assert str(file) in said and said.count("\n") == 1 and ("exists" in said or "Not a directory" in said)
    assert file.read_text() == "precious"


def test_ctrl_c_ends_a_command_with_a_sentence_and_it_begins_again(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    process = start("fiber_data", "scenes", "--out", out, "--train", 5_000)
    while not list(out.glob("images/train/*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, said = told(process)
    assert status == STOPPED and said.endswith("fiber-data: stopped") and "Traceback" not in said
    assert fiber_data("scenes", "--out", out, "--train", 20, "--val", 20) == 0
    assert len(list((out / "images" / "train").iterdir())) == 20


def test_ctrl_c_ends_a_score_with_a_sentence(detections: list[object], tmp_path: Path) -> None:
    pipe = tmp_path / "results.json"  # nobody ever writes to it: the command waits
    os.mkfifo(pipe)
    process = start("fiber_eval", *detections[:-1], pipe)
    time.sleep(2)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    status, said = told(process)
    assert "Traceback" not in said and said.count("\n") == 0
    # Interrupted in what an import gives to exec, Python ends by the signal, though the exception was caught.
    stopped = status in (STOPPED, -signal.SIGINT) and said == "fiber-eval: stopped"
    assert stopped or (status == 1 and str(pipe) in said)
