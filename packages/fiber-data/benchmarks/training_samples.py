"""A training sample of both stages, from a JPEG to what a worker hands on, against Pillow as the original uses it.

The original decodes, crops or scales, flips, augments and makes floats of one PIL image after the other; ours hands on
uint8, which the device normalizes. All take turns with the same random draws. Medians of process CPU time a sample; a
ratio above 1 is faster than the baseline:

    python packages/fiber-data/benchmarks/training_samples.py [--images 16] [--rounds 9] [--folder your/photos]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from decoding import write_photos
from fiber_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RandAugment,
    build_detection_training_transform,
    build_training_transform,
    fit_size,
    images,
    load_image,
    normalize_images,
)
from fiber_data.seeding import seeded
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

Contender = Callable[[Path], Tensor]
BASELINE = "Pillow, as the original"
SHARPNESS = 4  # among the ten operations
SHORTER = (480, 560, 640, 720, 800)


class PillowRandAugment(RandAugment):
    """The same draws and operations, all of them torchvision's for PIL images, as the original's."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Applies them to one image."""
        for choice, strength in params["operations"]:
            one = {"operations": [(choice, strength)]}
            sharper = choice == SHARPNESS
            inpt = F.adjust_sharpness(inpt, 0.1 + 1.8 * abs(strength)) if sharper else super().transform(inpt, one)
        return inpt


class PillowShorterSide(v2.Transform):
    """Scales to one of several sizes."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws it."""
        height, width = F.get_size(flat_inputs[0])
        return {"size": list(fit_size(height, width, SHORTER[int(torch.randint(len(SHORTER), ()))], 1333))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Applies it."""
        return F.resize(inpt, params["size"], v2.InterpolationMode.BILINEAR, antialias=True)


def of_the_original(*transforms: v2.Transform) -> Contender:
    """Pillow decodes, the transforms work on PIL images, floats come last."""
    transform = v2.Compose([*transforms, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    normalize = v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))

    def sample(path: Path) -> Tensor:
        with Image.open(path) as image:
            return normalize(transform(image.convert("RGB"))).as_subclass(Tensor).contiguous()

    return sample


def ours(transform: v2.Compose, simplejpeg: bool, normalized: bool) -> Contender:
    """As data sets do, and, if wanted, what is left to the device."""
    decode = images.decode_jpeg if simplejpeg else None

    def sample(path: Path) -> Tensor:
        images.decode_jpeg, before = decode, images.decode_jpeg
        pixels = transform(load_image(path)).as_subclass(Tensor).contiguous()
        images.decode_jpeg = before
        return normalize_images(pixels[None], torch.tensor([pixels.shape[1:]]))[0] if normalized else pixels

    return sample


def contenders(transform: v2.Compose, baseline: Contender) -> dict[str, Contender]:
    """What takes turns: a path to a sample."""
    made = {BASELINE: baseline}
    for decoder in ("Pillow", "simplejpeg")[: 1 + (images.decode_jpeg is not None)]:
        for normalized in (True, False):
            name = f"ours, {decoder} decodes, {'normalized on the CPU too' if normalized else 'uint8'}"
            made[name] = ours(transform, decoder == "simplejpeg", normalized)
    return made


def measure(calls: dict[str, Contender], paths: list[Path], rounds: int) -> dict[str, float]:
    """Median CPU seconds a sample of each contender, taking turns over the same draws."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            for number, path in enumerate(paths):
                with seeded(turn * len(paths) + number):
                    call(path)
            if turn:  # the first turn warms up
                times[name].append((time.process_time() - began) / len(paths))
    return {name: statistics.median(each) for name, each in times.items()}


def difference(call: Contender, baseline: Contender, paths: list[Path]) -> str:
    """How far the samples of a contender are from the baseline's, in steps of 255."""
    scale = torch.tensor(IMAGENET_STD)[:, None, None] * 255
    gaps = []
    for number, path in enumerate(paths):
        with seeded(number):
            sample = call(path)
        if sample.dtype == torch.uint8:
            sample = normalize_images(sample[None], torch.tensor([sample.shape[1:]]))[0]
        with seeded(number):
            gaps.append(((sample - baseline(path)) * scale).abs().flatten())
    gap = torch.cat(gaps)
    return f"off by {gap.mean():.3f} of 255, by more than 2 at {(gap > 2.1).float().mean():.2%} of the values"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="a folder of .jpg files to read instead of generated ones")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker of a data loader
    crop = v2.RandomResizedCrop(384, scale=(0.5, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    flip = v2.RandomHorizontalFlip()
    fine = build_detection_training_transform(SHORTER, normalize=False)
    stages = {
        "coarse stage, to 384 x 384": contenders(
            build_training_transform(384, normalize=False), of_the_original(crop, flip, PillowRandAugment())
        ),
        "fine stage, shorter side 480 to 800": contenders(fine, of_the_original(PillowShorterSide(), flip)),
    }
    with tempfile.TemporaryDirectory() as folder:
        given = arguments.folder and sorted(arguments.folder.glob("*.jpg"))[: arguments.images]
        paths = given or write_photos(Path(folder), arguments.images)
        for stage, calls in stages.items():
            print(f"{stage}, {len(paths)} JPEGs of 640x480, 1 thread" if not given else stage)
            times = measure(calls, paths, arguments.rounds)
            for name, seconds in times.items():
                print(
                    f"  {name:58s} {seconds * 1e3:6.2f} ms CPU   ratio {times[BASELINE] / seconds:.2f}   "
                    f"{difference(calls[name], calls[BASELINE], paths)}"
                )


if __name__ == "__main__":
    main()
