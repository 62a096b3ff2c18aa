"""One training step of all three objectives in parts against the same step in one pass: the price and the gain.

The baseline computes all pairs at once. Both give the same losses and gradients, see `fiber_heads.grad_cache`.

    python packages/fiber-heads/benchmarks/accumulation.py [--preset fiber_base] [--batch 8] [--parts 4] [--rounds 3]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads import FiberForPretraining, PretrainingConfig

TEXT_LENGTH = 40


def make(preset: str, size: int, device: str) -> tuple[FiberForPretraining, dict[str, Any]]:
    """A model with open gates and a batch, both from a seed."""
    torch.manual_seed(0)
    config = FiberConfig.from_preset(
        preset, initial_gate=0.5, hidden_dropout=0.0, attention_dropout=0.0, drop_path_rate=0.0
    )
    model = FiberForPretraining(FiberBackbone.from_config(config), PretrainingConfig(queue_size=0)).to(device).train()
    ids = torch.randint(5, config.vocab_size, (size, TEXT_LENGTH))
    labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
    batch = {
        "pixel_values": torch.randn(size, 3, config.image_size, config.image_size),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mlm_input_ids": ids.masked_fill(labels != -100, 4),
        "mlm_labels": labels,
        "image_ids": torch.arange(size),
        "seeds": torch.arange(size),
    }
    return model, {name: value.to(device) for name, value in batch.items()}


def run_step(model: FiberForPretraining, batch: dict[str, Any], parts: int) -> float:
    """Forward and backward passes; gives the loss, which waits for the device."""
    model.zero_grad()
    size, loss = len(batch["input_ids"]) // parts, 0.0
    pieces = [{name: value[part * size : (part + 1) * size] for name, value in batch.items()} for part in range(parts)]
    for each in model.passes(pieces):
        output = model(**each)
        if output.loss.requires_grad:
            (output.loss / parts).backward()
        loss += float(output.loss.detach()) / parts
    return loss


def peak_memory(parts: int, options: argparse.Namespace) -> float:
    """GiB at the peak of one step in a fresh process (on the GPU: of torch's allocations)."""
    words = [sys.executable, __file__, "--memory-of", str(parts), "--preset", options.preset]
    words += ["--batch", str(options.batch), "--device", options.device]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Prints seconds, CPU seconds and memory of both, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        run_step(*make(options.preset, options.batch, options.device), options.memory_of)
        on_gpu = options.device.startswith("cuda")
        peak = (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(peak / 2**30)
        return
    variants = (1, options.parts)
    memory = {parts: peak_memory(parts, options) for parts in variants}  # first, while this process holds no model
    made = make(options.preset, options.batch, options.device)
    wall: dict[int, list[float]] = {parts: [] for parts in variants}
    cpu: dict[int, list[float]] = {parts: [] for parts in variants}
    losses = {parts: run_step(*made, parts) for parts in variants}  # warms up, and shows that both compute the same
    for _ in range(options.rounds):
        for parts in variants:  # interleaved, so that a busy moment of the machine meets both
            began, began_cpu = time.perf_counter(), time.process_time()
            run_step(*made, parts)
            wall[parts].append(time.perf_counter() - began)
            cpu[parts].append(time.process_time() - began_cpu)
    print(f"{options.preset}, {options.batch} pairs, {options.device}, {torch.get_num_threads()} threads, one step:")
    for parts in variants:
        times = statistics.median(wall[parts]), statistics.median(cpu[parts])
        print(
            f"  {parts:3} part(s)  {times[0]:7.2f} s   {times[1]:7.2f} CPU s   peak {memory[parts]:6.2f} GiB"
            f"   loss {losses[parts]:.6f}"
        )
    slow, slow_cpu = (statistics.median(each[options.parts]) / statistics.median(each[1]) for each in (wall, cpu))
    small = memory[options.parts] / memory[1]
    print(f"  parts take {slow:.2f} of the time ({slow_cpu:.2f} by CPU time), at {small:.2f} of the memory")


if __name__ == "__main__":
    main()
