"""A model in pieces on several processes takes the steps of one process: losses, gradients and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fiber_heads.sharding import copy_weights, local, shard, whole, whole_state, whole_tensor
from fiber_heads.task import TaskModel
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from .test_global_batch import MODELS, SIZE, assert_equal, coarse, global_batch, rows

CASES = {
    2: [("coarse", 1), ("coarse", 2), ("contrast", 2), ("gold", 2), ("fine", 1)],
    4: [("coarse", 2), ("cider", 1)],
}


def step(model: Any, batch: dict[str, Any], own: slice, parts: int, is_syncing: bool) -> dict[str, Tensor]:
    """The losses of one step of this process's share; gradients stay in the model."""
    size = (own.stop - own.start) // parts
    passes = model.passes([rows(batch, slice(start, start + size)) for start in range(own.start, own.stop, size)])
    values: dict[str, Tensor] = {}
    for number, each in enumerate(passes):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(is_syncing or number + 1 == len(passes))
        output = model(**each)
        if output.loss.requires_grad:
            (output.loss / parts).backward()
        for name, value in output.losses.items():
            values[name] = values.get(name, 0) + value.detach() / parts
    return values


def two_steps(model: TaskModel, kind: str, rank: int, world: int, parts: int, is_syncing: bool = False) -> list[Tensor]:
    """Losses of two steps, gradients of the second, weights after it."""
    share = SIZE // world
    own, found = slice(rank * share, (rank + 1) * share), []
    if kind == "coarse":
        with torch.no_grad():
            local(model.contrastive_head.temperature).fill_(3.0)  # out of its range
    for backwards in (False, True):
        batch = global_batch(kind)
        if backwards:
            batch = {name: value[::-1] if isinstance(value, list) else value.flip(0) for name, value in batch.items()}
        model.zero_grad()
        values = torch.stack([value.double() for value in step(model, batch, own, parts, is_syncing).values()])
        if world > 1:
            dist.all_reduce(values)
        found.append(values / world)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    local(parameter).sub_(local(parameter.grad), alpha=0.01)
    found += [
        torch.zeros(each.shape) if each.grad is None else whole_tensor(each.grad).clone() for each in model.parameters()
    ]
    return found + [each.detach() for each in whole_state(model, copy=True).values()]


def member(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}", rank=rank, world_size=world)
    found = {}
    for kind, parts in CASES[world]:
        model = MODELS[kind]()
        if (world, kind, parts) == (2, "coarse", 1):
            model.set_gradient_checkpointing()
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("repeat", "piece")) if kind == "cider" and world == 4 else init_device_mesh("cpu", (world,))  # fmt: skip
        shard(model, mesh)
        assert sum(local(each).numel() for each in model.parameters()) < 0.75 * sum(
            map(Tensor.numel, model.parameters())
        )
        if kind == "coarse" and world == 2:
            found["alone", parts] = each_for_itself(model.eval(), rank)
            model.train()
        found[kind, parts] = two_steps(model, kind, rank, world, parts, is_syncing=kind == "coarse" and world == 4)
    if rank == 0:
        torch.save(found, Path(folder) / f"{world}.pt")
    dist.destroy_process_group()


def each_for_itself(model: TaskModel, rank: int) -> list[Tensor]:
    """Unlike numbers of batches: the losses of this process, and those of a model with the same weights."""
    other, batch = coarse().eval(), rows(global_batch("coarse"), slice(0, 2))
    copy_weights(model, other)
    with whole(model), torch.no_grad():
        losses = [model(**batch).loss for _ in range(2 - 2 * rank)]  # the second process has none
        return [other(**batch).loss, *losses]


@pytest.fixture(scope="module")
def one() -> dict[str, list[Tensor]]:
    """What one process finds; made first, so that processes that are forked have imported everything."""
    return {kind: two_steps(MODELS[kind](), kind, 0, 1, 1) for kind in ("coarse", "contrast", "gold", "cider", "fine")}


@pytest.fixture(scope="module", params=CASES)
def by_processes(
    one: dict, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, dict]:
    folder = tmp_path_factory.mktemp("processes")
    mp.start_processes(member, (request.param, str(folder)), nprocs=request.param, start_method="fork")
    return request.param, torch.load(folder / f"{request.param}.pt")


def flat(found: Sequence[Tensor]) -> list[Tensor]:
    return [each.reshape(-1) for each in found]


def test_pieces_take_the_steps_of_one_process(by_processes: tuple[int, dict], one: dict) -> None:
    _, found = by_processes
    for (kind, _), values in found.items():
        if kind == "alone":
            assert torch.equal(values[0], values[1])
            assert torch.equal(values[0], values[2])
        else:
            assert_equal(flat(values), flat(one[kind]))


def test_a_queue_of_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"queue_inputs='float32' cannot be trained in pieces .* or train with ddp"):
        shard(MODELS["coarse with a queue"](), None)  # type: ignore[arg-type]
