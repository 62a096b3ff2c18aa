"""All annotation files of a folder with their samples, of whatever formats they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fiber_data.formats.detection import DetectionData
from fiber_data.formats.files import check_folder
from fiber_data.seams import available, resolve


@dataclass(frozen=True)
class Annotated:
    """One split of an annotation file.

    Attributes:
        format: The name of its format, or the import path of its reader.
        path: The file, or the folder for a reader that names no files.
        split: What it is called, None where it has no name.
        read: What the reader gave, samples or `fiber_data.DetectionData`.
    """

    format: str
    path: Path
    split: str | None
    read: Any

    @property
    def samples(self) -> Any:
        """The samples, a sequence of dicts."""
        return getattr(self.read, "samples", self.read)


def read_folder(
    root: str | Path, *, format: str | None = None, split: str | None = None, check_images: bool = True
) -> Iterator[Annotated]:
    """Reads the annotation files of a data set one after the other.

    Args:
        root: Folder of the data set.
        format: Of these alone: an entry point of ``fiber.formats``, or an import path (with a split).
        split: Of this split alone.
        check_images: As of the readers.

    Returns:
        What was read of each file; a file with all splits, by the split that its samples name.

    Raises:
        FileNotFoundError: There is no such folder, or images are missing.
        KeyError: A file is out of format.
        ValueError: Likewise, or no file is there of what was asked for.
    """
    folder, is_empty = Path(root), True
    check_folder(folder)
    finders = available("fiber.splits")
    if format is not None and format not in finders:
        if split is None:
            raise ValueError(f"the format {format!r} does not say which splits a folder holds; give a split")
        yield Annotated(format, folder, split, resolve(format, "fiber.formats")(folder, split))
        return
    for name in finders if format is None else [format]:
        for file in finders[name].load()(folder):
            if file.split is not None and split not in (None, file.split):
                continue
            read = resolve(name, "fiber.formats")(folder, file.split, check_images=check_images, **file.options)
            for own, part in ({file.split: read} if file.split else _by_split(read)).items():
                if split in (None, own):
                    is_empty = False
                    yield Annotated(name, file.path, own, part)
    if is_empty:
        what = "" if split is None else f" of split {split!r}"
        kinds = ", ".join(finders) if format is None else format
        raise ValueError(f"{folder}: no annotation file{what} in a format that was looked for ({kinds})")


def _by_split(read: Any) -> dict[str | None, Any]:
    """The samples of each split; of boxes with the categories of all."""
    parts: dict[str | None, list[Any]] = {}
    for sample in getattr(read, "samples", read):
        parts.setdefault(sample.get("split"), []).append(sample)
    if isinstance(read, DetectionData):
        return {split: replace(read, samples=part) for split, part in parts.items()}
    return dict(parts)
