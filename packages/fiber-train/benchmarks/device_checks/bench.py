"""What every check works with."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from device_checks.models import Sizes
from device_checks.rows import add_row, make_row


@dataclass
class Bench:
    """What a check works with: the device, the sizes, when it must have ended, and where its rows go."""

    device: torch.device
    sizes: Sizes
    until: float
    rows: Path
    check: str

    def row(self, case: str, *, status: str = "ok", reason: str = "", **numbers: Any) -> None:
        """Keeps a result."""
        add_row(self.rows, make_row(self.check, case, status, reason, **numbers))

    def compare(self, case: str, difference: float, tolerance: float, **numbers: Any) -> None:
        """A row that fails if a difference is larger than its tolerance, or is not a number."""
        holds = difference <= tolerance
        reason = "" if holds else "the difference is not within the tolerance"
        status = "ok" if holds else "failed"
        self.row(case, status=status, reason=reason, difference=difference, tolerance=tolerance, **numbers)

    def seconds(self, call: Callable[[], object]) -> float:
        """The median time of a call, after one that warms up."""
        found = []
        for _ in range(self.sizes.rounds + 1):
            self.synchronize()
            began = time.perf_counter()
            call()
            self.synchronize()
            found.append(time.perf_counter() - began)
        return statistics.median(found[1:])

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def autocast(self, *, enabled: bool = True) -> AbstractContextManager[Any]:
        """Mixed precision in bf16."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def moved(self, value: Any) -> Any:
        """A batch, or any part of it, on the device."""
        if isinstance(value, dict):
            return {name: self.moved(part) for name, part in value.items()}
        return [self.moved(part) for part in value] if isinstance(value, list) else value.to(self.device)


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest number, NaN where there is one."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


def largest(differences: list[float]) -> float:
    """The largest, NaN where there is one: `max` may pass over it."""
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """The optimizer, in its fused form."""
    return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def train_step(
    model: nn.Module, batch: dict[str, Any], optimizer: torch.optim.Optimizer, precision: AbstractContextManager[Any]
) -> Tensor:
    """One step; gives the loss before it."""
    optimizer.zero_grad()
    with precision:
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    return loss.detach()
