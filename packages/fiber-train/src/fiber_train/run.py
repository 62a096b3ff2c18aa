"""A training run from its configuration: build everything, go on from a checkpoint if there is one, train, evaluate."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from fiber_heads import TaskModel
from fiber_heads.sharding import whole, whole_state
from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger
from lightning_fabric.utilities.rank_zero import rank_zero_only
from safetensors.torch import load_file

from fiber_train.best import keep_best
from fiber_train.build import build_model
from fiber_train.card import run_card, write_card
from fiber_train.checkpoint import find_checkpoints, load_training_state
from fiber_train.config import TrainConfig, TrainerConfig
from fiber_train.data import Processor, TrainingData, build_processor, build_training_data, endless
from fiber_train.data_check import read_samples
from fiber_train.divergence import NonFiniteLossError
from fiber_train.ema import WeightAverage
from fiber_train.evaluation import EVALUATION_FILE, Evaluation, write_json, write_predictions
from fiber_train.final_test import measure_test, task_of_test
from fiber_train.launch import build_fabric
from fiber_train.loggers import load_loggers, tell_settings
from fiber_train.loop import Loop
from fiber_train.lora import add_adapters, merged
from fiber_train.memory import estimate_run
from fiber_train.mixture import check_training, make_training_set, read_held_out, texts
from fiber_train.optim import build_optimizer, freeze
from fiber_train.peers import ending_together
from fiber_train.profiling import Profile, parse_steps
from fiber_train.progress import Progress
from fiber_train.run_folder import claimed, flat, on_first
from fiber_train.saving import Saver, saving
from fiber_train.schedule import PlateauSchedule, build_scheduler
from fiber_train.source_losses import SourceLosses
from fiber_train.stopping import Stopped, StopRequest, say, stopping
from fiber_train.summary import Summary, summarize
from fiber_train.tasks.base import Samples, Task, check_monitor, make_task
from fiber_train.tasks.find import write_task
from fiber_train.throughput import Throughput
from fiber_train.tracking import Tracker, read_metrics, tracking
from fiber_train.unreadable import Unreadable
from fiber_train.writing import Content, replace_folder


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
            own = load_loggers(config.trainer.loggers)
            profiles = [Profile(parse_steps(steps), Path(config.out))] if (steps := config.trainer.profile) else []
            fabric = build_fabric(made, [*callbacks, *profiles], [*loggers, *own], stop)
            with ending_together(fabric, stop):
                return _train(made, fabric, stop)
        except Stopped:
            stop.leave()
            found = find_checkpoints(config.out)
            rank_zero_only(say)(f"stopped; the same command goes on from {found[-1] if found else 'the beginning'}")
            return None


def dry_run(
    config: TrainConfig,
    *,
    task: type[Task[Any]] | Task[Any] | None = None,
    samples: Samples | None = None,
) -> Summary:
    """Builds all that `train` would begin with, and estimates a step's memory, without writing to `config.out`.

    In one process, which computes two small batches for the estimate.

    Args:
        config: As of `train`, like the others.
        task: As there.
        samples: As there.

    Returns:
        What the run would tell at its start.

    Raises:
        ValueError: As of `train`, before its first step.
        FileNotFoundError: Data or weights are missing.
    """
    with tempfile.TemporaryDirectory() as folder, _threads(config.trainer.threads):
        made = make_task(replace(config, out=folder), task, samples)
        build_fabric(made, launch=False)  # says what this machine does not have
        alone = copy(made)
        alone.config = replace(made.config, trainer=replace(config.trainer, devices=1, num_nodes=1, strategy="auto"))
        fabric = build_fabric(alone)
        run = _build(made, fabric, None)
        run.summary.lines.append(f"memory of a step: {estimate_run(made, run.model, run.data, run.processor, fabric)}")
        return run.summary


@dataclass
class _Run:
    """What a run is built of."""

    task: Task[Any]
    model: TaskModel
    processor: Processor
    data: TrainingData
    held_out: Any
    loop: Loop
    summary: Summary

    def model_writer(self, *, copy: bool = False) -> Callable[[Path], None]:
        """What fills a folder with the model as it is now, its processor and its task's settings, on the first process.

        Args:
            copy: Whether it may be called when the model is no longer as it is now.
        """
        with merged(self.model):
            weights = whole_state(self.model, wanted=self.loop.fabric.is_global_zero, copy=copy)

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder, state_dict=weights)
            write_task(self.task, folder)

        return write

    def measured_writer(self, found: Evaluation) -> Callable[[Path], None]:
        """The same with a card that holds the numbers of these weights."""
        write_model = self.model_writer()

        def write(folder: Path) -> None:
            write_model(folder)
            write_card(folder, run_card(self.task, self.model, found, self.loop.step))

        return write

    def keep_predictions(self, files: Mapping[str, Content]) -> None:
        """Writes those of the newest evaluation to the run's folder."""
        if self.loop.fabric.is_global_zero:
            target = Path(self.task.config.out) / "predictions"
            replace_folder(target, partial(write_predictions, files), "predictions")


def _read(task: Task[Any], fabric: Fabric) -> tuple[Any, Any]:
    """The samples to learn from and to measure on, checked, as those of the test are."""
    samples, held_out = read_samples(task, fabric)
    check_training(task, samples)
    check_monitor(task, task.check(held_out))
    if (own := task_of_test(task)) is not None:
        own.check(read_held_out(own))
    return samples, held_out


def _build(task: Task[Any], fabric: Fabric, checkpoint: Path | None) -> _Run:
    """Everything, at the point that a checkpoint reached."""
    config = task.config
    samples, held_out = _read(task, fabric)
    processor = build_processor(config, task.make_processor, texts(task, samples), fabric)
    torch.manual_seed(config.trainer.seed)
    model, report = build_model(task, samples, processor)
    model.processor = processor
    if checkpoint is not None:
        weights = load_file(checkpoint / "model.safetensors")
        if weights[next(model.named_parameters())[0]].dtype == torch.float64:
            model.double()  # else they would pass float32
        model.load_state_dict(weights)
    if config.optim.lora is not None:
        add_adapters(model, config.optim.lora)
    dataset, sampling = make_training_set(task, samples, processor, model)
    data = build_training_data(config, dataset, fabric, task.make_collator(processor, True), sampling)
    trainer = _with_steps(config.trainer, data)
    task.prepare_training(model, samples, processor)
    freeze(model, config.optim.frozen)  # before DDP takes note of what learns
    wrapped = fabric.setup_module(model)
    # Of the weights' pieces, if they were taken apart.
    optimizer = build_optimizer(model, config.optim, precision=trainer.precision)
    scheduler = build_scheduler(optimizer, config.optim, trainer.max_steps)
    told: dict[str, Any] = {"trainer": trainer, "sampling": sampling, "report": report, "device": fabric.device}
    summary = summarize(task, model, processor, optimizer, data, samples, held_out, **told)
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
        Progress(task.keeps_best_by, trainer.patience, scheduler if isinstance(scheduler, PlateauSchedule) else None),
        Throughput.of(trainer, fabric.device),
    )
    if checkpoint is not None:
        loop.load_state_dict(load_training_state(checkpoint, loop.pieces))
        if loop.step > trainer.max_steps:
            raise ValueError(
                f"{config.out} has done {loop.step} steps already, trainer.max_steps is {trainer.max_steps}; "
                "give at least as many, or choose another out"
            )
    return _Run(task, model, processor, data, held_out, loop, summary)


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
    if fabric.is_global_zero:
        run.summary.tell(out)
        tell_settings(fabric.loggers, flat(asdict(task.config)))

    def save() -> None:
        if fabric.is_global_zero:
            tracker.sync()
        saver.save(loop.step, run.model_writer(copy=saver.background), loop.state_dict())

    def evaluate() -> Evaluation:
        with loop.averaged():
            with whole(run.model):
                found = task.measure(loop.model, run.held_out, run.processor, fabric, keep=run.keep_predictions)
            saver.wait()  # nothing is on disk of an evaluation that would not be made up for
            write_model = run.measured_writer(found)
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
                if (results := loop.progress.last) is None:
                    with stop.at_once():
                        results = evaluate()
                    tracker.log(loop.step, {f"eval/{name}": value for name, value in results.numbers().items()})
            else:
                tracker.say(f"stopped after step {loop.step}; the same command goes on from there")
    except Stopped:
        fabric.call("on_train_end", step=loop.step, evaluation=None)
        raise
    if results is not None:
        _finish(run, results, out, stop)
    fabric.call("on_train_end", step=loop.step, evaluation=results)
    return results


def _finish(run: _Run, results: Evaluation, out: Path, stop: StopRequest) -> None:
    """Writes the finished model and its numbers, and measures the best one on the split of the test."""
    with run.loop.averaged(), stop.deferred():
        write_model = run.measured_writer(results)
        if run.loop.fabric.is_global_zero:
            replace_folder(out / "model", write_model)
            write_json(out / EVALUATION_FILE, results.to_json())
    run.loop.fabric.barrier()
    with stop.at_once():
        measure_test(run.task, run.loop.fabric)


def _owes_evaluation(out: Path, loop: Loop) -> bool:
    """Whether the evaluation after the steps of the checkpoint is to be made, once more if later steps follow from it.

    It may have been cut off where nothing was logged after it.
    """
    every, steps = loop.config.eval_every, loop.config.max_steps
    due = loop.step == steps or (every > 0 and loop.step > 0 and loop.step % every == 0)
    return due and (loop.progress.matters or all(step <= loop.step for step, _, _ in read_metrics(out)))


def _with_steps(trainer: TrainerConfig, data: TrainingData) -> TrainerConfig:
    """The same with all numbers of steps known."""
    steps = trainer.max_steps
    if trainer.max_epochs is not None:
        steps = trainer.max_epochs * data.steps_of_epoch()
    every = trainer.eval_every
    return replace(trainer, max_steps=steps, eval_every=max(1, round(every * steps)) if 0 < every < 1 else int(every))


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
