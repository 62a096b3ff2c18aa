"""What processes tell each other: gathers and means over the global batch, which is the batches of all of them.

With one process every function gives back what it was given, without gradient unless that is asked for. Losses are
such that their mean over the processes, which is what data-parallel training takes of their gradients, is the loss of
one process with all samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, autograd
from torch import distributed as dist

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process counts as the only one: its batch is the global batch, and it waits for no other."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world_size() -> int:
    """Number of processes; 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(tensor: Tensor, *, with_gradient: bool = False) -> Tensor:
    """The rows (B, ...) of all processes in the order of their ranks; B must be alike in all.

    Args:
        tensor: This process's rows.
        with_gradient: Whether a gradient goes back to the process that a row is of, the sum over all processes.
    """
    if world_size() == 1:
        return tensor if with_gradient else tensor.detach()
    if with_gradient:
        return _GatherWithGradient.apply(tensor)
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class _GatherWithGradient(autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.own = slice(rank() * len(tensor), (rank() + 1) * len(tensor))
        return all_gather(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own]


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def sum_over_processes(tensor: Tensor, device: torch.device) -> Tensor:
    """The sum of a tensor over all processes, told by way of their device and given back on the tensor's own."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().to(device, copy=True)
    dist.all_reduce(total)
    return total.to(tensor.device)


def max_over_processes(number: int, device: torch.device) -> int:
    """The largest of the processes' numbers, told by way of their device."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


class BatchMean:
    """The mean of what a loss is divided by, such as a number of tokens, over the parts of the global batch.

    A part is what one process computes at a time. Sums over the samples of parts, divided by this mean, have as their
    own mean over all parts the loss of the whole: sum of sums / sum of counts.

    Args:
        known: The mean, where it was taken before the forward pass; else it is taken over the processes' batches.
        parts: Of each process.
    """

    def __init__(self, known: Tensor | None = None, parts: int = 1) -> None:
        self._known, self._parts = known, parts

    @classmethod
    def over(cls, totals: Sequence[Tensor]) -> BatchMean:
        """That of what each part of this process has, and of the parts of all others, which have as many."""
        return cls(mean_over_processes(torch.stack(list(totals)).mean(dim=0)), len(totals))

    def __call__(self, own: Tensor) -> Tensor:
        """The mean, without gradient, of numbers of which this part has `own`."""
        return mean_over_processes(own) if self._known is None else self._known

    @property
    def least(self) -> float:
        """The mean of a count that is 1 in the whole global batch: what to divide by where there is nothing."""
        return 1 / (self._parts * world_size())


def gather_by_id(found: dict[Any, Any]) -> dict[Any, Any]:
    """The predictions of all processes by sample id; of a sample that several saw, the lowest rank's."""
    if world_size() == 1:
        return found
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, found)
    return {name: value for part in reversed(parts) for name, value in part.items()}
