"""What two processes tell each other, and what one tells itself."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fiber_heads.distributed import all_gather, gather_by_id, mean_over_processes, rank, world_size


def talk(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    own = {"both": number, f"only {number}": number}
    rows = all_gather(torch.full((2, 1), float(number), requires_grad=True))
    mean = mean_over_processes(torch.tensor([1.0, 10.0 * number], requires_grad=True))
    found = (rank(), world_size(), rows, mean, gather_by_id(own))
    torch.save(found, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


def test_two_processes_hear_each_other(tmp_path: Path) -> None:
    mp.start_processes(talk, (str(tmp_path),), nprocs=2, start_method="fork")  # imports nothing again
    for number in range(2):
        own, count, rows, mean, found = torch.load(tmp_path / f"{number}.pt")
        assert (own, count) == (number, 2)
        assert rows.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
        assert mean.tolist() == [1.0, 5.0]
        assert not rows.requires_grad
        assert not mean.requires_grad
        assert found == {"both": 0, "only 0": 0, "only 1": 1}


def test_one_process_keeps_what_it_has() -> None:
    tensor, found = torch.ones(2, requires_grad=True), {"a": 1}
    assert (rank(), world_size()) == (0, 1)
    assert all_gather(tensor, with_gradient=True) is tensor
    assert not all_gather(tensor).requires_grad
    assert not mean_over_processes(tensor).requires_grad
    assert gather_by_id(found) is found
