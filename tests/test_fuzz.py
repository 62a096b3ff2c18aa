"""A small fixed share of `nox -s fuzz`: files that are not as they should be give a right result or one sentence."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from fuzz import documents
from fuzz.__main__ import describe
from fuzz.judgment import count_told
from fuzz.runner import run_cases
from fuzz.target import Target
from fuzz.targets import all_targets

TARGETS = all_targets()
CASES = 100  # of a target, times its share
FILES = ("fiber.formats", "fiber.benchmarks", "fiber.processors", "fiber.tasks")  # what reads people's files


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_file_holds_gives_a_result_or_a_sentence(name: str) -> None:
    target = TARGETS[name]
    failures = list(run_cases(target, seed=0, numbers=range(round(CASES * target.share))))
    assert not failures, describe(failures)


def test_every_part_that_reads_files_is_a_target() -> None:
    ours = {f"fiber_{name}" for name in ("backbone", "heads", "data", "eval", "train")}
    declared = {
        f"{group}:{entry.name}"
        for group in FILES
        for entry in entry_points(group=group)
        if entry.module.partition(".")[0] in ours
    }
    assert declared == {each for target in TARGETS.values() for each in target.covers}, "see tests/fuzz/targets"


def test_a_target_holds_what_it_says() -> None:
    for target in TARGETS.values():
        for name, content in target.files.items():
            if form := target.form(name):
                document = documents.parse(content, form)
                again = documents.parse(documents.write(document, form, {}), form)
                assert documents.entries(again, form) == documents.entries(document, form), f"{target.name}: {name}"
                assert documents.entries(document, form).total() > 1, f"{target.name}: {name}"


# The machine itself: it passes a careful reader and finds what a careless one does.


class Rows(Target):
    """A reader of `{"rows": [{"id": 1, "text": "a"}, ...]}`, as careless as a test wants it."""

    seconds = 1.0

    def __init__(self, reading: Callable[[Path], list[Any]]) -> None:
        super().__init__("rows", {"rows.json": json.dumps({"rows": [{"id": row, "text": "a"} for row in range(5)]})})
        self.reading = reading

    def read(self, folder: Path) -> Any:
        return self.reading(folder / "rows.json")

    def parts(self, result: Any) -> Counter[str]:
        return Counter(json.dumps(row, sort_keys=True) for row in result)

    def expected(self, documents: Any) -> dict[str, int]:
        return {"rows": len(documents["rows.json"]["rows"])}

    def found(self, result: Any) -> dict[str, int]:
        return {"rows": len(result)}


def careful(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes())["rows"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: expected an object with a list 'rows'") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected 'rows' as a list")
    if len(whole := [row for row in rows if isinstance(row, dict) and "id" in row]) < len(rows):
        warnings.warn(f"{path}: of {len(rows)} rows {len(rows) - len(whole)} have no id (the first: 7)", stacklevel=1)
    return whole


def silent(path: Path) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return careful(path)


def shuffles(path: Path) -> list[Any]:
    """The text of each row goes to another one if a row is missing."""
    rows = careful(path)
    if len(rows) == 5:
        return rows
    return [{**row, "text": f"{row.get('text')} of another"} for row in rows]


def dies(path: Path) -> list[Any]:
    return rows if len(rows := careful(path)) == 5 else os.kill(os.getpid(), signal.SIGKILL)


def hangs(path: Path) -> list[Any]:
    return rows if len(rows := careful(path)) == 5 else time.sleep(60)


def hangs_deaf(path: Path) -> list[Any]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    return hangs(path)


def swells(path: Path) -> list[Any]:
    return rows if len(rows := careful(path)) == 5 else [bytes(2 << 30)]


CARELESS: dict[str, Callable[[Path], list[Any]]] = {
    "traceback of TypeError": lambda path: [{**row, "id": row["id"] + 0} for row in careful(path)],
    "KeyError that names no file": lambda path: [row for row in careful(path) if row["text"]],
    "JSONDecodeError that names no file": lambda path: careful(path) if json.loads(path.read_bytes()) else [],
    "rows are lost silently": silent,
    "silently another result": shuffles,
    "ends the process with exit code -9": dies,
    "takes more than 1 s": hangs,
    "does not come back": hangs_deaf,
    "needs more than a gigabyte": swells,
}


def test_a_careful_reader_passes() -> None:
    failures = list(run_cases(Rows(careful), seed=0, numbers=range(400)))
    assert not failures, describe(failures)


@pytest.mark.parametrize("kind", CARELESS)
def test_a_careless_reader_is_found(kind: str) -> None:
    found = run_cases(Rows(CARELESS[kind]), seed=0, numbers=range(200))
    assert any(kind in failure.fault.kind for failure in found)


def test_a_number_means_the_same_case_in_any_process() -> None:
    together, apart = (
        sorted(run_cases(Rows(silent), seed=3, numbers=range(60), workers=workers), key=lambda each: each.number)
        for workers in (1, 3)
    )
    assert together
    assert [(each.number, each.mutation) for each in together] == [(each.number, each.mutation) for each in apart]


@pytest.mark.parametrize(
    ("warning", "told"),
    [
        ("/tmp/x1/a.json: of 12 samples 1 lack an image on disk (the first: /tmp/x1/3.jpg) and 2 have no caption", 3),
        ("/tmp/x1/a.json: of the boxes 4 are left out, being empty (the first: annotations[3])", 4),
        ("/tmp/x1/val2017.json: something else was odd", 0),
    ],
)
def test_what_a_warning_counts(warning: str, told: int) -> None:
    assert count_told(warning, Path("/tmp/x1")) == told
