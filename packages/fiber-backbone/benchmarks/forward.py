"""Sharing below the cut, and the plain streams against the libraries whose weights they hold.

Medians of interleaved runs on 2 threads, wall and process CPU seconds:

    python packages/fiber-backbone/benchmarks/forward.py [--preset fiber_base] [--size 384] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_backbone.roberta import FIELDS
from transformers import RobertaConfig, RobertaModel


def measure(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median (wall, CPU) seconds of each contender, taking turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, call in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if turn:  # the first turn warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in times.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = FiberConfig.from_preset(arguments.preset)
    backbone = FiberBackbone.from_config(config).eval()
    swin = timm.create_model("swin_base_patch4_window12_384", num_classes=0).eval()
    sizes = RobertaConfig(**{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()})
    roberta = RobertaModel(sizes, add_pooling_layer=False).eval()
    pixel_values = torch.randn(1, 3, arguments.size, arguments.size)
    input_ids = torch.randint(5, config.vocab_size, (arguments.texts, 40))

    def shared() -> object:
        image = backbone.begin_image(pixel_values)
        return backbone.fuse(image.repeat_interleave(arguments.texts), backbone.begin_text(input_ids))

    contenders: dict[str, Callable[[], object]] = {
        "one image, many texts, shared": shared,
        "one image, many texts, whole": lambda: backbone(pixel_values.expand(arguments.texts, -1, -1, -1), input_ids),
        "text alone, ours": lambda: backbone.finish_text(backbone.begin_text(input_ids)),
        "text alone, transformers": lambda: roberta(input_ids),
    }
    if arguments.preset == "fiber_base" and arguments.size == 384:
        contenders["image alone, ours"] = lambda: backbone.finish_image(backbone.begin_image(pixel_values))
        contenders["image alone, timm"] = lambda: swin.forward_features(pixel_values)
    with torch.inference_mode():
        times = measure(contenders, arguments.repeats)
    names = list(contenders)
    for ours, theirs in zip(names[::2], names[1::2], strict=True):
        ratio = times[theirs][0] / times[ours][0]
        print(f"{ours:34s} {times[ours][0]:7.3f} s wall {times[ours][1]:7.3f} s CPU")
        print(f"{theirs:34s} {times[theirs][0]:7.3f} s wall {times[theirs][1]:7.3f} s CPU   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
