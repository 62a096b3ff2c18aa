"""A step's memory, estimated from few samples, against the same step with many."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fiber_train.launch import build_fabric
from fiber_train.memory import PeakMemory, estimate_memory, estimate_run
from fiber_train.run import _build
from fiber_train.tasks.base import make_task
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, DEPTH = 64, 8


class Layers(nn.Module):
    """Some layers, recomputed or not."""

    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)) for _ in range(DEPTH)
        )
        self.recompute = recompute

    def forward(self, x: Tensor) -> SimpleNamespace:
        """The mean of squares."""
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.recompute else layer(x)
        return SimpleNamespace(loss=x.square().mean())


def batch(count: int) -> dict[str, Tensor]:
    return {"x": torch.randn(count, WIDTH)}


@pytest.mark.parametrize("recompute", [False, True])
def test_few_samples_tell_the_memory_of_many(recompute: bool) -> None:
    model, many = Layers(recompute), 512
    found = estimate_memory(model, (batch(8), batch(16)), (8, 16), many)
    step = estimate_memory(model, (batch(many), batch(2 * many)), (many, 2 * many), many)
    computed = found.fixed + found.of_sample * many
    assert computed == pytest.approx(step.fixed + step.of_sample * many, rel=0.05)
    size = sum(value.numel() for value in model.parameters()) * 4
    assert (found.weights, found.gradients, found.moments, found.average) == (size, size, 2 * size, 0)
    assert found.total == 4 * size + computed
    assert all(value.grad is None for value in model.parameters())


def test_recomputed_layers_take_less() -> None:
    kept, recomputed = (
        estimate_memory(Layers(own), (batch(64), batch(128)), (64, 128), 256).of_sample for own in (False, True)
    )
    assert recomputed < kept / 2


def test_what_is_frozen_has_no_gradient_and_no_moments() -> None:
    model = Layers().requires_grad_(False)
    model.layers[0][2].requires_grad_(True)
    found = estimate_memory(model, (batch(8), batch(16)), (8, 16), 32, average=True)
    assert found.moments == 2 * found.gradients < found.weights
    assert found.average == found.weights


def test_tensors_count_while_they_live() -> None:
    with PeakMemory() as peak:
        one = torch.zeros(1000)
        view = one[10:]
        two = one + 1
        del one
        assert peak.now == 8000, "a view holds what it is of"
        del view
        three = two * 2
    assert peak.most == peak.now == 8000
    del two, three
    assert peak.now == 0


def test_more_samples_have_to_be_more() -> None:
    with pytest.raises(ValueError, match="counts must rise"):
        estimate_memory(Layers(), (batch(8), batch(8)), (8, 8), 8)


def test_a_run_tells_its_own(small_run) -> None:
    whole, parts = small_run(), small_run("parts", "trainer.accumulate=2", "optim.ema_decay=0.9")
    estimates = []
    for config in (whole, parts):
        Path(config.out).mkdir()
        task = make_task(config)
        run = _build(task, fabric := build_fabric(task), None)
        estimates.append(estimate_run(task, run.model, run.data, run.processor, fabric))
    assert (estimates[0].samples, estimates[1].samples) == (8, 4)
    assert estimates[1].average == estimates[1].weights > 0 == estimates[0].average
    assert estimates[0].of_sample == pytest.approx(estimates[1].of_sample, rel=0.1)
    assert "8 samples" in str(estimates[0])
