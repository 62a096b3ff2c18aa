"""The training loop: iterate, accumulate, clip, step, schedule, log, checkpoint, evaluate, stop.

A step is of the global batch, however many processes and accumulated parts share it: the model says by which passes
(`TaskModel.passes`).

Every random draw of a step comes from (seed, step, rank), so that a resumed run needs no generator's state and equals
the uninterrupted one. A checkpoint is written before every evaluation, so that one that was cut off is made up for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from fiber_data import EpochSampler, derive_seed
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric
from torch import Tensor
from torch import distributed as dist

from fiber_train.config import TrainerConfig
from fiber_train.divergence import NonFiniteLossError, find_nan_output, find_nonfinite
from fiber_train.ema import WeightAverage
from fiber_train.evaluation import Evaluation
from fiber_train.lora import adapter_state, load_adapter_state
from fiber_train.progress import Progress
from fiber_train.source_losses import SourceLosses
from fiber_train.stopping import Stopped, StopRequest, stopping
from fiber_train.throughput import Throughput
from fiber_train.tracking import WAITING, Tracker
from fiber_train.unreadable import Unreadable, UnreadableError


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
        unreadable: Training samples that others were taken for, and how many may be.
        source_losses: Losses of each data set of several.
        progress: Of the monitored measure, which may end the run.
        throughput: How fast the steps are, if that is watched.
        step: Optimizer steps done, those among them that a scaler of float16 skipped.
        skipped: How many these are; they have no `gradient_norm`.
        skipped_unlogged: Those since the last time that losses were logged.
        sums: Of losses and metrics over the steps since the last time that they were logged, on the device.
        counted: These steps.
        waited: Seconds of this process since then in which it waited for data.
        elapsed: Seconds of its steps, evaluations and checkpoints left out.
    """

    fabric: Fabric
    model: Any
    optimizer: Any
    scheduler: torch.optim.lr_scheduler.LRScheduler
    sampler: EpochSampler
    config: TrainerConfig
    max_norm: float | None = None
    average: WeightAverage | None = None
    unreadable: Unreadable = field(default_factory=Unreadable)
    source_losses: SourceLosses = field(default_factory=SourceLosses)
    progress: Progress = field(default_factory=Progress)
    throughput: Throughput | None = None
    step: int = 0
    skipped: int = 0
    skipped_unlogged: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    counted: int = 0
    waited: float = 0.0
    elapsed: float = 0.0

    def run(
        self,
        batches: Iterator[dict[str, Any]],
        tracker: Tracker,
        save: Callable[[], None],
        evaluate: Callable[[], Evaluation],
        owed: bool = False,
    ) -> bool:
        """Trains until `max_steps`, until evaluations gain no more, or until asked to stop.

        Args:
            batches: Endless batches on the device.
            tracker: Where numbers go.
            save: Writes a checkpoint of `step`.
            evaluate: Measures the model; called every `eval_every` steps.
            owed: Whether the evaluation after the steps already done is still to be made.

        Returns:
            Whether all steps are done, or no more are wanted.

        Raises:
            NonFiniteLossError: Training diverged; the checkpoints before that are whole.
            UnreadableError: More of the training samples cannot be read than may be; a checkpoint was written.
            Stopped: A signal came during an evaluation, or a second one.
        """
        self.model.train()
        with stopping() as stop, stop.deferred():
            agreed = _Agreement()
            if owed:
                self._evaluate(tracker, evaluate, stop)
            while self.step < self.config.max_steps and not self.progress.is_over:
                began = time.perf_counter()
                try:
                    values, ids = self._step(self._patient(batches, stop))
                except Stopped:
                    if stop.insisted:
                        raise
                    break  # while it waited for data
                except UnreadableError:
                    if self.step and self.fabric.world_size == 1:  # no step is half done
                        self._save(save)
                    raise
                self._count(values)
                self.fabric.call("on_step_end", loop=self, step=self.step, values=values, ids=ids)
                tracker.advance()
                self.elapsed += time.perf_counter() - began
                if self.throughput is not None and (told := self.throughput.advance(self.step, self.elapsed)):
                    tracker.say(told)
                last, stopped = self.step == self.config.max_steps, agreed(stop.asked or tracker.cut_off)
                evaluating = not last and bool(self.config.eval_every) and self.step % self.config.eval_every == 0
                if self.step % self.config.log_every == 0 or last:
                    self._log(tracker, ids)
                    self._judge(save)
                if stopped:
                    break
                if self.step % self.config.checkpoint_every == 0 or last or evaluating:
                    self._save(save)
                if evaluating:
                    self._evaluate(tracker, evaluate, stop)
            else:
                return True
            self._save(save)
        return False

    def _patient(self, batches: Iterator[dict[str, Any]], stop: StopRequest) -> Iterator[dict[str, Any]]:
        """The parts of one step; nothing is lost if a signal interrupts the wait for them."""
        alone = self.fabric.world_size == 1
        for _ in range(self.config.accumulate):
            began = time.perf_counter()
            with stop.at_once() if alone else nullcontext():
                batch = next(batches)
            self.waited += time.perf_counter() - began
            yield batch

    def _evaluate(self, tracker: Tracker, evaluate: Callable[[], Evaluation], stop: StopRequest) -> None:
        with stop.at_once():
            found = evaluate()
        tracker.log(self.step, {f"eval/{name}": value for name, value in found.numbers().items()})
        self.model.train()
        self.progress.note(found, self.step)
        if self.progress.is_over:
            tracker.say(f"{self.progress}; the run ends after step {self.step} of {self.config.max_steps}")

    def _step(self, batches: Iterator[dict[str, Any]]) -> tuple[dict[str, Tensor], list[Any]]:
        """One optimizer step; gives the means of its losses and metrics, on the device."""
        values: dict[str, Tensor] = {}
        parts = []
        for part in batches:
            self.unreadable.note(part)
            parts.append(part)
        if self.throughput is not None:
            self.throughput.count(self.model, parts)
        passes = self.model.module.passes(parts)
        for number, batch in enumerate(passes):
            torch.manual_seed(derive_seed(self.config.seed, self.step, number, self.fabric.global_rank))
            with self.fabric.no_backward_sync(self.model, enabled=number + 1 < len(passes)):
                with self._diagnosed(batch):
                    output = self.model(**batch)
                self.source_losses.note(batch, getattr(output, "sample_losses", None) or {})
                if output.loss.requires_grad:  # else it prepares for later passes
                    self.fabric.backward(output.loss / len(parts))
            found = {f"{name}_loss": value for name, value in output.losses.items()}
            found |= {name: value for name, value in output.metrics.items() if not name.endswith("_count")}
            for name, value in {"loss": output.loss, **found}.items():
                values[name] = values.get(name, 0) + value.detach() / len(parts)
        self.sampler.advance()
        if self.max_norm is not None:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.max_norm, error_if_nonfinite=False
            )
            assert norm is not None
            values["gradient_norm"] = norm.detach()
        if not self._update():
            values.pop("gradient_norm", None)  # which was the reason
        self.step += 1
        return values, [name for part in parts for name in part["ids"]]

    def _update(self) -> bool:
        """Moves the weights, the schedule and the average, unless a scaler of float16 skips that.

        To know whether it did costs a wait for the device, under float16 only.
        """
        scaler = self._scaler
        scale = 0.0 if scaler is None else scaler.get_scale()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if scaler is not None and scaler.get_scale() < scale:
            self.skipped += 1
            self.skipped_unlogged += 1
            return False
        self.scheduler.step()
        if self.average is not None:
            self.average.update()
        return True

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """What keeps the gradients of float16 from vanishing, and skips steps in which they overflow."""
        return getattr(self.fabric.strategy.precision, "scaler", None)

    @contextmanager
    def _diagnosed(self, batch: dict[str, Any]) -> Iterator[None]:
        """Where the forward pass fails because training diverged, such as at an index made of NaN, that is said."""
        try:
            yield
        except Exception as failure:
            alone, model = self.fabric.world_size == 1, self.model.module
            error = self._divergence(alone=True)
            with self.fabric.autocast():
                if error is None and alone and (name := find_nan_output(model, batch)) is not None:
                    error = NonFiniteLossError(f"in step {self.step + 1} the output of {name} is not finite")
            if error is None:
                raise
            raise error from failure

    def _count(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.float()
        self.counted += 1

    def _means(self, alone: bool = False) -> dict[str, float]:
        """Brings the means since the last time to the host, the only wait for the device in a run of steps."""
        names = list(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        if not alone:
            sums = cast(Tensor, self.fabric.all_reduce(sums))
            self.sums = dict(zip(names, sums.unbind(), strict=True))
        means = dict(zip(names, (sums / self.counted).tolist(), strict=True))
        if self.skipped_unlogged and "gradient_norm" in means:
            means["gradient_norm"] *= self.counted / (self.counted - self.skipped_unlogged)
        return means

    def _log(self, tracker: Tracker, ids: list[Any]) -> None:
        began = time.perf_counter()
        values = self._means()
        self.elapsed += time.perf_counter() - began  # of the device, which is behind
        if error := self._nonfinite(values, f"; the last batch held {ids[:8]}"):
            raise error
        self.sums, self.counted, self.skipped_unlogged = {}, 0, 0
        values |= self.source_losses.take(self.fabric)
        self.unreadable.settle(self.fabric)
        if self.unreadable.replaced:
            values["unreadable"] = self.unreadable.replaced
        if self.skipped:
            values["skipped_steps"] = self.skipped
        rates = {f"learning_rate/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        waiting = {WAITING: self.waited / self.elapsed}
        if self.throughput is not None:
            waiting |= self.throughput.numbers(self.elapsed)
        self.waited = self.elapsed = 0.0
        tracker.log(self.step, {f"train/{name}": value for name, value in values.items()} | rates | waiting)

    def _judge(self, save: Callable[[], None]) -> None:
        """Ends a run of which too many samples cannot be read, on all processes at once."""
        if (error := self.unreadable.judge()) is not None:
            self._save(save)
            raise error if self.fabric.is_global_zero else SystemExit(0)

    def _save(self, save: Callable[[], None]) -> None:
        """A checkpoint, unless losses, weights or the optimizer's state are not finite."""
        if error := self._divergence():
            raise error
        self.unreadable.settle(self.fabric)
        self.source_losses.settle(self.fabric)
        save()

    def _divergence(self, alone: bool = False) -> NonFiniteLossError | None:
        """What of the losses since the last look and of the state to be saved is not finite, here or anywhere."""
        if self.counted and (error := self._nonfinite(self._means(alone))):
            return error
        found = find_nonfinite({"model": self.model.module.state_dict(), **self.state_dict()})
        if not alone:  # another process may have other pieces
            found = list(gather_by_id(dict.fromkeys(found)))
        if not found:
            return None
        return NonFiniteLossError(
            f"after step {self.step} {len(found)} tensors of weights and optimizer are not finite (first: {found[0]})"
        )

    def _nonfinite(self, values: dict[str, float], note: str = "") -> NonFiniteLossError | None:
        """Of means since the last time that they were logged."""
        checked = (value for name, value in values.items() if "loss" in name or name == "gradient_norm")
        if all(map(math.isfinite, checked)):
            return None
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        steps = f"steps {self.step - self.counted + 1} to {self.step}"
        return NonFiniteLossError(f"a loss or gradient is not finite in {steps} ({shown}){note}")

    def pieces(self, path: tuple[str | int, ...]) -> Tensor | None:
        """The parameter that a tensor of `state_dict` belongs to, found there by the keys `path`."""
        match path:
            case ("optimizer", "state", int(index), _):
                return [each for group in self.optimizer.param_groups for each in group["params"]][index]
            case ("average", str(name)) if self.average is not None:
                return self.average.state_dict().get(name)
        return None

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the averaged weights inside, if the run keeps an average."""
        return nullcontext() if self.average is None else self.average.applied()

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, schedule, position in the data, step, and what is kept beside the model's weights."""
        return {
            "step": self.step,
            "skipped": (self.skipped, self.skipped_unlogged),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "sampler": self.sampler.state_dict(),
            "model": self.model.module.training_state(),
            "lora": adapter_state(self.model.module),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "sums": self.sums,
            "counted": self.counted,
            "unreadable": self.unreadable.state_dict(),
            "source_losses": self.source_losses.state_dict(),
            "progress": self.progress.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`; the weights come from the model folder beside it."""
        self.step = state["step"]
        self.skipped, self.skipped_unlogged = state.get("skipped", (0, 0))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.sampler.load_state_dict(state["sampler"])
        self.model.module.load_training_state(state["model"])
        load_adapter_state(self.model.module, state.get("lora", {}))
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state.get("precision"):  # the scale of losses in float16
            self.fabric.strategy.precision.load_state_dict(state["precision"])

        self.sums = {name: value.to(self.fabric.device) for name, value in state["sums"].items()}
        self.counted = state["counted"]
        if "unreadable" in state:
            self.unreadable.load_state_dict(state["unreadable"])
        self.source_losses.load_state_dict(state.get("source_losses", {}), self.fabric.device)
        if "progress" in state:
            self.progress.load_state_dict(state["progress"])


class _Agreement:
    """Whether any process was asked to stop: of several, a step later, so that no step waits for the others' answer."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if several else None
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, asked: bool) -> bool:
        if self._group is None:
            return asked
        answer = False
        if self._pending is not None:
            work, flag = self._pending
            work.wait()
            answer = bool(flag.item())
        flag = torch.tensor(int(asked))
        self._pending = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        return answer
