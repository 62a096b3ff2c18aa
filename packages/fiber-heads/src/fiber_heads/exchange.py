"""Rows of the global batch brought to the process that wants them, and their gradients back to where they lie.

Only what was asked for travels. A hard negative of another process is its state at the cut, so that no process computes
again what another has begun: for each pair two states, whatever the number of processes. To gather the states of all
would take memory that grows with the global batch; to send inputs instead would repeat the blocks below the cut, about
two thirds of a fused forward.

    Shapes: S rows of each process (row g of the global batch is row g % S of process g // S), W rows wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, autograd
from torch import distributed as dist

from fiber_heads.distributed import all_gather, rank, world_size


class Exchange:
    """Who sends which rows to whom. With several processes the host reads the draw, to know how much to wait for.

    Args:
        wanted: (W,) int64, rows of the global batch that this process wants; as many in every process.
        size: Rows of each process (S).
    """

    def __init__(self, wanted: Tensor, size: int) -> None:
        self._several = world_size() > 1
        self._sent = wanted
        if self._several:
            asked = all_gather(wanted).view(world_size(), -1)
            owner = asked // size
            self._order = owner[rank()].argsort(stable=True)  # rows arrive by owner, of each in the order of asking
            mine = owner == rank()
            self._sent = asked[mine] - rank() * size
            received = torch.bincount(owner[rank()], minlength=world_size())
            self._num_sent, self._num_received = torch.stack([mine.sum(dim=1), received]).tolist()

    def fetch(self, local: Tensor, gradient: Tensor | None = None) -> Tensor:
        """The rows wanted (W, ...) of what every process has (S, ...).

        Args:
            local: This process's rows.
            gradient: (S, ...) where the gradients of rows are added up in the backward pass, if not through the graph.
        """
        if not self._several and gradient is None:
            return local[self._sent]
        return _Fetch.apply(local, self, gradient)

    def _take(self, local: Tensor) -> Tensor:
        rows = local[self._sent]
        if not self._several:
            return rows
        arrived = rows.new_empty(len(self._order), *rows.shape[1:])
        dist.all_to_all_single(arrived, rows.contiguous(), self._num_received, self._num_sent)
        return torch.empty_like(arrived).index_copy_(0, self._order, arrived)

    def _give_back(self, grad: Tensor, total: Tensor) -> None:
        """Adds gradients (W, ...) of the rows wanted to those (S, ...) of the processes that they are of."""
        if self._several:
            arrived = grad.new_empty(len(self._sent), *grad.shape[1:])
            dist.all_to_all_single(arrived, grad[self._order], self._num_sent, self._num_received)
            grad = arrived
        total.index_put_((self._sent,), grad, accumulate=True)  # a row may be wanted more than once


class _Fetch(autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, exchange: Exchange, gradient: Tensor | None) -> Tensor:
        ctx.exchange, ctx.gradient, ctx.shape = exchange, gradient, local.shape
        return exchange._take(local)

    @staticmethod
    @autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        total = grad.new_zeros(ctx.shape) if ctx.gradient is None else ctx.gradient
        ctx.exchange._give_back(grad, total)
        return (total if ctx.gradient is None else None), None, None
