"""Parts of splits, named as those of Hugging Face's data sets: `train+val[:-1000]`, val without its last thousand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fiber_data import glance, take

_PART = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>-?\d*):(?P<end>-?\d*)\])?")


@dataclass(frozen=True)
class SplitPart:
    """A split, or questions `start` to `end` of its file, counted from the end where negative.

    Attributes:
        name: Of the split.
        start: The first question.
        end: The one after the last.
    """

    name: str
    start: int | None = None
    end: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all questions are meant."""
        return self.start is None and self.end is None

    def take(self, samples: Sequence[Any], every: Sequence[Any]) -> Sequence[Any]:
        """Those of the samples that are meant.

        Args:
            samples: Of the split, those with images on disk.
            every: All questions of the split's file, by which they are counted.

        Raises:
            ValueError: There is none.
        """
        ids = [sample["id"] for sample in glance(every, "id")]
        meant = set(ids[self.start : self.end])
        places = [place for place, sample in enumerate(glance(samples, "id")) if sample["id"] in meant]
        if not places:
            raise ValueError(
                f"{self}: the split has {len(ids)} questions, of which these are {len(meant)}, none of them with an "
                "image; take another part, or the whole split"
            )
        return take(samples, places)

    def __str__(self) -> str:
        sides = (str(side) if side is not None else "" for side in (self.start, self.end))
        return self.name if self.is_whole else f"{self.name}[{':'.join(sides)}]"


def split_parts(split: str) -> list[SplitPart]:
    """The parts that are joined by `+`.

    Raises:
        ValueError: One is not written so.
    """
    found = []
    for text in split.split("+"):
        if (part := _PART.fullmatch(text)) is None:
            raise ValueError(f"the split {split!r} must be such as train, train+val or train+val[:-1000]")
        start, end = (int(part[side]) if part[side] not in (None, "", "-") else None for side in ("start", "end"))
        found.append(SplitPart(part["name"], start, end))
    return found
