"""What the training loop adds to a step of the coarse stage: forward, backward, clipping and the optimizer without it.

    python packages/fiber-train/benchmarks/loop_overhead.py [--preset fiber_base] [--batch 2] [--repeats 9]

The same model steps in turn by the loop and without; medians of both, and of the differences of neighbors. Data are in
memory: what a run waits for them is `time/waiting_for_data` of its `metrics.csv`. The model is float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import EpochSampler
from fiber_heads import FiberForPretraining, PretrainingConfig
from fiber_train.config import OptimConfig, TrainerConfig
from fiber_train.loop import Loop
from fiber_train.optim import build_optimizer
from fiber_train.schedule import build_scheduler
from lightning_fabric import Fabric

MAX_STEPS = 1000


def make_loop(preset: str, device: str) -> Loop:
    """A run of the coarse stage without its data, as `fiber_train.run` builds it."""
    fabric = Fabric(accelerator=device, devices=1)
    torch.manual_seed(0)
    backbone = FiberBackbone.from_config(FiberConfig.from_preset(preset))
    model = FiberForPretraining(backbone, PretrainingConfig(queue_size=0)).train()
    config = OptimConfig(max_norm=1.0)
    optimizer = build_optimizer(model, config, fabric.device)
    scheduler = build_scheduler(optimizer, config, MAX_STEPS)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    trainer = TrainerConfig(max_steps=MAX_STEPS)
    return Loop(fabric, wrapped, wrapped_optimizer, scheduler, EpochSampler(10**6, 8), trainer, config.max_norm)


def make_batch(loop: Loop, size: int) -> dict[str, Any]:
    """Random pairs, a sixth of their tokens masked."""
    backbone = loop.model.module.backbone
    pixels = torch.randn(size, 3, backbone.image_size, backbone.image_size)
    ids = torch.randint(5, backbone.vocab_size, (size, min(40, backbone.max_text_length)))
    labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
    labels[:, 0] = ids[:, 0]
    texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mlm_input_ids": ids, "mlm_labels": labels}
    batch = {"pixel_values": pixels, **texts, "image_ids": torch.arange(size)}
    return {**{name: value.to(loop.fabric.device) for name, value in batch.items()}, "ids": list(range(size))}


def step(loop: Loop, batch: dict[str, Any]) -> None:
    """As the loop does it, its sums and callbacks included."""
    values, ids = loop._step(iter([batch]))
    loop._count(values)
    loop.fabric.call("on_step_end", loop=loop, step=loop.step, values=values, ids=ids)


def bare_step(loop: Loop, batch: dict[str, Any]) -> None:
    """What anybody would write."""
    model, optimizer = loop.model.module, loop.optimizer.optimizer
    model(**batch).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), loop.max_norm)
    optimizer.step()
    optimizer.zero_grad()
    loop.scheduler.step()


def seconds(action: Callable[[Loop, dict[str, Any]], None], loop: Loop, batch: dict[str, Any]) -> float:
    """Of one step, the device's work included."""
    began = time.perf_counter()
    action(loop, batch)
    if loop.fabric.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Prints both medians and the overhead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    loop = make_loop(options.preset, options.device)
    batch = make_batch(loop, options.batch)
    for action in (step, bare_step):
        seconds(action, loop, batch)
    pairs = []
    for number in range(options.repeats):  # either goes first in turn
        order = (step, bare_step) if number % 2 else (bare_step, step)
        took = {action: seconds(action, loop, batch) for action in order}
        pairs.append((took[step], took[bare_step]))
    whole, bare = (median(each) for each in zip(*pairs, strict=True))
    more = median(one - other for one, other in pairs)
    print(f"{options.preset}, {options.batch} pairs, {loop.fabric.device}, {torch.get_num_threads()} threads")
    print(f"step {1000 * whole:.1f} ms   without the loop {1000 * bare:.1f} ms   the loop adds {1000 * more:.2f} ms")
    print(f"{more / bare:.2%} of a step")


if __name__ == "__main__":
    main()
