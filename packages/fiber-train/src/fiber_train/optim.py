"""The optimiser's groups and the learning rate's course (the original's, `spec` in the recipes)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from fiber_train.config import OptimConfig


class Grouped(Protocol):
    """A task model that tells its parameters apart."""

    def cross_modal_parameter_names(self) -> set[str]:
        """Those that bring the streams together."""

    def head_parameter_names(self) -> set[str]:
        """Those of heads that start from nothing."""


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Splits the trainable parameters by learning rate and decay.

    Vectors and scalars (biases, norms, gates, the temperature) and the bias tables of the windows are not decayed.

    Args:
        model: A task model (see `Grouped`).
        config: Rates, multipliers and decay.

    Returns:
        Groups for an optimiser, with `name` (such as "cross_modal") and `parameter_names` beside the usual keys.
    """
    cross_modal: set[str] = model.cross_modal_parameter_names()  # type: ignore[operator]
    heads: set[str] = model.head_parameter_names()  # type: ignore[operator]
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
        decays = parameter.ndim > 1 and not name.endswith("relative_position_bias_table")
        if config.original_decay and _decayed_by_oversight(name):
            decays = True
        group = groups.setdefault(
            (kind, decays),
            {
                "name": kind,
                "params": [],
                "parameter_names": [],
                "lr": config.learning_rate * multipliers[kind],
                "weight_decay": config.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["parameter_names"].append(name)
    return list(groups.values())


def _decayed_by_oversight(name: str) -> bool:
    image_query_norm = ".image_stream.cross_attention." in name and name.endswith(".norm.weight")
    return name.endswith((".gate", ".temperature")) or image_query_norm


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    return torch.optim.AdamW(parameter_groups(model, config), betas=config.betas, eps=config.eps)


def build_scheduler(optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int) -> LambdaLR:
    """Linear warm-up from zero, then the chosen course down to zero at `max_steps`; stepped once an optimiser step."""
    return LambdaLR(optimizer, learning_rate_factor(config, max_steps))


def learning_rate_factor(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """The learning rate of a step over its peak."""
    warmup = int(config.warmup * max_steps) if config.warmup < 1 else int(config.warmup)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        progress = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        if config.schedule == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0 - progress if config.schedule == "linear" else 1.0

    return factor
