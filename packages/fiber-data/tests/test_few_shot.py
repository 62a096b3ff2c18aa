"""Few-shot detection: enough images of every category, the same ones for the same seed."""

from collections import Counter
from pathlib import Path

import pytest
from fiber_data import DetectionData, take_shots


def make_data(labels: list[list[int]]) -> DetectionData:
    samples = [{"id": place, "labels": own, "boxes": [], "image": Path("x")} for place, own in enumerate(labels)]
    return DetectionData(samples, {1: "dog", 2: "cat", 3: "owl"})


def test_every_category_has_its_shots_and_no_image_is_taken_in_vain() -> None:
    data = make_data([[1, 1, 2]] * 20 + [[1]] * 20 + [[3]] * 2 + [[]] * 5)
    few = take_shots(data, 4, seed=3)
    counts = Counter(label for sample in few.samples for label in set(sample["labels"]))
    assert counts[2] >= 4
    assert counts[1] >= 4
    assert counts[3] == 2, "all that there are"
    assert all(sample["labels"] for sample in few.samples)
    assert len(few.samples) <= 4 + 4 + 2
    ids = [sample["id"] for sample in few.samples]
    assert ids == sorted(ids)
    assert few.categories == data.categories


def test_the_seed_decides() -> None:
    data = make_data([[1]] * 50)
    chosen = [[sample["id"] for sample in take_shots(data, 3, seed=seed).samples] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 3
    with pytest.raises(ValueError, match="shots must be at least 1, is 0"):
        take_shots(data, 0)
