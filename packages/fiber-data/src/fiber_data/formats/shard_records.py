"""Samples of any reader as the JSON beside their image in a shard, and back.

An image with captions alone is ``{"id", "captions"}``, as people know it from WebDataset. Everything else, and several
samples of one image, is ``{"samples": [...]}``: samples as their reader gave them, without the image; of those with
several images ``images`` names the endings of these, in order. JSON knows no tuples: those of the kinds of samples
that this package knows are restored, by the types that their classes declare.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from fiber_data.formats.detection import DetectionSample
from fiber_data.formats.grounding import GroundingSample
from fiber_data.formats.ids import number, shown, whole
from fiber_data.formats.nlvr2 import ReasoningSample
from fiber_data.formats.samples import CaptionSample, whole_characters
from fiber_data.formats.shard_index import IMAGES, SEVERAL
from fiber_data.formats.vqav2 import QuestionSample

_KINDS = (GroundingSample, DetectionSample, QuestionSample, ReasoningSample, CaptionSample)  # first match wins
_FLAT = {"image", "id", "captions", "split"}
_OF_BOXES = ("labels", "spans", "area", "iscrowd")  # lists that run in parallel with the boxes


def fits_flat(sample: Mapping[str, Any]) -> bool:
    """Whether a sample is an image with captions and nothing else."""
    return {"id", "captions"} <= sample.keys() <= _FLAT


def to_record(samples: Sequence[Mapping[str, Any]], endings: Sequence[str], *, flat: bool) -> str:
    """The JSON of the samples of one image, or of the same images.

    Args:
        samples: With ids, and without values that JSON cannot give back.
        endings: What the names of the image files end with.
        flat: Whether the one sample is written without a list.

    Raises:
        ValueError: A value cannot be written; the message names sample and key.
    """
    contents = [{key: sample[key] for key in sample if key not in ("image", "images")} for sample in samples]
    for content in contents:
        _check_content(content)
    record: dict[str, Any] = contents[0] if flat else {SEVERAL: contents}
    if "images" in samples[0]:
        record[IMAGES] = list(endings)
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def from_record(record: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    """The samples of a JSON with several, without their images; None for any other JSON.

    Raises:
        ValueError: A value is of another type than samples of its kind have.
    """
    given = record.get(SEVERAL)
    if not isinstance(given, list) or not all(isinstance(each, dict) and "id" in each for each in given):
        return None
    return [_restore(each, f"{where}: samples[{position}]") for position, each in enumerate(given)]


def known_keys(sample: Mapping[str, Any]) -> set[str]:
    """Those keys of a sample that its kind declares."""
    return sample.keys() & _types(kind).keys() if (kind := _kind_of(sample)) else set()


def _check_content(content: Mapping[str, Any]) -> None:
    own = content.keys() - known_keys(content)
    for key, value in content.items():
        try:
            text = json.dumps(value, allow_nan=False)
            is_whole = key not in own or json.loads(text) == value
        except (TypeError, ValueError, RecursionError):
            is_whole = False
        if not is_whole:
            raise ValueError(
                f"sample {shown(content.get('id'))}: {key!r} is {shown(value)}, which JSON does not give back; "
                "expected finite numbers, texts, lists and objects with texts as keys"
            )


def _kind_of(sample: Mapping[str, Any]) -> Any:
    return next((kind for kind in _KINDS if _required(kind) <= sample.keys()), None)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, localns={"ImageSource": Any}, include_extras=True)
    return {key: hint for key, hint in hints.items() if key not in ("image", "images")}


def _required(kind: Any) -> set[str]:
    return {key for key, hint in _hints(kind).items() if typing.get_origin(hint) is not typing.NotRequired}


@cache
def _types(kind: Any) -> dict[str, Any]:
    optional = typing.NotRequired
    hints = _hints(kind).items()
    return {key: typing.get_args(hint)[0] if typing.get_origin(hint) is optional else hint for key, hint in hints}


def _restore(content: dict[str, Any], where: str) -> dict[str, Any]:
    kind = _kind_of(content)
    known = _types(kind) if kind else {}
    sample = {
        key: _as(value, known[key], f"{where}.{key}") if key in known else value for key, value in content.items()
    }
    if kind and "boxes" in sample:
        counts = {key: len(sample[key]) for key in ("boxes", *_OF_BOXES) if key in sample}
        if len(set(counts.values())) > 1 or min(sample["size"]) < 1:
            raise ValueError(f"{where}: expected lists of one length and a size above 0, found {counts}")
    return sample


def _as(value: Any, kind: Any, where: str) -> Any:
    """A value of JSON as one of a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for each in arguments:
            try:
                return _as(value, each, where)
            except ValueError:
                continue
    elif origin is list and isinstance(value, list):
        return [_as(each, arguments[0], where) for each in value]
    elif origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(_as(each, own, where) for each, own in zip(value, arguments, strict=True))
    elif kind is float and (found := number(value)) is not None:
        return found
    elif kind is int and isinstance(value, int) and whole(value) is not None:
        return value
    elif kind is str and isinstance(value, str):
        return whole_characters(value)
    elif kind in (bool, type(None)) and isinstance(value, kind):
        return value
    expected = kind.__name__ if isinstance(kind, type) and not arguments else str(kind)
    raise ValueError(f"{where}: expected {expected}, found {shown(value)}; pack the shard again")
