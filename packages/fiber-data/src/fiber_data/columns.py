"""Numbers that data sets need of all samples before the first is made: mapped where an index has them, else counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fiber_data.mapped import TakenSamples, glance, image_key
from fiber_data.table import MappedArray, TableSamples

Numbers = MappedArray | Tensor
"""Both are indexed alike; to send them to another process passes a path, or shares the memory."""


def ends_of_texts(samples: Sequence[Any], key: str) -> Numbers:
    """How many texts there are up to and with each sample, int64 (n,).

    Args:
        samples: Samples of a reader, or others.
        key: Of lists of texts.
    """
    if (known := _array(samples, key)) is not None:
        return known
    return torch.tensor([len(sample[key]) for sample in glance(samples, key)], dtype=torch.int64).cumsum(0)


def pairs(samples: Sequence[Any], key: str) -> Numbers:
    """Pairs of whole numbers of all samples, int64 (n, 2)."""
    if (known := _array(samples, key)) is not None:
        return known
    return torch.tensor([sample[key] for sample in glance(samples, key)])


def image_numbers(
    samples: Sequence[Any], other: str, look: Callable[[Mapping[str, Any]], None] | None = None, *keys: str
) -> Tensor:
    """The number of each sample's image, int64 (n,), counting images in the order in which they first come.

    Args:
        samples: Samples of a reader, or others.
        other: The key that tells images apart which are held in memory.
        look: Is shown all samples in the same pass, or `keys` of them; None if nobody needs it.
        keys: The keys that it needs.
    """
    numbers: dict[str, int] = {}
    if not isinstance(samples, TableSamples | TakenSamples):
        listed = []
        for sample in glance(samples, other, *keys):
            listed.append(numbers.setdefault(image_key(sample, other), len(numbers)))
            if look is not None:
                look(sample)
        return torch.tensor(listed)
    for sample in glance(samples, *keys) if look is not None else ():
        look(sample)  # type: ignore[misc]  # of a table a pass costs little
    if (codes := samples.codes("image")) is not None:
        return torch.from_numpy(codes.astype(np.int64))
    own = glance(samples, "image", other)
    return torch.tensor([numbers.setdefault(image_key(sample, other), len(numbers)) for sample in own])


def _array(samples: Sequence[Any], key: str) -> Numbers | None:
    found = samples.array(key) if isinstance(samples, TableSamples | TakenSamples) else None
    return torch.from_numpy(found) if isinstance(found, np.ndarray) else found


class ImagesOfTexts:
    """For each text the position of its image, found when it is asked for; indexed like an array by arrays.

    Args:
        ends: How many texts there are up to and with each image, as of `ends_of_texts`.
    """

    def __init__(self, ends: Numbers) -> None:
        self.ends = ends

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """The images, int64 of the shape of `index`."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        return np.searchsorted(np.asarray(self.ends), index, side="right")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        ends = np.asarray(self.ends)
        return np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0)).astype(dtype or np.int64, copy=False)

    def __dlpack__(self, **options: Any) -> Any:
        return np.asarray(self).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return np.asarray(self.ends).__dlpack_device__()

    def tolist(self) -> list[int]:
        """All of them."""
        found: list[int] = np.asarray(self).tolist()
        return found
