"""How much memory a step takes, before there is a device to run out of it.

Weights, gradients, moments and the average are counted. What a step computes is measured: its forward and backward pass
are run with few samples, on whatever device the model is, and every tensor is counted while it lives, but gradients of
weights, which go at once; two counts of samples tell what each of them adds. Recomputed blocks, frozen parts and the
precision are thus in it. What is not: the memory that a device's library and its allocator take for themselves, about
1 GB on CUDA, and buffers of processes for each other.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from fiber_train.config import OptimConfig
from fiber_train.data import OnDevice, TrainingData
from fiber_train.tasks.base import Task


def in_bytes(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a process.

    Attributes:
        weights: Parameters and buffers.
        gradients: Of the parameters that learn.
        moments: The state of the optimizer.
        average: The average of the weights, if one is kept.
        fixed: What a step computes however many samples it has.
        of_sample: What each sample adds.
        samples: Of a pass: the batch over processes and parts.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    fixed: int = 0
    of_sample: int = 0
    samples: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        fixed = self.weights + self.gradients + self.moments + self.average + self.fixed
        return fixed + self.of_sample * self.samples

    def __str__(self) -> str:
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.moments}
        parts |= {"average": self.average, f"{self.samples} samples": self.fixed + self.of_sample * self.samples}
        shown = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items() if size)
        return f"about {in_bytes(self.total)} of each process ({shown})"


def estimate_memory(
    model: nn.Module,
    batches: tuple[Mapping[str, Any], Mapping[str, Any]],
    counts: tuple[int, int],
    samples: int,
    *,
    moments: int = 2,
    average: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> MemoryEstimate:
    """The memory of a training step.

    Args:
        model: A task model in training mode; `model(**batch).loss` is differentiated. Its gradients are lost.
        batches: Two, of few samples.
        counts: How many, such as 2 and 4; the second more than the first.
        samples: Of the batch that is to be known.
        moments: Tensors that the optimizer keeps for each parameter that learns: 2 of Adam.
        average: Whether an average of the weights is kept.
        autocast: Makes the context of the run's precision, such as `fabric.autocast`.

    Raises:
        ValueError: The second batch is not larger than the first.
    """
    if counts[1] <= counts[0]:
        raise ValueError(f"counts must rise, are {counts}; give a larger second batch")
    peaks = [_peak(model, batch, autocast) for batch in batches]
    of_sample = max(0, (peaks[1] - peaks[0]) // (counts[1] - counts[0]))
    held = count_held(model, moments=moments, average=average)
    return replace(held, fixed=max(0, peaks[0] - of_sample * counts[0]), of_sample=of_sample, samples=samples)


def count_held(model: nn.Module, *, moments: int = 2, average: bool = False) -> MemoryEstimate:
    """What a run holds between its steps, without any samples; arguments as of `estimate_memory`."""
    learned = sum(value.numel() * value.element_size() for value in model.parameters() if value.requires_grad)
    weights = sum(value.numel() * value.element_size() for value in (*model.parameters(), *model.buffers()))
    return MemoryEstimate(weights, learned, moments * learned, weights if average else 0)


def moments_of(optim: OptimConfig) -> int:
    """How many tensors the optimizer of a run keeps for each parameter that learns."""
    if optim.optimizer.endswith("SGD"):
        return 1 if optim.options.get("momentum") else 0
    return 2 if "Adam" in optim.optimizer else 1


def estimate_run(
    task: Task[Any], model: nn.Module, data: TrainingData, processor: Any, fabric: Fabric
) -> MemoryEstimate:
    """The memory of a step of a run in each of its processes, by its first training samples.

    Args:
        task: With the run's configuration.
        model: Its model, not wrapped by Fabric.
        data: Its training data.
        processor: Its processor.
        fabric: Where it runs.
    """
    trainer, optim = task.config.trainer, task.config.optim
    samples = trainer.batch_size // (trainer.accumulate * trainer.devices * trainer.num_nodes)
    least = 2  # which a contrast needs
    counts = (least, 2 * least)
    was_training = model.training
    model.train()
    first, second = (_first_samples(data, count, processor, fabric) for count in counts)
    try:
        return estimate_memory(
            model,
            (first, second),
            counts,
            samples,
            moments=moments_of(optim),
            average=optim.ema_decay is not None,
            autocast=fabric.autocast,
        )
    finally:
        model.train(was_training)


def _first_samples(data: TrainingData, count: int, processor: Any, fabric: Fabric) -> dict[str, Any]:
    indices = [index % len(data.loader.dataset) for index in range(count)]  # type: ignore[arg-type]
    loader: DataLoader = DataLoader(data.loader.dataset, batch_sampler=[indices], collate_fn=data.loader.collate_fn)
    return next(iter(OnDevice(loader, fabric, processor)))


def _peak(model: nn.Module, batch: Mapping[str, Any], autocast: Callable[[], AbstractContextManager[Any]]) -> int:
    """The most bytes that a step on a batch makes, the gradients of weights left out."""
    learning = [value for value in model.parameters() if value.requires_grad]
    hooks = [value.register_post_accumulate_grad_hook(_drop) for value in learning]
    try:
        with torch.random.fork_rng(), PeakMemory() as peak:
            with autocast():
                loss = model(**batch).loss
            loss.backward()
        return peak.most
    finally:
        for hook in hooks:
            hook.remove()


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors, made within it, that lived at once.

    Attributes:
        now: Bytes that live.
        most: The most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Counts the storages of what an operation gives (torch's hook)."""
        given = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if id(storage) not in given and id(storage) not in self._known:
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known[key] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)
