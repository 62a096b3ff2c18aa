"""What a run tells while it goes on: speed and memory, the end that it expects, traces, loggers, evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_data.formats.samples import SplitNotFoundError
from fiber_train import watching
from fiber_train.run import train
from fiber_train.throughput import Throughput
from fiber_train.tracking import read_metrics
from fiber_train.watching import watched
from lightning_fabric.loggers import Logger
from torch.utils.flop_counter import FlopCounterMode

HERE = __name__


class Recorder(Logger):
    """Keeps what it gets in a class attribute, as it is made by its path."""

    seen: list[Any] = []  # noqa: RUF012

    def __init__(self, project: str = "none") -> None:
        self.project = project

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return "1"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen.append((self.project, step, metrics))

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self.seen.append((self.project, "settings", params))


def test_a_run_tells_how_fast_it_is(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_run("run", "trainer.max_steps=14", "trainer.log_every=7", "trainer.checkpoint_every=100")
    train(config)
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "s a step" in line]
    assert "0:00:0" in told
    assert "peak memory" in told
    rows = read_metrics(config.out)
    values = {(step, name): value for step, name, value in rows if name.startswith("time/")}
    assert values[7, "time/samples_per_second"] * values[7, "time/step_seconds"] == pytest.approx(8)
    assert 0.05 < values[14, "time/peak_memory_gb"] < 100
    operations = {
        step: values[step, "time/model_tflops_per_second"] * values[step, "time/step_seconds"] for step in (7, 14)
    }
    assert operations[7] == pytest.approx(operations[14]), "of one step, counted once"
    assert operations[7] > 1e-6
    assert not any(name == "time/mfu" for _, name in values), "the peak of a CPU is not known"


def test_operations_are_those_of_torch() -> None:
    """Of a step three times those of a forward pass, counted once, without anything that is seen afterwards."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    image, throughput = torch.randn(2, 3, 8, 8), Throughput(4, 10, torch.device("cpu"))
    throughput.count(model, [{"input": image}] * 2)
    throughput.count(model, [{"input": image}] * 3)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert throughput.operations == 2 * 3 * counter.get_total_flops()
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_loggers_by_import_path_get_settings_and_numbers(small_run: Callable) -> None:
    Recorder.seen.clear()
    loggers = f"trainer.loggers=[{HERE}:Recorder,{{class: '{HERE}:Recorder', project: mine}}]"
    train(small_run("run", loggers, "trainer.max_steps=1"))
    for project in ("none", "mine"):
        found = {step: values for name, step, values in Recorder.seen if name == project and "train/loss" in values}
        assert math.isfinite(found[1]["train/loss"])
        (settings,) = [values for name, step, values in Recorder.seen if (name, step) == (project, "settings")]
        assert settings["trainer.batch_size"] == 8


@pytest.mark.parametrize(("entry", "message"), [
    ("wandb", r"trainer.loggers\[0\]: wandb cannot be made: .*; it needs lightning and wandb: pip install lightning wa"),
    ("nowhere:Thing", r"trainer.loggers\[0\]: nowhere:Thing cannot be made: .*No module named 'nowhere'"),
    ("collections:Counter", r"trainer.loggers\[0\]: collections:Counter is no logger of Lightning Fabric"),
    ("{project: a}", r"trainer.loggers\[0\] must be an import path, or have it as class"),
])  # fmt: skip
def test_a_logger_that_cannot_be_made_is_one_sentence(entry: str, message: str, small_run: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        train(small_run("run", f"trainer.loggers=[{entry}]"))


def test_a_trace_of_some_steps(small_run: Callable) -> None:
    config = small_run("run", "trainer.profile=2:3")
    train(config)
    (trace,) = (Path(config.out) / "profile").iterdir()
    assert trace.name == "steps-2-3-process0.json"
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert sum("Optimizer.step" in str(name) for name in names) == 2
    with pytest.raises(ValueError, match=r"trainer.profile must be steps such as 10:15, .* is '3:2'"):
        train(small_run("other", "trainer.profile=3:2"))


def test_an_evaluation_tells_its_progress_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(watching, "EVERY", 0.0)
    assert list(watched(range(3), 3)) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" after")[0] for line in lines] == [f"evaluating: {n} of 3 batches" for n in (1, 2, 3)]
    assert lines[2].endswith("about 0 s to go")
    assert list(watched(range(3), 3, active=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_the_best_weights_are_tested_at_the_end(small_run: Callable, scenes: Path, tmp_path: Path) -> None:
    config = small_run("run", "data.test_split=train", "trainer.max_steps=1")
    found = train(config)
    tested = json.loads((Path(config.out) / "test" / "evaluation.json").read_text())
    assert found is not None
    assert (found.counts["num_images"], tested["counts"]["num_images"]) == (30, 60)
    with pytest.raises(SplitNotFoundError, match="not 'nowhere'"):
        train(small_run("other", "data.test_split=nowhere"))
    assert not (tmp_path / "other" / "checkpoints").exists(), "it is refused before the first step"
