"""How the monitored measure goes over the evaluations of a run, and what follows where it gains no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fiber_train.evaluation import Evaluation
from fiber_train.schedule import PlateauSchedule


@dataclass
class Progress:
    """The best value so far, and how many evaluations ago it was.

    Attributes:
        monitor: The measure that is followed; None if a run follows none.
        patience: Evaluations without gain after which the run ends, or None.
        schedule: What lowers the rates where there is no gain, or None.
        best: The best value so far, at which `best_step`; None before the first evaluation.
        without_gain: Evaluations since then, none of which was better.
        found: The last evaluation of this process.

    Raises:
        ValueError: There is nothing to follow.
    """

    monitor: str | None = None
    patience: int | None = None
    schedule: PlateauSchedule | None = None
    best: float | None = None
    best_step: int = 0
    without_gain: int = 0
    found: Evaluation | None = None

    def __post_init__(self) -> None:
        if self.matters and self.monitor is None:
            raise ValueError(
                "trainer.patience and optim.schedule=plateau follow the measure that keeps the best weights, and there "
                "is none; name one of the task's as task.monitor"
            )

    @property
    def matters(self) -> bool:
        """Whether later steps follow from evaluations."""
        return self.patience is not None or self.schedule is not None

    @property
    def is_over(self) -> bool:
        """Whether the run ends here."""
        return self.patience is not None and self.without_gain >= self.patience

    @property
    def last(self) -> Evaluation | None:
        """The evaluation with which the run ended, if one of this process was it."""
        return self.found if self.is_over else None

    def note(self, found: Evaluation, step: int) -> None:
        """An evaluation after so many steps, of which all processes have the same numbers.

        Raises:
            KeyError: It has no such measure.
        """
        self.found = found
        if not self.matters:
            return
        measure = found.find(self.monitor or "")
        value, best = measure.value, self.best
        gained = value == value and (best is None or (value > best if measure.higher_is_better else value < best))
        self.best, self.best_step = (value, step) if gained else (best, self.best_step)
        self.without_gain = 0 if gained else self.without_gain + 1
        if self.schedule is not None:
            self.schedule.note(value, measure.higher_is_better)

    def __str__(self) -> str:
        best = "" if self.best is None else f" (best {self.best:.4g} after step {self.best_step})"
        return f"{self.monitor} gained nothing in {self.without_gain} evaluations{best}"

    def state_dict(self) -> dict[str, Any]:
        """What evaluations so far were; the schedule's part is its own."""
        return {"best": self.best, "best_step": self.best_step, "without_gain": self.without_gain}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.best, self.best_step, self.without_gain = state["best"], state["best_step"], state["without_gain"]
