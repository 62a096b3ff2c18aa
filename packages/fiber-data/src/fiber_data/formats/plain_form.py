"""One plain form for every task: a folder with ``images/`` and a file of records beside it.

============================ ===========================================================================
``captions.jsonl``           see `fiber_data.formats.caption_folder`
``questions.jsonl``          ``image``, ``question``, ``answer`` or ``answers``
``statements.jsonl``         ``images`` (two), or ``left`` and ``right``; ``sentence``, ``label``
``boxes.jsonl``              ``image``, ``boxes``: objects with ``name`` and ``box`` or ``bbox``
``phrases.jsonl``            ``image``, ``caption``, ``boxes``: the same with ``phrase``, ``span`` or ``spans``
``expressions.jsonl``        ``image``, ``expression``, ``box`` or ``bbox``
============================ ===========================================================================

A line holds an object; a table (``questions.csv``, ``.tsv``) has the same names as columns. Where an object could be in
``boxes``, a line of its own does too, so that a table has a line for each box; lines of one image, or of one caption,
are joined. All may have ``id`` and ``split``; without any split, about a tenth of the images is ``val``, by a rule that
depends on their ids alone. `fiber_data.formats.plain_records` says what the values are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import (
    FileOfSplitNotFoundError,
    ImageFinder,
    SplitFile,
    check_folder,
    portable_names,
    whole_folder,
)
from fiber_data.formats.ids import Id, read_id, shown
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.nlvr2 import ReasoningSample
from fiber_data.formats.plain_records import IMAGE_KEYS, first_of, image_of, read_question, read_size_of, read_truth
from fiber_data.formats.records import find_records, stream_records
from fiber_data.formats.samples import clean_text, read_name, require
from fiber_data.formats.splits import collected, of_split, on_disk
from fiber_data.formats.streams import iterated_by
from fiber_data.formats.vqav2 import QuestionSample
from fiber_data.urls import is_url

_KEYS = {"questions": "question", "boxes": "objects"}  # by which Hugging Face's file is of a form
_METADATA = "metadata"  # Hugging Face's name for whatever goes with images
Make = Callable[["PlainFile", Faults], Iterator[dict[str, Any]]]


class PlainOptions(TypedDict, total=False):
    """What readers of the plain form take beside root and split.

    - ``check_images``: whether to leave out, with a warning, what lacks an image on disk (True);
    - ``hold_out``: about which share of the images is ``"val"`` where no line has a split, a tenth by default; 0 for
      none;
    - ``annotation_file``: a file that lies elsewhere or has another name;
    - ``image_folder``: the folder with the images, if it is another.
    """

    check_images: bool
    hold_out: float | None
    annotation_file: str | Path | None
    image_folder: str | Path | None


class PlainFile:
    """The file of a form, and its images as they are found.

    Args:
        root: Folder of the data set.
        split: Of whose folder the file may be.
        name: Of the form.
        annotation_file: A file that lies elsewhere or has another name.
        image_folder: The folder with the images, if it is another.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None,
        name: str,
        annotation_file: str | Path | None = None,
        image_folder: str | Path | None = None,
    ) -> None:
        folder = Path(root)
        self.path = _find_file(folder, split, name) if annotation_file is None else Path(annotation_file)
        self.split = split if split is not None and self.path.parent == folder / split else None
        self.listing = FolderListing()
        bases = dict.fromkeys((self.path.parent, folder))
        folders = [each for base in bases for each in (whole_folder(base, None), base)]
        self._finder = ImageFinder(folders if image_folder is None else [Path(image_folder)], self.listing)
        self._sizes: dict[Any, tuple[int, int]] = {}

    def records(self, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
        """The records, each with its location; what else is in a file of this name is not read."""
        return stream_records(faults)

    def image(self, name: Any, where: str) -> Any:
        """The image of a name; an address stays one."""
        written = read_name(name, "the image's name", where)
        return written if is_url(written) else self._finder.find(portable_names(written))

    def size(self, record: dict[str, Any], image: Any, where: str) -> tuple[int, int]:
        """Of an image; (0, 0) of one that is not on disk, where nothing says it."""
        if record.get("height") is None and record.get("width") is None and isinstance(image, Path):
            if image not in self.listing:
                return 0, 0
            if image not in self._sizes:
                self._sizes[image] = read_size_of(record, image, where)
            return self._sizes[image]
        return read_size_of(record, image, where)


def _find_file(root: Path, split: str | None, name: str) -> Path:
    check_folder(root)
    for folder in (root, *([] if split is None else [root / split])):
        if (path := find_records(folder, name) or _find_metadata(folder, name)) is not None:
            return path
    raise FileOfSplitNotFoundError(f"{root}: no {name}.jsonl, {name}.csv or {name}.tsv; such a file goes with images/")


def _find_metadata(folder: Path, name: str) -> Path | None:
    """Hugging Face's file, if its first record is of this form."""
    if (key := _KEYS.get(name)) is None or (path := find_records(folder, _METADATA)) is None:
        return None
    return path if any(key in record for _, record in islice(stream_records(Faults(path, False)), 1)) else None


def has_plain(root: Path, name: str, split: str | None = None) -> bool:
    """Whether a folder holds the file of a form, such as ``"questions"``."""
    folders = (root, *([] if split is None else [root / split]))
    return any(find_records(folder, name) or _find_metadata(folder, name) for folder in folders)


def find_plain(root: Path, name: str) -> list[SplitFile]:
    """The files of a form that a folder holds: its own with all splits, or one in the folder of each split."""
    if (path := find_records(root, name) or _find_metadata(root, name)) is not None:
        return [SplitFile(path, None, {"annotation_file": path})]
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    files = ((folder.name, find_records(folder, name) or _find_metadata(folder, name)) for folder in folders)
    return [SplitFile(path, split) for split, path in files if path is not None]


def iterate_plain(
    name: str, make: Make, root: str | Path, split: str | None, faults: Faults, options: PlainOptions
) -> Iterator[dict[str, Any]]:
    """The samples of a form, one by one.

    Args:
        name: Of the form, such as ``"questions"``.
        make: Makes all samples of a file.
        root: Folder of the data set.
        split: As of the readers.
        faults: Counts what is wrong; this says of which file.
        options: As of the readers.
    """
    file = PlainFile(root, split, name, options.get("annotation_file"), options.get("image_folder"))
    faults.source = file.path

    def all_of(own: Faults) -> Iterator[dict[str, Any]]:
        for sample in make(file, own):
            yield {**sample, "split": sample.get("split") or file.split}

    samples = of_split(all_of, split, options.get("hold_out"), name, faults)
    yield from on_disk(samples, name, faults, file.listing, check_images=options.get("check_images", True))


class RecordIds:
    """Ids of records: their own, or the name of what they are of and which of it they are."""

    def __init__(self) -> None:
        self._seen: set[Id] = set()
        self._counts: Counter[str] = Counter()

    def of(self, record: dict[str, Any], keys: tuple[str, ...], name: str, where: str) -> Id:
        """The id of a record: of the first key that it has, or of a name."""
        self._counts[name] += 1
        own = next((record[key] for key in keys if record.get(key) is not None), f"{name}-{self._counts[name]}")
        self._seen.add(found := read_id(own, keys[0], where, self._seen))
        return found


def split_of(record: dict[str, Any], where: str) -> str | None:
    """The split that a record names."""
    return read_name(record["split"], "split", where) if record.get("split") else None


def _questions(file: PlainFile, faults: Faults) -> Iterator[dict[str, Any]]:
    """Questions without an answer are left out where others of their split have one; else it is a test split."""
    ids = RecordIds()
    answered: set[Any] | None = None
    for where, record in file.records(faults):
        sample = None
        with faults:
            name = image_of(record, IMAGE_KEYS, where)
            asked = read_question(record, where)
            image_id = read_id(record.get("image_id", name), "image_id", where)
            number = ids.of(record, ("id", "question_id"), str(name), where)
            sample = {"image": file.image(name, where), **asked, "id": number, "image_id": image_id}
            sample["split"] = split_of(record, where)
        if sample is None:
            continue
        if "answers" not in sample:
            answered = _answered_splits(file) if answered is None else answered
            if record.get("split") in answered:
                faults.note("the questions", "have no answer", where, outcome="these are left out")
                continue
        yield sample


def _answered_splits(file: PlainFile) -> set[Any]:
    """The splits that records name, None among them, of which one question has an answer."""
    found = set()
    for where, record in file.records(faults := Faults(file.path, strict=False)):
        with faults:
            if "answers" in read_question(record, where):
                found.add(record.get("split"))
    return found


def _statements(file: PlainFile, faults: Faults) -> Iterator[dict[str, Any]]:
    ids = RecordIds()
    for where, record in file.records(faults):
        sample = None
        with faults:
            names = record.get("images")
            names = [require(record, key, where) for key in ("left", "right")] if names is None else names
            if not isinstance(names, list) or len(names) != 2:
                raise ValueError(f"{where}: expected images as two names, found {shown(names)}")
            left, right = (file.image(name, where) for name in names)
            text = clean_text(first_of(record, ("sentence", "statement"), where), "a sentence", where)
            pair = f"{names[0]}|{names[1]}"
            number = str(ids.of(record, ("id", "identifier"), pair, where))
            sample = {"images": (left, right), "statement": text, "label": read_truth(record, where), "id": number}
            sample |= {"image_id": pair, "split": split_of(record, where)}
        if sample is not None:
            yield sample


def iterate_plain_questions(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[PlainOptions]
) -> Iterator[QuestionSample]:
    """The questions of `read_plain_questions`, one by one."""
    found = iterate_plain("questions", _questions, root, split, faults, options)
    yield from cast(Iterator[QuestionSample], found)


@iterated_by(iterate_plain_questions)
def read_plain_questions(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[PlainOptions]
) -> Samples[QuestionSample]:
    """Reads ``questions.jsonl`` or a table, ``questions.csv``, beside ``images/``.

    Args:
        root: Folder of the data set.
        split: Keep the lines of this split only; None keeps all.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `PlainOptions`.

    Returns:
        The samples, and what was wrong with the file (``faults``). Without an id of its own a line has that of its
        image and a number. Of answers see `fiber_data.formats.plain_records.read_question`.

    Raises:
        FileNotFoundError: There is no such folder, or no image is on disk.
        KeyError: A line lacks a key; the message names file and line.
        ValueError: A line is out of format, or not in UTF-8, ids repeat, or several files would fit.
        SplitNotFoundError: The folder holds no such file, or not this split.
    """
    return collected(iterate_plain_questions, root, split, bad_entries, **options)


def find_plain_questions(root: Path) -> list[SplitFile]:
    """The files of questions in the plain form that a folder holds."""
    return find_plain(root, "questions")


def iterate_plain_statements(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[PlainOptions]
) -> Iterator[ReasoningSample]:
    """The statements of `read_plain_statements`, one by one."""
    found = iterate_plain("statements", _statements, root, split, faults, options)
    yield from cast(Iterator[ReasoningSample], found)


@iterated_by(iterate_plain_statements)
def read_plain_statements(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[PlainOptions]
) -> Samples[ReasoningSample]:
    """Reads ``statements.jsonl`` or ``statements.csv``: sentences about two images; else as `read_plain_questions`.

    Statements about one pair of images are held out together.
    """
    return collected(iterate_plain_statements, root, split, bad_entries, **options)


def find_plain_statements(root: Path) -> list[SplitFile]:
    """The files of statements in the plain form that a folder holds."""
    return find_plain(root, "statements")
