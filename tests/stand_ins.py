"""Untrained models in the folders of a quickstart and of what is fine-tuned from it: pages that show their use run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ANSWERS = ("yes", "no", "red", "blue", "circle", "2")


def make_quickstart(root: Path) -> Path:
    """A folder as `fiber quickstart` leaves it, with `vqa`, `captions` and `nlvr2`; models know nothing yet."""
    from fiber_backbone import FiberBackbone, fiber_tiny
    from fiber_data import FiberProcessor, GroundingProcessor, read_captions, train_tokenizer
    from fiber_data.scenes import generate_scenes
    from fiber_heads import (
        AnsweringConfig,
        FiberForCaptioning,
        FiberForGrounding,
        FiberForPretraining,
        FiberForQuestionAnswering,
        FiberForVisualReasoning,
        GroundingConfig,
    )

    torch.manual_seed(0)
    samples = read_captions(generate_scenes(root / "scenes", {"val": 20}), "val")
    tokenizer = train_tokenizer((text for sample in samples for text in sample["captions"]), 300)
    whole, boxes = FiberProcessor(tokenizer, 64, 30), GroundingProcessor(tokenizer, 64, 100, 60)
    fine = FiberBackbone.from_config(fiber_tiny().config.fine_stage())
    models = {
        "coarse": FiberForPretraining(fiber_tiny()),
        "vqa": FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(ANSWERS)),
        "nlvr2": FiberForVisualReasoning(fiber_tiny()),
        "captions": FiberForCaptioning(fiber_tiny(decoder_projections=True)),
        "fine": FiberForGrounding(fine, GroundingConfig(channels=16, num_blocks=1, strides=(4, 8, 16, 32, 64))),
    }
    for name, model in models.items():
        model.processor = boxes if name == "fine" else whole
        model.save_pretrained(root / name / "best")
    return root


if __name__ == "__main__":
    make_quickstart(Path(sys.argv[1]))
