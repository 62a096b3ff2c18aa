"""A model whose weights lie in pieces on several processes: torch's `fully_shard` (FSDP2), stream by stream and block.

Between steps a process has its piece of every parameter, of its gradient and of what the optimizer keeps (`DTensor`).
The blocks of both streams are units: a block's weights are whole while it computes, and again in its backward pass. The
embeddings, the fusion's layers and the heads are one more unit, whole from the beginning of the forward pass to the end
of the backward pass.

Outside the forward pass weights are in pieces. `whole` brings them together for as long as something works with them
process by process, such as an evaluation, whose batches differ in number.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from fiber_heads.task import TaskModel


def shard(model: TaskModel, mesh: DeviceMesh) -> None:
    """Takes a model apart, in place. The optimizer is made afterwards, over the pieces.

    Args:
        model: The same on all processes.
        mesh: One dimension: pieces on all its processes. Two: on those of the second, repeated along the first (HSDP).

    Raises:
        ValueError: The model cannot be trained in pieces.
    """
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # none is changed in place
    model.prepare_sharding()
    model.scalars = frozenset(name for name, value in model.named_parameters() if value.ndim == 0)
    for name in model.scalars:  # `fully_shard` takes none; all that is computed with them is the same for one element
        owner = model.get_submodule(name.rpartition(".")[0])
        value: nn.Parameter = getattr(owner, name.rpartition(".")[2])
        setattr(owner, name.rpartition(".")[2], nn.Parameter(value.detach().reshape(1), value.requires_grad))
    for stream in (model.backbone.image_stream, model.backbone.text_stream):
        for unit in stream.units():
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
            cast(Any, unit).around = MethodType(_call, unit)
            register_fsdp_forward_method(unit, "around")
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    cast(Any, model)._get_fsdp_state()._lazy_init()  # else a block that is computed first would count as the root


def _call(unit: nn.Module, function: Any, *arguments: Any) -> Any:
    return function(unit, *arguments)


def local(tensor: Tensor) -> Tensor:
    """The piece of this process, which shares its memory; of other tensors they themselves."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor; all processes have to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def whole(*modules: nn.Module) -> Iterator[None]:
    """Inside, each process has all weights and computes by itself; gradients are not to be taken across the border.

    Args:
        modules: Sharded ones or others, of which nothing is asked. All processes have to enter.
    """
    units = [each for module in modules for each in module.modules() if isinstance(each, FSDPModule)]
    groups = [group for unit in units for group in _groups(unit)]
    order = len(groups[0].comm_ctx.post_forward_order) if groups else 0
    try:
        for unit in units:
            unit.reshard()  # what a forward pass without a backward pass left may be out of date
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(hasattr(unit, "around"), recurse=False)
            unit.reshard()
        for group in groups:  # backward passes fetch weights ahead in this order, which must be that of all processes
            del group.comm_ctx.post_forward_order[order:]
            group._post_forward_indices[:] = [index for index in group._post_forward_indices if index < order]


def _groups(unit: FSDPModule) -> list[Any]:
    """Of parameters that are fetched together."""
    state: Any = unit._get_fsdp_state()
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]  # torch 2.9


def whole_state(model: TaskModel, *, wanted: bool = True, copy: bool = False) -> dict[str, Tensor]:
    """`state_dict` with whole tensors, those of a sharded model on the CPU; all processes have to ask for it.

    Args:
        model: Sharded or not.
        wanted: Whether this process has a use for it; otherwise it is empty.
        copy: Whether the tensors must not change when the model does: copies on the CPU.
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        full = whole_tensor(value)
        if not wanted:
            continue
        if isinstance(value, DTensor):
            full = full.cpu()
        elif copy:
            full = full.detach().to("cpu", copy=True)
        state[name] = full.reshape(()) if name in model.scalars else full
    return state


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies parameters and saved buffers into a module like it that is not sharded; inside a forward pass too."""
    own = dict(source.named_parameters()) | dict(source.named_buffers())
    for name, value in (dict(target.named_parameters()) | dict(target.named_buffers())).items():
        value.copy_(whole_tensor(own[name]).reshape(value.shape))
