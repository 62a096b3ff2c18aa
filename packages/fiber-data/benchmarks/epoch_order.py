"""How long an epoch takes to begin, beside drawing its whole order as a list: python benchmarks/epoch_order.py."""

import time
from collections.abc import Callable

import numpy as np
import torch
from fiber_data import Blocks, EpochSampler

BATCH_SIZE = 4096


def seconds(work: Callable[[], object], times: int = 5) -> float:
    """The shortest of several measurements."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    """Prints the time to the first batch of an epoch."""
    for length in (5_600_000, 40_000_000):
        whole = seconds(lambda length=length: torch.randperm(length).tolist(), times=1)
        print(f"{length:,} samples; a list of their order alone takes {whole:.2f} s")
        rows = {
            "shuffled": {},
            "unique_groups": {"unique_groups": np.arange(length) // 5},
            "alike_groups": {"alike_groups": np.random.default_rng(0).integers(0, 2, length)},
            "blocks": {"order": Blocks(np.full(length // 10_000, 10_000))},
        }
        for name, options in rows.items():
            sampler = EpochSampler(length, BATCH_SIZE, **options)
            taken = seconds(lambda sampler=sampler: next(iter(sampler)))
            print(f"  {name:14} {taken:.3f} s to the first batch, {whole / taken:.0f} times as fast")


if __name__ == "__main__":
    main()
