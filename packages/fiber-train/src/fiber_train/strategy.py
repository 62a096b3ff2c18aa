"""How the processes of a run share its work: the names of `trainer.strategy`, and pieces of a model under Fabric."""

from __future__ import annotations

from typing import Any

import torch
from fiber_heads import TaskModel
from fiber_heads.sharding import shard, whole_tensor
from lightning_fabric.plugins import DoublePrecision, Precision
from lightning_fabric.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

PIECES = ("fsdp", "hsdp")


def make_strategy(name: str, precision: str, *, several: bool, unused: bool) -> str | Strategy:
    """What Fabric calls, or is given as, a strategy.

    Args:
        name: "fsdp": each process has a piece of all that training keeps; "hsdp": each process of a host, and
            every host the same; or a name of Fabric's.
        precision: Of Fabric.
        several: Whether there are several processes.
        unused: Whether some parameters take no part in a step.
    """
    if name in PIECES:
        return Sharded(DoublePrecision() if precision == "64-true" else None, by_host=name == "hsdp")
    if several and unused and name in ("auto", "ddp", "ddp_spawn", "ddp_fork"):
        return f"{name.replace('auto', 'ddp')}_find_unused_parameters_true"
    return name


class Sharded(ModelParallelStrategy):
    """FSDP2 by `fiber_heads.sharding.shard`; model and optimizer are set up one after the other.

    Args:
        precision: One that Fabric does not give with this strategy by its name.
        by_host: Whether the processes of each host keep all of the model between them.
    """

    def __init__(self, precision: Precision | None = None, *, by_host: bool = False) -> None:
        super().__init__(parallelize_fn=self._shard)
        self._precision = precision
        self._by_host = by_host

    def _shard(self, model: TaskModel, mesh: DeviceMesh) -> TaskModel:
        shard(model, mesh if self._by_host else init_device_mesh(mesh.device_type, (mesh.size(),)))
        return model

    def clip_gradients_norm(
        self,
        module: torch.nn.Module,
        optimizer: Optimizer,
        max_norm: float | int,
        norm_type: float | int = 2.0,
        error_if_nonfinite: bool = True,
    ) -> Tensor:
        """The norm is that of all pieces together."""
        norm: Any = super().clip_gradients_norm(module, optimizer, max_norm, norm_type, error_if_nonfinite)
        return whole_tensor(norm)
