"""How fast a run is, without a wait for the device of its own: samples, operations, memory; and when it will end.

A span between two rows of `metrics.csv` begins and ends where the loop waits for the device anyway, so that its seconds
are the device's. Operations are counted once, in a forward pass before the first step of a process: to watch the step
itself would change how torch computes it, and with that the last bits.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import torch
import torchvision  # noqa: F401  # registers its operators
from lightning_fabric.utilities.throughput import get_available_flops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fiber_train.config import TrainerConfig

WARM, MEASURED = 2, 10  # steps that are not measured, and those that then are, for the forecast
_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
_SPARSE = ("H200", "H100 NVL")  # of which Fabric has the peak with structured sparsity, which is twice the dense one


class _Operations(TorchDispatchMode):
    """Counts the floating-point operations of products of matrices, convolutions and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        with suppress(Exception):  # a formula that does not know these arguments is no reason to end a run
            self.total += self._count(func, args, kwargs or {}, result)
        return result

    @staticmethod
    def _count(func: Any, args: Any, kwargs: Any, result: Any) -> int:
        deformable = torch.ops.torchvision.deform_conv2d
        if func._overloadpacket is deformable:
            x, weight, offsets = (each.shape for each in args[:3])
        elif func._overloadpacket is torch.ops.torchvision._deform_conv2d_backward:
            x, weight, offsets = (each.shape for each in args[1:4])
        else:
            formula = flop_registry.get(func._overloadpacket)
            return 0 if formula is None else formula(*args, **kwargs, out_val=result)
        products = 1 if func._overloadpacket is deformable else 2  # one for the weights, one for the input
        return products * 2 * math.prod(weight) * x[0] * offsets[2] * offsets[3]


@dataclass
class Throughput:
    """What a process's steps take.

    Attributes:
        batch_size: Samples of a step, over all processes.
        max_steps: Of the run.
        device: Of the process.
        precision: Of the run.
        operations: Of one step of this process: three times those of its forward passes, as a backward pass has twice
            as many; None before they are counted, 0 if they cannot be.
        steps: Of the span.
    """

    batch_size: int
    max_steps: int
    device: torch.device
    precision: str = "32-true"
    operations: float | None = None
    steps: int = 0
    _seen: int = 0
    _began: float = 0.0
    _before: float = 0.0  # seconds of the spans before

    @classmethod
    def of(cls, trainer: TrainerConfig, device: torch.device) -> Throughput:
        """Of a run whose number of steps is known."""
        return cls(trainer.batch_size, trainer.max_steps, device, trainer.precision)

    def count(self, model: Any, parts: Sequence[Mapping[str, Any]]) -> None:
        """Counts the operations of a step of these parts, once.

        Args:
            model: In training mode, as the loop calls it.
            parts: Batches, of which the first is computed, without gradients and as in an evaluation.
        """
        if self.operations is not None:
            return
        counter = _Operations()
        model.eval()
        with torch.no_grad(), counter, suppress(Exception):  # what ends it ends the step too, which tells of it
            model(**parts[0])
        model.train()
        self.operations = 3 * len(parts) * counter.total

    def advance(self, done: int, elapsed: float) -> str | None:
        """Notes a step; gives the sentence on what the run will take, once that is known.

        Args:
            done: Steps of the run so far.
            elapsed: Seconds of the steps of this span so far.
        """
        self.steps += 1
        self._seen += 1
        if self._seen == WARM:
            self._wait()
            self._began = self._before + elapsed
        if self._seen != WARM + MEASURED or done >= self.max_steps:
            return None
        began = time.perf_counter()
        self._wait()
        seconds = (self._before + elapsed - self._began + time.perf_counter() - began) / MEASURED
        left = timedelta(seconds=round(seconds * (self.max_steps - done)))
        end = (datetime.now().astimezone() + left).strftime("%Y-%m-%d %H:%M")
        memory = peak_memory(self.device)
        used = "" if memory is None else f"; peak memory {memory / 1e9:.2f} GB"
        return f"{seconds:.3g} s a step: {left} to go until {end}, evaluations and checkpoints left out{used}"

    def numbers(self, seconds: float) -> dict[str, float]:
        """Of the span that ends here, by names for `metrics.csv`; the next one begins.

        Args:
            seconds: Of its steps.
        """
        steps, self.steps = self.steps, 0
        self._before += seconds
        if not steps or seconds <= 0:
            return {}
        values = {"time/samples_per_second": self.batch_size * steps / seconds, "time/step_seconds": seconds / steps}
        if self.operations:
            rate = self.operations * steps / seconds
            values["time/model_tflops_per_second"] = rate / 1e12  # of this process
            if peak := peak_operations(self.device, self.precision):
                values["time/mfu"] = rate / peak
        if (memory := peak_memory(self.device)) is not None:
            values["time/peak_memory_gb"] = memory / 1e9
        return values

    def _wait(self) -> None:
        if self.device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize()


def peak_operations(device: torch.device, precision: str) -> float | None:
    """Dense floating-point operations a second that a device can do at most; None where that is not known."""
    if device.type != "cuda":
        return None
    dtype = _DTYPES[precision.partition("-")[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_available_flops(device, dtype)
    is_sparse = dtype in (torch.bfloat16, torch.float16) and any(
        name in torch.cuda.get_device_name(device) for name in _SPARSE
    )
    return None if found is None else found / 2 if is_sparse else found


def peak_memory(device: torch.device) -> float | None:
    """Bytes: of a GPU the most that torch had allocated, else the most that this process had; None if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
