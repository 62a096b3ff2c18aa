"""Where a split's annotation files and images lie. People move both, and file names begin with folders or not.

A reader looks for its annotation file by `find_annotation_file`, for images by an `ImageFinder` over the folders where
they may lie, and leaves out what is not on disk by `keep_on_disk`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fiber_data.formats.faults import Faults
from fiber_data.formats.ids import shown_path
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import SplitNotFoundError
from fiber_data.formats.sources import glob as noted_glob
from fiber_data.urls import is_url

Sample = TypeVar("Sample", bound=Mapping[str, Any])
PROBED = 100
"""Images that decide where all of a set lie."""


class FileOfSplitNotFoundError(SplitNotFoundError):
    """The folder holds no annotation file of this format and split; it may be of another format."""


# Annotation files


def find_annotation_file(root: Path, globs: Iterable[str], wanted: str, *, expected: str, mend: str) -> Path:
    """The one annotation file of a split.

    Args:
        root: Folder of the data set.
        globs: Where files of the format may lie, relative to the root.
        wanted: The regular expression that the name of the split's file fits, from the root on, with ``/``.
        expected: What was sought, as the message of an error says it: "no captions of split 'val'; expected ...".
        mend: What to do where several files fit: "keep one".

    Raises:
        FileNotFoundError: There is no such folder.
        FileOfSplitNotFoundError: No file fits.
        ValueError: Several files fit.
    """
    check_folder(root)
    there = [file for glob in globs for file in noted_glob(root, glob)]
    files = [file for file in there if re.fullmatch(wanted, file.relative_to(root).as_posix())]
    if not files:
        others = ", ".join(file.name for file in there) or "no such file at all"
        raise FileOfSplitNotFoundError(f"{root}: {expected}; there is {others}")
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(root)) for file in files)
        raise ValueError(f"{root}: several files would fit ({names}); {mend}")
    return files[0]


@dataclass(frozen=True)
class SplitFile:
    """A file of annotations that a folder holds.

    Attributes:
        path: The file.
        split: What its split is called; None for a file with all splits, which its reader then reads together.
        options: What its reader needs beside root and split to read this file and no other.
    """

    path: Path
    split: str | None
    options: Mapping[str, Any] = field(default_factory=dict)


def find_split_files(root: Path, globs: Iterable[str], wanted: str) -> list[SplitFile]:
    """All annotation files of a format that a folder holds, sorted; each is read as ``annotation_file``.

    Args:
        root: Folder of the data set.
        globs: Where files of the format may lie, relative to the root.
        wanted: The regular expression that their names fit, as of `find_annotation_file`, with a group ``split``.
    """
    found = []
    for path in sorted({path for glob in globs for path in root.glob(glob)}):
        if parts := re.fullmatch(wanted, path.relative_to(root).as_posix()):
            split = parts["split"] or path.parent.name  # Roboflow's split is a folder
            found.append(SplitFile(path, split, {"annotation_file": path}))
    return found


def check_folder(root: Path) -> None:
    """Raises FileNotFoundError if a data set has no folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected the root of a data set")


def root_of_images(root: Path, annotation_file: Path, file_folders: Sequence[str]) -> Path:
    """The folder that images lie below: the root, or the one above if the root is itself a folder of annotation files.

    Args:
        root: Folder of the data set, as the user names it.
        annotation_file: The file of the split.
        file_folders: What folders of annotation files are called, such as ``("annotations",)``.
    """
    return root.parent if root.name in file_folders and annotation_file.parent == root else root


# Images


def split_folders(root: Path, *names: str | None) -> list[Path]:
    """Where the images of a split mostly lie, the likeliest first.

    Args:
        root: Folder of the data set.
        names: What the split's folder may be called, such as ``"val2017"`` and ``"val"``; None is none.
    """
    own = [base / name for name in names if name for base in (root / "images", root)]
    return list(dict.fromkeys([*own, root / "images", root]))


def whole_folder(root: Path, image_folder: str | Path | None) -> Path:
    """Where all images of a data set lie together: the folder given by hand, or ``images``, or the root itself."""
    if image_folder is not None:
        return Path(image_folder)
    return root / "images" if (root / "images").is_dir() else root


def image_names(file_name: str, url: str = "") -> list[str]:
    """What an image may be called below its folder: as written, in its patch or split folder, plainly.

    COCO's images are known with and without the prefix of 2014; a name of Windows has its folders before backslashes.

    Args:
        file_name: As the annotation file has it, or empty if only the address is known.
        url: Address of the image, or empty; its last two parts are a name too.
    """
    names = [file_name]
    for written in (file_name or url, (file_name or url).replace("\\", "/")):
        parts = written.split("/")
        names += [written if file_name else "", "/".join(parts[-2:]), parts[-1]]
    if url:  # LVIS v0.5 keeps names of 2014 for files of 2017
        names.append("/".join(url.split("/")[-2:]))
    names.append(re.sub(r"^COCO_\w+_", "", parts[-1]))
    return [name for name in dict.fromkeys(names) if name]


def portable_names(written: str) -> list[str]:
    """What an image of a file without folders of its own may be called: as written, or as Windows writes it."""
    portable = written.replace("\\", "/")
    return [written, portable, portable.rpartition("/")[2] if re.match("[A-Za-z]:/", portable) else portable]


class ImageFinder:
    """Looks for images in several folders under several names, and where they are nowhere under names that are alike.

    Args:
        folders: Where to look, the likeliest first.
        listing: What is known of the disk already, and what names are alike.
    """

    def __init__(self, folders: Iterable[Path], listing: FolderListing) -> None:
        self.folders = list(dict.fromkeys(folders))
        self.listing = listing
        self._last = (0, 0)  # where the last one was found is where the next one will be

    def find(self, names: Sequence[str]) -> Path:
        """The first location of an image; the likeliest one if it is nowhere.

        Args:
            names: What the file may be called, relative to the folders.
        """
        ways = [self._last, *((folder, name) for folder in range(len(self.folders)) for name in range(len(names)))]
        ways = [way for way in ways if way[1] < len(names)]
        for folder, name in ways:
            if (path := self.folders[folder] / names[name]) in self.listing:
                self._last = folder, name
                return path
        alike = (self.listing.alike(self.folders[folder] / names[name]) for folder, name in ways)
        return next(filter(None, alike), self.folders[0] / names[0])

    def find_together(self, names: Sequence[Sequence[str]]) -> list[Path]:
        """The images of a set that lies in one folder and is named in one way.

        That is the first folder and way of naming by which one of the first images is on disk; else the likeliest.

        Args:
            names: For each image what it may be called, relative to the folders; the ways of naming in one order.
        """
        find = self.together(names[:PROBED])
        return [find(each) for each in names]

    def together(self, names: Sequence[Sequence[str]]) -> Callable[[Sequence[str]], Path]:
        """What finds the images of such a set, by the names of its first `PROBED` images."""
        ways = [(folder, way) for folder in self.folders for way in range(len(names[0]) if names else 0)]
        for is_there in (self.listing.__contains__, self.listing.alike):
            for folder, way in ways:
                if any(is_there(folder / each[way]) for each in names):
                    return lambda own: self.meant(folder / own[way])
        return lambda own: self.folders[0] / own[0]

    def meant(self, path: Path) -> Path:
        """The path, or that of the file on disk whose name is alike."""
        return path if path in self.listing else self.listing.alike(path) or path


# What is not on disk


def find_missing(samples: Iterable[Mapping[str, Any]], listing: FolderListing | None = None) -> list[Path]:
    """The images that are not on disk, each once.

    Args:
        samples: Samples with ``image`` or ``images``. Images behind URLs or held in memory are never
            missing.
        listing: What is known of the disk already; None looks anew.
    """
    known = FolderListing() if listing is None else listing
    return list(dict.fromkeys(path for sample in samples for path in _paths(sample) if path not in known))


def keep_on_disk(
    samples: list[Sample],
    what: str,
    source: Path,
    listing: FolderListing | None = None,
    *,
    faults: Faults | None = None,
) -> list[Sample]:
    """Leaves out samples without all of their images on disk, or with an empty list of captions; one warning says so.

    Args:
        samples: What a reader found.
        what: What a sample is, in the plural, for the message.
        source: The annotation file, for the message.
        listing: What is known of the disk already; None looks anew.
        faults: Counts them instead of the warning.

    Raises:
        FileNotFoundError: Not one sample has its images.
    """
    noted = Faults(source) if faults is None else faults
    kept = list(iterate_on_disk(samples, what, noted, listing))
    if faults is None:
        noted.warn()
    return kept


def iterate_on_disk(
    samples: Iterable[Sample], what: str, faults: Faults, listing: FolderListing | None = None
) -> Iterator[Sample]:
    """As of `keep_on_disk`, one by one; what is left out is noted after the last, under ``faults.source``."""
    known = FolderListing() if listing is None else listing
    total = missing = bare = 0
    first: Path | None = None
    for sample in samples:
        total += 1
        lost = next((path for path in _paths(sample) if path not in known), None)
        missing += lost is not None
        first = lost if first is None else first
        bare += not sample.get("captions", True)
        if lost is None and sample.get("captions", True):
            yield sample
    if first is not None and missing == total:
        raise FileNotFoundError(
            f"{faults.source}: none of its {total} {what} has its images on disk; one was sought at "
            f"{shown_path(first)}: check the image folder"
        )
    outcome = "these are left out"
    if first is not None:
        where, end = shown_path(first), "" if bare else outcome
        faults.note(what, "lack an image on disk", where, count=missing, outcome=end, samples=total)
    if bare:
        faults.note(what, "have no caption", count=bare, outcome=outcome, samples=total)


def _paths(sample: Mapping[str, Any]) -> list[Path]:
    images = sample["images"] if "images" in sample else (sample["image"],)
    return [Path(image) for image in images if isinstance(image, str | Path) and not is_url(image)]
