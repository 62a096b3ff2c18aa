"""VQAv2: a file of questions, a file of ten answers to each, and COCO's images (Goyal et al., CVPR 2017)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from fiber_data.formats.files import (
    FolderListing,
    ImageFinder,
    find_annotation_file,
    keep_on_disk,
    root_of_images,
)
from fiber_data.formats.samples import clean_text, entries, list_some, read_json, require

if TYPE_CHECKING:
    from fiber_data.images import ImageSource

_FILE_FOLDERS = ("annotations", "questions")  # where people keep the files, if not beside the images


class QuestionSample(TypedDict):
    """A question about an image, with what people answered unless the split is a test split."""

    image: ImageSource
    """A path from our readers; anything that `fiber_data.load_image` takes from yours."""
    question: str
    id: int | str
    image_id: int | str
    answers: NotRequired[list[str]]
    """What people answered, one text each, as they wrote it."""
    multiple_choice_answer: NotRequired[str]
    """The answer that most gave."""
    question_type: NotRequired[str]
    answer_type: NotRequired[str]


def read_vqav2(
    root: str | Path,
    split: str,
    *,
    check_images: bool = True,
    questions_file: str | Path | None = None,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> list[QuestionSample]:
    """Reads the questions of one split.

    A folder holds ``v2_OpenEnded_mscoco_train2014_questions.json`` and ``v2_mscoco_train2014_annotations.json``
    (itself, in ``annotations`` or in ``questions``) and the images as
    ``train2014/COCO_train2014_000000000042.jpg`` or ``train2014/000000000042.jpg``, if wanted in ``images``.
    What `fiber_data.scenes` writes is of this form too; images that are not COCO's take their names from
    ``captions_<split>.json`` beside the questions.

    Args:
        root: Folder of the data set.
        split: ``"train"``, ``"val"``, ``"test"``, ``"test-dev"``, with or without the year.
        check_images: Whether to leave out, with a warning, questions whose image is not on disk.
        questions_file: A file of questions that lies elsewhere or has another name.
        annotation_file: The file of its answers. Without it, questions that were found have the answers that belong to
            them, where there are any (test splits have none); questions given by hand have none.
        image_folder: The folder with the images, or with ``train2014``, if it is another.

    Returns:
        A sample for each question, in the order of the file; ``id`` is its ``question_id``.

    Raises:
        FileNotFoundError: The folder or a file is missing, or no question has its image on disk.
        KeyError: A key of the format is missing; the message names file and location.
        ValueError: A file is not JSON, a question or answer is no text, ids repeat or differ between the files,
            or several files fit the split.
        SplitNotFoundError: The folder holds no questions of the split.
    """
    folder = Path(root)
    questions = _find_questions(folder, split) if questions_file is None else Path(questions_file)
    if questions_file is None and annotation_file is None:
        annotation_file = _find_answers(folder, questions)
    content = read_json(questions)
    samples = _read_questions(questions, content)
    if annotation_file is not None:
        _add_answers({sample["id"]: sample for sample in samples}, Path(annotation_file), questions)
    base = root_of_images(folder, questions, _FILE_FOLDERS)
    listing = FolderListing()
    _add_images(samples, questions, content, split, base, image_folder, listing)
    return keep_on_disk(samples, "questions", questions, listing) if check_images else samples


def _find_questions(root: Path, split: str) -> Path:
    name = "v2_OpenEnded_*_questions.json"
    return find_annotation_file(
        root,
        [name, *(f"{folder}/{name}" for folder in _FILE_FOLDERS)],
        rf"(.*/)?v2_OpenEnded_\w+_{re.escape(split)}(\d{{4}})?_questions\.json",
        expected=f"no v2_OpenEnded_*_{split}*_questions.json, here or in {' or '.join(_FILE_FOLDERS)}",
        mend="name the one that is meant with questions_file",
    )


def _find_answers(root: Path, questions: Path) -> Path | None:
    """The file of answers that belongs to a file of questions, if there is one."""
    own = questions.name.replace("v2_OpenEnded_", "v2_").replace("_questions.json", "_annotations.json")
    candidates = [root / folder / own for folder in ("", *_FILE_FOLDERS)]
    return next((file for file in candidates if file.is_file()), None)


def _read_questions(path: Path, content: Any) -> list[QuestionSample]:
    samples: list[QuestionSample] = []
    for where, entry in entries(path, content, "questions"):
        samples.append(
            {
                "image": Path(),
                "question": clean_text(require(entry, "question", where), "a question", where),
                "id": require(entry, "question_id", where),
                "image_id": require(entry, "image_id", where),
            }
        )
    if not samples:
        raise ValueError(f"{path}: it holds no question; is it the right file?")
    if repeated := [name for name, count in Counter(sample["id"] for sample in samples).items() if count > 1]:
        raise ValueError(f"{path}: these question_ids occur more than once: {list_some(repeated)}; keep one of each")
    return samples


def _add_answers(samples: dict[int | str, QuestionSample], path: Path, questions: Path) -> None:
    answers: dict[int | str, tuple[str, dict[str, Any]]] = {}
    repeated = []
    for where, entry in entries(path, read_json(path), "annotations"):
        if (name := require(entry, "question_id", where)) in answers:
            repeated.append(name)
        answers[name] = where, entry
    if repeated:
        raise ValueError(f"{path}: these question_ids occur more than once: {list_some(repeated)}; keep one of each")
    unanswered = [name for name in samples if name not in answers]
    unasked = [name for name in answers if name not in samples]
    if unanswered or unasked:
        raise ValueError(
            f"{path} does not belong to {questions}: {len(unanswered)} questions have no annotation "
            f"({list_some(unanswered) or 'none'}), {len(unasked)} annotations no question "
            f"({list_some(unasked) or 'none'}); give the two files of one split"
        )
    for name, sample in samples.items():
        _add_answer(sample, *answers[name], questions)


def _add_answer(sample: QuestionSample, where: str, entry: dict[str, Any], questions: Path) -> None:
    if (image_id := require(entry, "image_id", where)) != sample["image_id"]:
        raise ValueError(
            f"{where}: question {sample['id']!r} is about image {image_id!r} here, but about {sample['image_id']!r} in "
            f"{questions}; give the two files of one split"
        )
    answers = require(entry, "answers", where)
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"{where}: expected a list of answers, found {answers!r}")
    sample["answers"] = [_text(answer, "answer", f"{where}.answers[{index}]") for index, answer in enumerate(answers)]
    sample["multiple_choice_answer"] = _text(entry, "multiple_choice_answer", where)
    sample["question_type"] = _text(entry, "question_type", where)
    sample["answer_type"] = _text(entry, "answer_type", where)


def _text(entry: Any, key: str, where: str) -> str:
    if not isinstance(text := require(entry, key, where), str):
        raise ValueError(f"{where}: expected {key!r} as text, found {text!r}")
    return text


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
    subset = content.get("data_subtype") or split
    source = content.get("data_type", "mscoco")
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


def _named(sample: QuestionSample, names: dict[Any, str], questions: Path) -> str:
    if sample["image_id"] not in names:
        raise ValueError(
            f"{questions}: question {sample['id']!r} is about image {sample['image_id']!r}, which is not among the "
            f"{len(names)} images of the captions file beside it"
        )
    return names[sample["image_id"]]


def _read_names(questions: Path, subset: str, source: str) -> dict[Any, str]:
    """File names by image id, from the COCO captions of the same images."""
    path = questions.parent / f"captions_{subset}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; the images of {questions.name} are not 'mscoco' but {source!r}, and take their "
            "names from the entry 'images' of this file"
        )
    images = entries(path, read_json(path), "images")
    return {require(entry, "id", where): require(entry, "file_name", where) for where, entry in images}
