"""A signal stops a run in every phase and on every process, with a checkpoint and a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fiber_data import EpochSampler
from fiber_train import quickstart, steps
from fiber_train.checkpoint import find_checkpoints
from fiber_train.pipeline import run_pipeline
from fiber_train.run import train
from fiber_train.stopping import TOGETHER, Stopped, stopping
from fiber_train.tasks.base import Task, make_task

from .conftest import SMALL
from .kill import differing


def ask(number: int = signal.SIGTERM) -> None:
    """Sends a signal to this very process, as a cluster would, and waits for what it does."""
    os.kill(os.getpid(), number)
    time.sleep(5)


def test_in_the_start(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_run()

    def samples(split: str) -> Any:
        ask(signal.SIGUSR1)
        return make_task(config).read(split)

    began = time.monotonic()
    assert train(config, samples=samples) is None
    assert time.monotonic() - began < 5
    assert "stopped; the same command goes on from the beginning" in capsys.readouterr().err


def test_in_an_evaluation(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("trainer.eval_every=2", "trainer.log_every=4", "trainer.checkpoint_every=100")
    straight, stopped = small_run("straight", *options), small_run("stopped", *options)
    train(straight)
    measure = Task.measure

    def asked(task: Task, *arguments: Any, **options: Any) -> Any:
        found = measure(task, *arguments, **options)
        ask()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "measure", asked)
        assert train(stopped) is None
    assert f"goes on from {Path(stopped.out) / 'checkpoints' / 'step-000002'}" in capsys.readouterr().err
    assert train(stopped) is not None
    assert differing(Path(straight.out), Path(stopped.out)) == []


def test_while_it_waits_for_data(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("trainer.log_every=4", "trainer.checkpoint_every=100")
    straight, stopped = small_run("straight", *options), small_run("stopped", *options)
    train(straight)

    own = EpochSampler.__iter__

    def slow(sampler: EpochSampler) -> Iterator[list[int]]:
        for number, batch in enumerate(own(sampler)):
            if number == 3:
                ask(signal.SIGINT)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochSampler, "__iter__", slow)
        assert train(stopped) is None
    assert "stopped after step 3; the same command goes on from there" in capsys.readouterr().out
    assert find_checkpoints(stopped.out)[-1].name == "step-000003"
    assert train(stopped) is not None
    assert differing(Path(straight.out), Path(stopped.out)) == []


def test_a_second_signal_ends_what_the_first_waits_for() -> None:
    with stopping() as stop, pytest.raises(Stopped), stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # by a launcher beside the terminal: the same request
        assert stop.asked
        time.sleep(TOGETHER)
        os.kill(os.getpid(), signal.SIGTERM)
    with stopping() as stop:
        assert not stop.asked


def test_a_process_that_waits_for_others_ends_too() -> None:
    """Foreign code that waits keeps Python from handling signals."""
    code = (
        "import ctypes\nfrom fiber_train.stopping import stopping\n"
        "lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)\nlibrary.pthread_mutex_lock(lock)\n"
        "with stopping():\n    print('waits', flush=True)\n    library.pthread_mutex_lock(lock)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        time.sleep(1)  # until it is in foreign code
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 3
        assert process.stderr.read() == b"stopped while waiting for others; the same command goes on\n"


def is_running(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # empty of one that only waits to be noticed
    except OSError:
        return False


def test_on_every_process(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [f"data.root={scenes}", f"out={out}", *SMALL, "trainer.max_steps=5000", "trainer.checkpoint_every=5"]
    options += ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.log_every=1000"]
    arguments = [sys.executable, "-m", "fiber_train.cli", "train", "quickstart", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as first:
        deadline = time.monotonic() + 120
        while not find_checkpoints(out) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
        second = next(int(child) for child, line in lines.items() if b"devices=2" in line)
        os.kill(second, signal.SIGTERM)
        printed, failed = first.communicate(timeout=60)
    assert first.returncode == 3, failed
    assert "the same command goes on from there" in printed
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and is_running(second):
        time.sleep(0.1)
    assert not is_running(second)


def prepare(root: Path, splits: dict[str, int]) -> bool:
    """The quickstart's first two steps."""
    return run_pipeline(root, quickstart.read_steps(root, [], splits)[:2])


def test_a_quickstart_that_was_interrupted_while_it_draws(tmp_path: Path) -> None:
    splits = {"train": 20, "val": 20}
    draw = steps.generate_scenes

    def interrupted(folder: Path, wanted: Any, **options: Any) -> None:
        draw(folder, {"train": 20}, progress=False)
        (folder / "manifest.json").unlink()
        with stopping():
            ask()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(steps, "generate_scenes", interrupted)
        prepare(tmp_path, splits)
    assert prepare(tmp_path, splits)
    assert json.loads((tmp_path / "scenes" / "manifest.json").read_text())["splits"] == splits
    found = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert found == {"scenes", "tokenizer", "fiber.json", "pipeline.json"}


@pytest.mark.parametrize("manifest", [None, "[]", "{}", '{"dataset": "mine"}'])
def test_a_quickstart_leaves_other_peoples_scenes_alone(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "scenes" / "images").mkdir(parents=True)
    if manifest is not None:
        (tmp_path / "scenes" / "manifest.json").write_text(manifest)
    with pytest.raises(FileExistsError, match="would be overwritten; choose another folder"):
        prepare(tmp_path, {"train": 20, "val": 20})
    assert (tmp_path / "scenes" / "images").is_dir()


def test_a_closed_pipe_ends_quietly() -> None:
    code = "import sys, time\nfrom fiber_train.cli import main\nsys.stdin.read()\nsys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, "recipes"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(arguments, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
