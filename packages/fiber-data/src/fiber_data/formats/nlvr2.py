"""NLVR2: sentences that are true or false of two photographs, an object a line (Suhr et al., ACL 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import (
    FileOfSplitNotFoundError,
    ImageFinder,
    SplitFile,
    check_folder,
    keep_on_disk,
)
from fiber_data.formats.ids import Id, read_id, shown
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import clean_text, list_some, parse_line, read_lines, require
from fiber_data.formats.sources import note_file

if TYPE_CHECKING:
    from fiber_data.images import ImageSource

_FOLDERS = ("", "data", "nlvr2", "nlvr2/data")
_GLANCE = 4096  # bytes in which a line says what it is
_LABELS = {"true": True, "false": False}


class ReasoningSample(TypedDict):
    """A sentence about two images, the left one first; `label` is None in a test split without labels."""

    images: tuple[ImageSource, ImageSource]
    """Paths from our readers; anything that `fiber_data.load_image` takes from yours."""
    statement: str
    label: bool | None
    id: str
    image_id: NotRequired[Id]
    """Of the pair, in other formats, whose ids do not tell it."""
    split: NotRequired[str | None]


def read_nlvr2(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Samples[ReasoningSample]:
    """Reads one split of NLVR2.

    The lines are in ``<split>.json``, in the folder itself, in ``data``, in ``nlvr2`` (where `fiber_data.scenes`
    writes them) or in ``nlvr2/data``. The images of ``dev-850-0-1`` are ``dev-850-0-img0.png`` and
    ``dev-850-0-img1.png`` in ``images/<split>`` or ``<split>``, of the folder itself or of ``nlvr2``; lines with a
    ``directory`` (train) have them in a folder of this name there.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"dev"``, ``"test1"`` or what the file is called.
        check_images: Whether to leave out, with a warning, sentences without both images on disk.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        annotation_file: A file of such lines that lies elsewhere or has another name.
        image_folder: The folder with the images, or with the directories of train, if it is another.

    Returns:
        A sample for each line, in the order of the file, and what was wrong with it (``faults``); ``id`` is its
        identifier.

    Raises:
        FileNotFoundError: There is no such folder or file, or no sentence has its images on disk.
        KeyError: A key of the format is missing; the message names file and line.
        ValueError: The file is not in UTF-8, a line is not a JSON object, a sentence, label or identifier is of another
            form, identifiers repeat, or only some lines have a label.
        SplitNotFoundError: The folder holds no such split.
    """
    folder = Path(root)
    path = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    faults = Faults(path, bad_entries is None)
    samples, directories = _read_lines(faults)
    folders = [base / name for base in (folder, folder / "nlvr2") for name in (f"images/{split}", split)]
    listing = FolderListing()
    finder = ImageFinder(folders if image_folder is None else [Path(image_folder)], listing)
    pairs = [f"{directories.get(sample['id'], '')}/{sample['id'].rpartition('-')[0]}".lstrip("/") for sample in samples]
    lefts = finder.find_together([[f"{pair}-img0.png"] for pair in pairs])
    for sample, pair, left in zip(samples, pairs, lefts, strict=True):
        sample["images"] = left, finder.meant(left.with_name(f"{pair.rpartition('/')[2]}-img1.png"))
    if check_images:
        samples = keep_on_disk(samples, "sentences", path, listing, faults=faults)
    faults.warn()
    return Samples(samples, faults)


def find_nlvr2(root: Path) -> list[SplitFile]:
    """The files of sentences that a folder holds, by what their first line has."""
    files: dict[str, SplitFile] = {}
    for path in (path for name in _FOLDERS for path in sorted((root / name).glob("*.json")) if path.is_file()):
        with path.open("rb") as lines:
            if b'"identifier"' in lines.read(_GLANCE).partition(b"\n")[0]:
                files.setdefault(path.stem, SplitFile(path, path.stem, {"annotation_file": path}))
    return list(files.values())


def _find_file(root: Path, split: str) -> Path:
    """The first of the files where the lines may be; copies of them in the others do no harm."""
    check_folder(root)
    tried = [root / name / f"{split}.json" for name in _FOLDERS]
    for path in tried:
        note_file(path)
    if (found := next((path for path in tried if path.is_file()), None)) is None:
        candidates = ", ".join(str(path.relative_to(root)) for path in tried)
        raise FileOfSplitNotFoundError(f"{root}: no sentences of split {split!r}; expected one of {candidates}")
    return found


def _read_lines(faults: Faults) -> tuple[list[ReasoningSample], dict[str, str]]:
    """The samples, still without images, and the directories of those that name one, by identifier."""
    path = faults.source
    samples: dict[str, ReasoningSample] = {}
    directories: dict[str, str] = {}
    repeated = []
    for where, line in read_lines(path):
        with faults:
            record = parse_line(line, where)
            name = require(record, "identifier", where)
            if not isinstance(name, str) or "-" not in name:
                raise ValueError(f"{where}: expected an identifier such as 'dev-850-0-1', found {shown(name)}")
            if name in samples:
                repeated.append(name)
            statement = clean_text(require(record, "sentence", where), "a sentence", where)
            label = _read_label(record.get("label"), where)
            samples[name] = {"images": (Path(), Path()), "statement": statement, "label": label, "id": name}
            if record.get("directory") not in (None, ""):
                directories[name] = str(read_id(record["directory"], "directory", where))
    if not samples and not faults.refused:
        raise ValueError(f"{path}: it holds no line; is it the right file?")
    with faults:
        if repeated:
            raise ValueError(f"{path}: these identifiers occur more than once: {list_some(repeated)}; keep one of each")
    bare = [name for name in samples if samples[name]["label"] is None]
    with faults:
        if 0 < len(bare) < len(samples):
            some = list_some(bare)
            raise ValueError(f"{path}: some lines have a label, these have none: {some}; give all one, or none")
    return list(samples.values()), directories


def _read_label(label: Any, where: str) -> bool | None:
    if label is None:
        return None
    if (found := _LABELS.get(shown(label).strip("'").lower())) is None:
        raise ValueError(f"{where}: expected the label 'True' or 'False', found {shown(label)}")
    return found
