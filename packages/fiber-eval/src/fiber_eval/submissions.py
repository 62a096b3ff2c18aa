"""Whether a server would take a file of predictions: its format, not its score, which needs no annotations.

Rules are those that the servers state: VQA (https://visualqa.org/vqa_v2_challenge.html), COCO captions and detection
(https://cocodataset.org/#format-results), LVIS (https://www.lvisdataset.org/challenge), NLVR2's script. RefCOCO and
Flickr30k Entities have no server.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fiber_eval.files import Id, check_entry, shown, some

MOST_DETECTIONS = {"coco": 100, "lvis": 300}  # of an image, that count


def check_submission(name: str, content: str | bytes, ids: Sequence[Id] | None = None) -> None:
    """Refuses a file that the server of a benchmark would.

    Args:
        name: `"vqa"`, `"captions"`, `"coco"`, `"lvis"` or `"nlvr2"`.
        content: Of the file.
        ids: Those that need a prediction: of questions, images or examples; of images with detections those that may
            have some. By default any will do.

    Raises:
        ValueError: There is no such format; or the file is none: the message names the entry and what was expected.

    Example:
        >>> from fiber_eval.submissions import check_submission
        >>> check_submission("vqa", '[{"question_id": 1, "answer": "two"}]', ids=[1])
        >>> check_submission("captions", '[{"image_id": 7}]')
        Traceback (most recent call last):
        ValueError: entry 0 must be an object with image_id, caption, but is {'image_id': 7}
    """
    if name not in FORMATS:
        raise ValueError(f"expected a format of {', '.join(FORMATS)}, not {name!r:.80}")
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    FORMATS[name](text, ids)


def check_vqa(text: str, ids: Sequence[Id] | None = None) -> None:
    """A list of {question_id, answer}, one of each question; see `check_submission`."""
    _check_texts(text, ids, ("question_id", "answer"), "question")


def check_captions(text: str, ids: Sequence[Id] | None = None) -> None:
    """A list of {image_id, caption}, one of each image; see `check_submission`."""
    _check_texts(text, ids, ("image_id", "caption"), "image")


def check_coco(text: str, ids: Sequence[Id] | None = None) -> None:
    """A list of {image_id, category_id, bbox, score}, boxes as x, y, width and height; see `check_submission`."""
    _check_detections(text, ids, MOST_DETECTIONS["coco"])


def check_lvis(text: str, ids: Sequence[Id] | None = None) -> None:
    """As COCO's, of which LVIS takes 300 an image; see `check_submission`."""
    _check_detections(text, ids, MOST_DETECTIONS["lvis"])


def check_nlvr2(text: str, ids: Sequence[Id] | None = None) -> None:
    """Lines of an identifier, a comma, and True or False; see `check_submission`."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        identifier, comma, prediction = line.partition(",")
        if not comma or not identifier or prediction not in ("True", "False"):
            raise ValueError(f"line {number}: expected 'identifier,True' or 'identifier,False', found {shown(line)}")
        found.append(identifier)
    _check_ids(found, ids, "example")


FORMATS: Mapping[str, Callable[[str, Sequence[Id] | None], None]] = {
    "vqa": check_vqa,
    "captions": check_captions,
    "coco": check_coco,
    "lvis": check_lvis,
    "nlvr2": check_nlvr2,
}


def _entries(text: str, keys: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Entries of a list in JSON, each with what errors call it; ids are whole numbers, and nothing else is in it."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file is no JSON ({error!s:.200}); write it with json.dump") from error
    if not isinstance(content, list):
        raise ValueError(f"expected a list of objects with {', '.join(keys)}, found {shown(content)}")
    for place, entry in enumerate(content):
        name = f"entry {place}"
        given = check_entry(entry, keys, name)
        if extra := [key for key in given if key not in keys]:
            raise ValueError(f"{name}: expected {', '.join(keys)} alone, found {shown(extra[0])} too; leave it out")
        if not isinstance(given[keys[0]], int):
            raise ValueError(f"{name}: {keys[0]} must be a whole number, is {shown(given[keys[0]])}")
        yield name, given


def _check_texts(text: str, ids: Sequence[Id] | None, keys: tuple[str, str], thing: str) -> None:
    found = []
    for name, entry in _entries(text, keys):
        if not isinstance(entry[keys[1]], str):
            raise ValueError(f"{name}: {keys[1]} must be text, is {shown(entry[keys[1]])}")
        found.append(entry[keys[0]])
    _check_ids(found, ids, thing)


def _check_detections(text: str, ids: Sequence[Id] | None, most: int) -> None:
    counts: Counter[Id] = Counter()
    for name, entry in _entries(text, ("image_id", "category_id", "bbox", "score")):
        box = entry["bbox"]
        if not isinstance(entry["category_id"], int):
            raise ValueError(f"{name}: category_id must be a whole number, is {shown(entry['category_id'])}")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
            raise ValueError(f"{name}: bbox must be [x, y, width, height] in pixels, is {shown(box)}")
        if not _is_number(entry["score"]):
            raise ValueError(f"{name}: score must be a number, is {shown(entry['score'])}")
        counts[entry["image_id"]] += 1
    if above := [image for image, count in counts.items() if count > most]:
        raise ValueError(
            f"{len(above)} images have more than {most} detections: {some(above)}; keep the best {most} of each"
        )
    known = set(counts if ids is None else ids)
    if unknown := [image for image in counts if image not in known]:
        raise ValueError(f"{len(unknown)} images are not of the split: {some(unknown)}; predict for its images")


def _check_ids(found: Sequence[Id], ids: Sequence[Id] | None, thing: str) -> None:
    counts = Counter(found)
    if repeated := [each for each, count in counts.items() if count > 1]:
        raise ValueError(f"{len(repeated)} {thing}s come more than once: {some(repeated)}; keep one prediction of each")
    if ids is None:
        return
    known = set(ids)
    if unknown := [each for each in counts if each not in known]:
        raise ValueError(f"{len(unknown)} {thing}s are not of the split: {some(unknown)}; predict for its {thing}s")
    if absent := [each for each in ids if each not in counts]:
        raise ValueError(f"{len(absent)} of {len(ids)} {thing}s have no prediction: {some(absent)}; predict for each")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
