"""The dynamic head three ways: as the original writes it, and ours with either path of the deformable convolution.

`original` runs torchvision's operator, group norms, resizing and gates one after the other, as the original does;
`operator` and `plain` are this package's head. All three give the same numbers (the largest difference is printed).

    python packages/fiber-heads/benchmarks/dynamic_head.py [--size 640 800] [--channels 256] [--rounds 5] [--train]
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
from functools import partial
from typing import cast

import torch
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.dyhead import Branch, DynamicBlock, DynamicHead
from fiber_heads.grounding.extents import level_extents
from torch import Tensor, nn
from torch.nn.functional import group_norm, hardsigmoid, interpolate
from torchvision.ops import deform_conv2d

WAYS = ("original", "operator", "plain")


def original_branch(branch: Branch, x: Tensor, offsets: Tensor, modulation: Tensor) -> Tensor:
    """Convolution and group norm."""
    conv, norm = branch.conv, branch.norm
    y = deform_conv2d(x, offsets, conv.weight, conv.bias, conv.stride, padding=1, mask=modulation)
    return group_norm(y, norm.num_groups, norm.weight, norm.bias, norm.eps)


def original_block(block: DynamicBlock, levels: list[Tensor]) -> list[Tensor]:
    """One block, operation by operation."""
    results = []
    for level, x in enumerate(levels):
        parts = block.offset(x)
        offsets, modulation = parts[:, :18], parts[:, 18:].sigmoid()
        branches = [original_branch(block.same, x, offsets, modulation)]
        if level > 0:
            branches.append(original_branch(block.lower, levels[level - 1], offsets, modulation))
        if level + 1 < len(levels):
            height, width = levels[level + 1].shape[2:]
            offsets, modulation = (
                part.flatten(1)[:, : part.shape[1] * height * width].view(len(x), -1, height, width)
                for part in (offsets, modulation)
            )
            upper = original_branch(block.upper, levels[level + 1], offsets, modulation)
            branches.append(interpolate(upper, size=x.shape[2:], mode="bilinear", align_corners=True))
        gates = [hardsigmoid(block.attention(branch.mean(dim=(2, 3))).relu()) for branch in branches]
        fused = torch.stack([b * g[:, :, None, None] for b, g in zip(branches, gates, strict=True)]).mean(dim=0)
        results.append(block.relu(fused, fused.mean(dim=(2, 3))))
    return results


def open_offsets(head: nn.Module) -> None:
    """Offsets as far as a trained head's: a fresh one reads the regular grid, a trained one about a cell beside it."""
    for block in head.modules():
        if isinstance(block, DynamicBlock):
            for parameter in block.offset.parameters():
                nn.init.normal_(parameter, std=0.5 / (9 * block.offset.in_channels) ** 0.5)


class Race:
    """Heads of the same random weights, and a pyramid to run them on.

    Args:
        options: The command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        strides = GroundingConfig().strides
        shapes = [tuple(-(-side // stride) for side in options.size) for stride in strides]
        self.heads = {}
        for path in ("operator", "plain"):
            config = GroundingConfig.as_original(channels=options.channels, deformable=path)
            self.heads[path] = DynamicHead(config).to(options.device)
        open_offsets(self.heads["operator"])
        self.heads["plain"].load_state_dict(self.heads["operator"].state_dict())
        self.levels = [torch.randn(1, options.channels, *shape, device=options.device) for shape in shapes]
        self.levels = [x.contiguous(memory_format=torch.channels_last) for x in self.levels]  # as the backbone's are
        self.extents = level_extents(shapes, strides, None, self.levels[0])
        self.train = options.train

    def forward(self, way: str) -> list[Tensor]:
        """One forward pass."""
        if way != "original":
            return self.heads[way](self.levels, self.extents)
        levels = [x.contiguous() for x in self.levels]
        for block in self.heads["operator"].blocks:
            levels = original_block(cast(DynamicBlock, block), levels)
        return levels

    def step(self, way: str) -> list[Tensor]:
        """A forward pass, and with --train the backward pass."""
        with torch.set_grad_enabled(self.train):
            levels = self.forward(way)
            if self.train:
                sum(x.square().mean() for x in levels).backward()  # type: ignore[union-attr]
        return levels


def measure(step: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and CPU seconds of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory(way: str) -> float:
    """GiB at the peak of two steps in a fresh process, beyond what it holds before (on the GPU: of allocations)."""
    words = [sys.executable, __file__, *sys.argv[1:], "--memory-of", way]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_own_memory(way: str, options: argparse.Namespace) -> None:
    """What `peak_memory` reads."""
    race = Race(options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        race.step(way)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print((torch.cuda.max_memory_allocated() if options.device.startswith("cuda") else peak) / 2**30)


def main() -> None:
    """Run the race and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[640, 800], help="height and width of the image")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", action="store_true", help="time the backward pass too")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print_own_memory(options.memory_of, options)
        return
    memory = {way: peak_memory(way) for way in WAYS}  # first: a child starts with its parent's peak
    race = Race(options)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    expected = race.step("original")
    error = max(
        ((x - y).abs().max() / y.abs().max()).item()
        for way in WAYS[1:]
        for x, y in zip(race.step(way), expected, strict=True)
    )
    for _ in range(options.rounds):
        for way in WAYS:  # interleaved, so that a busy moment of the machine meets all
            found[way].append(measure(partial(race.step, way), options.device))
    medians = {way: [statistics.median(column) for column in zip(*times, strict=True)] for way, times in found.items()}
    kind = "forward and backward" if options.train else "forward"
    print(f"{kind}, {options.size}, {options.channels} channels, {options.threads} threads, {options.device}, medians:")
    print(f"{'':10}{'wall s':>8}{'CPU s':>8}{'peak GiB':>10}{'original / it: wall':>21}{'CPU':>6}")
    for way, (wall, cpu) in medians.items():
        ratios = [slow / fast for slow, fast in zip(medians["original"], (wall, cpu), strict=True)]
        print(f"{way:10}{wall:8.2f}{cpu:8.2f}{memory[way]:10.2f}{ratios[0]:21.2f}{ratios[1]:6.2f}")
    print(f"largest difference from the original's computation: {error:.1e} of the maximum")
    print(json.dumps({"options": vars(options), "seconds": medians, "memory": memory, "error": error}))


if __name__ == "__main__":
    main()
