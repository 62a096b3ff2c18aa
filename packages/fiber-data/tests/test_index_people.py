"""The index of readers that people bring: values of any kind, images in memory, faults, ids."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fiber_data import MappedSamples, open_samples
from fiber_data.formats import Faults, collect, faults_of, iterated_by, read_json_lines
from fiber_data.table import TableSamples, write_table


def birds(root: str, split: str, **options: Any) -> list[dict[str, Any]]:
    """Of all kinds of values, which change from sample to sample."""
    rows = [json.loads(line) for line in (Path(root) / f"{split}.jsonl").read_text().splitlines()]
    odd: list[Any] = [1, "x", None, 2.5, True, (1, "a"), [], [[1.5]], {"k": (1,)}, {3: "c"}, 2**70, b"\xff\0", "\ud800"]
    return [
        {
            "image": Path("a.jpg") if number % 3 else "http://birds/a.jpg",
            "id": number if number % 2 else f"bird {number}",
            "captions": row["captions"],
            "odd": odd[number % len(odd)],
            "box": (1.0, 2),
            "where": Path(os.fsdecode(b"na\xffme")),
            "number": np.int64(number),
            **({"rare": number} if number == 5 else {}),
            **options,
        }
        for number, row in enumerate(rows)
    ]


def singing_birds(root: str, split: str) -> Any:
    warnings.warn("they sing", stacklevel=2)
    yield from birds(root, split)


def birds_in_memory(root: str, split: str) -> list[dict[str, Any]]:
    return [{**sample, "image": np.zeros((4, 4, 3), np.uint8)} for sample in birds(root, split)]


def birds_of_a_table(root: str, split: str) -> MappedSamples:
    return MappedSamples(birds(root, split), dict)


def _iterate_birds(root: Path, split: str, faults: Faults) -> Any:
    faults.source = Path(root) / f"{split}.jsonl"
    for number, (where, row) in enumerate(read_json_lines(faults.source)):
        with faults:
            if number == 3:
                raise ValueError(f"{where}: expected a bird")
            yield {"id": number, "captions": row["captions"], "image": Path(f"{number}.jpg")}


@iterated_by(_iterate_birds)
def streamed_birds(root: str, split: str, *, bad_entries: Any = None) -> Any:
    faults = Faults(Path(root), bad_entries is None)
    return collect(_iterate_birds(Path(root), split, faults), faults)


@pytest.fixture
def aviary(tmp_path: Path) -> Path:
    root = tmp_path / "aviary"
    root.mkdir()
    rows = [{"captions": ["bird"] * (number % 4)} for number in range(40)]
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_samples_of_any_reader(aviary: Path) -> None:
    found, plain = open_samples(birds, aviary, "train"), birds(str(aviary), "train")
    assert isinstance(found, TableSamples) and list(found) == plain
    for own, sample in zip(found, plain, strict=True):
        assert own.keys() == sample.keys() and type(own["odd"]) is type(sample["odd"]) and own["odd"] == sample["odd"]
    assert open_samples(birds, aviary, "train", more=(1, "b"))[2]["more"] == (1, "b")
    with (aviary / "train.jsonl").open("a") as lines:
        lines.write('{"captions": ["late"]}\n')
    assert len(open_samples(birds, aviary, "train")) == 41
    for _ in range(2):
        with pytest.warns(UserWarning, match="they sing"):
            assert list(open_samples(singing_birds, aviary, "train")) == birds(str(aviary), "train")


def test_what_no_table_keeps_comes_from_the_reader(aviary: Path) -> None:
    assert isinstance(open_samples(birds_in_memory, aviary, "train"), list)
    assert isinstance(open_samples(birds_of_a_table, aviary, "train"), MappedSamples)
    assert open_samples(lambda root, split: [1, root, split], aviary, "train") == [1, aviary, "train"]
    assert isinstance(open_samples(birds, aviary, "train", index="off"), list)
    assert not [path for path in (aviary / ".fiber_index").iterdir() if path.is_dir()]


def test_a_reader_that_goes_on_after_faults(aviary: Path) -> None:
    with pytest.raises(ValueError, match="line 4: expected a bird"):
        open_samples(streamed_birds, aviary, "train")
    with pytest.warns(UserWarning, match="expected a bird"):
        found = open_samples(streamed_birds, aviary, "train", bad_entries="count")
    with pytest.warns(UserWarning, match="expected a bird"):
        plain = streamed_birds(str(aviary), "train", bad_entries="count")
    assert list(found) == plain and faults_of(found) == faults_of(plain) and len(plain) == 39


def test_ids_that_repeat_are_known(tmp_path: Path) -> None:
    for number, (ids, expected) in enumerate(
        [([1, "2"], True), ([1, "1"], False), ([1, 1], False), ([1, None], False)]
    ):
        (folder := tmp_path / str(number)).mkdir()
        write_table(folder, "t", ({"id": own} for own in ids))
        assert TableSamples(folder).unique_ids is expected
