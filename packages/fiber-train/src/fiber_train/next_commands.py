"""What to type next for a finished run: its task's commands, filled with a held-out sample, to be pasted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from string import Formatter
from typing import Any

from fiber_data import glance
from fiber_data.formats import DetectionData
from fiber_heads.grounding.asking import category_names

from fiber_train.tasks.base import Task

_MOST_CATEGORIES = 8  # in a line


def next_commands(task: Task[Any], run: str | Path, samples: Any) -> list[str]:
    """The commands of a task that its samples have words for.

    Args:
        task: Of the run.
        run: Its folder.
        samples: Held-out ones, of `Task.samples`.
    """
    root = task.config.data.root
    known = {"run": quote(str(run)), "data": quote(str(root))}
    for part in task.parts(samples).values():
        for sample in islice(part, 1):
            known = {**dict(_words(sample)), **known}
    detection = getattr(samples, "detection", None)
    if detection is not None:
        known["categories"] = quote(_listed(_most_frequent(detection)))
    return [each.format(**known) for each in task.commands if _fields(each) <= known.keys()]


def _most_frequent(data: DetectionData) -> list[str]:
    """The names of most boxes, then others, in the order of the file."""
    counts = Counter(chain.from_iterable(each["labels"] for each in glance(data.samples, "labels")))
    order = sorted(data.categories, key=lambda number: -counts[number])
    return list(dict.fromkeys(data.categories[number] for number in order))[:_MOST_CATEGORIES]


def _listed(names: list[str]) -> str:
    """Names as one text that is split into them again."""
    text = ", ".join(names)
    return text if category_names(text) == names else f"{'; '.join(names)};"


def _fields(command: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(command) if name}


def _words(sample: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a sample has for a command; an image that is no file goes by a name for one."""
    images: Sequence[Any] = sample.get("images") or [sample.get("image")]
    named = [quote(str(image)) if isinstance(image, str | Path) else "photo.jpg" for image in images]
    yield "image", named[0]
    yield "images", " ".join(named)
    yield "folder", quote(str(Path(images[0]).parent)) if isinstance(images[0], str | Path) else "PHOTOS"
    captions = [sample["caption"]] if "caption" in sample else list(sample.get("captions", ()))[:1]
    for text in captions:
        yield "caption", quote(text)
    for key in ("question", "statement"):
        if sample.get(key):
            yield key, quote(sample[key])
