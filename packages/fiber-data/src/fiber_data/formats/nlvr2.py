"""NLVR2: sentences that are true or false of two photographs, an object a line (Suhr et al., ACL 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from fiber_data.formats.files import FileOfSplitNotFoundError, FolderListing, ImageFinder, check_folder, keep_on_disk
from fiber_data.formats.samples import clean_text, list_some, read_json_lines, require

if TYPE_CHECKING:
    from fiber_data.images import ImageSource

_LABELS = {"true": True, "false": False}


class ReasoningSample(TypedDict):
    """A sentence about two images, the left one first; `label` is None in a test split without labels."""

    images: tuple[ImageSource, ImageSource]
    """Paths from our readers; anything that `fiber_data.load_image` takes from yours."""
    statement: str
    label: bool | None
    id: str


def read_nlvr2(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> list[ReasoningSample]:
    """Reads one split of NLVR2.

    The lines are in ``<split>.json``, in the folder itself, in ``data``, in ``nlvr2`` (where `fiber_data.scenes`
    writes them) or in ``nlvr2/data``. The images of ``dev-850-0-1`` are ``dev-850-0-img0.png`` and
    ``dev-850-0-img1.png`` in ``images/<split>`` or ``<split>``, of the folder itself or of ``nlvr2``; lines with a
    ``directory`` (train) have them in a folder of this name there.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"dev"``, ``"test1"`` or what the file is called.
        check_images: Whether to leave out, with a warning, sentences without both images on disk.
        annotation_file: A file of such lines that lies elsewhere or has another name.
        image_folder: The folder with the images, or with the directories of train, if it is another.

    Returns:
        A sample for each line, in the order of the file; ``id`` is its identifier.

    Raises:
        FileNotFoundError: There is no such folder or file, or no sentence has its images on disk.
        KeyError: A key of the format is missing; the message names file and line.
        ValueError: A line is not a JSON object, a sentence, label or identifier is of another form, identifiers
            repeat, or only some lines have a label.
        SplitNotFoundError: The folder holds no such split.
    """
    folder = Path(root)
    path = _find_file(folder, split) if annotation_file is None else Path(annotation_file)
    samples, directories = _read_lines(path)
    folders = [base / name for base in (folder, folder / "nlvr2") for name in (f"images/{split}", split)]
    listing = FolderListing()
    finder = ImageFinder(folders if image_folder is None else [Path(image_folder)], listing)
    pairs = [f"{directories.get(sample['id'], '')}/{sample['id'].rpartition('-')[0]}".lstrip("/") for sample in samples]
    for sample, left in zip(samples, finder.find_together([[f"{pair}-img0.png"] for pair in pairs]), strict=True):
        sample["images"] = left, left.with_name(f"{left.name.removesuffix('0.png')}1.png")
    return keep_on_disk(samples, "sentences", path, listing) if check_images else samples


def _find_file(root: Path, split: str) -> Path:
    """The first of the files where the lines may be; copies of them in the others do no harm."""
    check_folder(root)
    tried = [root / name / f"{split}.json" for name in ("", "data", "nlvr2", "nlvr2/data")]
    if (path := next((path for path in tried if path.is_file()), None)) is None:
        candidates = ", ".join(str(path.relative_to(root)) for path in tried)
        raise FileOfSplitNotFoundError(f"{root}: no sentences of split {split!r}; expected one of {candidates}")
    return path


def _read_lines(path: Path) -> tuple[list[ReasoningSample], dict[str, str]]:
    """The samples, still without images, and the directories of those that name one, by identifier."""
    samples: dict[str, ReasoningSample] = {}
    directories: dict[str, str] = {}
    repeated = []
    for where, record in read_json_lines(path):
        name = require(record, "identifier", where)
        if not isinstance(name, str) or "-" not in name:
            raise ValueError(f"{where}: expected an identifier such as 'dev-850-0-1', found {name!r}")
        if name in samples:
            repeated.append(name)
        statement = clean_text(require(record, "sentence", where), "a sentence", where)
        label = _read_label(record.get("label"), where)
        samples[name] = {"images": (Path(), Path()), "statement": statement, "label": label, "id": name}
        if "directory" in record:
            directories[name] = str(record["directory"])
    if not samples:
        raise ValueError(f"{path}: it holds no line; is it the right file?")
    if repeated:
        raise ValueError(f"{path}: these identifiers occur more than once: {list_some(repeated)}; keep one of each")
    if (bare := [name for name in samples if samples[name]["label"] is None]) and len(bare) < len(samples):
        raise ValueError(f"{path}: some lines have a label, these have none: {list_some(bare)}; give all one, or none")
    return list(samples.values()), directories


def _read_label(label: Any, where: str) -> bool | None:
    if label is None:
        return None
    if str(label).lower() not in _LABELS:
        raise ValueError(f"{where}: expected the label 'True' or 'False', found {label!r}")
    return _LABELS[str(label).lower()]
