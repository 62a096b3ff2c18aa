"""The optimizer and its groups of learning rates and decay (the original's)."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from fiber_backbone.seams import load_object
from fiber_heads import TaskModel
from torch import nn

from fiber_train.config import OptimConfig
from fiber_train.patterns import find_parameters

FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}  # those of them on which torch knows AdamW


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Takes parts of a model out of training.

    Args:
        model: Its parameters that the patterns mean need no gradients afterwards.
        patterns: Names of modules or parameters, such as "backbone.image_stream.patch_embed", or patterns of them.

    Raises:
        ValueError: A pattern means nothing, and the message gives the nearest names; or they mean everything.
    """
    for pattern in patterns:
        for parameter in find_parameters(model, pattern, "optim.frozen").values():
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("optim.frozen: these freeze every parameter of the model, and nothing is left to train")


def parameter_groups(model: TaskModel, config: OptimConfig) -> list[dict[str, Any]]:
    """Splits the trainable parameters by learning rate and decay, as the model tells them apart.

    Args:
        model: A task model.
        config: Rates, multipliers and decay.

    Returns:
        Groups for an optimizer, with `name` and `parameter_names` beside the usual keys. A name is such as
        "cross_modal", and, where their multipliers are not 1, "language_cross_modal" or "cross_modal_bias".
    """
    cross_modal, heads = model.cross_modal_parameter_names(), model.head_parameter_names()
    language, not_decayed = model.language_parameter_names(), model.no_weight_decay()
    multipliers = {
        "base": 1.0,
        "head": config.head_multiplier,
        "cross_modal": config.cross_modal_multiplier,
        "gate": config.gate_multiplier,
    }
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "cross_modal" if name in cross_modal else "head" if name in heads else "base"
        kind = "gate" if name.endswith(".gate") else kind
        rate = config.learning_rate * multipliers[kind]
        if config.language_multiplier != 1 and name in language:
            kind, rate = f"language_{kind}", rate * config.language_multiplier
        if config.bias_multiplier != 1 and "bias" in name.rpartition(".")[2]:
            kind, rate = f"{kind}_bias", rate * config.bias_multiplier
        decays = name not in not_decayed or (config.original_decay and model.decayed_by_original(name))
        empty = {"name": kind, "params": [], "parameter_names": [], "lr": rate}
        group = groups.setdefault((kind, decays), {**empty, "weight_decay": config.weight_decay if decays else 0.0})
        group["params"].append(parameter)
        group["parameter_names"].append(name)
    return list(groups.values())


def build_optimizer(
    model: TaskModel, config: OptimConfig, device: torch.device | None = None, precision: str = "32-true"
) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`, without the parts of the model that are frozen.

    Args:
        model: Its frozen parts need no gradients afterwards.
        config: Which optimizer, and its rates.
        device: Where the parameters will be when it steps; by default where they are.
        precision: Of the run, as Fabric calls it.

    Raises:
        ValueError: There is no such optimizer, or it does not take the options.
    """
    freeze(model, config.frozen)
    make = load_object(config.optimizer)
    known: dict[str, Any] = {"betas": config.betas, "eps": config.eps}
    own = {name: value for name, value in known.items() if name in signature(make).parameters}
    if config.fused is not None:
        own["fused"] = config.fused
    elif _can_fuse(make, model, config, device, precision):
        own["fused"] = True
    try:
        return make(parameter_groups(model, config), **{**own, **config.options})
    except (TypeError, RuntimeError) as error:
        settings = "optim.options" if config.fused is None else "optim.options or optim.fused"
        raise ValueError(f"{settings} do not fit {config.optimizer}: {error}") from error


def _can_fuse(make: Any, model: nn.Module, config: OptimConfig, device: torch.device | None, precision: str) -> bool:
    """Whether torch computes a step of this optimizer in one kernel there, and nothing comes between."""
    devices = {parameter.device.type for parameter in model.parameters()} if device is None else {device.type}
    if make not in (torch.optim.AdamW, torch.optim.Adam) or not devices <= FUSED_DEVICES:
        return False
    clips_scaled = precision == "16-mixed" and config.max_norm is not None  # that kernel undoes the scale itself
    return not clips_scaled and not config.options.keys() & {"foreach", "fused", "differentiable"}
