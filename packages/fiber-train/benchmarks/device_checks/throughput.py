"""Images a second, MFU and memory of training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
import torchvision  # noqa: F401  # registers the operators
from fiber_heads import TaskModel
from torch.utils.flop_counter import FlopCounterMode

from device_checks.bench import Bench, adamw, train_step
from device_checks.models import STAGES

# Dense bf16 operations a second, by a part of the card's name; the first that fits.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def deformable_flops(x: torch.Size, weight: torch.Size, offsets: torch.Size, *_: Any, **__: Any) -> int:
    """Of the operator's product of matrices: two for each weight and output cell."""
    return 2 * math.prod(weight) * x[0] * offsets[2] * offsets[3]


def count_flops(model: TaskModel, batch: dict[str, Any], precision: AbstractContextManager[Any]) -> int:
    """Operations of a forward and a backward pass."""
    operators = torch.ops.torchvision
    own = {
        operators.deform_conv2d: deformable_flops,
        # its arguments: gradient, x, weight, offsets, ...; one product for the weights, one for the input
        operators._deform_conv2d_backward: lambda _, *shapes, **__: 2 * deformable_flops(*shapes),
    }
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        with precision:
            loss = model(**batch).loss
        loss.backward()
    model.zero_grad()
    return counter.get_total_flops()


def check_throughput(bench: Bench, stage: str) -> None:
    """Steps in bf16 with larger and larger batches, until memory or time ends."""
    (make, make_batch), sizes = STAGES[stage], bench.sizes
    side, batches = (sizes.side, sizes.batches) if stage == "coarse" else (sizes.fine_side, sizes.fine_batches)
    model = make(sizes).to(bench.device).train()
    optimizer, peak, flops, longest = adamw(model), card_peak(bench.device), 0.0, 0.0
    for number in batches:
        case, began = f"batch {number}, {side} px, bf16", time.time()
        if began + 2 * longest > bench.until:
            return bench.row(case, status="skipped", reason="this and larger batches do not fit into its time")
        try:
            batch = bench.moved(make_batch(model, sizes, number))
            flops = flops or count_flops(model, batch, bench.autocast()) / number
            with watched_memory(bench.device) as memory:
                seconds = bench.seconds(partial(train_step, model, batch, optimizer, bench.autocast()))
        except torch.OutOfMemoryError:
            return bench.row(case, status="skipped", reason="this and larger batches do not fit into memory")
        rate = number / seconds
        numbers: dict[str, Any] = {
            "images/s": rate,
            "s": seconds,
            "peak_GiB": memory.get("GiB"),
            "TFLOP_an_image": flops / 1e12,
        }
        numbers |= {"TFLOP/s": rate * flops / 1e12, "MFU": peak and rate * flops / peak}
        bench.row(case, **numbers)
        longest = time.time() - began
    return None


def card_peak(device: torch.device) -> float | None:
    """Operations a second that the card could do in bf16, where we know it."""
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


@contextmanager
def watched_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """`GiB` afterwards holds the peak of torch's allocations inside, where the device tells it."""
    found: dict[str, float] = {}
    if device.type in ("cpu", "mps"):
        yield found
        return
    torch.accelerator.empty_cache()
    torch.accelerator.reset_peak_memory_stats()
    yield found
    found["GiB"] = torch.accelerator.max_memory_allocated() / 2**30
