"""How to train: a schedule by import path, a callback and a logger from Python."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fiber_train import Callback, Evaluation
from lightning_fabric.loggers import Logger


def inverse_square_root(step: int, max_steps: int, *, flat: int = 1) -> float:
    """The rate's share at a step: 1 for `flat` steps, then 1 / sqrt (Vaswani et al. 2017, section 5.3).

    `optim.schedule=visual_entailment.training:inverse_square_root optim.schedule_options.flat=100`
    """
    return (flat / max(step, flat)) ** 0.5


class Steps(Callback):
    """Remembers what the loop told: `train(config, callbacks=[Steps()])`."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.evaluations: list[Evaluation] = []

    def on_step_end(self, *, values: Mapping[str, Any], **_: Any) -> None:
        """Keeps the loss."""
        self.losses.append(float(values["loss"]))

    def on_evaluation_end(self, *, evaluation: Evaluation, **_: Any) -> None:
        """Keeps the numbers."""
        self.evaluations.append(evaluation)


class MemoryLogger(Logger):
    """Keeps numbers in a dictionary, as a service on the net would: `train(config, loggers=[MemoryLogger()])`."""

    def __init__(self) -> None:
        self.numbers: dict[int, dict[str, float]] = {}

    @property
    def name(self) -> str:
        """Of the logger."""
        return "memory"

    @property
    def version(self) -> int:
        """Of the run."""
        return 0

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Not kept."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keeps numbers of a step."""
        self.numbers.setdefault(step or 0, {}).update(metrics)
