"""What the readers of questions and of sentences about two pictures share: texts, ids, and where pictures lie."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fiber_data.formats.samples import find_missing

Sample = TypeVar("Sample")
_PROBED = 100  # samples whose pictures decide which folder is meant
_LISTED = 5  # ids that a message names


def clean_text(text: Any, what: str, where: str) -> str:
    """A text with its white space made single.

    Args:
        text: What the file holds.
        what: What it ought to be, such as ``"a question"``.
        where: File and place in it.

    Raises:
        ValueError: It is no text, or empty.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: expected {what} as text, found {text!r}")
    return " ".join(text.split())


def list_some(ids: Iterable[Any]) -> str:
    """The first few of some ids, and how many more there are."""
    listed = list(ids)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(repr(each) for each in listed[:_LISTED]) + more


def choose_place(
    places: Sequence[Callable[[Sample], Sequence[Path]]], samples: Sequence[Sample]
) -> Callable[[Sample], Sequence[Path]]:
    """The first of several ways to find pictures by which one of the first samples is on disk; else the first way.

    Args:
        places: Functions from a sample to the paths of its pictures.
        samples: The samples.
    """
    for place in places:
        if any(place(sample)[0].is_file() for sample in samples[:_PROBED]):
            return place
    return places[0]


def keep_on_disk(
    samples: list[Sample], pictures: Callable[[Sample], Iterable[Path]], what: str, source: Path
) -> list[Sample]:
    """Leaves out samples without all of their pictures on disk, and says so in one warning.

    Args:
        samples: What a reader found.
        pictures: The pictures of a sample.
        what: What a sample is, in the plural, for the message.
        source: The annotation file, for the message.

    Raises:
        FileNotFoundError: Not one sample has its pictures.
    """
    paths = (path for sample in samples for path in pictures(sample))
    missing = set(find_missing({"image": path, "captions": [], "id": ""} for path in paths))
    kept = [sample for sample in samples if missing.isdisjoint(pictures(sample))]
    if samples and not kept:
        raise FileNotFoundError(
            f"{source}: none of its {len(samples)} {what} has its pictures on disk; one was sought at {min(missing)}: "
            "check the image folder"
        )
    if missing:
        warnings.warn(
            f"{source}: of {len(samples)} {what} {len(samples) - len(kept)} lack a picture on disk (the first: "
            f"{min(missing)}); these are left out",
            stacklevel=3,
        )
    return kept
