"""The training loop: iterate, accumulate, clip, step, schedule, log, evaluate, checkpoint, stop.

Every random draw of a step comes from (seed, step, rank), so that a resumed run needs no generator's state and equals
the uninterrupted one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from fiber_data import EpochSampler, derive_seed
from lightning_fabric import Fabric
from torch import Tensor

from fiber_train.config import TrainerConfig
from fiber_train.ema import WeightAverage
from fiber_train.evaluation import Evaluation
from fiber_train.tracking import Tracker


class NonFiniteLossError(FloatingPointError):
    """A loss became NaN or infinite. The message names the step, the losses and the samples."""


class StopRequest:
    """Notes SIGTERM and SIGINT, so that a run stops after a whole step, with a checkpoint.

    Outside of a main thread, where Python allows no signal handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:
                return self
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second time: at once
            raise KeyboardInterrupt
        self.asked = True


@dataclass
class Loop:
    """What a run is made of, and how far it is.

    Attributes:
        fabric: Devices and precision, and the run's callbacks.
        model: The task model, set up by Fabric: `model(**batch)` gives an output with `loss`, `losses` and `metrics`.
        optimizer: Its optimizer, set up by Fabric.
        scheduler: Stepped after every optimizer step.
        sampler: Where in the data the run is.
        config: Steps, intervals, accumulation.
        max_norm: Largest gradient norm, or None.
        average: Of the weights over the steps, to evaluate and keep in their place, or None.
        step: Optimiser steps done.
    """

    fabric: Fabric
    model: Any
    optimizer: Any
    scheduler: torch.optim.lr_scheduler.LRScheduler
    sampler: EpochSampler
    config: TrainerConfig
    max_norm: float | None = None
    average: WeightAverage | None = None
    step: int = 0

    def run(
        self,
        batches: Iterator[dict[str, Any]],
        tracker: Tracker,
        save: Callable[[], None],
        evaluate: Callable[[], Evaluation],
    ) -> bool:
        """Trains until `max_steps` or until asked to stop.

        Args:
            batches: Endless batches on the device.
            tracker: Where numbers go.
            save: Writes a checkpoint of `step`.
            evaluate: Measures the model; called every `eval_every` steps.

        Returns:
            Whether all steps are done.

        Raises:
            NonFiniteLossError: A loss is NaN or infinite; the checkpoints before it are whole.
        """
        sums: dict[str, Tensor] = {}
        counted = 0
        self.model.train()
        with StopRequest() as stop:
            while self.step < self.config.max_steps:
                values, ids = self._step(batches)
                for name, value in values.items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value
                counted += 1
                self.fabric.call("on_step_end", loop=self, step=self.step, values=values, ids=ids)
                tracker.advance()
                last, stopping = self.step == self.config.max_steps, self._agree(stop)
                saving = self.step % self.config.checkpoint_every == 0 or last or stopping
                if self.step % self.config.log_every == 0 or saving:
                    self._log(tracker, sums, counted, ids)
                    sums, counted = {}, 0
                if saving:
                    save()
                if self.config.eval_every and self.step % self.config.eval_every == 0 and not last:
                    tracker.log(self.step, {f"eval/{name}": value for name, value in evaluate().numbers().items()})
                    self.model.train()
                if stopping:
                    tracker.say(f"stopped after step {self.step}; the same command goes on from there")
                    return last
        return True

    def _step(self, batches: Iterator[dict[str, Any]]) -> tuple[dict[str, Tensor], list[Any]]:
        """One optimizer step; gives the means of its losses and metrics, on the device."""
        values: dict[str, Tensor] = {}
        ids: list[Any] = []
        for part in range(self.config.accumulate):
            batch = next(batches)
            torch.manual_seed(derive_seed(self.config.seed, self.step, part, self.fabric.global_rank))
            with self.fabric.no_backward_sync(self.model, enabled=part + 1 < self.config.accumulate):
                output = self.model(**batch)
                self.fabric.backward(output.loss / self.config.accumulate)
            self.sampler.advance()
            ids += batch["ids"]
            found = {f"{name}_loss": value for name, value in output.losses.items()}
            found |= {name: value for name, value in output.metrics.items() if not name.endswith("_count")}
            for name, value in {"loss": output.loss, **found}.items():
                values[name] = values.get(name, 0) + value.detach() / self.config.accumulate
        if self.max_norm is not None:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.max_norm, error_if_nonfinite=False
            )
            assert norm is not None
            values["gradient_norm"] = norm.detach()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        if self.average is not None:
            self.average.update()
        self.step += 1
        return values, ids

    def _log(self, tracker: Tracker, sums: dict[str, Tensor], counted: int, ids: list[Any]) -> None:
        """Brings the means since the last time to the host, the only wait for the device in a run of steps."""
        names = list(sums)
        means = self.fabric.all_reduce(torch.stack([sums[name].float() for name in names]) / counted)
        values = dict(zip(names, means.tolist(), strict=True))  # type: ignore[union-attr]
        if not all(map(_is_finite, (value for name, value in values.items() if "loss" in name))):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            raise NonFiniteLossError(
                f"a loss is not finite in steps {self.step - counted + 1} to {self.step} ({shown}); the last batch "
                f"held {ids[:8]}; try a smaller optim.learning_rate, or optim.max_norm=1, from the last checkpoint"
            )
        rates = {f"learning_rate/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        tracker.log(self.step, {f"train/{name}": value for name, value in values.items()} | rates)

    def _agree(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; several processes look only now and then, since it costs a round."""
        if self.fabric.world_size == 1:
            return stop.asked
        if self.step % self.config.log_every:
            return False
        asked = torch.tensor(float(stop.asked), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum") > 0)  # type: ignore[operator]

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the averaged weights inside, if the run keeps an average."""
        return nullcontext() if self.average is None else self.average.applied()

    def state_dict(self) -> dict[str, Any]:
        """Optimiser, schedule, position in the data, step, and what is kept beside the model's weights."""
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "sampler": self.sampler.state_dict(),
            "model": self.model.module.training_state(),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`; the weights come from the model folder beside it."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.sampler.load_state_dict(state["sampler"])
        self.model.module.load_training_state(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state.get("precision"):  # the scale of losses in float16
            self.fabric.strategy.precision.load_state_dict(state["precision"])


def _is_finite(value: float) -> bool:
    return value - value == 0.0
