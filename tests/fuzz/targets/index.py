"""The index of a data set: what a damaged or foreign table holds is never a sample; it is made anew, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz.target import Target


def read_made(root: Path, split: str | None) -> list[dict[str, Any]]:
    """Samples of most kinds of values, as a reader would give them."""
    return [
        {
            "image": Path(f"images/{row}.jpg"),
            "captions": [f"caption {row}", "läuft"][: 1 + row % 2],
            "id": row if row % 2 else f"n{row}",
            "size": (40 + row, 64),
            "boxes": [(0.0, 0.5, 9.0, row + 9.5)] * (row % 3),
            "label": None if row % 4 else True,
        }
        for row in range(6)
    ]


def _made() -> Mapping[str, bytes]:
    from fiber_data import open_samples

    with TemporaryDirectory() as name:
        open_samples(read_made, name, "train")
        (table,) = Path(name).glob(".fiber_index/*/table.json")
        return {path.name: path.read_bytes() for path in sorted(table.parent.iterdir())}


def _all_of(samples: Any) -> list[str]:
    """Everything that is asked of a table, in each of the ways that there are."""
    from fiber_data.columns import ends_of_texts, image_numbers, pairs

    numbers = [ends_of_texts(samples, "captions"), pairs(samples, "size"), image_numbers(samples, "id")]
    glanced = [str(each["image"]) for each in samples.glance("image")]
    return [*map(str, samples), *map(str, samples[:]), *glanced, *(str(each[:].tolist()) for each in numbers)]


class TableTarget(Target):
    """A table by itself, as a process that has it open sees it damaged."""

    documented = (OSError, ValueError)

    def read(self, folder: Path) -> Any:
        from fiber_data.table import TableSamples

        return _all_of(TableSamples(folder))

    def parts(self, result: Any) -> Counter[str]:
        return Counter(result)

    def breaches(self, result: Any) -> list[str]:
        made = read_made(Path(), None)
        ends, numbers = accumulate(len(sample["captions"]) for sample in made), range(len(made))
        columns = (
            [str(sample["image"]) for sample in made],
            [list(ends), [list(each["size"]) for each in made], [*numbers]],
        )
        right = [*map(str, made), *map(str, made), *columns[0], *map(str, columns[1])]
        return [] if result == right else ["samples are others"]


class IndexTarget(TableTarget):
    """A table that lies beside the data: damaged, it is made anew."""

    documented = ()

    def read(self, folder: Path) -> Any:
        from fiber_data import open_samples

        root = folder / "data"
        root.mkdir(exist_ok=True)
        open_samples(read_made, root, "train")
        (table,) = root.glob(".fiber_index/*/table.json")
        for path in table.parent.iterdir():
            path.unlink()
        for name in self.files:
            (table.parent / name).write_bytes((folder / name).read_bytes())
        return _all_of(open_samples(read_made, root, "train"))


TARGETS = [
    TableTarget("table", _made, share=0.3),
    IndexTarget("index", _made, share=0.3),
]
