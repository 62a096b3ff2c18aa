"""Peak memory and time of retrieval by matching, as the test set grows to COCO's 5,000 images and 25,000 captions.

    python benchmarks/retrieval_at_size.py                      # 200 to 5,000 images; one process each, minutes
    python benchmarks/retrieval_at_size.py --images 200 400     # other sizes
    python benchmarks/retrieval_at_size.py --match --images 20  # the small model's own matcher, pair by pair

Everything but the matcher is real: images are read and begun block by block, captions tokenized, scores kept, ranked
and written. The matcher is replaced by random logits unless `--match` is given, so the time of fused pairs is left out.
The baseline of the same run keeps a number in Python for each pair, as a dictionary over all pairs does; it is measured
at the smallest size, and what it would take at the others is extrapolated from bytes per pair.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

CAPTIONS = 5  # of each image


def main() -> None:
    """Print the table and, as its last line, the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--match", action="store_true", help="match pairs with the model")
    parser.add_argument("--only", choices=("blocks", "python"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.images[0], options.only, match=options.match)))
        return
    results: dict[str, dict[str, float]] = {}
    print(f"{'images':>8}{'captions':>10}{'seconds':>9}{'peak MB':>9}{'above start':>13}{'a number a pair':>17}")
    pairs, more = {size: CAPTIONS * size**2 for size in options.images}, ["--match"] if options.match else []
    first = min(options.images)
    python = run(first, "python", [])
    for size in options.images:
        found = run(size, "blocks", more)
        baseline = python["grown"] * pairs[size] / pairs[first]
        note = "" if size == first else " (extrapolated)"
        print(
            f"{size:8,}{CAPTIONS * size:10,}{found['seconds']:9.1f}{found['peak']:9.0f}{found['grown']:13.0f}"
            f"{baseline:17,.0f}{note}",
            flush=True,
        )
        results[str(size)] = {**found, "python": baseline}
    print(json.dumps(results))


def run(size: int, way: str, more: list[str]) -> dict[str, float]:
    """What a process of its own measured, in MB and seconds."""
    command = [sys.executable, __file__, "--images", str(size), "--only", way, *more]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(size: int, way: str, *, match: bool) -> dict[str, float]:
    """Peak memory, what it grew by, and time."""
    import torch

    torch.set_num_threads(1)
    if way == "python":
        before, started = peak(), time.perf_counter()
        kept = dict(enumerate(torch.randn(CAPTIONS * size**2).double().tolist()))
        assert kept
        return {"seconds": time.perf_counter() - started, "peak": peak(), "grown": peak() - before}
    with tempfile.TemporaryDirectory() as folder:
        evaluate = prepare(size, Path(folder), match=match)
        before, started = peak(), time.perf_counter()
        evaluate()
        return {"seconds": time.perf_counter() - started, "peak": peak(), "grown": peak() - before}


def prepare(size: int, folder: Path, *, match: bool) -> Any:
    """The evaluation of a small model on one image and captions that come again and again under other ids."""
    import torch
    from fiber_backbone import fiber_tiny
    from fiber_data import FiberProcessor, train_tokenizer
    from fiber_heads import FiberForRetrieval, PretrainingConfig
    from fiber_train.config import load_config
    from fiber_train.tasks.base import make_task
    from lightning_fabric import Fabric
    from PIL import Image

    class RandomMatcher(FiberForRetrieval):
        """Begins what the evaluation begins; its logits cost nothing."""

        def score_texts(self, images: Any, input_ids: Any, *others: Any, **more: Any) -> Any:
            """Random logits."""
            return torch.randn(len(images), len(input_ids))

    warnings.simplefilter("ignore")
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    texts = [f"a {color} square number {index}" for color in ("red", "blue") for index in range(100)]
    words = [f"data.root={folder}", f"out={folder / 'run'}", "data.num_workers=0", "task.model.objectives=[itm]"]
    task = make_task(load_config("retrieval_itm", words))
    kind = FiberForRetrieval if match else RandomMatcher
    model = kind(fiber_tiny(), PretrainingConfig(objectives=("itm",), queue_size=0)).eval()
    processor = FiberProcessor(train_tokenizer(texts, 500), 64, 40)
    captions = [[texts[(row + each) % len(texts)] for each in range(CAPTIONS)] for row in range(size)]
    samples = [{"id": row, "image": str(folder / "a.png"), "captions": captions[row]} for row in range(size)]
    return lambda: task.measure(model, samples, processor, Fabric(accelerator="cpu"))


def peak() -> float:
    """The largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
