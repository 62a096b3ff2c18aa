"""Beam search for captions: keys and values kept, against the whole sequence run again for every token.

The baselines do what the original does: the image is encoded once, then every step runs all positions of every beam,
padding included, and projects the image for every beam anew. `original` runs its text length of 50, `rerun` only as
many positions as the caption will have. All run the same search over the same modules, so that only the reuse differs,
and must give the same caption. The end token is barred.

    python packages/fiber-heads/benchmarks/captioning.py [--preset fiber_base] [--images 4] [--rounds 3]
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

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads.captioning import CachedDecoder, FiberForCaptioning
from fiber_heads.config import CaptioningConfig, GenerationConfig
from fiber_heads.generation import Caption, Decoder, generate
from torch import Tensor

POSITIONS = 50  # the original's text length in captioning


class RerunningDecoder:
    """A `Decoder` that computes the whole text of every beam in every step."""

    def __init__(self, model: FiberForCaptioning, image_features: Tensor, length: int) -> None:
        self.num_images, self.device = len(image_features), image_features.device
        self.model, self.image_features, self.length = model, image_features, length
        self.ids = torch.empty(self.num_images, 0, dtype=torch.long, device=self.device)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits of the next tokens."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        newest = self.ids.shape[1] - 1
        padded = torch.nn.functional.pad(self.ids, (0, self.length - newest - 1), value=1)
        features = self.model.backbone.decode_text(padded, self.image_features).text_features
        return self.model.word_head(features)[:, newest]

    def select(self, rows: Tensor, images: Tensor | None = None) -> None:
        """Picks rows; every row has its own copy of its image."""
        each = len(self.ids) // len(self.image_features)
        self.ids, self.image_features = self.ids[rows], self.image_features[rows // each]


def make(options: argparse.Namespace) -> tuple[FiberForCaptioning, Tensor, GenerationConfig]:
    """A model with open gates and images, both from a seed."""
    torch.manual_seed(0)
    config = FiberConfig.from_preset(options.preset, initial_gate=0.5, decoder_projections=True)
    generation = GenerationConfig(num_beams=options.beams, max_length=options.tokens, forbidden_token_ids=(2,))
    model = FiberForCaptioning(FiberBackbone.from_config(config), CaptioningConfig(generation=generation))
    model = model.to(options.device).eval()
    pixel_values = torch.randn(options.images, 3, config.image_size, config.image_size, device=options.device)
    return model, pixel_values, generation


def cached(model: FiberForCaptioning, features: Tensor, config: GenerationConfig) -> Decoder:
    """What the model does."""
    return CachedDecoder(model.backbone, model.word_head, features)


def rerun(model: FiberForCaptioning, features: Tensor, config: GenerationConfig) -> Decoder:
    """What the original would do, knowing the length beforehand."""
    return RerunningDecoder(model, features, config.max_length + 1)


def original(model: FiberForCaptioning, features: Tensor, config: GenerationConfig) -> Decoder:
    """What the original does."""
    return RerunningDecoder(model, features, max(POSITIONS, config.max_length + 1))


VARIANTS: dict[str, Callable[[FiberForCaptioning, Tensor, GenerationConfig], Decoder]] = {
    "cached": cached,
    "rerun": rerun,
    "original": original,
}


@torch.no_grad()
def run(
    variant: str, model: FiberForCaptioning, pixel_values: Tensor, config: GenerationConfig
) -> tuple[list[list[Caption]], float, float, float, float]:
    """Captions, wall and CPU seconds of all, and of the encoding of the image alone."""
    start = time.perf_counter(), time.process_time()
    features = model.encode_images(pixel_values)
    float(features.flatten()[0])  # waits for the device
    encoded = time.perf_counter(), time.process_time()
    captions = generate(VARIANTS[variant](model, features, config), config)
    end = time.perf_counter(), time.process_time()
    return captions, end[0] - start[0], end[1] - start[1], encoded[0] - start[0], encoded[1] - start[1]


def peak_memory(variant: str, options: argparse.Namespace) -> float:
    """GiB at the peak of one captioning in a fresh process (on the GPU: of torch's allocations)."""
    words = [sys.executable, __file__, "--memory-of", variant, "--preset", options.preset, "--device", options.device]
    for name in ("images", "beams", "tokens"):
        words += [f"--{name}", str(getattr(options, name))]
    output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prints seconds, CPU seconds and memory of both, and their ratios, as a table and as one line of JSON."""
    options = read_options()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        run(options.memory_of, *make(options))
        on_gpu = options.device.startswith("cuda")
        peak = (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(peak / 2**30)
        return
    memory = {name: peak_memory(name, options) for name in VARIANTS}  # first, while this process holds no model
    made = make(options)
    captions: dict[str, list[list[Caption]]] = {}
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in VARIANTS}
    for _ in range(options.rounds):
        for name in VARIANTS:  # interleaved, so that a busy moment of the machine meets both
            captions[name], *seconds = run(name, *made)
            rounds[name].append(tuple(seconds))
    texts = {name: [[caption.token_ids for caption in row] for row in rows] for name, rows in captions.items()}
    same = all(rows == texts["cached"] for rows in texts.values())
    median = {name: [statistics.median(column) for column in zip(*rounds[name], strict=True)] for name in VARIANTS}
    print(
        f"{options.preset}, {options.images} images of {made[1].shape[2]} px, beam {options.beams}, "
        f"{options.tokens} tokens, {options.device}, {torch.get_num_threads()} threads; "
        f"captions {'equal' if same else 'DIFFER'}"
    )
    print(
        "             wall s    CPU s   image s    CPU s   peak GiB   cached is faster by   by CPU   without the image"
    )
    record: dict[str, dict[str, float]] = {}
    fast = median["cached"]
    for name, (wall, cpu, image, image_cpu) in median.items():
        ratio, ratio_cpu, decoding = wall / fast[0], cpu / fast[1], (wall - image) / (fast[0] - fast[2])
        print(
            f"  {name:8} {wall:8.2f} {cpu:8.2f}  {image:8.2f} {image_cpu:8.2f}   {memory[name]:8.2f}   "
            f"{ratio:18.2f}x {ratio_cpu:7.2f}x   {decoding:16.2f}x"
        )
        record[name] = {
            "wall_s": wall,
            "cpu_s": cpu,
            "image_wall_s": image,
            "image_cpu_s": image_cpu,
            "peak_gib": memory[name],
            "ratio": ratio,
            "ratio_cpu": ratio_cpu,
            "ratio_without_image": decoding,
        }
    print(json.dumps({"same_captions": same, **record}))


if __name__ == "__main__":
    main()
