"""A training run from its configuration: build everything, go on from a checkpoint if there is one, train, evaluate."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fiber_backbone import LoadReport
from fiber_heads import TaskModel
from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger
from omegaconf import OmegaConf
from safetensors.torch import load_file

from fiber_train.build import build_model
from fiber_train.checkpoint import find_checkpoints, load_training_state, replace_folder, save_checkpoint
from fiber_train.config import TrainConfig, TrainerConfig, to_yaml
from fiber_train.data import Processor, TrainingData, build_processor, build_training_data, endless
from fiber_train.data_check import read_samples
from fiber_train.ema import WeightAverage
from fiber_train.evaluation import EVALUATION_FILE, Evaluation, write_json
from fiber_train.loop import Loop
from fiber_train.optim import build_optimizer, build_scheduler
from fiber_train.tasks.base import WAYS_OUT, Samples, Task, check_monitor, make_task
from fiber_train.tasks.find import write_task
from fiber_train.tracking import Tracker, tracking

# What may change between the parts of a run without changing its numbers.
FREE_SETTINGS = (
    "out",
    "data.root",
    "data.num_workers",
    "model.gradient_checkpointing",
    "model.trusted",
    "task.monitor",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.threads",
    "trainer.log_every",
    "trainer.eval_every",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.tensorboard",
)


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
            task's reader gives, for instance `fiber_data.MappedSamples` over a data set of Hugging Face.
        callbacks: Objects with any of the hooks of `Callback`.
        loggers: Loggers of Lightning Fabric, which get all numbers that `metrics.csv` gets.

    Returns:
        The final evaluation, or None if the run was asked to stop before its last step.

    Raises:
        ValueError: The folder holds a run of another configuration; the message names what differs. Or, before the
            first step: the samples have nothing to learn from, held-out ids repeat or are missing, or the measure that
            keeps the best cannot be taken.
        FileNotFoundError: Data or weights are missing.
        NonFiniteLossError: Training diverged.
    """
    made = make_task(config, task, samples)
    with _threads(config.trainer.threads):
        return _train(made, build_fabric(made, callbacks, loggers))


def build_fabric(task: Task[Any], callbacks: Sequence[Any] = (), loggers: Sequence[Logger] = ()) -> Fabric:
    """Devices, processes and precision, launched."""
    trainer = task.config.trainer
    strategy = trainer.strategy
    if strategy == "auto" and trainer.devices * trainer.num_nodes > 1 and task.needs_unused_parameters():
        strategy = "ddp_find_unused_parameters_true"
    fabric = Fabric(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=strategy,
        precision=trainer.precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        loggers=list(loggers),
    )
    fabric.launch()
    return fabric


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

    def write_model(self, folder: Path) -> None:
        """The model, its processor and its task's settings."""
        self.model.save_pretrained(folder)
        write_task(self.task, folder)


def _build(task: Task[Any], fabric: Fabric, checkpoint: Path | None) -> _Run:
    """Everything, at the point that a checkpoint reached."""
    config = task.config
    samples, held_out = read_samples(task, fabric)
    task.check_training(samples)
    check_monitor(task, task.check(held_out))
    processor = build_processor(config, task.make_processor, task.texts(samples), fabric)
    torch.manual_seed(config.trainer.seed)
    model, report = build_model(task, samples, processor)
    model.processor = processor
    if checkpoint is not None:
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    dataset = task.make_dataset(samples, task.make_transform(processor, True), True, model)
    collate = task.make_collator(processor, True)
    data = build_training_data(config, dataset, fabric, collate, task.sampling_groups(dataset))
    trainer = _with_steps(config.trainer, data)
    optimizer = build_optimizer(model, config.optim)
    scheduler = build_scheduler(optimizer, config.optim, trainer.max_steps)
    task.prepare_training(model, samples, processor)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    optim = config.optim
    average = None if optim.ema_decay is None else WeightAverage(model, optim.ema_decay)
    loop = Loop(fabric, wrapped, wrapped_optimizer, scheduler, data.sampler, trainer, optim.max_norm, average)
    if checkpoint is not None:
        loop.load_state_dict(load_training_state(checkpoint))
    return _Run(task, model, processor, data, held_out, loop, report)


def _train(task: Task[Any], fabric: Fabric) -> Evaluation | None:
    config, out = task.config, Path(task.config.out)
    checkpoints = find_checkpoints(out)
    if fabric.is_global_zero:
        _claim_folder(out, config, bool(checkpoints))
    run = _build(task, fabric, checkpoints[-1] if checkpoints else None)
    loop, trainer = run.loop, run.loop.config
    if run.report is not None and not checkpoints and fabric.is_global_zero:
        sys.stderr.write(f"weights to start from: {run.report}\n")

    def save() -> None:
        if fabric.is_global_zero:
            folder = save_checkpoint(out, loop.step, run.write_model, loop.state_dict(), trainer.keep_checkpoints)
            fabric.call("on_checkpoint", step=loop.step, folder=folder)
        fabric.barrier()

    def evaluate() -> Evaluation:
        with loop.averaged():
            found = task.measure(loop.model, run.held_out, run.processor, fabric)
            if fabric.is_global_zero:
                keep_best(out, task.keeps_best_by, found, loop.step, run.write_model)
        fabric.barrier()
        fabric.call("on_evaluation_end", step=loop.step, evaluation=found)
        return found

    also = fabric.log_dict if fabric.loggers else None
    tracker = Tracker(out, loop.step, trainer.max_steps, fabric.is_global_zero, trainer.tensorboard, also)
    with tracking(tracker):
        if checkpoints:
            tracker.say(f"going on from {checkpoints[-1]}")
        fabric.call("on_train_start", loop=loop, model=run.model)
        results = evaluate() if loop.run(endless(run.data, fabric), tracker, save, evaluate) else None
        if results is not None:
            tracker.log(loop.step, {f"eval/{name}": value for name, value in results.numbers().items()})
    if results is not None and fabric.is_global_zero:
        with loop.averaged():
            replace_folder(out / "model", run.write_model)
        write_json(out / EVALUATION_FILE, results.to_json())
    fabric.barrier()
    fabric.call("on_train_end", step=loop.step, evaluation=results)
    return results


def _with_steps(trainer: TrainerConfig, data: TrainingData) -> TrainerConfig:
    """The same with all numbers of steps known."""
    steps = trainer.max_steps
    if trainer.max_epochs is not None:
        steps = trainer.max_epochs * data.steps_of_epoch(trainer.accumulate)
    every = trainer.eval_every
    return replace(trainer, max_steps=steps, eval_every=max(1, round(every * steps)) if 0 < every < 1 else int(every))


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


def _claim_folder(out: Path, config: TrainConfig, resuming: bool) -> None:
    """Writes the configuration, or checks that a run to go on with has the same."""
    path = out / "config.yaml"
    if resuming and path.is_file():
        old, new = _flat(OmegaConf.to_container(OmegaConf.load(path))), _flat(asdict(config))
        differing = [
            f"{key} (was {old.get(key)!r}, is {value!r})"
            for key, value in new.items()
            if not key.startswith(FREE_SETTINGS) and old.get(key) != value
        ]
        if differing:
            raise ValueError(
                f"{out} holds a run with other settings: {', '.join(differing[:4])}; choose another out, or go on from "
                "its weights with model.checkpoint"
            )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(to_yaml(config), encoding="utf-8")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return leaves


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
