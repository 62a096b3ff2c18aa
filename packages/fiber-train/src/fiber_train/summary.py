"""What a run is, before it begins: machine, model, data, steps and rates in lines, and what is probably a mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from fiber_backbone import LoadReport
from fiber_heads import TaskModel

from fiber_train.config import DataConfig, OptimConfig, TrainConfig, TrainerConfig, as_share
from fiber_train.coverage import SAMPLED_TEXTS, judge_tokenizer
from fiber_train.data import TrainingData
from fiber_train.machine import describe_machine, installed_versions
from fiber_train.memory import count_held, in_bytes, moments_of
from fiber_train.mixture import SourceSamples, describe_epoch
from fiber_train.schedule import warmup_steps
from fiber_train.stopping import say
from fiber_train.tasks.base import Task
from fiber_train.writing import write_file

SUMMARY_FILE = "summary.txt"
LARGE_MODEL = 100_000_000  # parameters, which no small data set teaches from random weights
LARGE_IMAGE = 384  # pixels of a side, at which a step on a CPU takes minutes
ROUGH = 20  # held-out samples, below which a measure is a matter of luck
_MOST_PARTS = 6  # in a line


@dataclass
class Summary:
    """A run in lines for people.

    Attributes:
        lines: Each `WHAT: ...`.
        warnings: A sentence for each setting that is probably a mistake.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self.lines, *(f"warning: {each}" for each in self.warnings)])

    def tell(self, folder: Path | None = None) -> None:
        """Prints it, and writes it to the run's folder."""
        say(str(self))
        if folder is not None:
            write_file(folder / SUMMARY_FILE, f"{self}\n")


def summarize(
    task: Task[Any],
    model: TaskModel,
    processor: Any,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    samples: Any,
    held_out: Any,
    *,
    trainer: TrainerConfig,
    sampling: Mapping[str, Any],
    report: LoadReport | None,
    device: torch.device,
) -> Summary:
    """What a run was built of.

    Args:
        task: The run's.
        model: Not wrapped by Fabric.
        processor: Its processor.
        optimizer: With the scheduler's `initial_lr` in its groups.
        data: Its training data.
        samples: What these are of.
        held_out: The samples to measure on.
        trainer: With all numbers of steps known.
        sampling: The options of the training data's sampler.
        report: What became of the weights to start from, if there are any.
        device: Of the process.
    """
    config = task.config
    classes = None if isinstance(samples, SourceSamples) else task.classes(model, samples)
    lines = [
        _device_line(trainer, device),
        f"machine: {describe_machine()}",
        f"versions: {installed_versions()}",
        *_model_lines(model, config, processor, report),
        f"data to learn from: {_count(samples)} of {config.data.train_split}",
        *filter(None, [describe_epoch(task, sampling)]),
        f"data to measure on: {_count(held_out)} {_origin(config.data)}",
        *([str(classes)] if classes is not None else []),
        _step_line(trainer, data),
        _rate_line(optimizer, config.optim, trainer.max_steps),
        _memory_line(model, config.optim),
    ]
    warnings = [
        *_model_warnings(model, report, processor, device),
        *_warmup_warnings(config.optim, trainer.max_steps),
        *_held_out_warnings(task, held_out),
        *_text_warnings(task, samples, processor),
        *(classes.warnings() if classes is not None else []),
    ]
    return Summary(lines, warnings)


def _device_line(trainer: TrainerConfig, device: torch.device) -> str:
    number = trainer.devices * trainer.num_nodes
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = f" of {_plural(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    machines = f" on {trainer.num_nodes} machines" if trainer.num_nodes > 1 else ""
    return f"device: {name}, {_plural(number, 'process')}{threads}{machines}, precision {trainer.precision}"


def _model_lines(model: TaskModel, config: TrainConfig, processor: Any, report: LoadReport | None) -> Iterator[str]:
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    frozen = f"{trained:,} trained, {total - trained:,} frozen" if trained < total else "all trained"
    where = f" at {side} px" if (side := _side(processor)) else ""
    yield f"model: {type(model).__name__}{where}, {total:,} parameters, {frozen}"
    if report is None:
        yield "weights to start from: none, all are random"
        return
    origin = config.model.checkpoint or f"{config.model.image_weights} and {config.model.text_weights}"
    fresh = Counter(".".join(name.split(".")[: 2 if name.startswith("backbone.") else 1]) for name in report.fresh)
    parts = [f"{count} of {name}" for name, count in fresh.most_common(_MOST_PARTS)]
    more = ", ..." if len(fresh) > _MOST_PARTS else ""
    yield f"weights to start from: {origin}: {report}" + (f"; fresh are {', '.join(parts)}{more}" if parts else "")


def _side(processor: Any) -> int | None:
    """The side of the images in pixels, the shorter one where they keep their shape."""
    return getattr(processor, "image_size", None) or getattr(processor, "shorter", None)


def _count(samples: Any) -> str:
    """Numbers of samples, by source or file where there are several."""
    parts = getattr(samples, "parts", None)
    if isinstance(parts, Mapping):
        if len(parts) == 1:
            ((name, part),) = parts.items()
            return f"{_count(part)} ({name})"
        return ", ".join(f"{_count(part)} ({name})" for name, part in parts.items())
    try:
        return _plural(len(samples), "sample")
    except TypeError:  # a stream of somebody's
        return "samples"


def _origin(data: DataConfig) -> str:
    """Where what is measured on comes from."""
    if as_share(data.eval_split) is None:
        return f"of {data.eval_split}"
    return f"held out of {data.train_split}, by ids alone (data.eval_split={data.eval_split})"


def _step_line(trainer: TrainerConfig, data: TrainingData) -> str:
    epoch, number = data.steps_of_epoch(), trainer.devices * trainer.num_nodes
    local = trainer.batch_size // (number * trainer.accumulate)
    return (
        f"steps: {trainer.max_steps:,}, {trainer.max_steps / epoch:.3g} epochs of {epoch:,}; {trainer.batch_size:,} "
        f"samples a step: {_plural(number, 'process')} x {_plural(trainer.accumulate, 'part')} x {local:,}"
    )


def _rate_line(optimizer: torch.optim.Optimizer, optim: OptimConfig, max_steps: int) -> str:
    rates: dict[str, tuple[float, int]] = {}
    for group in optimizer.param_groups:
        rate, size = group.get("initial_lr", group["lr"]), sum(value.numel() for value in group["params"])
        rates[group["name"]] = (rate, rates.get(group["name"], (rate, 0))[1] + size)
    shown = ", ".join(f"{name} {rate:.3g} ({size:,} parameters)" for name, (rate, size) in rates.items())
    warmup = warmup_steps(optim, max_steps)
    return (
        f"rates: {shown}; {optim.schedule} after {_plural(warmup, 'step')} of warm-up; weight decay "
        f"{optim.weight_decay:g}"
    )


def _memory_line(model: TaskModel, optim: OptimConfig) -> str:
    held = count_held(model, moments=moments_of(optim), average=optim.ema_decay is not None)
    kept = "weights, gradients, optimizer and average" if held.average else "weights, gradients and optimizer"
    return f"memory: {in_bytes(held.total)} of each process for {kept}; activations come on top"


def _model_warnings(model: TaskModel, report: LoadReport | None, processor: Any, device: torch.device) -> Iterator[str]:
    total, side = sum(value.numel() for value in model.parameters()), _side(processor)
    if report is None and total >= LARGE_MODEL:
        yield (
            f"the model has {total / 1e6:.0f} million parameters and starts from random weights, which takes millions "
            "of images; set model.checkpoint, or model.image_weights and model.text_weights"
        )
    if device.type == "cpu" and side is not None and side >= LARGE_IMAGE:
        yield (
            f"images of {side} px on a CPU: a step of a large model takes minutes; use an accelerator, or a smaller "
            "model.image_size (of boxes task.shorter)"
        )


def _warmup_warnings(optim: OptimConfig, max_steps: int) -> Iterator[str]:
    if optim.warmup > max_steps:
        yield (
            f"optim.warmup is {optim.warmup:,.0f} steps but the run has {max_steps:,}: the warm-up is cut to "
            f"{warmup_steps(optim, max_steps):,} of them; set optim.warmup to a number below, or a share such as 0.1"
        )


def _held_out_warnings(task: Task[Any], held_out: Any) -> Iterator[str]:
    """On a share that is too small to tell runs apart."""
    share, parts = as_share(task.config.data.eval_split), task.parts(held_out)
    if share is not None and 0 < (count := sum(map(len, parts.values()))) < ROUGH:
        yield (
            f"{_plural(count, 'sample')} to measure on: what is measured is rough, and which weights are best is a "
            "matter of luck; hold out more by a larger data.eval_split, or give the folder a split for it"
        )


def _text_warnings(task: Task[Any], samples: Any, processor: Any) -> Iterator[str]:
    """On the first texts of each source."""
    parts = samples.parts.values() if isinstance(samples, SourceSamples) else [samples]
    texts = [text for part in parts for text in islice(task.texts(part), SAMPLED_TEXTS)]
    yield from judge_tokenizer(processor.tokenizer, texts, processor.max_length)


def _plural(number: int, word: str) -> str:
    ending = "" if number == 1 else "es" if word.endswith("s") else "s"
    return f"{number:,} {word}{ending}"
