"""Reading a photograph: what `load_image` and the transform do, against Pillow alone and torchvision alone.

Each contender takes JPEG files on disk to normalizable uint8 squares. Medians over interleaved rounds, in wall and
process CPU milliseconds an image; a ratio above 1 is faster than the baseline:

    python packages/fiber-data/benchmarks/decoding.py [--size 384] [--images 24] [--rounds 9] [--folder your/photos]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fiber_data import load_image
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

BASELINE = "Pillow decodes and resizes"


def write_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of 640x480 with detail at every scale, about as many bytes as a photograph's."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        image = np.zeros((480, 640, 3))
        for side in (4, 8, 16, 32, 64, 128, 256, 512):
            noise = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
            image += np.asarray(noise.resize((640, 480), Image.Resampling.BICUBIC), float) / side**0.25
        image = (image - image.min()) / (image.max() - image.min()) * 255
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(image.astype(np.uint8)).save(paths[-1], quality=95)
    return paths


def contenders(size: int) -> dict[str, Callable[[Path], torch.Tensor]]:
    """What takes turns: a path to a uint8 tensor (3, size, size)."""

    def resize(image: torch.Tensor) -> torch.Tensor:
        return F.resize(image, [size, size], v2.InterpolationMode.BICUBIC, antialias=True)

    def pillow(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            return F.pil_to_tensor(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))

    return {
        BASELINE: pillow,
        "load_image, torch resizes (ours)": lambda path: resize(load_image(path)),
        "torchvision decodes, torch resizes": lambda path: resize(decode_image(str(path), ImageReadMode.RGB)),
    }


def measure(
    calls: dict[str, Callable[[Path], torch.Tensor]], paths: list[Path], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median (wall, CPU) seconds an image of each contender, taking turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for path in paths:
                call(path)
            if turn:  # the first turn warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in times.items()}
    return {name: (wall / len(paths), cpu / len(paths)) for name, (wall, cpu) in medians.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="a folder of .jpg files to read instead of generated ones")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker of a data loader
    calls = contenders(arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        given = arguments.folder and sorted(arguments.folder.glob("*.jpg"))[: arguments.images]
        paths = given or write_photos(Path(folder), arguments.images)
        mean_size = statistics.mean(path.stat().st_size for path in paths) / 1024
        expected = calls[BASELINE](paths[0]).int()
        print(f"{len(paths)} JPEGs of {mean_size:.0f} KiB each, to {arguments.size}x{arguments.size}, 1 thread")
        times = measure(calls, paths, arguments.rounds)
        for name, (wall, cpu) in times.items():
            off = int((calls[name](paths[0]).int() - expected).abs().max())
            print(
                f"{name:36s} {wall * 1e3:6.2f} ms wall {cpu * 1e3:6.2f} ms CPU   "
                f"ratio {times[BASELINE][1] / cpu:.2f} (CPU)   at most {off} of 255 away"
            )


if __name__ == "__main__":
    main()
