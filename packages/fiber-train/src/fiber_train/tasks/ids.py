"""Ids of held-out samples, by which predictions are gathered, measured and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fiber_data import glance, take


def check_ids(samples: Sequence[Any], name: str) -> None:
    """Refuses samples whose predictions would replace each other's.

    Args:
        samples: Of a reader, of `fiber_data.MappedSamples` or of the user's own; mappings with an `id`.
        name: What messages call them, such as `"val"`.

    Raises:
        ValueError: There are none, an id is neither a whole number nor text, or two read alike: in files the keys of
            JSON are text.
    """
    if not len(samples):
        raise ValueError(f"{name}: there is no sample to measure; check the annotation file and the split")
    if getattr(samples, "unique_ids", False):  # of an index, which knows it
        return
    seen: dict[str, int] = {}
    for place, sample in enumerate(glance(samples, "id")):
        own = sample.get("id")
        if isinstance(own, bool) or not isinstance(own, int | str) or not str(own).strip():
            raise ValueError(
                f"{name}: sample[{place}]: expected an id, a whole number or text, found {own!r}; give each sample an "
                "id of its own"
            )
        if (first := seen.setdefault(str(own), place)) != place:
            raise ValueError(
                f"{name}: sample[{place}]: id {own!r} is that of sample[{first}] too; give each sample an id of its "
                "own, and all captions of an image one sample"
            )


def in_order(samples: Sequence[Any], predictions: Mapping[Any, Any]) -> dict[Any, Any]:
    """Predictions by id as the samples come."""
    ids = (sample["id"] for sample in glance(samples, "id"))
    return {name: predictions[name] for name in ids if name in predictions}


def only(samples: Sequence[Any], predictions: Mapping[Any, Any]) -> Sequence[Any]:
    """The samples whose ids predictions have."""
    places = [place for place, sample in enumerate(glance(samples, "id")) if sample["id"] in predictions]
    return samples if len(places) == len(samples) else take(samples, places)
