"""Half precision: steps that overflow are skipped, and whole runs of both stages in each precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_data import EpochSampler
from fiber_heads.task import TaskOutput
from fiber_train.config import OptimConfig, TrainerConfig
from fiber_train.ema import WeightAverage
from fiber_train.loop import Loop
from fiber_train.schedule import build_scheduler
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

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
