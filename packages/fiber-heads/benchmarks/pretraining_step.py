"""One training step of all three objectives: work below the cut shared, against repeated for each objective.

The baseline repeats it as the original does: every image with its masked text, every image and every text alone,
and three times as many pairs for matching. Both use the same modules, so that only the sharing differs.

    python packages/fiber-heads/benchmarks/pretraining_step.py [--preset fiber_base] [--batch 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads import FiberForPretraining, Negatives, PretrainingConfig
from torch import Tensor

TEXT_LENGTH = 40


def make(preset: str, size: int, device: str) -> tuple[FiberForPretraining, dict[str, Tensor], Negatives]:
    """A model with open gates and a batch, both from a seed."""
    torch.manual_seed(0)
    config = FiberConfig.from_preset(
        preset, initial_gate=0.5, hidden_dropout=0.0, attention_dropout=0.0, drop_path_rate=0.0
    )
    model = FiberForPretraining(FiberBackbone.from_config(config), PretrainingConfig(queue_size=0)).to(device).train()
    ids = torch.randint(5, config.vocab_size, (size, TEXT_LENGTH))
    labels = torch.where(torch.rand(ids.shape) < 0.15, ids, -100)
    batch = {
        "pixel_values": torch.randn(size, 3, config.image_size, config.image_size),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mlm_input_ids": ids.masked_fill(labels != -100, 4),
        "mlm_labels": labels,
    }
    other, exists = torch.arange(size).roll(1), torch.ones(size, dtype=torch.bool)
    negatives = Negatives(*(part.to(device) for part in (other, other, exists, exists)))
    return model, {name: value.to(device) for name, value in batch.items()}, negatives


def shared(model: FiberForPretraining, batch: dict[str, Tensor], negatives: Negatives) -> Tensor:
    """What the model does."""
    return model(**batch, negatives=negatives).loss


def repeated(model: FiberForPretraining, batch: dict[str, Tensor], negatives: Negatives) -> Tensor:
    """The same losses, each objective on its own."""
    pixels, ids, mask = batch["pixel_values"], batch["input_ids"], batch["attention_mask"]
    assert model.word_head is not None
    assert model.contrastive_head is not None
    assert model.matching_head is not None
    words = model.word_head(model.backbone(pixels, batch["mlm_input_ids"], mask).text_features)
    contrast = model.contrastive_head(model.encode_images(pixels), model.encode_texts(ids, mask))
    images = torch.cat([pixels, pixels, pixels[negatives.image]])
    texts, masks = torch.cat([ids, ids[negatives.text], ids]), torch.cat([mask, mask[negatives.text], mask])
    pairs = model.matching_head(model.backbone(images, texts, masks).pooled)
    labels = (torch.arange(len(pairs), device=pairs.device) < len(pixels)).long()
    return model.word_head.loss(words, batch["mlm_labels"]) + contrast.loss + model.matching_head.loss(pairs, labels)


VARIANTS: dict[str, Callable[..., Tensor]] = {"shared": shared, "repeated": repeated}


def run_step(variant: str, model: FiberForPretraining, batch: dict[str, Tensor], negatives: Negatives) -> float:
    """Forward and backward; gives the loss, which waits for the device."""
    model.zero_grad()
    loss = VARIANTS[variant](model, batch, negatives)
    loss.backward()
    return float(loss.detach())


def peak_memory(variant: str, options: argparse.Namespace) -> float:
    """GiB at the peak of one step in a fresh process (on the GPU: of torch's allocations)."""
    words = [
        sys.executable,
        __file__,
        "--memory-of",
        variant,
        "--preset",
        options.preset,
        "--batch",
        str(options.batch),
    ]
    output = subprocess.run([*words, "--device", options.device], capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def main() -> None:
    """Prints seconds, CPU seconds and memory of both, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        run_step(options.memory_of, *make(options.preset, options.batch, options.device))
        on_gpu = options.device.startswith("cuda")
        peak = (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(peak / 2**30)
        return
    memory = {name: peak_memory(name, options) for name in VARIANTS}  # first, while this process holds no model
    made = make(options.preset, options.batch, options.device)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    losses = {name: run_step(name, *made) for name in VARIANTS}  # warms up, and shows that both compute the same
    for _ in range(options.rounds):
        for name in VARIANTS:  # interleaved, so that a busy moment of the machine meets both
            wall, cpu = time.perf_counter(), time.process_time()
            run_step(name, *made)
            seconds[name].append(time.perf_counter() - wall)
            cpu_seconds[name].append(time.process_time() - cpu)
    print(f"{options.preset}, batch {options.batch}, {options.device}, {torch.get_num_threads()} threads, one step:")
    for name in VARIANTS:
        wall, cpu = statistics.median(seconds[name]), statistics.median(cpu_seconds[name])
        print(f"  {name:9} {wall:7.2f} s   {cpu:7.2f} CPU s   peak {memory[name]:6.2f} GiB   loss {losses[name]:.6f}")
    fast, fast_cpu = (
        statistics.median(times["repeated"]) / statistics.median(times["shared"]) for times in (seconds, cpu_seconds)
    )
    small = memory["shared"] / memory["repeated"]
    print(f"  sharing is {fast:.2f}x as fast ({fast_cpu:.2f}x by CPU time), at {small:.2f} of the memory")


if __name__ == "__main__":
    main()
