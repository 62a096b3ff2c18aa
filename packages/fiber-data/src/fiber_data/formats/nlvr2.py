"""NLVR2: sentences that are true or false of two photographs, an object a line (Suhr et al., ACL 2019)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from fiber_data.formats.samples import SplitNotFoundError, read_json_lines, require
from fiber_data.formats.tasks import choose_place, clean_text, keep_on_disk, list_some

_LABELS = {"true": True, "false": False}


class ReasoningSample(TypedDict):
    """A sentence about two pictures, the left one first; `label` is None in a test split without labels."""

    images: tuple[Path, Path]
    statement: str
    label: bool | None
    id: str


def read_nlvr2(root: str | Path, split: str, *, check_images: bool = True) -> list[ReasoningSample]:
    """Reads one split of NLVR2.

    The lines are in ``<split>.json``, in the folder itself, in ``data``, in ``nlvr2`` (where `fiber_data.scenes`
    writes them) or in ``nlvr2/data``. The pictures of ``dev-850-0-1`` are ``dev-850-0-img0.png`` and
    ``dev-850-0-img1.png`` in ``images/<split>`` or ``<split>``, of the folder itself or of ``nlvr2``; lines with a
    ``directory`` (train) have them in a folder of this name there.

    Args:
        root: The folder of the data set.
        split: ``"train"``, ``"dev"``, ``"test1"`` or what the file is called.
        check_images: Whether to leave out, with a warning, sentences without both pictures on disk.

    Returns:
        A sample for each line, in the order of the file; ``id`` is its identifier.

    Raises:
        FileNotFoundError: There is no such folder, or no sentence has its pictures on disk.
        KeyError: A key of the format is missing; the message names file and line.
        ValueError: A line is not a JSON object, a sentence, label or identifier is of another form, identifiers
            repeat, or only some lines have a label.
        SplitNotFoundError: The folder holds no such split.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the root of NLVR2 with pictures and {split}.json")
    tried = [folder / name / f"{split}.json" for name in ("", "data", "nlvr2", "nlvr2/data")]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        places = ", ".join(str(path.relative_to(folder)) for path in tried)
        raise SplitNotFoundError(f"{folder}: no sentences of split {split!r}; expected one of {places}")
    samples, directories = _read_lines(path)
    bases = (folder, folder / "nlvr2")
    folders = [place for base in bases for place in (base / "images" / split, base / split)]
    place = choose_place([partial(_pictures, place, directories) for place in folders], samples)
    for sample in samples:
        left, right = place(sample)
        sample["images"] = (left, right)
    return keep_on_disk(samples, lambda sample: sample["images"], "sentences", path) if check_images else samples


def _read_lines(path: Path) -> tuple[list[ReasoningSample], dict[str, str]]:
    """The samples, still without pictures, and the directories of those that name one, by identifier."""
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


def _pictures(folder: Path, directories: dict[str, str], sample: ReasoningSample) -> Sequence[Path]:
    stem = sample["id"].rpartition("-")[0]
    return [folder / directories.get(sample["id"], "") / f"{stem}-img{side}.png" for side in (0, 1)]
