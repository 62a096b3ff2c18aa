"""Randomness as a function of what is asked for, never of who asks or when.

Every random choice of this package (the order of an epoch, an augmentation, a masked token) is drawn from a
seed that is derived from a few integers such as (seed, epoch, index). The same sample is thus the same in a
resumed run, in any worker and on any rank.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Mixes non-negative integers into one seed.

    Args:
        parts: Any number of integers >= 0, such as seed, epoch and sample index. Their order matters.

    Returns:
        An integer in [0, 2**63), the same on every platform (numpy's ``SeedSequence``).
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generator(*parts: int) -> torch.Generator:
    """A CPU generator seeded with `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under a seed of torch's global CPU generator, and puts the generator back afterwards.

    The transforms of torchvision draw from the global generator and take no other. GPU generators are left
    alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
