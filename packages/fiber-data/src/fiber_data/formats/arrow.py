"""The Arrow files that ViLT, METER and FIBER train on, of captions, of questions (VQAv2), and of pairs (NLVR2).

A row is an image with all of its texts: ``image``, ``caption`` (a list), ``image_id``, ``split``; of questions
``questions``, ``question_id``, ``answers`` and ``answer_scores`` in place of the captions; of pairs ``image_0``,
``image_1``, ``questions``, ``answers``, ``identifier``. A file is named after data set, split and part, such as
``coco_caption_karpathy_train.arrow``, ``vg.arrow``, ``sbu_0.arrow``, ``vqav2_trainable_val.arrow``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict, Unpack

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import FileOfSplitNotFoundError, ImageFinder, SplitFile, check_folder
from fiber_data.formats.ids import Id, number, read_id, shown
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.plain_records import NUM_ANSWERS, annotated, read_truth
from fiber_data.formats.samples import clean_text, keep_captions, require
from fiber_data.formats.splits import collected, of_split, on_disk
from fiber_data.formats.streams import iterated_by
from fiber_data.formats.tables import column_names, finder_beside, image_of_cell, stream_table

_SPLITS = "trainable_val|rest_val|restval|train|val|test-dev|test1|test2|test|dev"
_NAME = re.compile(rf"(?P<name>.+?)(_(?P<split>{_SPLITS}))?(_\d+)?\.arrow")
_IMAGE_COLUMNS = ("image", "image_0")
_IMAGES = (*_IMAGE_COLUMNS, "image_1")


class ArrowOptions(TypedDict, total=False):
    """What `read_arrow` takes beside root and split.

    - ``check_images``: whether to leave out, counted, rows without an image or a text (True);
    - ``hold_out``: about which share of the images is ``"val"`` where no file has a split in its name;
    - ``name``: the data set, where a folder holds several: ``"vg"``, ``"coco_caption_karpathy"``, ``"vqav2"``.
    """

    check_images: bool
    hold_out: float | None
    name: str | None


def iterate_arrow(
    root: str | Path, split: str | None, faults: Faults, **options: Unpack[ArrowOptions]
) -> Iterator[dict[str, Any]]:
    """The samples of `read_arrow`, one by one; images stay in their files."""
    files = _find_files(Path(root), split, options.get("name"))
    check, listing = options.get("check_images", True), FolderListing()

    def make(counted: Faults) -> Iterator[dict[str, Any]]:
        seen: set[Id] = set()
        for path in files:
            counted.source = path
            finder = finder_beside(path, Path(root), listing)
            for sample in _read_file(path, counted, seen, finder):
                if check and (_lacks_image(sample) or not sample.get("captions", True)):
                    counted.note("the samples", "lack an image or a caption", outcome="these are left out")
                else:
                    yield sample

    faults.source = files[0]
    is_named = _split_of(files[0]) is not None
    samples = of_split(make, None if is_named else split, options.get("hold_out"), "samples", faults)
    yield from on_disk(samples, "samples", faults, listing, check_images=check)


@iterated_by(iterate_arrow)
def read_arrow(
    root: str | Path, split: str | None = None, *, bad_entries: BadEntries = None, **options: Unpack[ArrowOptions]
) -> Samples[Any]:
    """Reads the files of a split: samples as of `read_captions`, of `read_vqav2` or of `read_nlvr2`.

    Args:
        root: Folder of the files.
        split: As their names have it; ``"train"`` takes ``restval`` in. None is all files of the data set.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        options: See `ArrowOptions`.

    Returns:
        The samples, and what was wrong with the files (``faults``). The files keep of ten answers the scores of those
        that their vocabulary has; from these ten answers are made anew that score alike. What else people answered is
        then "(not kept 1)", and so on.

    Raises:
        FileNotFoundError: There is no such folder.
        KeyError: A column is missing; the message names file and row.
        ValueError: A file is no table or cut off, a row is out of format, ids repeat, or several data sets would fit.
        SplitNotFoundError: The folder holds no such files of the split.
    """
    return collected(iterate_arrow, root, split, bad_entries, **options)


def find_arrow(root: Path) -> list[SplitFile]:
    """The data sets and splits of such files that a folder holds."""
    found: dict[tuple[str, str | None], SplitFile] = {}
    for path in _files(root):
        key = (_name_of(path), _split_of(path))
        found.setdefault(key, SplitFile(path, key[1], {"name": key[0]}))
    return list(found.values())


def _files(root: Path) -> list[Path]:
    files = sorted(root.glob("*.arrow"))
    return [path for path in files if not set(_IMAGE_COLUMNS).isdisjoint(column_names(path)) and not _is_saved(path)]


def _is_saved(path: Path) -> bool:
    """Whether a file is of `datasets`."""
    return (path.parent / "state.json").is_file()


def _name_of(path: Path) -> str:
    found = _NAME.fullmatch(path.name)
    return found["name"] if found else path.stem


def _split_of(path: Path) -> str | None:
    found = _NAME.fullmatch(path.name)
    return found["split"] if found else None


def _find_files(root: Path, split: str | None, name: str | None) -> list[Path]:
    check_folder(root)
    there = [path for path in _files(root) if name in (None, _name_of(path))]
    wanted = {split, "restval"} if split == "train" else {split}
    files = there if split is None else [path for path in there if _split_of(path) in wanted]
    if not any(_split_of(path) == split for path in files):
        files = files if split is None else [path for path in there if _split_of(path) is None]
    if not files:
        names = ", ".join(path.name for path in there) or "none with images"
        raise FileOfSplitNotFoundError(f"{root}: no Arrow files of split {split!r}; there are {names}")
    if len(names_of := sorted({_name_of(path) for path in files})) > 1:
        raise ValueError(f"{root}: several data sets would fit ({', '.join(names_of)}); say which with name")
    return files


def _read_file(path: Path, faults: Faults, seen: set[Id], finder: ImageFinder) -> Iterator[dict[str, Any]]:
    rows, split = stream_table(path), _split_of(path)
    while True:
        entry, samples = None, []
        with faults:
            entry = next(rows, None)
        if entry is None:
            return
        where, row = entry
        with faults:
            row |= {key: image_of_cell(row[key], finder, where) for key in _IMAGES if key in row}
            samples = _read_row(row, where, path, faults)
        for sample in samples:
            kept = False
            with faults:
                seen.add(read_id(sample["id"], "id", where, seen))
                kept = True
            if kept:
                yield {**sample, "split": split or (row.get("split") if isinstance(row.get("split"), str) else None)}


def _read_row(row: dict[str, Any], where: str, path: Path, faults: Faults) -> list[dict[str, Any]]:
    if "image_0" in row:
        return _read_pair(row, where)
    image, plain = row.get("image"), where.rpartition("row[")[2].rstrip("]")
    given = row.get("image_id")
    own = f"{path.stem}-{plain}" if given is None else read_id(given, "image_id", where)
    if "questions" in row:
        return _read_questions(row, image, own, where)
    texts = require(row, "caption", where)
    texts = texts if isinstance(texts, list) else [texts]
    return [{"image": image, "captions": keep_captions([(where, text) for text in texts], faults), "id": own}]


def _read_questions(row: dict[str, Any], image: Any, own: Id, where: str) -> list[dict[str, Any]]:
    asked, ids = (_listed(row, key, where) for key in ("questions", "question_id"))
    if len(asked) != len(ids):
        raise ValueError(f"{where}: expected an id of each question, found {len(ids)} of {len(asked)}")
    answers, scores = row.get("answers") or [], row.get("answer_scores") or []
    samples = []
    for place, (question, number_of) in enumerate(zip(asked, ids, strict=True)):
        text = clean_text(question, "a question", f"{where}.questions[{place}]")
        name = read_id(number_of, "question_id", f"{where}.question_id[{place}]")
        sample: dict[str, Any] = {"image": image, "question": text, "id": name, "image_id": own}
        if place < len(answers) and place < len(scores):
            sample |= annotated(text, _answers_of(answers[place], scores[place], f"{where}.answers[{place}]"))
        samples.append(sample)
    return samples


def _answers_of(answers: Any, scores: Any, where: str) -> list[str]:
    """Ten answers that score as the file says: 0.3, 0.6, 0.9 or 1 as one, two, three or more people gave them."""
    if not isinstance(answers, list) or not isinstance(scores, list) or len(answers) != len(scores):
        raise ValueError(f"{where}: expected answers with as many scores, found {shown(answers)}, {shown(scores)}")
    found: list[str] = []
    for answer, score in zip(answers, scores, strict=True):
        if (value := number(score)) is None or not isinstance(answer, str):
            raise ValueError(f"{where}: expected a text with its score, found {shown(answer)}, {shown(score)}")
        found += [answer] * min(4, max(0, round(value / 0.3)) if value < 1 else 4)
    sure = next((answer for answer, score in zip(answers, scores, strict=True) if score >= 1), None)
    lacking = range(1, NUM_ANSWERS - len(found) + 1)
    return found + [f"(not kept {count})" if sure is None else sure for count in lacking]


def _read_pair(row: dict[str, Any], where: str) -> list[dict[str, Any]]:
    texts, labels = _listed(row, "questions", where), row.get("answers") or []
    own = read_id(require(row, "identifier", where), "identifier", where)
    images = (row.get("image_0"), row.get("image_1"))
    found = []
    for place, text in enumerate(texts):
        label = {"label": labels[place]} if place < len(labels) else {}
        statement = clean_text(text, "a sentence", f"{where}.questions[{place}]")
        found.append(
            {"images": images, "statement": statement, "label": read_truth(label, where), "id": f"{own}-{place}"}
        )
    return found


def _listed(row: dict[str, Any], key: str, where: str) -> list[Any]:
    if not isinstance(found := require(row, key, where), list):
        raise ValueError(f"{where}: expected {key} as a list, found {shown(found)}")
    return found


def _lacks_image(sample: dict[str, Any]) -> bool:
    return None in (sample["images"] if "images" in sample else (sample["image"],))
