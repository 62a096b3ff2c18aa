"""VQAv2: a file of questions, a file of ten answers to each, and COCO's images (Goyal et al., CVPR 2017)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from fiber_data.formats.faults import BadEntries, Faults, Samples
from fiber_data.formats.files import (
    ImageFinder,
    SplitFile,
    find_annotation_file,
    find_split_files,
    keep_on_disk,
    root_of_images,
)
from fiber_data.formats.ids import Id, read_id, shown, shown_path
from fiber_data.formats.listing import FolderListing
from fiber_data.formats.samples import clean_text, entries, list_some, read_json, read_name, require, whole_characters
from fiber_data.formats.sources import note_file
from fiber_data.formats.streams import collect

if TYPE_CHECKING:
    from fiber_data.images import ImageSource

_NAME = "v2_OpenEnded_*_questions.json"
_FILE_FOLDERS = ("annotations", "questions")  # where people keep the files, if not beside the images
_LONGEST_NAME = 200  # bytes, which file systems take as part of a name


class QuestionSample(TypedDict):
    """A question about an image, with what people answered unless the split is a test split."""

    image: ImageSource
    """A path from our readers; anything that `fiber_data.load_image` takes from yours."""
    question: str
    id: Id
    image_id: Id
    answers: NotRequired[list[str]]
    """What people answered, one text each, as they wrote it."""
    multiple_choice_answer: NotRequired[str]
    """The answer that most gave."""
    question_type: NotRequired[str]
    answer_type: NotRequired[str]
    split: NotRequired[str | None]


def read_vqav2(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    bad_entries: BadEntries = None,
    questions_file: str | Path | None = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> Samples[QuestionSample]:
    """Reads the questions of one split.

    A folder holds ``v2_OpenEnded_mscoco_train2014_questions.json`` and ``v2_mscoco_train2014_annotations.json``
    (itself, in ``annotations`` or in ``questions``) and the images as
    ``train2014/COCO_train2014_000000000042.jpg`` or ``train2014/000000000042.jpg``, if wanted in ``images``, or of
    another suffix.
    What `fiber_data.scenes` writes is of this form too; images that are not COCO's take their names from
    ``captions_<split>.json`` beside the questions.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ``"test"``, ``"test-dev"``, with or without the year.
        check_images: Whether to leave out, with a warning, questions whose image is not on disk.
        bad_entries: ``"count"`` leaves out what is out of format and counts it; None ends with the first.
        questions_file: A file of questions that lies elsewhere or has another name.
        annotation_file: The file of its answers. Without it, questions that were found have the answers that belong to
            them, where there are any (test splits have none); questions given by hand have none.
        image_folder: The folder with the images, or with ``train2014``, if it is another.

    Returns:
        A sample for each question, in the order of the file, and what was wrong with the files (``faults``); ``id`` is
        its ``question_id``.

    Raises:
        FileNotFoundError: The folder or a file is missing, or no question has its image on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: A file is not JSON in UTF-8, a question or answer is no text, ids repeat, are neither whole numbers
            nor text or differ between the files, or several files fit the split.
        SplitNotFoundError: The folder holds no questions of the split.
    """
    folder = Path(root)
    questions = _find_questions(folder, split) if questions_file is None else Path(questions_file)
    if questions_file is None and annotation_file is None:
        annotation_file = _find_answers(folder, questions)
    content, faults = read_json(questions), Faults(questions, bad_entries is None)
    samples = _read_questions(content, faults)
    if annotation_file is not None:
        own = faults.beside(Path(annotation_file))
        samples = _add_answers({sample["id"]: sample for sample in samples}, own, questions)
    base = root_of_images(folder, questions, _FILE_FOLDERS)
    listing = FolderListing()
    _add_images(samples, questions, content, split, base, image_folder, listing)
    if check_images:
        samples = keep_on_disk(samples, "questions", questions, listing, faults=faults)
    return collect(samples, faults)


def find_vqav2(root: Path) -> list[SplitFile]:
    """The files of questions that a folder holds, each with the file of its answers, if there is one."""
    globs = [_NAME, *(f"{folder}/{_NAME}" for folder in _FILE_FOLDERS)]
    files = find_split_files(root, globs, r"(.*/)?v2_OpenEnded_\w+_(?P<split>.+?)(\d{4})?_questions\.json")
    return [
        SplitFile(
            file.path, file.split, {"questions_file": file.path, "annotation_file": _find_answers(root, file.path)}
        )
        for file in files
    ]


def _find_questions(root: Path, split: str) -> Path:
    return find_annotation_file(
        root,
        [_NAME, *(f"{folder}/{_NAME}" for folder in _FILE_FOLDERS)],
        rf"(.*/)?v2_OpenEnded_\w+_{re.escape(split)}(\d{{4}})?_questions\.json",
        expected=f"no v2_OpenEnded_*_{split}*_questions.json, here or in {' or '.join(_FILE_FOLDERS)}",
        mend="name the one that is meant with questions_file",
    )


def _find_answers(root: Path, questions: Path) -> Path | None:
    """The file of answers that belongs to a file of questions, if there is one."""
    own = questions.name.replace("v2_OpenEnded_", "v2_").replace("_questions.json", "_annotations.json")
    candidates = [root / folder / own for folder in ("", *_FILE_FOLDERS)]
    for file in candidates:
        note_file(file)
    return next((file for file in candidates if file.is_file()), None)


def _read_questions(content: Any, faults: Faults) -> list[QuestionSample]:
    path = faults.source
    samples: list[QuestionSample] = []
    for where, entry in entries(path, content, "questions"):
        with faults:
            samples.append(
                {
                    "image": Path(),
                    "question": clean_text(require(entry, "question", where), "a question", where),
                    "id": read_id(require(entry, "question_id", where), "question_id", where),
                    "image_id": read_id(require(entry, "image_id", where), "image_id", where),
                }
            )
    if not samples and not faults.refused:
        raise ValueError(f"{path}: it holds no question; is it the right file?")
    counts = Counter(sample["id"] for sample in samples)
    _refuse_repeated([name for name, count in counts.items() if count > 1], faults)
    return samples


def _refuse_repeated(names: list[Id], faults: Faults) -> None:
    with faults:
        if names:
            what = f"these question_ids occur more than once: {list_some(names)}"
            raise ValueError(f"{faults.source}: {what}; keep one of each")


def _add_answers(samples: dict[Id, QuestionSample], faults: Faults, questions: Path) -> list[QuestionSample]:
    path = faults.source
    answers: dict[Id, tuple[str, dict[str, Any]]] = {}
    repeated = []
    for where, entry in entries(path, read_json(path), "annotations"):
        with faults:
            if (name := read_id(require(entry, "question_id", where), "question_id", where)) in answers:
                repeated.append(name)
            answers[name] = where, entry
    _refuse_repeated(repeated, faults)
    unanswered = [name for name in samples if name not in answers]
    unasked = [name for name in answers if name not in samples]
    with faults:
        if unanswered or unasked:
            raise ValueError(
                f"{path} does not belong to {questions}: {len(unanswered)} questions have no annotation "
                f"({list_some(unanswered) or 'none'}), {len(unasked)} annotations no question "
                f"({list_some(unasked) or 'none'}); give the two files of one split"
            )
    found = []
    for name in (name for name in samples if name in answers):
        with faults:
            _add_answer(samples[name], *answers[name], questions)
            found.append(samples[name])
    return found


def _add_answer(sample: QuestionSample, where: str, entry: dict[str, Any], questions: Path) -> None:
    image_id = read_id(require(entry, "image_id", where), "image_id", where)
    if image_id != sample["image_id"]:
        raise ValueError(
            f"{where}: question {shown(sample['id'])} is about image {shown(image_id)} here, but about "
            f"{shown(sample['image_id'])} in {questions}; give the two files of one split"
        )
    answers = require(entry, "answers", where)
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"{where}: expected a list of answers, found {shown(answers)}")
    sample["answers"] = [_text(answer, "answer", f"{where}.answers[{index}]") for index, answer in enumerate(answers)]
    sample["multiple_choice_answer"] = _text(entry, "multiple_choice_answer", where)
    sample["question_type"] = _text(entry, "question_type", where)
    sample["answer_type"] = _text(entry, "answer_type", where)


def _text(entry: Any, key: str, where: str) -> str:
    if not isinstance(text := require(entry, key, where), str):
        raise ValueError(f"{where}: expected {key!r} as text, found {shown(text)}")
    return whole_characters(text)


def _add_images(
    samples: list[QuestionSample],
    questions: Path,
    content: dict[str, Any],
    split: str,
    root: Path,
    image_folder: str | Path | None,
    listing: FolderListing,
) -> None:
    """Finds the images: all in one folder, under one of COCO's two namings or under names of their own."""
    subset = _read_about(content, "data_subtype", split, questions)
    source = _read_about(content, "data_type", "mscoco", questions)
    if source == "mscoco":
        subset = re.sub(r"-[a-z]+", "", subset)  # test-dev2015 asks about images of test2015
        numbers = [str(sample["image_id"]).zfill(12) for sample in samples]
        names = [[f"COCO_{subset}_{number}.jpg", f"{number}.jpg"] for number in numbers]
    else:
        known = _read_names(questions, subset, source)
        names = [[_named(sample, known, questions)] for sample in samples]
    folders = [root / subset, root / "images" / subset, root / "images", root]
    if image_folder is not None:
        folders = [Path(image_folder) / subset, Path(image_folder)]
    images = ImageFinder(folders, listing).find_together(names)
    for sample, image in zip(samples, images, strict=True):
        sample["image"] = image


def _read_about(content: dict[str, Any], key: str, default: str, questions: Path) -> str:
    """What the file says of its images, which is part of their folder's name."""
    value = content.get(key) or default
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > _LONGEST_NAME:
        raise ValueError(f"{questions}: expected {key} as a name such as {default!r}, found {shown(value)}")
    return value


def _named(sample: QuestionSample, names: dict[Id, str], questions: Path) -> str:
    if sample["image_id"] not in names:
        raise ValueError(
            f"{questions}: question {shown(sample['id'])} is about image {shown(sample['image_id'])}, which is not "
            f"among the {len(names)} images of the captions file beside it"
        )
    return names[sample["image_id"]]


def _read_names(questions: Path, subset: str, source: str) -> dict[Id, str]:
    """File names by image id, from the COCO captions of the same images."""
    path = questions.parent / f"captions_{subset}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{shown_path(path)}: no such file; the images of {questions.name} are not 'mscoco' but {source!r}, and "
            "take their names from the entry 'images' of this file"
        )
    names: dict[Id, str] = {}
    for where, entry in entries(path, read_json(path), "images"):
        number = read_id(require(entry, "id", where), "image id", where, names)
        names[number] = read_name(require(entry, "file_name", where), "file_name", where)
    return names
