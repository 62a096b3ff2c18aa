"""Holding out a share of a data set that has no split to measure on, by a rule that depends on ids alone.

An image stays where it is whatever else comes into the data set or leaves it, in whatever order, on whatever machine;
all captions, questions and boxes of an image stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, TypeVar

from fiber_data.formats.detection import DetectionData
from fiber_data.formats.faults import Faults, Samples, faults_of
from fiber_data.formats.ids import Id

Data = TypeVar("Data")
USUAL_SHARE = 0.1
TRAIN, VAL = "train", "val"


def held_out_ids(ids: Iterable[Id], share: float) -> set[Id]:
    """Those of some ids that are held out: each by its own hash; at least one and not all, if there are two.

    Args:
        ids: Of images.
        share: About how many of them, between 0 and 1.
    """
    order = sorted((_place(name), str(name), name) for name in set(ids))
    count = sum(place < share for place, _, _ in order)
    return {name for _, _, name in order[: min(max(count, 1), len(order) - 1)]}


class HeldOutRule:
    """The rule of `held_out_ids` for ids that come one by one and need not fit into memory.

    After all were added, ``id in rule`` says whether it is held out.

    Args:
        share: About how many ids, between 0 and 1; none of them at 0.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._first: tuple[float, str] = (2.0, "")
        self._last: tuple[float, str] = (-1.0, "")

    def add(self, name: Id) -> None:
        """Tells of an id; more than once does no harm."""
        place = _place(name), str(name)
        self._first, self._last = min(self._first, place), max(self._last, place)

    def __contains__(self, name: Id) -> bool:
        place = _place(name), str(name)
        if self.share <= 0 or self._first == self._last:
            return False
        return place == self._first or (place[0] < self.share and place != self._last)


def note_held_out(faults: Faults, total: int, what: str, count: int, of: str = "line") -> None:
    """Says that a share is held out, if any is.

    Args:
        faults: Of the file.
        total: Of how many.
        what: What is counted, in the plural.
        count: How many are held out.
        of: What might have named a split, and does not: ``"line"``, ``"shard"``.
    """
    if count:
        why = f"are held out as {VAL!r}, by a rule that depends on ids alone, for no {of} has a split"
        faults.note(f"{total} {what}", why, count=count)


def hold_out(samples: Data, share: float, *, held: bool) -> Data:
    """The samples of the images that are held out, or those of all others.

    Args:
        samples: What a reader gives, or another sequence of samples, from which they are taken when asked for.
        share: About how many images are held out, between 0 and 1.
        held: Whether these are wanted, or the others.
    """
    if isinstance(samples, DetectionData):
        return replace(samples, samples=hold_out(samples.samples, share, held=held))
    if isinstance(samples, list):
        kept = _places(map(image_id, samples), share, held)
        return Samples([samples[place] for place in kept], faults_of(samples))  # type: ignore[return-value]
    from fiber_data.mapped import glance, take  # imports torch, which reading needs not

    assert isinstance(samples, Sequence)
    kept = _places(map(image_id, glance(samples, "id", "image_id", "original_id")), share, held)
    return take(samples, kept)  # type: ignore[return-value]


def _places(ids: Iterable[Id], share: float, held: bool) -> list[int]:
    listed = list(ids)
    chosen = held_out_ids(listed, share)
    return [place for place, name in enumerate(listed) if (name in chosen) == held]


def image_id(sample: Mapping[str, Any]) -> Id:
    """What tells a sample's image from others; of NLVR2 the set of images that its pair is from."""
    for key in ("original_id", "image_id"):
        if key in sample:
            return sample[key]
    return "-".join(str(sample["id"]).split("-")[:2]) if "images" in sample else sample["id"]


def _place(name: Id) -> float:
    """Where an id lies between 0 and 1, evenly spread: the id 7 and the text "7" alike."""
    return int.from_bytes(blake2b(str(name).encode(errors="replace"), digest_size=8).digest()) / 2**64
