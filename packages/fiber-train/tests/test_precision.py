"""Precision and speed: steps of float16 that overflow, and runs of both stages in other types, compiled, recomputed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_data import EpochSampler
from fiber_heads import TaskModel
from fiber_heads.task import TaskOutput
from fiber_train.callbacks import Callback
from fiber_train.config import OptimConfig, TrainConfig, TrainerConfig, load_config
from fiber_train.ema import WeightAverage
from fiber_train.loop import Loop
from fiber_train.run import train
from fiber_train.schedule import build_scheduler
from fiber_train.tracking import read_metrics
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from .conftest import FEW

PARTS: list[dict[str, Any]] = [{"x": torch.ones(2, 4), "ids": [0, 1]}]


class Square(nn.Linear):
    def forward(self, *, x: torch.Tensor, **_: Any) -> TaskOutput:  # type: ignore[override]
        loss = super().forward(x).square().mean()
        return TaskOutput(loss, losses={"square": loss})

    def passes(self, parts: list) -> list:
        return parts

    def training_state(self) -> dict:
        return {}

    def load_training_state(self, state: dict) -> None:
        assert not state


def make_loop(fused: bool = False) -> Loop:
    """Training in float16, as on an accelerator, with a scale that grows every second step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_factor=2.0**9, growth_interval=2)
    fabric = Fabric(accelerator="cpu", plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))
    torch.manual_seed(0)
    model = Square(4, 4)
    config = OptimConfig(schedule="linear", warmup=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    scheduler = build_scheduler(optimizer, config, 20)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    norm = None if fused else 1.0
    trainer, average = TrainerConfig(max_steps=20), WeightAverage(model, 0.5)
    return Loop(fabric, wrapped, wrapped_optimizer, scheduler, EpochSampler(8, 2), trainer, norm, average)


def weights(loop: Loop) -> torch.Tensor:
    return loop.model.module.weight.detach().clone()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_whose_gradients_overflow_is_skipped(fused: bool) -> None:
    """Weights, schedule and average stay; the step counts, is counted as skipped, and is no reason to stop."""
    loop = make_loop(fused)
    skips, norms = [], []
    for step in range(1, 9):
        before, rate, average = weights(loop), loop.scheduler.get_last_lr(), loop.average.state_dict()["weight"].clone()
        skipped = loop.skipped
        values, _ = loop._step(iter(PARTS))
        loop._count(values)
        assert loop.step == step and torch.isfinite(values["loss"])
        skips.append(loop.skipped > skipped)
        assert torch.equal(weights(loop), before) is skips[-1]
        assert torch.equal(loop.average.state_dict()["weight"], average) is skips[-1]
        assert (loop.scheduler.get_last_lr() == rate) is skips[-1]
        assert loop._divergence() is None
        norms += [] if skips[-1] or fused else [float(values["gradient_norm"])]
    assert fused or loop._means()["gradient_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    assert any(skips) and not all(skips)
    assert loop.scheduler.last_epoch == 8 - sum(skips)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Between a skipped step and the next: the scale, the schedule and the average go on where they were."""
    straight, first, second = make_loop(), make_loop(), make_loop()
    for _ in range(8):
        straight._step(iter(PARTS))
    while not first.skipped:
        first._step(iter(PARTS))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    second.model.module.load_state_dict(first.model.module.state_dict())
    for _ in range(8 - first.step):
        second._step(iter(PARTS))
    assert (second.step, second.skipped) == (8, straight.skipped)
    assert torch.equal(weights(second), weights(straight))
    assert torch.equal(second.average.state_dict()["weight"], straight.average.state_dict()["weight"])
    assert second.scheduler.get_last_lr() == straight.scheduler.get_last_lr()


FINE = ["task.model.num_blocks=1", "task.model.channels=16", "task.train.captions=[scenes]", "task.shorter=[48,64,80]"]
FINE += ["trainer.eval_every=0", "trainer.max_steps=2", "optim.warmup=0", "trainer.batch_size=4", "trainer.log_every=1"]


@pytest.fixture
def make(scenes: Path, coarse: Path, tmp_path: Path, small_run: Callable) -> Callable[..., TrainConfig]:
    """A short run of a stage."""

    def config(stage: str, name: str, *options: str) -> TrainConfig:
        if stage == "coarse":
            return small_run(name, "trainer.max_steps=2", "optim.warmup=0", *options)
        given = [f"data.root={scenes}", f"model.checkpoint={coarse}", f"out={tmp_path / name}"]
        return load_config(["fine", "small"], [*given, *FEW, *FINE, *options])

    return config


def losses(config: TrainConfig) -> list[float]:
    return [value for _, name, value in read_metrics(config.out) if name == "train/loss"]


@pytest.mark.parametrize(("stage", "other"), [("coarse", "64-true"), ("coarse", "bf16-true"), ("fine", "bf16-true")])
def test_other_types_train_and_evaluate(stage: str, other: str, make: Callable[..., TrainConfig]) -> None:
    exact, run = (
        make(stage, "exact", "model.overrides.drop_path_rate=0"),
        make(stage, "other", f"trainer.precision={other}", "model.overrides.drop_path_rate=0"),
    )
    found = [train(config) for config in (exact, run)]
    assert losses(run) == pytest.approx(losses(exact), rel=1e-4 if other == "64-true" else 0.1)
    assert losses(run) != losses(exact)
    assert found[0] is not None and found[1] is not None
    assert found[0].numbers().keys() == found[1].numbers().keys()


class Compiled(Callback):
    """`trainer.compile` with a backend of seconds."""

    def on_train_start(self, *, model: TaskModel, **_: Any) -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model.compile_blocks(backend="eager", fullgraph=True)


def test_the_fine_stage_compiled_and_recomputed(make: Callable[..., TrainConfig]) -> None:
    """On images of several sizes."""
    plain, compiled, recomputed = (
        make("fine", name, f"model.gradient_checkpointing={name == 'recomputed'}")
        for name in ("plain", "compiled", "recomputed")
    )
    train(plain), train(recomputed), train(compiled, callbacks=[Compiled()])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(recomputed) == pytest.approx(losses(plain), rel=1e-5)
