"""Damage to a table is noticed before a sample is made of it; at a start such a table is made anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fiber_data import open_samples, read_captions
from fiber_data.checksums import DamagedTableError
from fiber_data.table import TableSamples, write_table


@pytest.mark.parametrize("pattern", ["table.json", "*.arrow", "*.int64"])
def test_no_sample_is_made_of_what_was_not_written(pattern: str, tmp_path: Path) -> None:
    write_table(tmp_path, "t", [{"id": row, "captions": [f"photo {row}"]} for row in range(9)])
    (path,) = tmp_path.glob(pattern)
    content = path.read_bytes()
    for place in range(len(content) % 7, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedTableError, match=r"damaged; delete .*, which is then made anew"):
            table = TableSamples(tmp_path)
            assert table[0] and np.asarray(table.array("captions")).any()


@pytest.mark.parametrize("pattern", ["table.json", "*.arrow", "*.int64"])
def test_what_somebody_wrote_to_is_made_anew(pattern: str, tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "captions": ["a cat"], "id": 1}, {"image": "b.jpg", "captions": ["two dogs"], "id": 2}]
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "images").mkdir()
    for row in rows:
        (tmp_path / "images" / str(row["image"])).touch()
    given = list(open_samples(read_captions, tmp_path, "train", hold_out=0.0))
    (damaged,) = (tmp_path / ".fiber_index").glob(f"*/{pattern}")
    damaged.write_bytes(broken := damaged.read_bytes()[:-9] + bytes(9))
    assert list(open_samples(read_captions, tmp_path, "train", hold_out=0.0)) == given and len(given) == 2
    (path,) = (tmp_path / ".fiber_index").glob(f"*/{pattern}")
    assert path.read_bytes() != broken
