"""Rates that fall, and runs that end, where evaluations gain no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_train.callbacks import Callback
from fiber_train.config import OptimConfig, load_config
from fiber_train.evaluation import Evaluation, Measure, read_evaluation
from fiber_train.optim_config import PlateauConfig
from fiber_train.progress import Progress
from fiber_train.run import train
from fiber_train.schedule import PlateauSchedule, build_scheduler
from fiber_train.tracking import read_metrics

from .test_run import asked_to_stop, assert_same

VALUES = [0.5, 0.6, 0.6, 0.4, 0.7, 0.7, 0.1, 0.3, 0.2, 0.7]


def make_schedule(**plateau: Any) -> tuple[torch.optim.Optimizer, PlateauSchedule]:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in (0.1, 0.5)])
    config = OptimConfig(schedule="plateau", warmup=4, plateau=PlateauConfig(**plateau))
    scheduler = build_scheduler(optimizer, config, 100)
    assert isinstance(scheduler, PlateauSchedule)
    return optimizer, scheduler


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_rates_fall_as_torchs(higher_is_better: bool) -> None:
    """After the warm-up, and from a state in the middle too."""
    optimizer, scheduler = make_schedule(patience=1, factor=0.5)
    other = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in (0.1, 0.5)])
    judge = torch.optim.lr_scheduler.ReduceLROnPlateau(other, "max" if higher_is_better else "min", 0.5, 1)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]
    rates = []
    for step, value in enumerate(VALUES):
        for _ in range(4):
            optimizer.step(), scheduler.step()
        scheduler.note(value, higher_is_better)
        judge.step(value)
        rates.append([group["lr"] for group in optimizer.param_groups])
        assert rates[-1] == pytest.approx([group["lr"] for group in other.param_groups])
        if step == 5:
            states = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = make_schedule(patience=1, factor=0.5)
            optimizer.load_state_dict(states[0]), scheduler.load_state_dict(states[1])
    assert len({rate for rate, _ in rates}) > 2


def follow(progress: Progress, values: list[float], higher_is_better: bool = True) -> list[int]:
    counts = []
    for step, value in enumerate(values, 1):
        progress.note(Evaluation([Measure("score", value, higher_is_better=higher_is_better)]), step)
        counts.append(progress.without_gain)
    return counts


def test_evaluations_without_gain() -> None:
    """A value as good as the best is no gain, and one that is not a number none either."""
    progress = Progress("score", patience=3)
    assert follow(progress, [0.5, 0.5, 0.6, float("nan"), 0.2]) == [0, 1, 0, 1, 2]
    assert not progress.is_over
    again = Progress("score", patience=3)
    again.load_state_dict(progress.state_dict())
    assert follow(again, [0.6]) == [3]
    assert again.is_over
    assert str(again) == "score gained nothing in 3 evaluations (best 0.6 after step 3)"
    assert follow(Progress("score", patience=3), [2.0, 1.0, 1.5], False) == [0, 0, 1]
    assert not Progress("score").is_over


def score(predictions: Any, samples: Any) -> dict[str, float]:
    """A metric of the user's, which gains nothing after the first evaluation."""
    return {"constant": 1.0}


OPTIONS = ["trainer.eval_every=2", "trainer.max_steps=12", "trainer.log_every=3", "trainer.checkpoint_every=100"]
OPTIONS += [f"task.metrics=[{__name__}:score]", "task.monitor=score/constant"]


def test_a_run_ends_where_it_gains_no_more(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_run("run", *OPTIONS, "trainer.patience=2")
    results = train(config)
    out = Path(config.out)
    said = capsys.readouterr().out
    assert (
        "score/constant gained nothing in 2 evaluations (best 1 after step 2); the run ends after step 6 of 12" in said
    )
    rows = read_metrics(out)
    assert [step for step, name, _ in rows if name == "eval/score/constant"] == [2, 4, 6]
    assert results is not None and results.to_json() == read_evaluation(out).to_json()
    assert (out / "model" / "model.safetensors").is_file() and '"step": 2' in (out / "best/evaluation.json").read_text()

    again = train(config)
    assert again is not None and again.numbers() == results.numbers()
    assert [row for row in read_metrics(out) if "time/" not in row[1]] == [row for row in rows if "time/" not in row[1]]
    train(small_run("run", *OPTIONS, "trainer.patience=3"))
    assert [step for step, name, _ in read_metrics(out) if name == "eval/score/constant"] == [2, 4, 6, 8]


class Crash(Callback):
    """A process that dies after the evaluation of step 6 was logged, and before the next checkpoint."""

    def on_step_end(self, *, step: int, **_: Any) -> None:
        if step == 7:
            raise RuntimeError("crash")


def test_resumed_equals_uninterrupted(small_run: Callable) -> None:
    """Stopped before an evaluation that is then still to be made, and crashed after one that no checkpoint has."""
    options = [*OPTIONS, "optim.schedule=plateau", "optim.plateau.patience=1", "trainer.patience=4"]
    options += ["trainer.max_steps=8"]
    straight, stopped, crashed = (small_run(name, *options) for name in ("straight", "stopped", "crashed"))
    train(straight)
    rates = {value for _, name, value in read_metrics(straight.out) if name == "learning_rate/base"}
    assert len(rates) > 1
    with asked_to_stop(after=6):
        assert train(stopped) is None
    with pytest.raises(RuntimeError, match="crash"):
        train(crashed, callbacks=[Crash()])
    for config in (stopped, crashed):
        assert train(config) is not None
        assert_same(Path(straight.out), Path(config.out))


def test_what_cannot_be_followed(small_run: Callable) -> None:
    for option, name in (("optim.schedule=plateau", "optim.schedule=plateau"), ("trainer.patience=2",) * 2):
        with pytest.raises(ValueError, match=f"{name.partition('=')[0]}.* follows .* trainer.eval_every is 0; set it"):
            load_config("quickstart", ["data.root=x", "out=y", "trainer.eval_every=0", option])
    with pytest.raises(
        ValueError, match=r"follow the measure that keeps the best weights, and there is none; name one"
    ):
        train(small_run("run", "trainer.eval_every=2", "trainer.patience=2", "task.monitor=none"))


def test_settings_newer_than_a_run(small_run: Callable) -> None:
    """Its file does not name them: it goes on with their defaults, and with nothing else."""
    config = small_run("run", "trainer.max_steps=2")
    train(config)
    path = Path(config.out) / "config.yaml"
    old = path.read_text()
    path.write_text(old.replace("  plateau:\n    patience: 3\n    factor: 0.1\n", ""))
    assert path.read_text() != old
    assert train(small_run("run", "trainer.max_steps=2")) is not None
    path.write_text(path.read_text().replace("  plateau:\n    patience: 3\n    factor: 0.1\n", ""))
    with pytest.raises(ValueError, match=r"other settings: optim.plateau.patience \(was 3, is 5\)"):
        train(small_run("run", "trainer.max_steps=2", "optim.plateau.patience=5"))
