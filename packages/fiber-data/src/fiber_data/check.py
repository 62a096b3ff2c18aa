"""Reads all annotation files of a folder, as runs do, and tells everything that is wrong with them at once.

What a folder may hold, its formats say: a function of the group ``fiber.splits``, ``(root) -> list[SplitFile]``, under
the name that its reader has in ``fiber.formats``. The reader takes ``bad_entries`` and ``check_images``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiber_data.formats.faults import Fault, Faults, faults_of
from fiber_data.formats.files import SplitFile, check_folder
from fiber_data.seams import available, resolve
from fiber_data.urls import is_url


@dataclass(frozen=True)
class Checked:
    """What was found in one annotation file.

    Attributes:
        file: The file and its split.
        format: The name of its format.
        num_samples: Samples that a reader which goes on after a fault gives.
        faults: What is wrong.
    """

    file: SplitFile
    format: str
    num_samples: int
    faults: tuple[Fault, ...]

    @property
    def is_refused(self) -> bool:
        """Whether a run would refuse the file."""
        return any(fault.refused for fault in self.faults)

    def __str__(self) -> str:
        split = "all splits" if self.file.split is None else f"split {self.file.split!r}"
        lines = [f"{self.file.path}: {self.format}, {split}, {self.num_samples:,} samples"]
        for fault in self.faults:
            text = f"of {fault.among} {fault}" if fault.of else str(fault)
            text = text if fault.source == str(self.file.path) else f"{fault.source}: {text}"
            lines.append(f"  {'refused' if fault.refused else 'noted  '}  {text}")
        return "\n".join(lines)


def check_folder_of(root: str | Path, *, images: bool = False, decode: bool = False) -> Iterator[Checked]:
    """Checks all annotation files of a data set, one after the other.

    Args:
        root: Folder of the data set.
        images: Whether to open each image too, for its size alone, with a progress bar.
        decode: Whether to decode each too, as runs do, which finds those that are cut off or damaged.

    Returns:
        What was found in each file, as it is read; files of no known name are not read.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no file of a known format.
    """
    folder, is_empty = Path(root), True
    check_folder(folder)
    headers = _Headers(decode)
    for name, entry in available("fiber.splits").items():
        for file in entry.load()(folder):
            is_empty = False
            yield _check(folder, name, file, headers if images or decode else None)
    if is_empty:
        known = ", ".join(available("fiber.splits"))
        raise ValueError(
            f"{folder}: no annotation file of a format that is known ({known}); see the README for layouts"
        )


def _check(root: Path, name: str, file: SplitFile, headers: _Headers | None) -> Checked:
    samples: Any = []
    faults: list[Fault] = []
    for check_images in (True, False):  # what is wrong with entries is told even where no image is on disk
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # all that is said is among the faults
                read = resolve(name, "fiber.formats")
                samples = read(root, file.split, bad_entries="count", check_images=check_images, **file.options)
            faults += faults_of(samples)
            break
        except (OSError, KeyError, ValueError) as error:
            text = str(error.args[0] if isinstance(error, KeyError) else error).removeprefix(f"{file.path}: ")
            found = Fault(str(file.path), "", text, 1, refused=True)
            faults += [found] if found not in faults else []
    samples = getattr(samples, "samples", samples)
    if headers is not None and check_images:  # else they are not there
        faults += headers.check(samples, file.path)
    return Checked(file, name, len(samples), tuple(faults))


class _Headers:
    """Sizes of images, each file opened once, and if wanted decoded."""

    def __init__(self, decode: bool) -> None:
        self._decode = decode
        self._known: dict[Path, tuple[tuple[int, int], tuple[int, int]] | str] = {}

    def check(self, samples: Iterable[Any], source: Path) -> list[Fault]:
        """What is wrong with the images of samples."""
        from tqdm import tqdm

        faults = Faults(source)
        for sample in tqdm(samples, desc=f"images of {source.name}", unit="image", disable=None):
            for image in sample.get("images") or (sample["image"],):
                if isinstance(image, str | Path) and not is_url(image):
                    self._check_one(Path(image), sample.get("size"), faults)
        return list(faults)

    def _check_one(self, path: Path, size: tuple[int, int] | None, faults: Faults) -> None:
        if path not in self._known:
            self._known[path] = _read_header(path, self._decode)
        found = self._known[path]
        if isinstance(found, str):
            faults.note("the images", "cannot be read, and are left out", f"{path}: {found}")
        elif size is not None and tuple(size) not in found:
            given, own = (f"{height} x {width}" for height, width in (size, found[0]))
            what = "are of another size than their annotation says, and are left out"
            faults.note("the images", what, f"{path}: {own} pixels (height x width), annotated as {given}")


def _read_header(path: Path, decode: bool) -> tuple[tuple[int, int], tuple[int, int]] | str:
    """(height, width) as stored and as displayed, or what is wrong."""
    from fiber_data.images import BrokenImageError, image_sizes, load_image

    try:
        if decode:
            load_image(path)
        return image_sizes(path)
    except BrokenImageError as error:
        return str(error).removeprefix(f"{path}: ")
