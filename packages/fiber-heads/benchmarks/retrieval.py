"""Scoring all pairs of images and texts, three ways: each pair whole; begun once and fused; two-step search.

Images are the queries. A round takes a few of them and does for each way what it needs to rank all texts for them,
`whole` for a part of these pairs (each costs the same); the medians of the rounds are scaled to all images. Beginning
and finishing the texts is timed once and counted for the ways that use it. The second step fuses top_k of the texts for
each image, so it cannot save more than texts / top_k: twice for 16 of 32, four times for 16 of 64.

    python packages/fiber-heads/benchmarks/retrieval.py [--images 32] [--texts 32] [--top-k 16] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from fiber_backbone import FiberBackbone, FiberConfig, TextState
from fiber_heads import PretrainingConfig
from fiber_heads.retrieval import FiberForRetrieval
from torch import Tensor

TEXT_LENGTH = 40
WAYS = ("whole", "begun once", "two steps")


class Race:
    """A model of random weights and what it has to rank.

    Args:
        options: The command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        config = FiberConfig.from_preset(options.preset, initial_gate=0.5)
        settings = PretrainingConfig(objectives=("itc", "itm"), queue_size=0)
        self.model = FiberForRetrieval(FiberBackbone.from_config(config), settings).to(options.device).eval()
        self.options = options
        side = config.image_size
        self.pixels = torch.randn(options.queries, 3, side, side, device=options.device)
        self.ids = torch.randint(5, config.vocab_size, (options.texts, TEXT_LENGTH), device=options.device)
        self.texts = self.begin_texts()
        self.text_features = self.model.text_features(self.texts)

    @torch.no_grad()
    def begin_texts(self) -> TextState:
        """All texts up to the cut."""
        return self.model.backbone.begin_text(self.ids)

    @torch.no_grad()
    def whole(self) -> Tensor:
        """Both streams from pixels and ids to the end, for the first texts of each image of the round."""
        backbone, size = self.model.backbone, self.options.chunk
        images = torch.arange(len(self.pixels)).repeat_interleave(self.options.sample)
        texts = torch.arange(self.options.sample).repeat(len(self.pixels))
        parts = [
            self.model.match(backbone.begin_image(self.pixels[image]), backbone.begin_text(self.ids[text]))[:, 1]
            for image, text in zip(images.split(size), texts.split(size), strict=True)
        ]
        return torch.cat(parts).view(len(self.pixels), -1)

    def begun_once(self) -> Tensor:
        """Images begun, then every pair fused."""
        return self.model.score_pairs(self.model.begin_images(self.pixels), self.texts, chunk_size=self.options.chunk)

    def two_steps(self) -> Tensor:
        """Images begun and finished, then the best pairs fused."""
        images = self.model.begin_images(self.pixels)
        cosines = self.model.image_features(images) @ self.text_features.T
        again = {"top_k": self.options.top_k, "queries": "images", "chunk_size": self.options.chunk}
        return self.model.rerank(images, self.texts, cosines, **again)

    def measure(self, step: Callable[[], object]) -> tuple[float, float]:
        """Wall and CPU seconds of a step."""
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        if self.options.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - cpu

    def totals(self) -> dict[str, list[tuple[float, float]]]:
        """For each way and round the wall and CPU seconds of the whole matrix."""
        steps = dict(zip(WAYS, (self.whole, self.begun_once, self.two_steps), strict=True))
        begin, finish = self.measure(self.begin_texts), self.measure(lambda: self.model.text_features(self.texts))
        extra = {"whole": (0.0, 0.0), "begun once": begin, "two steps": (begin[0] + finish[0], begin[1] + finish[1])}
        groups = self.options.images / len(self.pixels)
        scale = dict.fromkeys(WAYS, groups) | {"whole": groups * self.options.texts / self.options.sample}
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(self.options.rounds):
            for way, step in steps.items():  # interleaved, so that a busy moment of the machine meets all
                wall, cpu = self.measure(step)
                found[way].append((wall * scale[way] + extra[way][0], cpu * scale[way] + extra[way][1]))
        return found


def peak_memory(way: str) -> float:
    """GiB at the peak of one round in a fresh process (on the GPU: of torch's allocations)."""
    words = [sys.executable, __file__, *sys.argv[1:], "--memory-of", way]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_own_memory(way: str, options: argparse.Namespace) -> None:
    """What `peak_memory` reads."""
    race = Race(options)
    dict(zip(WAYS, (race.whole, race.begun_once, race.two_steps), strict=True))[way]()
    on_gpu = options.device.startswith("cuda")
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak / 2**30)


def main() -> None:
    """Prints seconds, CPU seconds and memory of each way, their ratios, and all of it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--top-k", type=int, default=16)
    parser.add_argument("--queries", type=int, default=2, help="images of a round")
    parser.add_argument("--sample", type=int, default=4, help="texts for each image of a round that `whole` scores")
    parser.add_argument("--chunk", type=int, default=8, help="pairs computed at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_own_memory(options.memory_of, options)
        return
    memory = {way: peak_memory(way) for way in WAYS}  # first, while this process holds no model
    race = Race(options)
    sample, first, second = race.whole(), race.begun_once(), race.two_steps()  # warms up, and shows that all agree
    error = (sample - first[:, : options.sample]).abs().max().item()
    best = second.topk(options.top_k)
    error = max(error, (best.values - first.gather(1, best.indices)).abs().max().item())
    medians = {
        way: [statistics.median(times) for times in zip(*rounds, strict=True)] for way, rounds in race.totals().items()
    }
    size = f"{options.images} x {options.texts} pairs"
    fused = {"whole": "all, whole", "begun once": "all", "two steps": f"{options.top_k} an image"}
    print(
        f"{options.preset}, {size}, {options.device}, {torch.get_num_threads()} threads, medians of {options.rounds}:"
    )
    print(f"{'':12}{'pairs fused':>14}{'wall s':>10}{'CPU s':>10}{'pairs/s':>10}{'peak GiB':>10}")
    for way, (wall, cpu) in medians.items():
        speed = options.images * options.texts / wall
        print(f"{way:12}{fused[way]:>14}{wall:10.1f}{cpu:10.1f}{speed:10.2f}{memory[way]:10.2f}")
    ratios = {
        f"{slow} / {fast}": [x / y for x, y in zip(medians[slow], medians[fast], strict=True)]
        for slow, fast in pairwise(WAYS)
    }
    for name, (wall, cpu) in ratios.items():
        print(f"{name}: {wall:.2f} (by CPU time {cpu:.2f})")
    print(f"whole timed on {options.queries * options.sample} pairs a round, the others on {options.queries} images")
    print(
        json.dumps({"options": vars(options), "seconds": medians, "ratios": ratios, "memory": memory, "error": error})
    )


if __name__ == "__main__":
    main()
