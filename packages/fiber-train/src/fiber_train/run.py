"""A training run from its configuration: build everything, go on from a checkpoint if there is one, train, evaluate."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from fiber_backbone import LoadReport
from fiber_heads import TaskModel
from fiber_heads.sharding import whole, whole_state
from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from safetensors.torch import load_file

from fiber_train.build import build_model
from fiber_train.checkpoint import find_checkpoints, load_training_state
from fiber_train.config import OptimConfig, TrainConfig, TrainerConfig
from fiber_train.data import Processor, TrainingData, build_processor, build_training_data, endless
from fiber_train.data_check import read_samples
from fiber_train.divergence import NonFiniteLossError
from fiber_train.ema import WeightAverage
from fiber_train.evaluation import EVALUATION_FILE, Evaluation, write_json, write_predictions
from fiber_train.loop import Loop
from fiber_train.mixture import check_training, describe_epoch, make_training_set, texts
from fiber_train.optim import build_optimizer, build_scheduler, freeze, warmup_steps
from fiber_train.run_folder import claimed, on_first
from fiber_train.saving import Saver, saving
from fiber_train.source_losses import SourceLosses
from fiber_train.stopping import Stopped, StopRequest, say, stopping
from fiber_train.strategy import make_strategy
from fiber_train.tasks.base import WAYS_OUT, Samples, Task, check_monitor, make_task
from fiber_train.tasks.find import write_task
from fiber_train.tracking import Tracker, read_metrics, tracking
from fiber_train.unreadable import Unreadable
from fiber_train.writing import replace_folder

FIRST_PROCESS = "FIBER_FIRST_PROCESS"  # its id, in the environment of those that it starts


def train(
    config: TrainConfig,
    *,
    task: type[Task[Any]] | Task[Any] | None = None,
    samples: Samples | None = None,
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Logger] = (),
) -> Evaluation | None:
    """Trains a task; the same call goes on where an earlier one stopped.

    Args:
        config: The run. `config.out` receives `config.yaml`, `metrics.csv`, `data_check.json` (what was wrong with the
            annotation files), `checkpoints/`, `best/` (the best weights by the task's measure, with their evaluation
            and predictions), and at the end `model/` and `evaluation.json`.
        task: A task of your own, in place of the one that `config.task.name` names.
        samples: By split, or a function of the split, in place of the files below `config.data.root`: such as the
            task's reader gives, for instance `fiber_data.MappedSamples` over a data set of Hugging Face. Where
            there are `config.data.sources`, those to learn from by their names.
        callbacks: Objects with any of the hooks of `Callback`.
        loggers: Loggers of Lightning Fabric, which get all numbers that `metrics.csv` gets.

    Returns:
        The final evaluation, or None if the run was asked to stop before its last step.

    Raises:
        ValueError: The folder holds a run of another configuration; the message names what differs. Or, before the
            first step: the samples have nothing to learn from, held-out ids repeat or are missing, or the measure that
            keeps the best cannot be taken.
        FileNotFoundError: Data or weights are missing.
        NonFiniteLossError: Training diverged; the message names the last good checkpoint.
        UnreadableError: More training samples cannot be read than `data.max_unreadable` says; a checkpoint was written.
        WriteError: The disk is full, or the like; the last checkpoint stays.
    """
    with stopping() as stop, _threads(config.trainer.threads):
        try:
            made = make_task(config, task, samples)
            fabric = build_fabric(made, callbacks, loggers, stop)
            return _train(made, fabric, stop)
        except Stopped:
            stop.leave()
            found = find_checkpoints(config.out)
            rank_zero_only(say)(f"stopped; the same command goes on from {found[-1] if found else 'the beginning'}")
            return None


def build_fabric(
    task: Task[Any],
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Logger] = (),
    stop: StopRequest | None = None,
) -> Fabric:
    """Devices, processes and precision, launched; processes launched here are told of `stop`, and tell of theirs."""
    trainer = task.config.trainer
    several = trainer.devices * trainer.num_nodes > 1
    unused = several and task.needs_unused_parameters()
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=make_strategy(trainer.strategy, trainer.precision, several=several, unused=unused),
            precision=trainer.precision,  # type: ignore[arg-type]
            callbacks=list(callbacks),
            loggers=list(loggers),
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator}, devices={trainer.devices}, strategy={trainer.strategy}, "
            f"precision={trainer.precision} cannot be had here: {error!s:.300}"
        ) from error
    if stop is not None:
        _tell_each_other(fabric, stop)
    fabric.launch()
    return fabric


def _tell_each_other(fabric: Fabric, stop: StopRequest) -> None:
    """The process that Fabric starts others from tells them that it was asked to stop, and they tell it."""
    if os.environ.get(FIRST_PROCESS) == str(os.getppid()):
        stop.peers, stop.status = [os.getppid()], 0  # with another status, Fabric would kill the first process
    elif (launcher := getattr(fabric.strategy, "launcher", None)) is not None:
        stop.launched = getattr(launcher, "procs", [])
        os.environ[FIRST_PROCESS] = str(os.getpid())


@dataclass
class _Run:
    """What a run is built of."""

    task: Task[Any]
    model: TaskModel
    processor: Processor
    data: TrainingData
    held_out: Any
    loop: Loop
    report: LoadReport | None

    def model_writer(self, *, copy: bool = False) -> Callable[[Path], None]:
        """What fills a folder with the model as it is now, its processor and its task's settings, on the first process.

        Args:
            copy: Whether it may be called when the model is no longer as it is now.
        """
        weights = whole_state(self.model, wanted=self.loop.fabric.is_global_zero, copy=copy)

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder, state_dict=weights)
            write_task(self.task, folder)

        return write

    def write_results(self, found: Evaluation) -> None:
        """The finished model and its evaluation; all processes call it."""
        out = Path(self.task.config.out)
        with self.loop.averaged():
            write_model = self.model_writer()
            if self.loop.fabric.is_global_zero:
                replace_folder(out / "model", write_model)
                write_json(out / EVALUATION_FILE, found.to_json())

    def keep_predictions(self, files: Mapping[str, str | bytes]) -> None:
        """Writes those of the newest evaluation to the run's folder."""
        if self.loop.fabric.is_global_zero:
            target = Path(self.task.config.out) / "predictions"
            replace_folder(target, partial(write_predictions, files), "predictions")


def _build(task: Task[Any], fabric: Fabric, checkpoint: Path | None) -> _Run:
    """Everything, at the point that a checkpoint reached."""
    config = task.config
    samples, held_out = read_samples(task, fabric)
    check_training(task, samples)
    check_monitor(task, task.check(held_out))
    processor = build_processor(config, task.make_processor, texts(task, samples), fabric)
    torch.manual_seed(config.trainer.seed)
    model, report = build_model(task, samples, processor)
    model.processor = processor
    if checkpoint is not None:
        weights = load_file(checkpoint / "model.safetensors")
        if weights[next(model.named_parameters())[0]].dtype == torch.float64:
            model.double()  # else they would pass float32
        model.load_state_dict(weights)
    dataset, sampling = make_training_set(task, samples, processor, model)
    data = build_training_data(config, dataset, fabric, task.make_collator(processor, True), sampling)
    trainer = _with_steps(config.trainer, data)
    if fabric.is_global_zero:
        if epoch := describe_epoch(task, sampling):
            say(epoch)
        _tell_warmup(config.optim, trainer.max_steps)
    task.prepare_training(model, samples, processor)
    freeze(model, config.optim.frozen)  # before DDP takes note of what learns
    wrapped = fabric.setup_module(model)
    optimizer = build_optimizer(model, config.optim)  # of the weights' pieces, if they were taken apart
    scheduler = build_scheduler(optimizer, config.optim, trainer.max_steps)
    wrapped_optimizer = cast(torch.optim.Optimizer, fabric.setup_optimizers(optimizer))
    optim = config.optim
    average = None if optim.ema_decay is None else WeightAverage(model, optim.ema_decay)
    loop = Loop(
        fabric,
        wrapped,
        wrapped_optimizer,
        scheduler,
        data.sampler,
        trainer,
        optim.max_norm,
        average,
        Unreadable(config.data.max_unreadable),
        SourceLosses([source.name for source in config.data.sources]),
    )
    if checkpoint is not None:
        loop.load_state_dict(load_training_state(checkpoint, loop.pieces))
        if loop.step > trainer.max_steps:
            raise ValueError(
                f"{config.out} has done {loop.step} steps already, trainer.max_steps is {trainer.max_steps}; "
                "give at least as many, or choose another out"
            )
    return _Run(task, model, processor, data, held_out, loop, report)


def _train(task: Task[Any], fabric: Fabric, stop: StopRequest) -> Evaluation | None:
    out = Path(task.config.out)
    with claimed(task.config, fabric) as checkpoint:
        try:
            return _train_from(checkpoint, task, fabric, stop)
        except NonFiniteLossError as error:
            before = find_checkpoints(out)
            raise NonFiniteLossError(f"{error}; {_way_out(before[-1] if before else None)}") from error
        except RuntimeError:  # of processes that wait for one that was asked to stop
            if fabric.world_size == 1 or not stop.asked:
                raise
            raise Stopped from None


def _way_out(checkpoint: Path | None) -> str:
    """Of a run that diverged."""
    mend = "try a smaller optim.learning_rate, or optim.max_norm=1"
    if checkpoint is None:
        return f"nothing was saved before; {mend}, in another out"
    return f"the last good checkpoint is {checkpoint}; {mend}, from it: model.checkpoint={checkpoint} and another out"


def _train_from(checkpoint: Path | None, task: Task[Any], fabric: Fabric, stop: StopRequest) -> Evaluation | None:
    out = Path(task.config.out)
    run = _build(task, fabric, checkpoint)
    loop, trainer, background = run.loop, run.loop.config, run.loop.config.async_checkpoints
    announce = partial(fabric.call, "on_checkpoint")
    if run.report is not None and checkpoint is None and fabric.is_global_zero:
        say(f"weights to start from: {run.report}")

    def save() -> None:
        if fabric.is_global_zero:
            tracker.sync()
        saver.save(loop.step, run.model_writer(copy=saver.background), loop.state_dict())

    def evaluate() -> Evaluation:
        with loop.averaged():
            with whole(run.model):
                found = task.measure(loop.model, run.held_out, run.processor, fabric, keep=run.keep_predictions)
            saver.wait()  # nothing is on disk of an evaluation that would not be made up for
            write_model = run.model_writer()
            if fabric.is_global_zero:
                keep_best(out, task.keeps_best_by, found, loop.step, write_model)
        fabric.barrier()
        fabric.call("on_evaluation_end", step=loop.step, evaluation=found)
        return found

    owed = checkpoint is not None and on_first(fabric, lambda: _owes_evaluation(out, loop))
    also = fabric.log_dict if fabric.loggers else None
    tracker = Tracker(out, loop.step, trainer.max_steps, fabric.is_global_zero, owed, trainer.tensorboard, also)
    results = None
    try:
        with tracking(tracker), saving(Saver(out, trainer.keep_checkpoints, announce, background)) as saver:
            if checkpoint is not None:
                tracker.say(f"going on from {checkpoint}")
            fabric.call("on_train_start", loop=loop, model=run.model)
            batches = endless(run.data, fabric, run.processor)
            if loop.run(batches, tracker, save, evaluate, owed and loop.step < trainer.max_steps):
                with stop.at_once():
                    results = evaluate()
                tracker.log(loop.step, {f"eval/{name}": value for name, value in results.numbers().items()})
            else:
                tracker.say(f"stopped after step {loop.step}; the same command goes on from there")
    except Stopped:
        fabric.call("on_train_end", step=loop.step, evaluation=None)
        raise
    if results is not None:
        with stop.deferred():
            run.write_results(results)
    fabric.barrier()
    fabric.call("on_train_end", step=loop.step, evaluation=results)
    return results


def _owes_evaluation(out: Path, loop: Loop) -> bool:
    """Whether the evaluation after the steps of the checkpoint may have been cut off: nothing was logged after it."""
    every, steps = loop.config.eval_every, loop.config.max_steps
    due = loop.step == steps or (every > 0 and loop.step > 0 and loop.step % every == 0)
    return due and all(step <= loop.step for step, _, _ in read_metrics(out))


def _with_steps(trainer: TrainerConfig, data: TrainingData) -> TrainerConfig:
    """The same with all numbers of steps known."""
    steps = trainer.max_steps
    if trainer.max_epochs is not None:
        steps = trainer.max_epochs * data.steps_of_epoch()
    every = trainer.eval_every
    return replace(trainer, max_steps=steps, eval_every=max(1, round(every * steps)) if 0 < every < 1 else int(every))


def _tell_warmup(optim: OptimConfig, max_steps: int) -> None:
    if optim.warmup > max_steps:
        say(
            f"optim.warmup is {optim.warmup:,.0f} steps but the run has {max_steps:,}: the warm-up is cut to "
            f"{warmup_steps(optim, max_steps):,} of them; set optim.warmup to a number below, or a share such as 0.1"
        )


def keep_best(
    out: Path, monitor: str | None, found: Evaluation, step: int, write_model: Callable[[Path], None]
) -> None:
    """Writes `best/`, weights, numbers and predictions, if these are the best so far by the measure `monitor`.

    A value that is not finite is never the best. Without a monitor nothing is kept.

    Raises:
        ValueError: The evaluation has no such measure.
    """
    if monitor is None:
        return
    if monitor not in found:
        raise ValueError(
            f"task.monitor: the evaluation has no measure {monitor!r} to keep the best by; it has {found.names()}; set "
            f"{WAYS_OUT}"
        )
    measure, path = found.find(monitor), out / "best" / EVALUATION_FILE
    if not math.isfinite(measure.value):
        warnings.warn(f"{monitor} is {measure.value} after step {step}, which is never kept as the best", stacklevel=2)
        return
    old = Evaluation.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Evaluation()
    if monitor in old:  # else it was kept by another
        best = old[monitor]
        if best >= measure.value if measure.higher_is_better else best <= measure.value:
            return

    def write(folder: Path) -> None:
        write_model(folder)
        found.write_predictions(folder)
        write_json(folder / EVALUATION_FILE, {"step": step, **found.to_json()})

    replace_folder(out / "best", write)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
