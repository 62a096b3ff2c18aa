"""Whether what came of a mutated file is right: an exception with a sentence, or the result of all other entries."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz import documents
from fuzz.target import Target

LONGEST_MESSAGE = 600  # characters beside the folder: a sentence, and about 300 of what the file holds
_COUNT = re.compile(r"(?<![\w.\[-])\d+(?![\w.-]*\w)")


@dataclass(frozen=True)
class Valid:
    """The valid files of a target, and what came of them.

    Attributes:
        folder: Where they lie.
        parts: What the result consists of.
        documents: What the files hold that are of a known form, by name.
        entries: The entries of these documents.
    """

    folder: Path
    parts: Counter[str]
    documents: Mapping[str, Any]
    entries: Mapping[str, Counter[str]]


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        kind: In few words, alike for faults that one change would mend.
        detail: What came.
    """

    kind: str
    detail: str


def judge_error(target: Target, valid: Valid, name: str, error: BaseException) -> Fault | None:
    """What is wrong with an exception that came of a mutated file, if anything is.

    Args:
        target: What was read.
        valid: Its valid files.
        name: The file that was mutated.
        error: The exception.
    """
    came = type(error).__name__
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    place = f"{Path(frame.f_code.co_filename).name}: {frame.f_code.co_name}"
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    detail = f"{came}: {message} ({place}, line {line})"
    if not isinstance(error, target.documented):
        return Fault(f"traceback of {came} in {place}", detail)
    if str(valid.folder) not in message and Path(name).name not in message and not target.names(message):
        return Fault(f"{came} that names no file, in {place}", detail)
    if "\n" in message:
        return Fault(f"{came} of several lines, in {place}", detail)
    if (length := len(message.replace(str(valid.folder), ""))) > LONGEST_MESSAGE:
        return Fault(f"{came} of more than {LONGEST_MESSAGE} characters, in {place}", f"{length} characters: {detail}")
    return None


def judge_result(
    target: Target, valid: Valid, name: str, content: bytes, result: Any, warnings: Sequence[str]
) -> Fault | None:
    """What is wrong with a result that came of a mutated file, if anything is.

    Args:
        target: What was read.
        valid: Its valid files.
        name: The file that was mutated.
        content: What it holds now.
        result: What came.
        warnings: What was said.
    """
    if long := [text for text in warnings if len(text.replace(str(valid.folder), "")) > LONGEST_MESSAGE]:
        return Fault(f"warning of more than {LONGEST_MESSAGE} characters", long[0])
    try:
        breaches, parts, found = target.breaches(result), target.parts(result), target.found(result)
    except Exception as error:
        return Fault(f"result that cannot be used: {type(error).__name__}", str(error))
    if breaches:
        return Fault(f"result that is none: {breaches[0].partition(':')[0]}", "; ".join(breaches))
    told = sum(count_told(text, valid.folder) for text in warnings)
    changed = max((parts - valid.parts).total(), (valid.parts - parts).total())
    if (form := target.form(name)) is None:
        return None
    try:
        now = {**valid.documents, name: documents.parse(content, form)}
    except Exception as error:
        if changed > told:
            return Fault("reads silently what cannot be parsed", f"{changed} parts differ, {told} are told: {error}")
        return None
    touched = _touched(valid, name, now[name], form)
    allowed = None if touched is None else target.budget(now, touched)
    if allowed is not None and changed > allowed + told:
        detail = f"{changed} parts differ where {touched} entries do and {told} are told; said was {list(warnings)}"
        return Fault("silently another result", detail)
    return _judge_losses(target.expected(now), found, told)


def count_told(warning: str, folder: Path) -> int:
    """How many things a warning says that it leaves out or mends: the sum of its numbers but for those of a total."""
    text = warning.replace(str(folder), "")
    text = re.sub(r"\([^()]*\)", "", text)  # the first of them
    text = re.sub(r"\bof (its |the )?\d+|\bline \d+", "", text)
    return sum(map(int, _COUNT.findall(text)))


def _touched(valid: Valid, name: str, document: Any, form: str) -> int | None:
    """How many entries of a document differ; None if something differs that concerns all of them."""
    if form != ".yaml" and _frame(valid.documents[name]) != _frame(document):
        return None
    old, new = valid.entries[name], documents.entries(document, form)
    return max((old - new).total(), (new - old).total())


def _frame(document: Any) -> str:
    """What a document holds beside its lists of entries."""
    if not isinstance(document, dict):
        return type(document).__name__
    frame = {key: type(value) if isinstance(value, list | dict) else value for key, value in document.items()}
    return str(sorted(frame.items()))


def _judge_losses(expected: Mapping[str, int], found: Mapping[str, int], told: int) -> Fault | None:
    """What is lost of the largest kind that lacks something; things of the smaller kinds are lost with it."""
    for kind, count in expected.items():
        if (lost := count - found[kind]) > 0:
            if lost > told:
                return Fault(f"{kind} are lost silently", f"{lost} of {count} {kind} are lost, {told} are told")
            return None
    return None
