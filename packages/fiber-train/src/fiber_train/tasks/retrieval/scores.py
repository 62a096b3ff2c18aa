"""Scores of all held-out images and captions, which no process has to hold whole.

Each process has blocks of rows of the matrix [images, captions], dealt in turn, and makes their scores when they are
asked for: cosines of features, logits of the matcher that it keeps, or both in two steps. Measures are counted over
blocks; the file of predictions is written block by block.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import torch
from fiber_heads.distributed import gather_by_id, max_over_processes, rank, sum_over_processes, world_size
from fiber_heads.ranking import place_reranked
from torch import Tensor

MOST_IN_MEMORY = 64 * 2**20  # bytes of a file of predictions; more lie on the disk


@dataclass
class ScoreBlocks:
    """The rows of this process.

    Attributes:
        ids: Of all images, in the order of rows.
        owners: The row of each caption's image (M,), as a list.
        rows: Of each block of this process, increasing, (n,) int64. The blocks of all processes, taken in turn, are all
            rows in order.
        make: Gives the scores (n, M) of rows of one block, on the host.
        device: Of the process, by which others are told numbers.
    """

    ids: Sequence[Any]
    owners: list[int]
    rows: list[Tensor]
    make: Callable[[Tensor], Tensor]
    device: torch.device

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The blocks of this process: rows and scores."""
        for rows in self.rows:
            yield rows, self.make(rows)

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        return sum_over_processes(tensor, self.device)

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The blocks of all processes, in the order of rows. All processes have to ask for all of them."""
        own = self()
        for _ in range(max_over_processes(len(self.rows), self.device)):
            block = next(own, None)
            told = {} if block is None else {rank(): tuple(part.numpy() for part in block)}
            for _, (rows, scores) in sorted(gather_by_id(told).items()):
                yield torch.from_numpy(rows), torch.from_numpy(scores)

    def by_id(self) -> Mapping[Any, Tensor]:
        """Of an image its scores (M,) of all captions, made when they are asked for; of this process's images."""
        places = (
            (block, place, row) for block, rows in enumerate(self.rows) for place, row in enumerate(rows.tolist())
        )
        return _RowsById({self.ids[row]: (block, place) for block, place, row in places}, self)

    def gathered(self) -> dict[Any, Tensor]:
        """The same of all images, in every process."""
        return {self.ids[row]: own for rows, part in self.in_order() for row, own in zip(rows, part, strict=True)}

    def write(self, here: bool) -> bytes | IO[bytes]:
        """The file that `fiber-eval retrieval` takes, in bytes or, if it is large, open on the disk.

        Args:
            here: Whether this process wants it; it is empty in others. All processes have to call this.
        """
        if not here:
            for _ in self.in_order():
                pass
            return b""
        file = tempfile.SpooledTemporaryFile(MOST_IN_MEMORY)  # noqa: SIM115 it is given back
        dtype = torch.empty(0).numpy().dtype
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("scores.npy", "w", force_zip64=True) as entry:
                for number, (_, scores) in enumerate(self.in_order()):
                    if not number:
                        dtype = scores.numpy().dtype
                        shape = {"fortran_order": False, "shape": (len(self.ids), len(self.owners))}
                        np.lib.format.write_array_header_1_0(entry, {"descr": dtype.str, **shape})
                    entry.write(scores.numpy().astype(dtype, copy=False).tobytes())
            with archive.open("text_image_index.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array(self.owners))
        file.seek(0)
        return file if file._rolled else file.read()  # type: ignore[attr-defined]


class _RowsById(Mapping[Any, Tensor]):
    """Rows of blocks, which are made whole: a row made alone may differ in its last bit."""

    def __init__(self, places: Mapping[Any, tuple[int, int]], blocks: ScoreBlocks) -> None:
        self._places, self._blocks = places, blocks
        self._made: tuple[int, Tensor] | None = None

    def __getitem__(self, name: Any) -> Tensor:
        block, place = self._places[name]
        if self._made is None or self._made[0] != block:
            self._made = (block, self._blocks.make(self._blocks.rows[block]))
        return self._made[1][place]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[Any]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def deal(count: int, size: int) -> list[Tensor]:
    """The blocks of `count` rows that are dealt to this process, in turn."""
    return list(torch.arange(count).split(size))[rank() :: world_size()]


@dataclass
class Cosines:
    """The first step: cosines of all images (N, D) and captions (M, D), made in blocks.

    Attributes:
        images: Unit vectors, float32, on the host.
        texts: Likewise.
        top_k: How many candidates each image and each caption asks to be re-ranked.
    """

    images: Tensor
    texts: Tensor
    top_k: int = 0
    highest: float = field(init=False, default=-torch.inf)
    asked: Tensor = field(init=False, default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, M) of rows."""
        return self.images[rows] @ self.texts.T

    def ask(self, chunk_size: int = 512) -> None:
        """Notes which images each caption asks for, (M, K), and the highest cosine; a share by each process."""
        found: dict[int, tuple[Any, float]] = {}
        for columns in deal(len(self.texts), chunk_size):
            cosines = self.texts[columns] @ self.images.T
            best = cosines.topk(min(self.top_k, len(self.images)), dim=1)
            found[int(columns[0])] = (best.indices.numpy(), float(best.values.max()))
        parts = [part for _, part in sorted(gather_by_id(found).items())]
        self.asked = torch.cat([torch.from_numpy(best) for best, _ in parts])
        self.highest = max(highest for _, highest in parts)

    def wanted(self, rows: Tensor) -> Tensor:
        """Which captions to re-rank for rows, (n, M) bool: those that the image asks for, or that ask for it."""
        again = torch.zeros(len(rows), len(self.texts), dtype=torch.bool)
        again.scatter_(1, self(rows).topk(min(self.top_k, len(self.texts)), dim=1).indices, True)
        for place, row in enumerate(rows.tolist()):
            again[place] |= (self.asked == row).any(dim=1)
        return again


class Matched:
    """What the matcher gave of this process's rows: all scores, or in two steps those that the first asked for.

    Args:
        cosines: The first step; None: every pair is matched.
    """

    def __init__(self, cosines: Cosines | None = None) -> None:
        self.cosines = cosines
        self.rows: list[Tensor] = []
        self._kept: dict[int, tuple[Tensor | None, Tensor]] = {}  # columns, in two steps, and logits
        self._lowest = torch.inf

    def add(self, rows: Tensor, scores: Tensor) -> None:
        """Keeps a block of rows (n,) and logits (n, M), -inf where they were not asked for."""
        if not len(rows):
            return
        self.rows.append(rows)
        for row, own in zip(rows.tolist(), scores, strict=True):
            if self.cosines is None:
                self._kept[row] = (None, own)
            else:
                columns = (own != -torch.inf).nonzero().squeeze(1)  # NaN stays, and is refused
                self._kept[row] = (columns, own[columns])
                self._lowest = min(self._lowest, float(own[columns].min()))

    def finish(self) -> None:
        """Agrees with the other processes on what lies below the re-ranked."""
        self._lowest = min(gather_by_id({rank(): self._lowest}).values())

    def __call__(self, rows: Tensor) -> Tensor:
        """Scores (n, M) of rows: float32 logits, or in two steps float64, see `fiber_heads.search_scores`."""
        kept = [self._kept[row] for row in rows.tolist()]
        if self.cosines is None:
            return torch.stack([logits for _, logits in kept])
        again = torch.zeros(len(rows), len(self.cosines.texts), dtype=torch.bool)
        for own, (columns, _) in zip(again, kept, strict=True):
            own[columns] = True
        logits = torch.cat([logits for _, logits in kept])
        first = self.cosines(rows)
        return place_reranked(first, again, logits, highest=self.cosines.highest, lowest=self._lowest)
