"""Opening a data set of millions of images: from its index, beside reading it into a list as runs did before.

    python packages/fiber-data/benchmarks/index.py --images 4000000

Entries are generated, 1.4 captions to an image, and name a few files that are there. Each measurement is a process of
its own: seconds until the data set is open, until the first batch, for the switch to another epoch (until the indices
of its first batch are known), and for that batch; memory that it can share with no other process (Private_Dirty of
smaps_rollup: clean pages are those of the table, which every process maps) beyond that after its imports and a batch of
another, small data set.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 64
_FILES = 50


def entries(root: str | Path, split: str) -> Iterator[dict[str, Any]]:
    """What a reader gives of the folder."""
    images = [Path(root) / f"{number}.jpg" for number in range(_FILES)]
    for number in range(int((Path(root) / "count.txt").read_text())):
        captions = [
            f"caption {each} of a photo, number {number}, of a dog on a lawn" for each in range(1 + (number % 5 > 2))
        ]
        yield {"image": images[number % _FILES], "captions": captions, "id": number, "split": split}


def private_megabytes() -> float:
    """Memory that is this process's alone, whoever maps the same files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def measure(root: Path, index: str) -> dict[str, float]:
    """One process's times in seconds, memory in MB."""
    import index as own  # this file, by its name
    import pyarrow  # noqa: F401  # among the imports
    from fiber_data import CaptionDataset, EpochSampler, build_evaluation_transform, open_samples

    transform = build_evaluation_transform(64)
    few = [{"image": root / f"{number}.jpg", "captions": ["a"], "id": number} for number in range(_FILES)]
    _first_batch(CaptionDataset(few, transform), EpochSampler(_FILES, _FILES))
    before, start = private_megabytes(), time.perf_counter()
    samples = open_samples(own.entries, root, "train", index=index)
    dataset = CaptionDataset(list(samples) if index == "off" else samples, transform)
    del samples
    found = {"open": time.perf_counter() - start, "private": private_megabytes() - before}
    start = time.perf_counter()
    sampler = EpochSampler(len(dataset), BATCH, unique_groups=dataset.image_ids)
    _first_batch(dataset, sampler)
    found["first batch"] = time.perf_counter() - start
    start = time.perf_counter()
    sampler.set_epoch(sampler.epoch + 1)
    next(iter(sampler))
    found["epoch switch"] = time.perf_counter() - start
    start = time.perf_counter()
    _first_batch(dataset, sampler)
    found["its first batch"] = time.perf_counter() - start
    return {**found, "private after": private_megabytes() - before, "texts": len(dataset)}


def _first_batch(dataset: Any, sampler: Any) -> None:
    from torch.utils.data import DataLoader, default_collate

    next(iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=lambda items: default_collate(items))))


def in_process(*words: str) -> dict[str, float]:
    """Measures in a process of its own."""
    command = [sys.executable, __file__, *words]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=None)
    found: dict[str, float] = json.loads(said.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Makes the index, opens it, and does without it on a part of the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--baseline", type=int, default=200_000, help="images that are read into a list")
    parser.add_argument("--measure", nargs=2, metavar=("ROOT", "INDEX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1])))
        return
    from PIL import Image

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count, index in (("list", options.baseline, "off"), ("index", options.images, "auto")):
            (root := Path(folder) / name).mkdir()
            (root / "count.txt").write_text(str(count))
            for number in range(_FILES):
                Image.new("RGB", (80, 60), (5 * number, 0, 0)).save(root / f"{number}.jpg")
            start = time.perf_counter()
            if index == "auto":
                in_process("--measure", str(root), index)
                made = time.perf_counter() - start
                size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 2**20
                print(f"{count:,} images: index made in {made:.0f} s, {size:,.0f} MB on disk")
            found[name] = in_process("--measure", str(root), index)
            print(
                f"{count:,} images, {name}: " + ", ".join(f"{key} {value:,.2f}" for key, value in found[name].items())
            )
    times = found["list"]["open"] * options.images / options.baseline / found["index"]["open"]
    print(f"a list of as many images, by its first ones, takes {times:,.0f} times as long to open")


if __name__ == "__main__":
    main()
