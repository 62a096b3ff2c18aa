"""The optimiser's groups and the learning rate's course (the original's, `spec` in the recipes)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Protocol

import torch
from fiber_heads.grounding.model import FiberForGrounding
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from fiber_train.config import OptimConfig


class Grouped(Protocol):
    """A task model that tells its parameters apart."""

    def cross_modal_parameter_names(self) -> set[str]:
        """Those that bring the streams together."""

    def head_parameter_names(self) -> set[str]:
        """Those of heads that start from nothing."""


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Takes parts of a model out of training.

    Args:
        model: Its parameters below the prefixes need no gradients afterwards.
        prefixes: Names of modules or parameters, such as "backbone.image_stream.patch_embed".

    Raises:
        ValueError: A prefix names nothing; the message gives the nearest name.
    """
    parameters = dict(model.named_parameters())
    for prefix in prefixes:
        found = [value for name, value in parameters.items() if f"{name}.".startswith(f"{prefix}.")]
        if not found:
            names = [
                *(
                    name
                    for name, module in model.named_modules()
                    if name and next(module.parameters(), None) is not None
                ),
                *parameters,
            ]
            near = get_close_matches(prefix, names, n=1, cutoff=0)[0]
            raise ValueError(f"optim.frozen: the model has no part {prefix!r}; did you mean {near!r}?")
        for parameter in found:
            parameter.requires_grad_(False)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Splits the trainable parameters by learning rate and decay.

    Vectors and scalars (biases, norms, gates, the temperature) and the bias tables of the windows are not decayed.

    Args:
        model: A task model (see `Grouped`).
        config: Rates, multipliers and decay.

    Returns:
        Groups for an optimiser, with `name` and `parameter_names` beside the usual keys. A name is such as
        "cross_modal", and, where their multipliers are not 1, "language_cross_modal" or "cross_modal_bias".
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
        rate = config.learning_rate * multipliers[kind]
        if config.language_multiplier != 1 and name.startswith("backbone.text_stream."):
            kind, rate = f"language_{kind}", rate * config.language_multiplier
        if config.bias_multiplier != 1 and _is_bias(name):
            kind, rate = f"{kind}_bias", rate * config.bias_multiplier
        decays = parameter.ndim > 1 and not _is_bias(name)
        if config.original_decay and _decayed_by_oversight(model, name):
            decays = True
        group = groups.setdefault(
            (kind, decays),
            {
                "name": kind,
                "params": [],
                "parameter_names": [],
                "lr": rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
        group["parameter_names"].append(name)
    return list(groups.values())


def _is_bias(name: str) -> bool:
    """Biases, the bias tables of the windows, and the offsets of a detector's scores."""
    return "bias" in name.rpartition(".")[2]


def _decayed_by_oversight(model: nn.Module, name: str) -> bool:
    if isinstance(model, FiberForGrounding):  # the original's detector decays whatever is not called a bias
        return not _is_bias(name)
    image_query_norm = ".image_stream.cross_attention." in name and name.endswith(".norm.weight")
    return name.endswith((".gate", ".temperature")) or image_query_norm


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, without the parts of the model that are frozen."""
    freeze(model, config.frozen)
    return torch.optim.AdamW(parameter_groups(model, config), betas=config.betas, eps=config.eps)


class Schedule(LambdaLR):
    """The course of the learning rates, and of the weight decay if that has one; stepped once an optimiser step.

    Args:
        optimizer: Its groups are changed.
        rate: The learning rate of a step over its peak.
        decay: The weight decay of a step over its first; by default it stays.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        decay: Callable[[int], float] | None = None,
    ) -> None:
        self._decay = decay
        super().__init__(optimizer, rate)

    def step(self, epoch: int | None = None) -> None:
        """Sets the rates and decays of the next optimiser step."""
        super().step(epoch)
        if self._decay is not None:
            for group in self.optimizer.param_groups:
                first = group.setdefault("initial_weight_decay", group["weight_decay"])
                group["weight_decay"] = first * self._decay(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """How far it is; the course itself comes from the configuration."""
        return {name: value for name, value in super().state_dict().items() if name != "_decay"}


def build_scheduler(optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int) -> Schedule:
    """Linear warm-up, then the chosen course until `max_steps`; stepped once an optimiser step."""
    decays = config.decay_milestone_ratio is not None
    decay = weight_decay_factor(config, max_steps) if decays else None
    return Schedule(optimizer, learning_rate_factor(config, max_steps), decay)


def learning_rate_factor(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """The learning rate of a step over its peak."""
    warmup = int(config.warmup * max_steps) if config.warmup < 1 else int(config.warmup)
    milestones = _milestone_steps(config, max_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return config.warmup_start + (1 - config.warmup_start) * (step / warmup)
        progress = min(1.0, (step - warmup) / max(1, max_steps - warmup))
        if config.schedule == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        if config.schedule == "step":
            return config.milestone_factor ** sum(step >= milestone for milestone in milestones)
        return 1.0 - progress if config.schedule == "linear" else 1.0

    return factor


def weight_decay_factor(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """The weight decay of a step over its first: it falls with the learning rate, but before it."""
    ratio = 1.0 if config.decay_milestone_ratio is None else config.decay_milestone_ratio
    milestones = [ratio * milestone for milestone in _milestone_steps(config, max_steps)]
    return lambda step: config.milestone_factor ** sum(step >= milestone for milestone in milestones)


def _milestone_steps(config: OptimConfig, max_steps: int) -> list[int]:
    return [round(share * max_steps) for share in config.milestones]
