"""An index of a data set: its samples as a table on disk, made when it is first read, and mapped by all who read it.

    samples = open_samples(read_captions, "coco", "train")

gives what ``read_captions("coco", "train")`` gives, sample for sample, with what was wrong with its files and the same
warnings. The first call reads the annotation files, with a progress bar, and writes a table; later ones, of whatever
process, map it. It is made anew once an annotation file, a folder of images or the reader has changed.

Tables lie in a folder ``.fiber_index``, marked as ours, beside the data, or in the user's cache where that cannot be
written. Processes that start together wait for the one that makes the table.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fiber_data.formats.detection import DetectionData
from fiber_data.formats.faults import Fault, Faults, faults_of
from fiber_data.formats.sources import Sources, note_file, watching
from fiber_data.kinds import UnkeptError, from_text, to_text
from fiber_data.table import TableSamples, TableWriteError, write_table
from fiber_data.table_folder import FOLDER, claim, locked, partial_folder, put_in_place, user_cache

AUTO, OFF = "auto", "off"
_FORMAT = 2  # raised with every change of what a table holds or of what readers give
_MANY = 1000  # files from which on a folder is one of images


def open_samples(
    read: Callable[..., Any], root: str | Path, split: str | None, *, index: str | Path = AUTO, **options: Any
) -> Any:
    """The samples of a reader, mapped from their index, which is made if there is none or it is stale.

    Args:
        read: A reader ``read(root, split, **options)``, a function of a module. The index is stale if a file has
            changed that lies in the root or in a folder of it, but for folders of more than a thousand files; ours, and
            readers made with what `fiber_data.formats` exports, note besides which files they look at.
        root: Folder of the data set.
        split: As the reader takes it.
        index: "auto"; "off"; or a folder in which to keep tables.
        **options: Of the reader.

    Returns:
        `fiber_data.table.TableSamples`, or `fiber_data.DetectionData` with them. What the reader itself gives, if the
        index is off, the root is no folder, or it gives no list of dicts that a table can keep, such as images in
        memory.

    Raises:
        TableWriteError: The folder that `index` names cannot be written, or holds other files. With "auto" samples are
            then those of the reader, after a warning.
    """
    asked = _Asked(read, root, split, options)
    if index == OFF or not Path(root).is_dir() or (name := asked.name()) is None:
        return asked.read_all()
    refused: list[TableWriteError] = []
    for place in [Path(root) / FOLDER, user_cache()] if index == AUTO else [Path(index) / FOLDER]:
        try:
            found = _open(place / name, asked)
        except UnkeptError:
            return asked.read_all()
        except TableWriteError as error:
            refused.append(error)
            continue
        if isinstance(found, TableSamples):
            for text in found.about["warnings"]:
                warnings.warn(text, stacklevel=2)
            return _as_read(found)
        return found
    if index != AUTO:
        raise refused[-1]
    warnings.warn(f"{refused[0]}, nor {refused[-1]}; samples are read anew at each start", stacklevel=2)
    return asked.read_all()


@dataclass
class _Asked:
    """What samples are asked for, and what their reader says while it gives them."""

    read: Callable[..., Any]
    root: str | Path
    split: str | None
    options: dict[str, Any]
    sources: Sources = field(default_factory=Sources)
    faults: Faults | None = None

    def read_all(self) -> Any:
        return self.read(self.root, self.split, **self.options)

    def name(self) -> str | None:
        """What tells the table from others; None of a reader or options that no other process could name."""
        own = f"{self.read.__module__}:{self.read.__qualname__}" if inspect.isfunction(self.read) else "<"
        if "<" in own:
            return None
        try:
            options = sorted((key, to_text(value)) for key, value in self.options.items())
        except UnkeptError:
            return None
        key = json.dumps([own, str(self.root), str(Path(self.root).absolute()), self.split, options])
        return f"{re.sub('[^A-Za-z0-9]+', '_', str(self.split))}-{blake2b(key.encode(), digest_size=8).hexdigest()}"

    def give(self) -> Any:
        """What the reader gives, its samples one by one if it can."""
        iterate = getattr(self.read, "iterate", None)
        self._note_root()
        if iterate is None:
            return self.read_all()
        options = {key: value for key, value in self.options.items() if key != "bad_entries"}
        self.faults = Faults(Path(self.root), self.options.get("bad_entries") is None)
        return iterate(self.root, self.split, self.faults, **options)

    def _note_root(self) -> None:
        """Notes what a reader may look at without noting it: files of the root, and the code of a reader of people."""
        if self.read.__module__.partition(".")[0] != "fiber_data":
            with contextlib.suppress(TypeError):
                note_file(Path(inspect.getsourcefile(self.read) or ""))
        root = Path(self.root)
        folders = [Path(each) for each in os.scandir(root) if each.is_dir() and each.name != FOLDER]
        for folder in (root, *folders):
            files = [each.path for each in os.scandir(folder) if each.is_file()]
            for path in files if len(files) <= _MANY else []:
                note_file(Path(path))


def _open(folder: Path, asked: _Asked) -> Any:
    """The table in a folder, made if need be; or what the reader gives, if that is no list of samples."""
    if (found := _current(folder)) is not None:
        return found
    claim(folder.parent)
    with locked(folder):
        if (found := _current(folder)) is not None:
            return found
        token = uuid.uuid4().hex[:8]
        with partial_folder(folder, token) as partial:
            if (given := _write(partial, token, asked)) is not None:
                return given
            put_in_place(partial, folder)
    return TableSamples(folder, token)


def _current(folder: Path) -> TableSamples | None:
    """The table in a folder, if there is one, whole and not stale."""
    try:
        found = TableSamples(folder)
        is_ours = (found.about["format"], found.about["version"]) == (_FORMAT, version("fiber-data"))
        return found if is_ours and found.is_untouched and Sources(**found.about["sources"]).is_current() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _as_read(found: TableSamples) -> Any:
    rest = from_text(found.about["rest"])
    return found if rest is None else DetectionData(samples=found, faults=found.faults, **rest)


def _write(partial: Path, token: str, asked: _Asked) -> Any:
    """Writes a table; or gives what the reader gives, if that is no list of samples."""
    said: list[warnings.WarningMessage] = []
    is_written = False
    try:
        with warnings.catch_warnings(record=True) as said, watching() as asked.sources:
            warnings.simplefilter("always")
            data = asked.give()
            samples = data.samples if isinstance(data, DetectionData) else data
            if not isinstance(samples, list | tuple | Iterator):  # a table already, such as `MappedSamples`
                return data
            is_written = _write_samples(partial, token, samples, data, asked, said)
            return None if is_written else data if asked.faults is None else asked.read_all()
    finally:
        for each in said:
            if not (is_written and _is_kept(each)):  # which `open_samples` says, as at later starts
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _write_samples(
    partial: Path, token: str, samples: Any, data: Any, asked: _Asked, said: list[warnings.WarningMessage]
) -> bool:
    from tqdm import tqdm

    def describe() -> tuple[dict[str, Any], tuple[Fault, ...]]:
        if asked.faults is not None:
            asked.faults.warn()
        about = {
            "format": _FORMAT,
            "version": version("fiber-data"),
            "sources": asked.sources.to_json(),
            "warnings": [str(each.message) for each in said if _is_kept(each)],
            "rest": to_text(rest),
        }
        return about, faults_of(data) if asked.faults is None else tuple(asked.faults)

    names = [each.name for each in fields(DetectionData) if each.name not in ("samples", "faults")]
    rest = {name: getattr(data, name) for name in names} if isinstance(data, DetectionData) else None
    what = f"index of {asked.root} {asked.split!r}, kept in {partial.parent}"
    with tqdm(samples, what, unit="sample", delay=1, disable=None) as bar:
        return bool(write_table(partial, token, bar, describe))


def _is_kept(said: warnings.WarningMessage) -> bool:
    return issubclass(said.category, UserWarning)
