"""Groups and schedule equal the original's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, original_key_map
from fiber_heads import FiberForPretraining, PretrainingConfig
from fiber_heads.checkpoints import original_head_map
from fiber_train.config import OptimConfig
from fiber_train.optim import build_optimizer, build_scheduler, parameter_groups
from safetensors.torch import load_file


@pytest.mark.parametrize("original_decay", [True, False])
def test_groups(reference: Path, original_decay: bool) -> None:
    expected = json.loads((reference / "optimizer_groups.json").read_text())["pretrain"]["params"]
    with torch.device("meta"):
        model = FiberForPretraining(FiberBackbone(FiberConfig()), PretrainingConfig(queue_size=0))
    config = OptimConfig(learning_rate=1e-5, head_multiplier=50, original_decay=original_decay)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config)
        for name in group["parameter_names"]
    }
    assert set(found) == {name for name, _ in model.named_parameters()}
    originals = {f"backbone.{ours}": names for ours, names in original_key_map(FiberConfig())}
    originals |= {ours: [name] for ours, name in original_head_map(model).items()}
    mended = set()
    rates = {"base": 1e-5, "cross_modal": 5e-5, "head": 5e-4}
    for ours, names in originals.items():
        for name in names:
            rate, decay = found[ours]
            assert rate == pytest.approx(rates[expected[name]["lr_mult"]]), name
            if decay != expected[name]["weight_decay"]:
                mended.add(name)
    by_oversight = {name for name in expected if "alpha_" in name or name == "temp" or "norm_i2t_i.weight" in name}
    assert mended == (
        set() if original_decay else by_oversight & {name for names in originals.values() for name in names}
    )


@pytest.mark.parametrize(("key", "schedule"), [("schedule_example", "linear"), ("schedule_example_cosine", "cosine")])
def test_schedule(reference: Path, key: str, schedule: str) -> None:
    example = json.loads((reference / "optimizer_groups.json").read_text())[key]
    config = OptimConfig(learning_rate=1e-5, schedule=schedule, warmup=0.1)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    scheduler = build_scheduler(optimizer, config, example["max_steps"])
    rates = []
    for _ in range(example["max_steps"] + 5):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    for step, values in example.get("lr_at_step") or example["base_lr_at_step"]:
        value = values[0] if isinstance(values, list) else values
        assert rates[step] == pytest.approx(value, rel=1e-9, abs=1e-20), step
    absolute = OptimConfig(learning_rate=1e-5, schedule=schedule, warmup=100)
    assert build_scheduler(optimizer, absolute, 1000).lr_lambdas[0](50) == 0.5


def test_adamw_follows_the_original_one(reference: Path) -> None:
    """Ours decays before the step, the original after it: the paths part by lr x decay x step, no more."""
    path = load_file(reference / "adamw_trajectory.safetensors")
    for name, rate, decay in (("p", 1e-2, 0.01), ("q", 5e-2, 0.0)):
        parameter = torch.nn.Parameter(path[f"{name}0"].double())
        optimizer = torch.optim.AdamW([parameter], lr=rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=decay)
        for step in range(1, 5):
            parameter.grad = path[f"g{name}{step}"].double()
            optimizer.step()
            assert (parameter - path[f"{name}{step}"]).abs().max() < step * (rate * decay * rate * 2 + 1e-6)


def test_gates_have_a_rate_of_their_own() -> None:
    with torch.device("meta"):
        model = FiberForPretraining(FiberBackbone(FiberConfig()), PretrainingConfig(queue_size=0))
        optimizer = build_optimizer(model, OptimConfig(learning_rate=1e-3, gate_multiplier=20))
    group = next(group for group in optimizer.param_groups if group["name"] == "gate")
    assert group["lr"] == pytest.approx(2e-2)
    assert len(group["params"]) == 12
