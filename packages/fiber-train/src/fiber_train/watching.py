"""The progress of an evaluation: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from fiber_train.stopping import say

EVERY = 30.0  # seconds between lines
Batch = TypeVar("Batch")


def watched(batches: Iterable[Batch], total: int, active: bool = True, what: str = "evaluating") -> Iterator[Batch]:
    """The batches, while their progress is told on standard error.

    Args:
        batches: Any.
        total: How many.
        active: Whether this process tells.
        what: What is done with them.
    """
    if not active:
        yield from batches
        return
    bar = tqdm(batches, total=total, desc=what, unit="batch", leave=False, disable=None)
    began = told = time.monotonic()
    for number, batch in enumerate(bar, 1):
        yield batch
        now = time.monotonic()
        if bar.disable and now - told >= EVERY:
            told, left = now, (now - began) * (total - number) / number
            say(f"{what}: {number} of {total} batches after {now - began:.0f} s, about {left:.0f} s to go")
