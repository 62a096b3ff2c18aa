"""VQAv2: a file of questions, a file of ten answers to each, and COCO's pictures (Goyal et al., CVPR 2017)."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from fiber_data.formats.samples import SplitNotFoundError, read_json, require
from fiber_data.formats.tasks import choose_place, clean_text, keep_on_disk, list_some

_FILE_FOLDERS = ("annotations", "questions")  # where people keep the files, if not beside the pictures


class QuestionSample(TypedDict):
    """A question about a picture, with what people answered unless the split is a test split."""

    image: Path
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
    root_or_questions: str | Path,
    annotations: str | Path | None = None,
    image_folder: str | Path | None = None,
    split: str | None = None,
    *,
    check_images: bool = True,
) -> list[QuestionSample]:
    """Reads the questions of one split.

    A folder holds ``v2_OpenEnded_mscoco_train2014_questions.json`` and ``v2_mscoco_train2014_annotations.json``
    (itself, in ``annotations`` or in ``questions``) and the pictures as
    ``train2014/COCO_train2014_000000000042.jpg`` or ``train2014/000000000042.jpg``, if wanted in ``images``.
    What `fiber_data.scenes` writes is of this form too; pictures that are not COCO's take their names from
    ``captions_<split>.json`` beside the questions.

    Args:
        root_or_questions: The folder, or the file of questions.
        annotations: The file of answers; None takes the one that belongs to the questions in the folder, and
            reads questions without answers where there is none (test splits).
        image_folder: The folder with the pictures, or with ``train2014``; None looks beside the files.
        split: For a folder: ``"train"``, ``"val"``, ``"test"``, ``"test-dev"``, with or without the year.
        check_images: Whether to leave out, with a warning, questions whose picture is not on disk.

    Returns:
        A sample for each question, in the order of the file; ``id`` is its ``question_id``.

    Raises:
        FileNotFoundError: A file is missing, or no question has its picture on disk.
        KeyError: A key of the format is missing; the message names file and place.
        ValueError: A file is not JSON, a question or answer is no text, ids repeat or differ between the files,
            or several files fit the split.
        SplitNotFoundError: The folder holds no questions of the split.
    """
    questions = Path(root_or_questions)
    if questions.is_dir():
        questions, found = _find_files(questions, split)
        annotations = annotations or found
    content = read_json(questions)
    samples = _read_questions(questions, content)
    if annotations is not None:
        _add_answers({sample["id"]: sample for sample in samples}, Path(annotations), questions)
    place = choose_place(_places(questions, content, image_folder, split), samples)
    for sample in samples:
        (sample["image"],) = place(sample)
    return keep_on_disk(samples, lambda sample: [sample["image"]], "questions", questions) if check_images else samples


def _find_files(folder: Path, split: str | None) -> tuple[Path, Path | None]:
    """The file of questions of a split, and that of its answers if there is one."""
    if split is None:
        raise ValueError(f"{folder}: a folder holds several splits; say which with split, such as split='val'")
    places = [folder, *(folder / name for name in _FILE_FOLDERS)]
    name = re.compile(rf"v2_OpenEnded_\w+_{re.escape(split)}(\d{{4}})?_questions\.json")
    there = [file for place in places for file in sorted(place.glob("v2_OpenEnded_*_questions.json"))]
    files = [file for file in there if name.fullmatch(file.name)]
    if not files:
        others = ", ".join(file.name for file in there) or "no file of questions at all"
        raise SplitNotFoundError(
            f"{folder}: no v2_OpenEnded_*_{split}*_questions.json, here or in {' or '.join(_FILE_FOLDERS)}; "
            f"there is {others}"
        )
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files)
        raise ValueError(f"{folder}: several files would fit ({names}); name the one that is meant instead of a folder")
    own = files[0].name.replace("v2_OpenEnded_", "v2_").replace("_questions.json", "_annotations.json")
    return files[0], next((place / own for place in places if (place / own).is_file()), None)


def _read_questions(path: Path, content: Any) -> list[QuestionSample]:
    samples: list[QuestionSample] = []
    for position, entry in enumerate(require(content, "questions", str(path))):
        where = f"{path}: questions[{position}]"
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
    entries: dict[int | str, tuple[str, dict[str, Any]]] = {}
    repeated = []
    for position, entry in enumerate(require(read_json(path), "annotations", str(path))):
        where = f"{path}: annotations[{position}]"
        if (name := require(entry, "question_id", where)) in entries:
            repeated.append(name)
        entries[name] = where, entry
    if repeated:
        raise ValueError(f"{path}: these question_ids occur more than once: {list_some(repeated)}; keep one of each")
    unanswered = [name for name in samples if name not in entries]
    unasked = [name for name in entries if name not in samples]
    if unanswered or unasked:
        raise ValueError(
            f"{path} does not belong to {questions}: {len(unanswered)} questions have no annotation "
            f"({list_some(unanswered) or 'none'}), {len(unasked)} annotations no question "
            f"({list_some(unasked) or 'none'}); give the two files of one split"
        )
    for name, sample in samples.items():
        _add_answer(sample, *entries[name], questions)


def _add_answer(sample: QuestionSample, where: str, entry: dict[str, Any], questions: Path) -> None:
    if (image_id := require(entry, "image_id", where)) != sample["image_id"]:
        raise ValueError(
            f"{where}: question {sample['id']!r} is about image {image_id!r} here, but about {sample['image_id']!r} in "
            f"{questions}; give the two files of one split"
        )
    answers = require(entry, "answers", where)
    if not isinstance(answers, list) or not answers:
        raise ValueError(f"{where}: expected a list of answers, found {answers!r}")
    sample["answers"] = [_text(answer, "answer", f"{where}.answers[{place}]") for place, answer in enumerate(answers)]
    sample["multiple_choice_answer"] = _text(entry, "multiple_choice_answer", where)
    sample["question_type"] = _text(entry, "question_type", where)
    sample["answer_type"] = _text(entry, "answer_type", where)


def _text(entry: Any, key: str, where: str) -> str:
    if not isinstance(text := require(entry, key, where), str):
        raise ValueError(f"{where}: expected {key!r} as text, found {text!r}")
    return text


def _places(
    questions: Path, content: dict[str, Any], image_folder: str | Path | None, split: str | None
) -> list[Callable[[QuestionSample], Sequence[Path]]]:
    """The places where the pictures may lie, each as a function from a sample to its picture."""
    subset = content.get("data_subtype") or split or ""
    source = content.get("data_type", "mscoco")
    if source == "mscoco":
        subset = re.sub(r"-[a-z]+", "", subset)  # test-dev2015 asks about pictures of test2015
        names = [partial(_numbered, f"COCO_{subset}_"), partial(_numbered, "")]
    else:
        names = [partial(_named, _read_names(questions, subset, source), questions)]
    if image_folder is not None:
        folders = [Path(image_folder) / subset, Path(image_folder)]
    else:
        root = questions.parent.parent if questions.parent.name in _FILE_FOLDERS else questions.parent
        folders = [root / subset, root / "images" / subset, root / "images", root]
    return [partial(_in_folder, folder, name) for folder in folders for name in names]


def _in_folder(folder: Path, name: Callable[[QuestionSample], str], sample: QuestionSample) -> list[Path]:
    return [folder / name(sample)]


def _numbered(prefix: str, sample: QuestionSample) -> str:
    return f"{prefix}{str(sample['image_id']).zfill(12)}.jpg"


def _named(names: dict[Any, str], questions: Path, sample: QuestionSample) -> str:
    if sample["image_id"] not in names:
        raise ValueError(
            f"{questions}: question {sample['id']!r} is about image {sample['image_id']!r}, which is not among the "
            f"{len(names)} pictures of the captions file beside it"
        )
    return names[sample["image_id"]]


def _read_names(questions: Path, subset: str, source: str) -> dict[Any, str]:
    """File names by image id, from the COCO captions of the same pictures."""
    path = questions.parent / f"captions_{subset}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; the pictures of {questions.name} are not 'mscoco' but {source!r}, and take their "
            "names from the entry 'images' of this file"
        )
    images = enumerate(require(read_json(path), "images", str(path)))
    entries = [(entry, f"{path}: images[{position}]") for position, entry in images]
    return {require(entry, "id", where): require(entry, "file_name", where) for entry, where in entries}
