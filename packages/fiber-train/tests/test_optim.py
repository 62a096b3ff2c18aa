"""Groups and schedule equal the original's."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import timm
import timm.optim
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_backbone.original import FINE_TO_COARSE
from fiber_heads import FiberForPretraining, PretrainingConfig
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.model import FiberForGrounding
from fiber_train.config import OptimConfig, load_config
from fiber_train.optim import build_optimizer, parameter_groups
from fiber_train.schedule import build_scheduler
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


def test_rates_fall_from_block_to_block() -> None:
    """In each stream from its own top, as timm has it for the image stream; pairs are where they are inserted."""
    with torch.device("meta"):
        model = FiberForPretraining(
            FiberBackbone.from_config(FiberConfig(decoder_projections=True)), PretrainingConfig(queue_size=0)
        )
        swin = timm.create_model("swin_base_patch4_window7_224", num_classes=1)  # where our heads are
    config = OptimConfig(1.0, head_multiplier=3, cross_modal_multiplier=5, gate_multiplier=5, layer_decay=0.8)
    groups = parameter_groups(model, config)
    rates = {name: group["lr"] for group in groups for name in group["parameter_names"]}
    theirs = timm.optim.param_groups_layer_decay(swin, layer_decay=0.8)
    names = {id(value): name for name, value in swin.named_parameters()}
    scales = {names[id(value)]: group["lr_scale"] for group in theirs for value in group["params"]}
    for name, scale in scales.items():
        if name.startswith("head."):
            continue
        assert rates[f"backbone.image_stream.{name}"] == pytest.approx(scale), name
    text = "backbone.text_stream.encoder.layer"
    assert [rates[f"{text}.{layer}.output.dense.bias"] for layer in (11, 6, 0)] == pytest.approx([0.8, 0.8**6, 0.8**12])
    assert rates["backbone.text_stream.embeddings.word_embeddings.weight"] == pytest.approx(0.8**13)
    for layer, (block, below) in enumerate(model.backbone.pairs):
        image, text = (f"backbone.{stream}.cross_attention.{layer}.gate" for stream in ("image_stream", "text_stream"))
        assert (rates[image], rates[text]) == pytest.approx((5 * 0.8 ** (24 - block), 5 * 0.8 ** (12 - below)))
    assert rates["word_head.decoder.bias"] == 3
    assert all(
        len({group["lr"] for group in groups if group["name"] == name}) == 1 for name in {g["name"] for g in groups}
    )


def test_frozen_parts() -> None:
    model = make_detector()
    build_optimizer(model, OptimConfig(frozen=["backbone.image_stream.layers.1", "grounding_head.box.bias"]))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.partition("layers.1.")[0] for name in frozen} == {"backbone.image_stream.", "grounding_head.box.bias"}
    with pytest.raises(ValueError, match=r"no part 'backbone.image_strem'; did you mean 'backbone.image_stream'"):
        build_optimizer(model, OptimConfig(frozen=["backbone.image_strem"]))
    with pytest.raises(ValueError, match=r"no part 'backbone.image_stream.lay'"):
        build_optimizer(model, OptimConfig(frozen=["backbone.image_stream.lay"]))


def test_frozen_patterns() -> None:
    """As a name does, a pattern that means a module means all below it."""
    model = make_detector()
    build_optimizer(model, OptimConfig(frozen=["backbone.image_stream.layers.[01]", "backbone.text_*.bias", "*.gate"]))
    for name, parameter in model.named_parameters():
        stage, text = "backbone.image_stream.layers.", name.startswith("backbone.text_") and name.endswith(".bias")
        assert parameter.requires_grad is not (name.startswith((f"{stage}0.", f"{stage}1.")) or text or "gate" in name)
    with pytest.raises(
        ValueError, match=r"no part 'backbone.image_strem.\*'; did you mean 'backbone.image_stream\S*', '"
    ):
        build_optimizer(model, OptimConfig(frozen=["backbone.image_strem.*"]))
    with pytest.raises(ValueError, match=r"freeze every parameter of the model, and nothing is left to train"):
        build_optimizer(model, OptimConfig(frozen=["*"]))


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


def test_the_fused_optimizer_makes_the_same_steps() -> None:
    """By default where torch has it; from an unfused state it goes on unfused, to the same bits as that run."""

    def make(fused: bool | None) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        with torch.device("meta"):
            backbone = FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny"))
        model = FiberForPretraining(backbone, PretrainingConfig(queue_size=0)).to_empty(device="cpu")
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        return model, build_optimizer(model, OptimConfig(1e-3, fused=fused))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for parameter in model.parameters():
            parameter.grad = parameter.detach().sin()
        optimizer.step()

    (fused, by_default), (plain, unfused), (resumed, later) = make(None), make(False), make(None)
    assert by_default.defaults["fused"]
    step(fused, by_default), step(plain, unfused)
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    resumed.load_state_dict(plain.state_dict())
    later.load_state_dict(deepcopy(unfused.state_dict()))
    step(plain, unfused), step(resumed, later)
    assert all(map(torch.equal, resumed.parameters(), plain.parameters()))


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        (OptimConfig(), True),
        (OptimConfig(fused=False), False),
        (OptimConfig(max_norm=1.0), False),
        (OptimConfig(options={"foreach": True}), False),
        (OptimConfig(optimizer="torch.optim.SGD"), False),
    ],
)
def test_where_the_optimizer_is_fused(options: OptimConfig, fused: bool) -> None:
    """Not where gradients of float16 are clipped, which must be unscaled before."""
    model = make_detector()
    optimizer = build_optimizer(model, options, torch.device("cpu"), "16-mixed")
    assert bool(optimizer.defaults.get("fused")) is fused
    assert not build_optimizer(model, OptimConfig()).defaults["fused"], "no kernel where the parameters are"


def test_an_optimizer_that_cannot_be_fused() -> None:
    with pytest.raises(ValueError, match=r"optim.fused do not fit torch.optim.RMSprop: .*'fused'"):
        build_optimizer(make_detector(), OptimConfig(optimizer="torch.optim.RMSprop", fused=True))
    options = ["data.root=x", "out=y", "optim.fused=true", "trainer.precision=16-mixed", "optim.max_norm=1"]
    with pytest.raises(ValueError, match=r"no place between for optim.max_norm; set one of the two to null"):
        load_config("quickstart", options)
