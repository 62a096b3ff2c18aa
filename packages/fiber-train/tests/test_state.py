"""What a run keeps: finite, whole, verified, its own; and what becomes of it when something goes wrong."""

from __future__ import annotations

import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_train.best import keep_best
from fiber_train.checkpoint import find_checkpoints, load_task_model, load_training_state, save_checkpoint
from fiber_train.divergence import find_nan_output, find_nonfinite
from fiber_train.evaluation import Evaluation, Measure
from fiber_train.loop import NonFiniteLossError
from fiber_train.ownership import is_ours
from fiber_train.run import train
from fiber_train.tracking import read_metrics
from fiber_train.writing import WriteError, replace_folder
from safetensors.torch import load_file

from .kill import differing


class NanGradient:
    """Makes one gradient NaN in one step, whose loss is finite."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, *, loop: Any, model: Any) -> None:
        last = list(model.parameters())[-1]
        last.register_hook(lambda gradient: gradient * torch.nan if loop.step + 1 == self.step else gradient)


def assert_finite(out: str) -> None:
    for path in find_checkpoints(out):
        assert find_nonfinite({"model": load_file(path / "model.safetensors"), **load_training_state(path)}) == []


def test_a_gradient_that_is_nan_in_a_step_that_saves(small_run: Callable, tmp_path: Path) -> None:
    config = small_run("run", "optim.max_norm=null", "trainer.log_every=100")
    with pytest.raises(
        NonFiniteLossError, match=r"after step 4 .* last good checkpoint is (.*step-000002); .*model.ch"
    ):
        train(config, callbacks=[NanGradient(step=4)])
    assert [path.name for path in find_checkpoints(config.out)] == ["step-000002"]
    assert_finite(config.out)
    good = find_checkpoints(config.out)[0]
    assert train(small_run("again", f"model.checkpoint={good}", "optim.learning_rate=1e-4")) is not None


def test_a_gradient_norm_that_is_nan_ends_the_run_at_the_next_log(small_run: Callable) -> None:
    config = small_run("run", "trainer.checkpoint_every=100")
    with pytest.raises(NonFiniteLossError, match=r"in steps 3 to 3 .*gradient_norm nan.*nothing was saved before"):
        train(config, callbacks=[NanGradient(step=3)])


def test_nothing_of_a_run_that_diverges_is_saved(small_run: Callable) -> None:
    config = small_run("run", "optim.learning_rate=10", "optim.max_norm=null", "trainer.max_steps=30")
    with pytest.raises(NonFiniteLossError):
        train(config)
    assert_finite(config.out)


def test_a_nan_is_never_the_best(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    with pytest.warns(UserWarning, match="accuracy is nan after step 3, which is never kept as the best"):
        keep_best(tmp_path, "accuracy", Evaluation([Measure("accuracy", float("nan"))]), 3, lambda folder: None)
    assert list((tmp_path / "best").iterdir()) == []


def test_where_a_forward_pass_fails_by_nan() -> None:
    class Picks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[self.second(self.first(x) * 1e38 * 1e38 * 0).long()]

    model = Picks()
    with pytest.raises(IndexError):
        model(torch.ones(2, 2))
    assert find_nan_output(model, {"x": torch.ones(2, 2)}) == "second"
    assert find_nan_output(torch.nn.Sequential(torch.nn.Linear(2, 2)), {"input": torch.ones(2, 2)}) is None


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(("name", "damage"), [("model.safetensors", flip), ("training.pt", truncate)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    small_run: Callable, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    config = small_run("run")
    train(config)
    out = Path(config.out)
    before = {path.name: path.read_bytes() for path in (out / "model").iterdir()}
    damage(find_checkpoints(out)[-1] / name)
    capsys.readouterr()
    assert train(config) is not None
    said = capsys.readouterr().err
    assert f"step-000006 is damaged ({name} has " in said
    assert "it is now called step-000006.damaged, and the run goes on from" in said
    assert {path.name: path.read_bytes() for path in (out / "model").iterdir()} == before
    for path in find_checkpoints(out):
        damage(path / name)
    with pytest.raises(ValueError, match=r"is damaged .* no older one that is whole; restore it, or begin anew"):
        train(config)


def test_a_damaged_model_is_not_loaded(coarse: Path, tmp_path: Path) -> None:
    replace_folder(
        tmp_path / "model",
        lambda folder: [(folder / path.name).write_bytes(path.read_bytes()) for path in (coarse / "model").iterdir()],
    )
    load_task_model(tmp_path / "model")
    (tmp_path / "model" / "config.json").open("a").write("\n")
    with pytest.warns(UserWarning, match=r"config.json has [\d,]+ bytes of [\d,]+; it is used as it is now"):
        load_task_model(tmp_path / "model")
    flip(tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model is damaged: model.safetensors has other bytes than were written"):
        load_task_model(tmp_path / "model")


def test_a_second_run_is_kept_out(small_run: Callable) -> None:
    config = small_run("run", "trainer.max_steps=2")
    code = (
        "import sys, pathlib\nfrom fiber_train.ownership import locked\n"
        f"with locked(pathlib.Path({str(config.out)!r})):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ValueError, match=rf"run is in use by process {holder.pid} on .*; wait until that ends"):
            train(config)
        holder.kill()
    assert train(config) is not None, "the lock died with its process"


class Crash:
    """Fails when an evaluation is done, with its best weights written and its numbers not."""

    def on_evaluation_end(self, *, step: int, **_: Any) -> None:
        if step == 4:
            raise RuntimeError("crash")


def test_an_evaluation_that_was_cut_off_is_made_up_for(small_run: Callable) -> None:
    options = ("trainer.eval_every=2", "trainer.log_every=3", "trainer.checkpoint_every=100")
    straight, crashed = small_run("straight", *options), small_run("crashed", *options)
    train(straight)
    with pytest.raises(RuntimeError, match="crash"):
        train(crashed, callbacks=[Crash()])
    assert train(crashed) is not None
    assert differing(Path(straight.out), Path(crashed.out)) == []


def test_a_run_can_be_made_longer(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    train(small_run("run", "trainer.max_steps=4"))
    assert train(small_run("run")) is not None
    assert "trainer.max_steps was 4, is 6; from here on learning rates are those of the new length" in (
        capsys.readouterr().err
    )
    straight = small_run("straight")
    train(straight)
    rates = [
        {step: value for step, name, value in read_metrics(run) if name == "learning_rate/base" and step > 4}
        for run in (straight.out, small_run("run").out)
    ]
    assert rates[0] == rates[1]
    with pytest.raises(ValueError, match=r"has done 6 steps already, trainer\.max_steps is 5; give"):
        train(small_run("run", "trainer.max_steps=5"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_space(tmp_path: Path) -> None:
    def write_model(folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    save_checkpoint(tmp_path, 1, write_model, {"step": 1}, keep=1)
    with (
        pytest.raises(WriteError, match=r"step-000002 cannot be written: File too large; .* goes on from step-000001$"),
        largest_file(20_000),
    ):
        save_checkpoint(tmp_path, 2, write_model, {"values": torch.zeros(100_000)}, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_place_that_cannot_be_written_to(small_run: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(WriteError, match=r"file/run cannot be written: Not a directory; "):
        train(small_run("file/run"))


def test_a_warm_up_longer_than_the_run(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_run("run", "optim.warmup=2000", "trainer.max_steps=20", "trainer.checkpoint_every=100")
    train(config)
    assert "optim.warmup is 2,000 steps but the run has 20: the warm-up is cut to 2 of them" in capsys.readouterr().err
    rates = [value for _, name, value in read_metrics(config.out) if name == "learning_rate/base"]
    assert max(rates) == pytest.approx(config.optim.learning_rate)


def test_files_are_as_readable_as_the_user_wants(coarse: Path) -> None:
    files = [path for path in coarse.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"model.safetensors", "training.pt", "fiber.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {
        stat.S_IMODE((coarse / "config.yaml").stat().st_mode)
    }
    assert all(is_ours(folder) for folder in (coarse, coarse / "model", coarse / "best", *find_checkpoints(coarse)))
