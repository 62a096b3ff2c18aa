"""What processes tell each other: gathers and means, none of which carries a gradient.

With one process every function gives back what it was given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of processes; 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(tensor: Tensor) -> Tensor:
    """The rows (B, ...) of all processes in the order of their ranks, without gradient; B must be alike in all."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_by_id(found: dict[Any, Any]) -> dict[Any, Any]:
    """The predictions of all processes by sample id; of a sample that several saw, the lowest rank's."""
    if world_size() == 1:
        return found
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, found)
    return {name: value for part in reversed(parts) for name, value in part.items()}
