"""What a record of a plain format says: a question, a statement, boxes, phrases, an expression.

The same keys hold for lines of the plain form (`fiber_data.formats.plain_form`) and for rows of tables. Corners are
``box``, [x1, y1, x2, y2]; ``bbox`` is [x, y, width, height], as in COCO; both in pixels. A list of four numbers under
no such name is refused, for it could be either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from fiber_data.formats.boxes import Box, read_box, read_size
from fiber_data.formats.faults import Faults
from fiber_data.formats.grounding import Spans
from fiber_data.formats.ids import number, shown, whole
from fiber_data.formats.samples import clean_text, list_some, require, whole_characters

IMAGE_KEYS = ("image", "file_name")
NUM_ANSWERS = 10  # of people to a question, as VQAv2's accuracy counts them
_LABELS = {"true": True, "false": False, "1": True, "0": False}
_CORNERS = ("x1", "y1", "x2", "y2")
_FORMS = "box is [x1, y1, x2, y2], bbox is [x, y, width, height]"


def first_of(record: Mapping[str, Any], keys: Iterable[str], where: str) -> Any:
    """The value of the first of some keys that a record has.

    Raises:
        KeyError: It has none of them.
    """
    for key in keys:
        if record.get(key) is not None:
            return record[key]
    raise KeyError(f"{where}: expected one of the keys {', '.join(map(repr, keys))}, found {list_some(record)}")


# Questions


def read_question(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The question of a record, and what was answered, if it says so.

    ``answer`` is the right answer, as if ten people had given it; ``answers`` are those of several people, repeated
    in turn where they are fewer than ten, so that measures count as for ten. An answer without a letter is none.

    Raises:
        KeyError: There is no question.
        ValueError: Question or answers are no texts, or there are both kinds of answers.
    """
    found: dict[str, Any] = {"question": clean_text(require(record, "question", where), "a question", where)}
    given = record.get("answers")
    if given is None and record.get("answer") is None:
        return found
    if given is None:
        given = record["answer"]
    given = given if isinstance(given, list) else [given]
    texts = [_answer(each, f"{where}.answers[{place}]") for place, each in enumerate(given)]
    if not any(text.strip() for text in texts):
        return found
    return {**found, **annotated(found["question"], texts), **_kinds(record, where)}


def annotated(question: str, answers: list[str]) -> dict[str, Any]:
    """What `fiber_data.QuestionSample` has of a question's answers; they are repeated in turn up to ten.

    The type of a question is its first two words, that of an answer one of VQAv2's three, as the most frequent says.
    """
    best = Counter(answers).most_common(1)[0][0]
    plain = best.strip().lower().rstrip(".")
    is_number = re.fullmatch(r"-?\d[\d.,]*", plain) is not None
    return {
        "answers": answers if len(answers) >= NUM_ANSWERS else list(islice(cycle(answers), NUM_ANSWERS)),
        "multiple_choice_answer": best,
        "question_type": " ".join(re.findall(r"[^\W_]+", question.lower())[:2]) or "other",
        "answer_type": "yes/no" if plain in ("yes", "no") else "number" if is_number else "other",
    }


def _kinds(record: Mapping[str, Any], where: str) -> dict[str, str]:
    keys = ("question_type", "answer_type", "multiple_choice_answer")
    return {key: clean_text(record[key], key, where) for key in keys if record.get(key) is not None}


def _answer(value: Any, where: str) -> str:
    text = value.get("answer") if isinstance(value, dict) else value  # VQAv2 has an object for each
    text = str(text) if whole(text) is not None else text
    if not isinstance(text, str):
        raise ValueError(f"{where}: expected an answer as text, found {shown(text)}")
    return whole_characters(text)


# Statements


def read_truth(record: Mapping[str, Any], where: str) -> bool | None:
    """The label of a statement, None where there is none.

    Raises:
        ValueError: It is neither true nor false, 1 nor 0.
    """
    label = record.get("label")
    if label is None:
        return None
    if (found := _LABELS.get(str(whole(label) if isinstance(label, float) else label).strip().lower())) is None:
        raise ValueError(f"{where}: expected the label true or false, 1 or 0, found {shown(label)}")
    return found


# Boxes


def read_size_of(record: Mapping[str, Any], image: Any, where: str) -> tuple[int, int]:
    """The (height, width) in pixels that boxes are for: as the record says, else the image's own as it is stored.

    Raises:
        ValueError: They are no numbers of pixels, or the image, which has to say them, cannot be read.
    """
    if record.get("height") is not None or record.get("width") is not None:
        return read_size(record, where)
    from PIL import Image  # only where records do not say it

    from fiber_data.suffixes import image_formats

    try:
        with Image.open(image, formats=image_formats()) as opened:
            return opened.height, opened.width
    except Exception as error:  # as Pillow's many decoders raise
        reason = f"cannot be read ({type(error).__name__})"
        raise ValueError(f"{where}: has no height and width, and its image {reason}; give both") from error


def read_boxes_of(
    record: Mapping[str, Any], size: tuple[int, int], where: str, faults: Faults
) -> list[tuple[Mapping[str, Any], Box, str]]:
    """The boxes of a record, each with the entry that it is of and its location: ``boxes``, or the record's own.

    Raises:
        ValueError: A box is of no known form; the message says which there are.
    """
    if (listed := _objects(record, where)) is not None:
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise ValueError(f"{where}: expected boxes as a list of objects, found {shown(listed)}; {_FORMS}")
        rows = [(entry, f"{where}.boxes[{place}]") for place, entry in enumerate(listed)]
    else:
        keys = ("box", "bbox", *_CORNERS)
        rows = [(record, where)] if any(record.get(key) is not None for key in keys) else []
    found = []
    for entry, place in rows:
        if (box := _read_corners(entry, size, place, faults)) is not None:
            found.append((entry, box, place))
    return found


def _objects(record: Mapping[str, Any], where: str) -> Any:
    """The list of boxes; Hugging Face's ``objects`` is two lists, of COCO's boxes and of names."""
    objects = record.get("objects")
    if objects is None or record.get("boxes") is not None:
        return record.get("boxes")
    boxes = require(objects, "bbox", f"{where}.objects")
    names = first_of(objects, ("categories", "category", "label", "labels", "name"), f"{where}.objects")
    if not isinstance(boxes, list) or not isinstance(names, list) or len(boxes) != len(names):
        raise ValueError(f"{where}: expected objects as two lists of one length, found {shown(objects)}")
    return [{"bbox": box, "name": name} for box, name in zip(boxes, names, strict=True)]


def _read_corners(entry: Mapping[str, Any], size: tuple[int, int], where: str, faults: Faults) -> Box | None:
    corners = entry.get("box")
    if corners is None and all(entry.get(key) is not None for key in _CORNERS):
        corners = [entry[key] for key in _CORNERS]
    if corners is not None and entry.get("bbox") is not None:
        raise ValueError(f"{where}: has both box and bbox; keep one: {_FORMS}")
    values = corners if corners is not None else require(entry, "bbox", f"{where} (which has no box)")
    if not isinstance(values, list | tuple) or len(values) != 4 or any(number(value) is None for value in values):
        raise ValueError(f"{where}: expected four numbers, found {shown(values)}; {_FORMS}")
    if max(map(abs, values)) <= 1 and max(size) > 1 and any(values):
        raise ValueError(f"{where}: expected pixels, found shares of the image {shown(values)}; multiply by its size")
    x, y, right, bottom = values
    if corners is None:
        return read_box({"bbox": list(values)}, size, where, faults)
    if right < x or bottom < y:
        raise ValueError(f"{where}: expected box as [x1, y1, x2, y2], found {shown(values)}; {_FORMS}")
    return read_box({"bbox": [x, y, right - x, bottom - y]}, size, where, faults)


# Words of a caption


def read_spans(entry: Mapping[str, Any], caption: str, where: str, faults: Faults) -> Spans:
    """Where the words that name a box are in its caption: ``span``, ``spans``, or the place of its ``phrase``.

    Raises:
        KeyError: There is none of these.
        ValueError: Spans are no pairs of numbers within the caption, or the phrase is not in it.
    """
    if entry.get("span") is None and entry.get("spans") is None:
        return find_phrase(clean_text(require(entry, "phrase", where), "a phrase", where), caption, where, faults)
    given = entry["spans"] if entry.get("spans") is not None else [entry["span"]]
    is_list = isinstance(given, list) and all(isinstance(span, list) and len(span) == 2 for span in given)
    pairs = [(whole(start), whole(end)) for start, end in given] if is_list else []
    kept = [(start, end) for start, end in pairs if start is not None and end is not None]
    if not kept or len(kept) < len(pairs) or not all(0 <= start < end <= len(caption) for start, end in kept):
        what = f"pairs [start, end] within the {len(caption)} characters of the caption"
        raise ValueError(f"{where}: expected spans as {what}, found {shown(given)}")
    return kept


def find_phrase(phrase: str, caption: str, where: str, faults: Faults) -> Spans:
    """Where a phrase is in its caption, in whatever case: its first place, counted where there are several.

    Raises:
        ValueError: It is nowhere.
    """
    words = r"\s+".join(map(re.escape, phrase.split()))
    places = list(re.finditer(rf"(?<!\w){words}(?!\w)", caption, re.IGNORECASE)) or list(
        re.finditer(words, caption, re.IGNORECASE)
    )
    if not places:
        raise ValueError(f"{where}: expected a phrase of the caption {shown(caption)}, found {shown(phrase)}")
    if len(places) > 1:
        faults.note("the phrases", "take the first of several places in their caption", where)
    return [places[0].span()]


def image_of(record: Mapping[str, Any], keys: Iterable[str], where: str) -> Any:
    """The image of a record: a name, or what a table holds.

    Raises:
        KeyError: There is none.
        ValueError: It is an empty text.
    """
    image = first_of(record, keys, where)
    if isinstance(image, str | Path) and not str(image).strip():
        raise ValueError(f"{where}: expected the image's name as text, found {shown(image)}")
    return image
