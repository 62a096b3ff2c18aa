"""What a folder of annotations holds in numbers: counts, lengths, categories, sizes, and what splits share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fiber_data.folders import Annotated
from fiber_data.images import BrokenImageError, image_sizes
from fiber_data.urls import is_url

_TEXTS = ("captions", "caption", "question", "statement")
_MOST_CATEGORIES = 10  # that a table lists


def count_samples(part: Annotated, *, sizes: bool = True) -> dict[str, Any]:
    """The numbers of one split of a file.

    Args:
        part: As of `fiber_data.folders.read_folder`.
        sizes: Whether to open images for their size; annotations that tell it are asked first.

    Returns:
        ``samples`` and ``images``; ``texts`` with the ``words`` of each, ``width`` and ``height`` in pixels as
        ``[least, median, 95th percentile, most]``; of boxes ``boxes`` and ``categories``, the count of each by its
        name, the most frequent first. What a split does not have is absent; JSON can hold it all.
    """
    samples = list(part.samples)
    texts = [text for sample in samples for text in _texts(sample)]
    paths = {str(path) for sample in samples for path in _images(sample)}
    found: dict[str, Any] = {"samples": len(samples), "images": len(paths) or len(samples)}
    if texts:
        found |= {"texts": len(texts), "words": _spread([len(text.split()) for text in texts])}
    if any("boxes" in sample for sample in samples):
        found["boxes"] = sum(len(sample["boxes"]) for sample in samples)
    if names := getattr(part.read, "categories", None):
        counts = Counter(label for sample in samples for label in sample["labels"])
        found["categories"] = {str(names[label]): count for label, count in counts.most_common() if label in names}
        found["categories"] |= {str(name): 0 for label, name in names.items() if label not in counts}
    measured = [size for sample in samples for size in _sizes(sample)] if sizes else []
    if measured:
        heights, widths = zip(*measured, strict=True)
        found |= {"width": _spread(widths), "height": _spread(heights)}
    return found


def find_duplicates(parts: Iterable[Annotated], *, content: bool = False) -> list[dict[str, Any]]:
    """What splits of one format share: a model must not be judged by what it was trained on.

    Args:
        parts: As of `fiber_data.folders.read_folder`.
        content: Whether to compare the bytes of images too, which reads every file.

    Returns:
        For each two splits that share something: ``format``, ``splits``, ``by`` ("id", "path" or "content"), their
        number ``count`` and an ``example``.
    """
    of_format: dict[str, list[Annotated]] = {}
    for part in parts:
        of_format.setdefault(part.format, []).append(part)
    hashes: dict[Path, str] = {}
    keys: Mapping[str, Any] = {"id": _ids, "path": _paths} | (
        {"content": lambda part: _contents(part, hashes)} if content else {}
    )
    found = []
    for name, own in of_format.items():
        for by, key in keys.items():
            for (first, one), (second, other) in combinations([(part.split, key(part)) for part in own], 2):
                if first != second and (shared := sorted(one.keys() & other.keys())):
                    splits, example = [first, second], one[shared[0]]
                    found.append({"format": name, "splits": splits, "by": by, "count": len(shared), "example": example})
    return found


def format_table(counts: list[tuple[Annotated, dict[str, Any]]], duplicates: list[dict[str, Any]]) -> str:
    """The numbers for people to read."""
    lines = []
    for part, numbers in counts:
        lines.append(f"{part.path}: {part.format}, {'no split' if part.split is None else f'split {part.split!r}'}")
        for key, value in numbers.items():
            if key == "categories":
                lines.append(f"  {'categories':12}{len(value):>9,}")
                lines += [f"    {name:24}{count:>9,}" for name, count in list(value.items())[:_MOST_CATEGORIES]]
                lines += [f"    and {len(value) - _MOST_CATEGORIES:,} more"] if len(value) > _MOST_CATEGORIES else []
            elif isinstance(value, list):
                least, median, high, most = value
                lines.append(f"  {key:12}{median:>9,}   median; from {least:,} to {most:,}, 95 % at most {high:,}")
            else:
                lines.append(f"  {key:12}{value:>9,}")
    for each in duplicates:
        one, other = each["splits"]
        lines.append(
            f"{each['format']}: {one} and {other} share {each['count']:,} by {each['by']}, such as {each['example']}"
        )
    return "\n".join(lines)


def _texts(sample: Mapping[str, Any]) -> Iterator[str]:
    for key in _TEXTS:
        value = sample.get(key, [])
        yield from [value] if isinstance(value, str) else value


def _images(sample: Mapping[str, Any]) -> list[Path]:
    given = sample.get("images") or [sample.get("image")]
    return [Path(image) for image in given if isinstance(image, str | Path) and not is_url(image)]


def _sizes(sample: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """(height, width) of its images, of those that can be opened."""
    if "size" in sample:
        yield tuple(sample["size"])
        return
    for path in _images(sample):
        with suppress(BrokenImageError):  # `check --images` names what cannot be read
            yield image_sizes(path)[0]


def _spread(values: Iterable[int]) -> list[int]:
    return np.quantile(list(values), (0, 0.5, 0.95, 1), method="nearest").astype(int).tolist()


def _ids(part: Annotated) -> dict[str, Any]:
    return {repr(sample["id"]): sample["id"] for sample in part.samples}


def _paths(part: Annotated) -> dict[str, str]:
    return {str(path.resolve()): str(path) for sample in part.samples for path in _images(sample)}


def _contents(part: Annotated, hashes: dict[Path, str]) -> dict[str, str]:
    for sample in part.samples:
        for path in _images(sample):
            if path not in hashes and path.is_file():
                with path.open("rb") as file:
                    hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return {hashes[path]: str(path) for sample in part.samples for path in _images(sample) if path in hashes}
