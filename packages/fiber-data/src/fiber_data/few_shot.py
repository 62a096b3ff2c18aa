"""Few-shot detection: a part of a data set in which every category has about k images (Kang et al., ICCV 2019)."""

from collections import Counter
from dataclasses import replace

import torch

from fiber_data.formats.detection import DetectionData
from fiber_data.seeding import make_generator


def take_shots(data: DetectionData, shots: int, *, seed: int = 0) -> DetectionData:
    """Draws images until each category is in at least `shots` of them, or in all that hold it.

    Images come in random order, and one is taken if a category of it still lacks images; since it brings its other
    categories along, frequent ones may have more than `shots`.

    Args:
        data: What `fiber_data.read_detection` gives.
        shots: Images of each category.
        seed: Another seed draws others.

    Returns:
        The same with fewer samples, in the order of the file.

    Raises:
        ValueError: `shots` is not positive.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, is {shots}")
    counts: Counter[int] = Counter()
    chosen: list[int] = []
    for index in torch.randperm(len(data.samples), generator=make_generator(seed)).tolist():
        labels = set(data.samples[index]["labels"])
        if any(counts[label] < shots for label in labels):
            counts.update(labels)
            chosen.append(index)
    return replace(data, samples=[data.samples[index] for index in sorted(chosen)])
