"""The course of the learning rates over the steps (the original's)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from fiber_backbone.seams import load_object
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from fiber_train.config import OptimConfig


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
        self._set_rates()
        self._set_decays()

    def _set_rates(self) -> None:
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)

    def _set_decays(self) -> None:
        if self._decay is not None:
            for group in self.optimizer.param_groups:
                first = group.setdefault("initial_weight_decay", group["weight_decay"])
                group["weight_decay"] = first * self._decay(self.last_epoch)


class PlateauSchedule(Schedule):
    """Warm-up, then the rates fall whenever a measure gains no more, by torch's `ReduceLROnPlateau`.

    Args:
        optimizer: Its groups are changed.
        config: The warm-up, and `plateau`.
        max_steps: Of the run, for a warm-up that is a share of them.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int) -> None:
        self._plateau = config.plateau
        # One rate of 1 stands for all groups, whose own rates the warm-up and this share of them give.
        self._share = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._judge: ReduceLROnPlateau | None = None
        super().__init__(optimizer, with_warmup(config, max_steps, lambda step: self._share.param_groups[0]["lr"]))

    def note(self, value: float, higher_is_better: bool) -> None:
        """An evaluation measured this value; the rates of the next step follow."""
        if self._judge is None:
            self._judge = self._make_judge("max" if higher_is_better else "min")
        self._judge.step(value)
        self._set_rates()

    def _make_judge(self, mode: Literal["min", "max"]) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(self._share, mode, self._plateau.factor, self._plateau.patience)

    def state_dict(self) -> dict[str, Any]:
        """How far it is, and what the evaluations so far were."""
        own = {"_plateau", "_share", "_judge"}
        state = {name: value for name, value in super().state_dict().items() if name not in own}
        judge = None if self._judge is None else self._judge.state_dict()
        return {**state, "share": self._share.param_groups[0]["lr"], "judge": judge}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        state = dict(state_dict)
        self._share.param_groups[0]["lr"], judge = state.pop("share"), state.pop("judge")
        if judge is not None:
            self._judge = self._make_judge(judge["mode"])
            self._judge.load_state_dict(judge)
        super().load_state_dict(state)


def build_scheduler(optimizer: torch.optim.Optimizer, config: OptimConfig, max_steps: int) -> LRScheduler:
    """Linear warm-up, then the chosen course until `max_steps`; stepped once an optimizer step.

    Raises:
        ValueError: There is no such schedule, or it does not take the options.
    """
    if config.schedule == "plateau":
        return PlateauSchedule(optimizer, config, max_steps)
    if not config.schedule.isidentifier():
        make = load_object(config.schedule)
        if make is ReduceLROnPlateau:
            raise ValueError("optim.schedule: write plateau for torch's ReduceLROnPlateau, with optim.plateau.patience")
        if isinstance(make, type) and issubclass(make, LRScheduler):
            try:
                return make(optimizer, **config.schedule_options)
            except TypeError as error:
                raise ValueError(f"optim.schedule_options do not fit {config.schedule}: {error}") from error
    decay = None if config.decay_milestone_ratio is None else weight_decay_factor(config, max_steps)
    return Schedule(optimizer, learning_rate_factor(config, max_steps), decay)


def learning_rate_factor(config: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """The learning rate of a step over its peak."""
    return with_warmup(config, max_steps, _course(config, warmup_steps(config, max_steps), max_steps))


def with_warmup(config: OptimConfig, max_steps: int, course: Callable[[int], float]) -> Callable[[int], float]:
    """Linear warm-up to the peak, then a course that gives the rate of a step over it."""
    warmup = warmup_steps(config, max_steps)

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
