"""Groups and schedule equal the original's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_backbone.original import FINE_TO_COARSE
from fiber_data import EpochSampler
from fiber_heads import FiberForPretraining, PretrainingConfig
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.model import FiberForGrounding
from fiber_heads.task import TaskOutput
from fiber_train.config import OptimConfig, TrainerConfig, load_config
from fiber_train.loop import Loop
from fiber_train.optim import build_optimizer, parameter_groups
from fiber_train.schedule import build_scheduler
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import nn

LOWEST = ["patch_embed", "layers.0", "layers.1.downsample"]  # stepping down starts a stage here, ends one there
FROZEN = [f"backbone.image_stream.{part}" for part in LOWEST]
EVEN = {"cross_modal_multiplier": 1, "head_multiplier": 1, "gate_multiplier": 1, "bias_multiplier": 2}


@pytest.fixture
def solver(reference: Path) -> dict:
    return json.loads((reference.parent / "fine" / "solver" / "solver_goldens.json").read_text())


def make_detector(normalize_image_query: bool = False) -> FiberForGrounding:
    with torch.device("meta"):
        backbone = FiberBackbone.from_config(FiberConfig().fine_stage(normalize_image_query=normalize_image_query))
        return FiberForGrounding(backbone, GroundingConfig.as_original())


@pytest.mark.parametrize("original_decay", [True, False])
def test_groups(reference: Path, original_decay: bool) -> None:
    expected = json.loads((reference / "optimizer_groups.json").read_text())["pretrain"]["params"]
    with torch.device("meta"):
        model = FiberForPretraining(FiberBackbone.from_config(FiberConfig()), PretrainingConfig(queue_size=0))
    config = OptimConfig(learning_rate=1e-5, head_multiplier=50, original_decay=original_decay)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config)
        for name in group["parameter_names"]
    }
    assert set(found) == {name for name, _ in model.named_parameters()}
    originals = {f"backbone.{ours}": names for ours, names in model.backbone.original_map().pairs}
    originals |= dict(model.original_head_map().pairs)
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
        model = FiberForPretraining(FiberBackbone.from_config(FiberConfig()), PretrainingConfig(queue_size=0))
        optimizer = build_optimizer(model, OptimConfig(learning_rate=1e-3, gate_multiplier=20))
    group = next(group for group in optimizer.param_groups if group["name"] == "gate")
    assert group["lr"] == pytest.approx(2e-2)
    assert len(group["params"]) == 12


@pytest.mark.parametrize(
    ("version", "config"),
    [
        ("v2", OptimConfig(1e-4, language_multiplier=0.1, frozen=FROZEN, original_decay=True, **EVEN)),  # pre-training
        ("v3", OptimConfig(1e-5, weight_decay=1e-4, original_decay=True, **EVEN)),  # fine-tuning
    ],
)
def test_detector_groups(solver: dict, version: str, config: OptimConfig) -> None:
    """Every parameter of a full-size detector has the original's rate and decay, or is frozen as there."""
    expected = {name: key for key, names in solver[version]["groups"].items() for name in names}
    model = make_detector(normalize_image_query=version == "v3")
    optimizer = build_optimizer(model, config)
    assert {len(group["params"]) for group in optimizer.param_groups} == {
        len(group["parameter_names"]) for group in optimizer.param_groups
    }
    found = {
        name: f"lr={group['lr']:.3e} wd={group['weight_decay']:.3e}"
        for group in optimizer.param_groups
        for name in group["parameter_names"]
    }
    originals = {f"backbone.{ours}": names for ours, names in model.backbone.original_map().pairs}
    originals |= dict(model.original_head_map().pairs)
    back = {coarse: fine for fine, coarse in FINE_TO_COARSE.items()}
    compared = set()
    for ours, names in originals.items():
        for name in names:
            for coarse, fine in back.items():
                name = name.replace(coarse, fine) if name.startswith(coarse) else name
            assert found.get(ours) == expected.get(name), name
            compared.add(name)
    unused = {name for name in [*expected, *solver[version]["not_optimised"]] if "cls_logits" in name}
    assert compared | unused == {*expected, *solver[version]["not_optimised"]}


def test_a_detectors_norms_and_scales_are_not_decayed_by_default() -> None:
    model = make_detector()
    groups = parameter_groups(model, OptimConfig(**EVEN))
    decayed = {name for group in groups if group["weight_decay"] for name in group["parameter_names"]}
    parameters = dict(model.named_parameters())
    assert {parameters[name].ndim for name in decayed} == {2, 4}
    assert not any("scale" in name or "bias" in name or "norm" in name for name in decayed)


def test_groups_with_rates_of_their_own_have_names_of_their_own() -> None:
    """So that all rates are logged."""
    groups = parameter_groups(make_detector(), OptimConfig(language_multiplier=0.1, bias_multiplier=2))
    rates: dict[str, set[float]] = {}
    for group in groups:
        rates.setdefault(group["name"], set()).add(group["lr"])
    assert all(len(found) == 1 for found in rates.values())
    assert {"base", "base_bias", "language_base", "language_base_bias", "language_gate", "head_bias"} <= rates.keys()


def test_frozen_parts() -> None:
    model = make_detector()
    build_optimizer(model, OptimConfig(frozen=["backbone.image_stream.layers.1", "grounding_head.box.bias"]))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.partition("layers.1.")[0] for name in frozen} == {"backbone.image_stream.", "grounding_head.box.bias"}
    with pytest.raises(ValueError, match=r"no part 'backbone.image_strem'; did you mean 'backbone.image_stream'"):
        build_optimizer(model, OptimConfig(frozen=["backbone.image_strem"]))
    with pytest.raises(ValueError, match=r"no part 'backbone.image_stream.lay'"):
        build_optimizer(model, OptimConfig(frozen=["backbone.image_stream.lay"]))


def detector_schedule(golden: dict) -> OptimConfig:
    assert golden["milestones"] == [share * golden["max_iter"] for share in OptimConfig().milestones]
    return OptimConfig(
        learning_rate=golden["base_lr"],
        schedule="step",
        warmup=golden["warmup_iters"],
        warmup_start=golden["warmup_factor"],
        decay_milestone_ratio=golden["wd_ratio"],
    )


def test_step_schedule(solver: dict) -> None:
    """Rates and decays equal the original's, those of a run stopped at any point too."""
    golden = solver["schedule"]
    config, steps = detector_schedule(golden), golden["max_iter"]

    def make() -> tuple:
        weight, bias = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        groups = [{"params": [weight], "weight_decay": golden["weight_decay"]}, {"params": [bias], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=golden["base_lr"])
        return optimizer, build_scheduler(optimizer, config, steps)

    optimizer, scheduler = make()
    rates, decays = [], []
    for step in range(steps):
        if step in (50, 447, 500, 893):
            states = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = make()
            optimizer.load_state_dict(states[0]), scheduler.load_state_dict(states[1])
        rates.append(optimizer.param_groups[0]["lr"])
        decays.append(optimizer.param_groups[0]["weight_decay"])
        assert optimizer.param_groups[1]["weight_decay"] == 0
        optimizer.step()
        scheduler.step()
    for values, name in ((rates, "lr_used_at_iteration"), (decays, "wd_used_at_iteration")):
        for step, value in golden[name].items():
            assert values[int(step)] == pytest.approx(value, rel=1e-9), (name, step)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.schedule=steps", "must be 'linear', 'cosine', 'step', 'constant' or 'plateau', is 'steps'"),
        ("optim.milestones=[0.5,600]", r"optim.milestones\[1\] must be between 0 and 1, is 600.0"),
        ("optim.decay_milestone_ratio=0.667", "needs optim.schedule=step"),
        ("optim.ema_decay=1", "between 0 and 1, is 1.0"),
    ],
)
def test_settings_that_cannot_be(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("quickstart", ["data.root=x", "out=y", override])


def test_a_step_whose_gradients_overflow_in_float16_is_skipped() -> None:
    """It leaves the weights, lowers the scale, and is no reason to stop."""

    class Square(nn.Linear):
        def forward(self, *, x: torch.Tensor, **_) -> TaskOutput:
            loss = super().forward(x).square().mean()
            return TaskOutput(loss, losses={"square": loss})

        def passes(self, parts):
            return parts

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    fabric = Fabric(accelerator="cpu", plugins=MixedPrecision("16-mixed", "cpu", scaler=scaler))
    torch.manual_seed(0)
    model = Square(4, 4)
    config = OptimConfig(schedule="constant", warmup=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = build_scheduler(optimizer, config, 3)
    before = model.weight.detach().clone()
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    sampler = EpochSampler(8, 2)
    loop = Loop(fabric, wrapped, wrapped_optimizer, scheduler, sampler, TrainerConfig(max_steps=3), max_norm=1.0)
    parts = [{"x": torch.ones(2, 4), "ids": [0, 1]}]
    values, _ = loop._step(iter(parts))
    assert torch.isfinite(values["loss"])
    assert not torch.isfinite(values["gradient_norm"])
    assert torch.equal(model.weight, before)
    assert scaler.get_scale() == 2.0**39
    while scaler.get_scale() > 2.0**12 and torch.equal(model.weight, before):
        loop._step(iter(parts))
    assert torch.isfinite(model.weight).all()
    assert not torch.equal(model.weight, before), "once the scale is low enough, it learns"
