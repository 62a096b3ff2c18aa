"""The whole detector on one image: part by part, prompt by prompt, and a training step.

Parts: the baseline of the backbone is a text padded to 256 tokens, that of the dynamic head its computation operation
by operation (`dynamic_head.py`): the original does both. Prompts: 80 categories in one prompt, and in 4; 320 in 8, the
image computed once below the cut, against the whole model for each. A step: with and without gradient checkpointing.
Every threshold is 0, so that random weights find as many boxes as there can be.

    python packages/fiber-heads/benchmarks/grounding.py [--preset fiber_base] [--size 640 800] [--rounds 1]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from dynamic_head import measure, open_offsets, original_block
from fiber_backbone import FiberBackbone, FiberConfig, FusedFeatures
from fiber_heads import FiberForGrounding, GroundingConfig
from fiber_heads.grounding.config import DetectionSettings
from fiber_heads.grounding.dyhead import DynamicBlock
from fiber_heads.grounding.extents import level_extents
from fiber_heads.grounding.postprocess import detect_boxes, merge_chunks
from torch import Tensor
from torch.nn.functional import pad

TEXT_LENGTH = 40
EVERYTHING = DetectionSettings(score_threshold=0.0)
STEPS = ("kept", "checkpointed")
Contenders = dict[str, Callable[[], object]]


def make_model(options: argparse.Namespace) -> FiberForGrounding:
    """Random weights, offsets as far as a trained head's."""
    torch.manual_seed(0)
    config = FiberConfig.from_preset(options.preset, max_position_embeddings=514).fine_stage()
    strides = tuple(config.strides[-3] * 2**level for level in range(5))
    model = FiberForGrounding(FiberBackbone.from_config(config), GroundingConfig(strides=strides))
    open_offsets(model.grounding_head)
    return model.eval()


def make_batch(model: FiberForGrounding, options: argparse.Namespace) -> dict[str, Any]:
    """One image, a text, and five boxes that it speaks of."""
    height, width = options.size
    ids = torch.randint(5, model.backbone.config.vocab_size, (1, TEXT_LENGTH))
    corners = torch.rand(5, 2) * torch.tensor([width / 2, height / 2])
    return {
        "pixel_values": torch.randn(1, 3, height, width),
        "image_sizes": torch.tensor([[height, width]]),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "targets": [
            {"boxes": torch.cat([corners, corners + height / 3], dim=1), "positive_map": torch.eye(5, TEXT_LENGTH) > 0}
        ],
    }


def make_prompts(chunks: int, categories: int, vocab_size: int) -> dict[str, Any]:
    """Prompts that name so many categories each, with two tokens and a full stop for every name."""
    ids = torch.randint(5, vocab_size, (chunks, 3 * categories + 1))
    maps = torch.eye(categories).bool().repeat_interleave(3, dim=1)
    maps[:, 2::3] = False
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "phrase_maps": [pad(maps, (1, 0))] * chunks,
        "phrase_labels": list(torch.arange(chunks * categories).split(categories)),
    }


def parts(model: FiberForGrounding, batch: dict[str, Any]) -> Contenders:
    """The parts of a forward pass, and the original's way of the two that take long."""
    ids, mask, sizes, head = batch["input_ids"], batch["attention_mask"], batch["image_sizes"], model.grounding_head
    more = model.config.max_tokens - TEXT_LENGTH
    padded = pad(ids, (0, more), value=model.backbone.config.pad_token_id), pad(mask, (0, more))

    def backbone(ids: Tensor, mask: Tensor) -> FusedFeatures:
        image = model.backbone.begin_image(batch["pixel_values"], return_pyramid=True)
        return model.backbone.fuse(image, model.backbone.begin_text(ids, mask))

    fused = backbone(ids, mask)
    maps, out = list(fused.pyramid[-3:]), head(fused.pyramid[-3:], fused.text_hidden_state, mask, sizes)
    strides = model.config.strides
    shapes = [(-(-batch["pixel_values"].shape[2] // s), -(-batch["pixel_values"].shape[3] // s)) for s in strides]
    extents = level_extents(shapes, strides, None, maps[0])
    levels = head.pyramid(maps, extents)

    def original_tower() -> None:
        x = [level.contiguous() for level in levels]
        for block in head.tower.blocks:
            x = original_block(cast(DynamicBlock, block), x)

    names = make_prompts(1, TEXT_LENGTH // 3, 9)
    after = {
        "anchors": out.anchors,
        "anchors_per_level": out.anchors_per_level,
        "image_sizes": sizes,
        "class_tokens": names["phrase_maps"],
        "settings": EVERYTHING,
    }
    return {
        "backbone": partial(backbone, ids, mask),
        "backbone, the original's way": partial(backbone, *padded),
        "pyramid": partial(head.pyramid, maps, extents),
        "dynamic head": partial(head.tower, levels, extents),
        "dynamic head, the original's way": original_tower,
        "post-processing": partial(detect_boxes, out.token_logits, out.deltas, out.centerness, **after),
    }


def prompts(model: FiberForGrounding, batch: dict[str, Any]) -> Contenders:
    """Ways to ask for many categories."""
    vocab_size = model.backbone.config.vocab_size
    many = make_prompts(8, 40, vocab_size)
    find = partial(model.find_categories, batch, settings=EVERYTHING)

    def apart() -> dict[str, Tensor]:
        found = [find({name: value[number : number + 1] for name, value in many.items()})[0] for number in range(8)]
        return merge_chunks(found, EVERYTHING.max_detections)

    return {
        "80 categories, 1 prompt": partial(find, make_prompts(1, 80, vocab_size)),
        "80 categories, 4 prompts": partial(find, make_prompts(4, 20, vocab_size)),
        "320 categories, 8 prompts": partial(find, many),
        "320 categories, 8 prompts, nothing shared": apart,
    }


def train(model: FiberForGrounding, batch: dict[str, Any], step: str) -> None:
    """A training step without the optimizer's part."""
    model.set_gradient_checkpointing(step == "checkpointed")
    model.train().zero_grad()
    model(**batch).loss.backward()
    model.eval()


def race(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """Median wall and CPU seconds of each, in turns, so that a busy moment of the machine meets all."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            found[name].append(measure(call, "cpu"))
    return {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}


def peak_memory(step: str) -> float:
    """GiB at the peak of one step in a fresh process."""
    words = [sys.executable, __file__, *sys.argv[1:], "--memory-of", step]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])


def report(seconds: dict[str, list[float]], memory: dict[str, float]) -> None:
    """Prints the table."""
    baselines = {
        "backbone": "backbone, the original's way",
        "dynamic head": "dynamic head, the original's way",
        "80 categories, 1 prompt": "80 categories, 4 prompts",
        "320 categories, 8 prompts": "320 categories, 8 prompts, nothing shared",
        "step, checkpointed": "step, kept",
    }
    print(f"{'':44}{'wall s':>8}{'CPU s':>8}{'baseline / it: wall':>21}{'CPU':>6}{'peak GiB':>10}   baseline")
    for name, (wall, cpu) in seconds.items():
        line = f"{name:44}{wall:8.2f}{cpu:8.2f}"
        base = baselines.get(name)
        ratios = [slow / fast for slow, fast in zip(seconds[base], (wall, cpu), strict=True)] if base else []
        line += f"{ratios[0]:21.2f}{ratios[1]:6.2f}" if base else " " * 27
        peak = memory.get(name.removeprefix("step, "))
        line += f"{peak:10.2f}" if peak else " " * 10
        print(f"{line}   {base or ''}".rstrip())


def main() -> None:
    """Run all and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--size", type=int, nargs=2, default=[640, 800], help="height and width of the image")
    parser.add_argument("--rounds", type=int, default=1, help="of prompts and steps; of the parts three times as many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-of", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        model = make_model(options)
        train(model, make_batch(model, options), options.memory_of)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    memory = {step: peak_memory(step) for step in STEPS}  # first: a child starts with its parent's peak
    model = make_model(options)
    batch = make_batch(model, options)
    with torch.no_grad():
        seconds = race(parts(model, batch), 3 * options.rounds) | race(prompts(model, batch), options.rounds)
    seconds |= race({f"step, {step}": partial(train, model, batch, step) for step in STEPS}, options.rounds)
    print(f"{options.preset}, an image of {options.size}, {TEXT_LENGTH} tokens, {options.threads} threads, medians:")
    report(seconds, memory)
    print(json.dumps({"options": vars(options), "seconds": seconds, "memory": memory}))


if __name__ == "__main__":
    main()
