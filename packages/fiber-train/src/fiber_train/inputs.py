"""The images that a command is asked about: files, folders, patterns, addresses, or names on standard input."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from torch import Tensor

if TYPE_CHECKING:
    from fiber_heads import SearchModel

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class InputImage:
    """An image that could be read.

    Attributes:
        name: Its path or address.
        pixels: (3, H, W) uint8, as it is displayed.
    """

    name: str
    pixels: Tensor


def find_inputs(words: Sequence[str], stdin: TextIO | None = None) -> list[str]:
    """Paths and addresses of images, each once.

    Args:
        words: Files; folders, searched with their subfolders; patterns such as ``"photos/**/*.jpg"``; http(s)
            addresses; ``"-"`` for lines on standard input, each any of these.
        stdin: What to read for ``"-"``; standard input by default.

    Raises:
        FileNotFoundError: There is no such file, folder or match, or no image in a folder.
    """
    found: dict[str, None] = {}
    for word in words:
        if word == STANDARD_INPUT:
            lines = [line.rstrip("\r\n") for line in stdin or sys.stdin]
            names = [name for line in lines if line.strip() for name in _meant(line)]
            if not names:
                raise FileNotFoundError("standard input has no line that names an image; write one path to a line")
        else:
            names = _meant(word)
        found |= dict.fromkeys(names)
    return list(found)


def _meant(word: str) -> list[str]:
    from fiber_data.urls import is_url

    path = Path(word)
    if is_url(word):
        return [word]
    if path.is_dir():
        return [str(each) for each in find_images(path)]
    if path.exists() or not glob.has_magic(word):
        if not path.exists():
            raise FileNotFoundError(f"{word}: no such image; give a file, a folder, a pattern or an address")
        return [word]
    matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - pathlib takes no absolute patterns
    matches = [each for each in matches if not Path(each).is_dir()]
    if not matches:
        raise FileNotFoundError(f"{word}: no file is called so")
    return matches


def find_images(folder: str | Path) -> list[Path]:
    """The files below a folder that are called like images (`fiber_data.image_suffixes`), sorted.

    What is hidden (`._a.jpg` of macOS, `.thumbnails/`) is passed over. How many images need an extra to be read is said
    on standard error.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    from fiber_data import image_suffixes
    from fiber_data.suffixes import HEIF, INSTALL_HEIF

    from fiber_train.stopping import say

    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of images")
    suffixes = image_suffixes()
    files = [path for path in root.rglob("*") if path.suffix.lower() in {*suffixes, *HEIF} and not path.is_dir()]
    seen = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    found = sorted(path for path in seen if path.suffix.lower() in suffixes)
    more = f"{len(seen) - len(found):,} of {'/'.join(HEIF)}: {INSTALL_HEIF}"
    if not found and seen:
        raise FileNotFoundError(f"{root} holds no image that can be read here, but {more}")
    if not found:
        raise FileNotFoundError(f"{root} holds no image ({', '.join(suffixes)})")
    if len(seen) > len(found):
        say(f"{root}: left out {more}")
    return found


def read_batches(names: Sequence[str], batch_size: int) -> Iterator[list[InputImage]]:
    """The images, so many at a time; see `read_groups`."""
    for groups in read_groups([(name,) for name in names], batch_size):
        yield [image for (image,) in groups]


def read_groups(groups: Sequence[tuple[str, ...]], batch_size: int) -> Iterator[list[tuple[InputImage, ...]]]:
    """Images that belong together, such as pairs, so many groups at a time.

    There is progress where there are several batches. What cannot be read is named on standard error and left out with
    its group.

    Raises:
        ValueError: No group can be read.
    """
    from fiber_data import BrokenImageError, load_image
    from tqdm import tqdm

    read = 0
    first: BrokenImageError | None = None
    starts = range(0, len(groups), batch_size)
    for start in tqdm(starts, unit="batch", disable=True if len(starts) == 1 else None):
        batch = []
        for names in groups[start : start + batch_size]:
            try:
                batch.append(tuple(InputImage(name, load_image(name)) for name in names))
            except BrokenImageError as error:
                first = first or error
                if len(groups) > 1:
                    tqdm.write(f"{error}; left out{' with its pair' if len(names) > 1 else ''}", file=sys.stderr)
        read += len(batch)
        if batch:
            yield batch
    if not read and first is not None:
        what = "images" if len(groups[0]) == 1 else "pairs"
        raise (
            first
            if len(groups) == 1
            else ValueError(f"none of the {len(groups)} {what} can be read; the first: {first}")
        )


def encode_inputs(model: SearchModel, names: Sequence[str], batch_size: int) -> tuple[list[str], Tensor]:
    """The images that can be read, and their unit vectors (N, D) float32 on the host.

    Raises:
        ValueError: None can be read.
    """
    import torch

    found: list[str] = []
    features = []
    for batch in read_batches(names, batch_size):
        features.append(model.encode_images([image.pixels for image in batch], batch_size=batch_size).float().cpu())
        found += [image.name for image in batch]
    return found, torch.cat(features)
