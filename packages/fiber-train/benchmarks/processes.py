"""What several processes and checkpoints cost on this machine: steps by DDP and FSDP, saves, saves in the background.

The baselines are one process, and a save that training waits for. Processes on one CPU share its cores: their steps say
what a strategy adds, not what more devices give.

    python packages/fiber-train/benchmarks/processes.py [--preset fiber_tiny] [--batch 8] [--saved fiber_base]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads import FiberForPretraining, PretrainingConfig
from fiber_heads.sharding import whole_state
from fiber_train.checkpoint import find_checkpoints, load_training_state
from fiber_train.saving import Saver, saving
from fiber_train.strategy import make_strategy
from lightning_fabric import Fabric

WAYS = ("auto", "ddp", "fsdp")


def make(preset: str, size: int) -> tuple[FiberForPretraining, dict[str, Any]]:
    """A model and a batch, both from a seed."""
    torch.manual_seed(0)
    config = FiberConfig.from_preset(preset)
    model = FiberForPretraining(FiberBackbone.from_config(config), PretrainingConfig(queue_size=0)).train()
    ids = torch.randint(5, config.vocab_size, (size, 30))
    labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
    batch = {"pixel_values": torch.randn(size, 3, config.image_size, config.image_size), "input_ids": ids}
    batch |= {"attention_mask": torch.ones_like(ids), "mlm_input_ids": ids.masked_fill(labels != -100, 4)}
    return model, batch | {"mlm_labels": labels, "image_ids": torch.arange(size), "seeds": torch.arange(size)}


def run_steps(rank: int, world: int, way: str, port: int, options: argparse.Namespace, found: Any) -> None:
    """One of the processes; the first one puts the median seconds of a step into `found`."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    strategy = make_strategy(way, "32-true", several=world > 1, unused=True)
    fabric = Fabric(accelerator="cpu", devices=world, strategy=strategy)
    fabric.launch()
    model, batch = make(options.preset, options.batch // world)
    wrapped = fabric.setup_module(model)
    optimizer: Any = fabric.setup_optimizers(torch.optim.AdamW(model.parameters()))

    def step() -> None:
        fabric.backward(wrapped(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()

    times = [seconds(step) for _ in range(options.rounds + 2)]
    if rank == 0:
        found[way, world] = statistics.median(times[2:])


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def time_saves(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of a save that is waited for, of one in the background, and of reading it again."""
    torch.set_num_threads(2)
    model, _ = make(options.saved, 2)
    optimizer, found = torch.optim.AdamW(model.parameters()), {}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for background in (False, True):
        with tempfile.TemporaryDirectory() as name:
            with saving(Saver(Path(name), 1, lambda step, folder: None, background=background)) as saver:

                def save(saver: Saver = saver) -> None:
                    weights = whole_state(model, copy=saver.background)
                    saver.save(1, lambda folder: write(model, folder, weights), {"optimizer": optimizer.state_dict()})

                found["in the background" if background else "waited for"] = seconds(save)
                found["until it is whole"] = seconds(saver.wait)
            found["read"] = seconds(lambda name=name: load_training_state(find_checkpoints(name)[-1]))  # type: ignore[misc]
    return found


def write(model: FiberForPretraining, folder: Path, weights: Any) -> None:
    """The model's part of a checkpoint."""
    model.save_pretrained(folder, state_dict=weights)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fiber_tiny")
    parser.add_argument("--saved", default="fiber_base", help="whose checkpoints are written")
    parser.add_argument("--batch", type=int, default=8, help="pairs of a step, over all processes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    make(options.preset, 1)  # imports what the processes need
    with mp.Manager() as manager:
        found = manager.dict()
        for way, world in (("auto", 1), ("fsdp", 1), *((way, world) for world in (2, 4) for way in WAYS[1:])):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            mp.start_processes(run_steps, (world, way, port, options, found), nprocs=world, start_method="fork")
            ratio = found[way, world] / found["auto", 1]
            sys.stdout.write(
                f"{options.preset}, {world} x {way}: {found[way, world]:.2f} s a step, {ratio:.2f} of one\n"
            )
    saves = time_saves(options)
    stalled = saves["in the background"] / saves["waited for"]
    sys.stdout.write(
        f"{options.saved}: a save {saves['waited for']:.1f} s; in the background training waits "
        f"{saves['in the background']:.1f} s ({stalled:.2f} of that), it is whole after another "
        f"{saves['until it is whole']:.1f} s; the training state is read in {saves['read']:.1f} s\n"
    )


if __name__ == "__main__":
    main()
