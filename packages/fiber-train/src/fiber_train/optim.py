"""The optimizer's groups and the learning rate's course (the original's, `spec` in the recipes)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import signature
from typing import Any

import torch
from fiber_backbone.seams import load_object
from fiber_heads import TaskModel
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from fiber_train.config import OptimConfig


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


def build_optimizer(model: TaskModel, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`, without the parts of the model that are frozen.

    Raises:
        ValueError: There is no such optimizer, or it does not take the options.
    """
    freeze(model, config.frozen)
    make = load_object(config.optimizer)
    known = {"betas": config.betas, "eps": config.eps}
    own = {name: value for name, value in known.items() if name in signature(make).parameters}
    try:
        return make(parameter_groups(model, config), **{**own, **config.options})
    except TypeError as error:
        raise ValueError(f"optim.options do not fit {config.optimizer}: {error}") from error


class Schedule(LambdaLR):
    """The course of the learning rates, and of the weight decay if that has one; stepped once an optimizer step.

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
        """Sets the rates and decays of the next optimizer step."""
        super().step(epoch)
        self._set_decays()

    def state_dict(self) -> dict[str, Any]:
        """How far it is; the course itself comes from the configuration."""
        return {name: value for name, value in super().state_dict().items() if name != "_decay"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from `state_dict`, at the rates and decays that this course has there: it may have become longer."""
        super().load_state_dict(state_dict)
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)
        self._set_decays()

    def _set_decays(self) -> None:
        if self._decay is not None:
            for group in self.optimizer.param_groups:
                first = group.setdefault("initial_weight_decay", group["weight_decay"])
                group["weight_decay"] = first * self._decay(self.last_epoch)


def build_scheduler(optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int) -> LRScheduler:
    """Linear warm-up, then the chosen course until `max_steps`; stepped once an optimizer step.

    Raises:
        ValueError: There is no such schedule, or it does not take the options.
    """
    if not config.schedule.isidentifier():
        make = load_object(config.schedule)
        if isinstance(make, type) and issubclass(make, LRScheduler):
            try:
                return make(optimizer, **config.schedule_options)
            except TypeError as error:
                raise ValueError(f"optim.schedule_options do not fit {config.schedule}: {error}") from error
    decay = None if config.decay_milestone_ratio is None else weight_decay_factor(config, max_steps)
    return Schedule(optimizer, learning_rate_factor(config, max_steps), decay)


def learning_rate_factor(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """The learning rate of a step over its peak."""
    warmup = warmup_steps(config, max_steps)
    course = _course(config, warmup, max_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return config.warmup_start + (1 - config.warmup_start) * (step / warmup)
        return course(step)

    return factor


def warmup_steps(config: OptimConfig, max_steps: int) -> int:
    """Steps of warm-up; a tenth of the run where more were asked for than it has, which would never reach the peak."""
    steps = int(config.warmup * max_steps) if config.warmup < 1 else int(config.warmup)
    return steps if steps <= max_steps else max_steps // 10


def _course(config: OptimConfig, warmup: int, max_steps: int) -> Callable[[int], float]:
    """What follows the warm-up."""

    def progress(step: int) -> float:
        return min(1.0, (step - warmup) / max(1, max_steps - warmup))

    milestones = _milestone_steps(config, max_steps)
    match config.schedule:
        case "constant":
            return lambda step: 1.0
        case "linear":
            return lambda step: 1.0 - progress(step)
        case "cosine":
            return lambda step: (1 + math.cos(math.pi * progress(step))) / 2
        case "step":
            return lambda step: config.milestone_factor ** sum(step >= milestone for milestone in milestones)
    return partial(load_object(config.schedule), max_steps=max_steps, **config.schedule_options)


def weight_decay_factor(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """The weight decay of a step over its first: it falls with the learning rate, but before it."""
    ratio = 1.0 if config.decay_milestone_ratio is None else config.decay_milestone_ratio
    milestones = [ratio * milestone for milestone in _milestone_steps(config, max_steps)]
    return lambda step: config.milestone_factor ** sum(step >= milestone for milestone in milestones)


def _milestone_steps(config: OptimConfig, max_steps: int) -> list[int]:
    return [round(share * max_steps) for share in config.milestones]
