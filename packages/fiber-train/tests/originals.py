"""Files of the original, made of small models of ours: the same tensors under its names, saved as it saved them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_backbone.original import DETECTOR_PATCHES, FINE_TO_COARSE
from fiber_heads import (
    AnsweringConfig,
    CaptioningConfig,
    FiberForCaptioning,
    FiberForGrounding,
    FiberForPretraining,
    FiberForQuestionAnswering,
    FiberForRetrieval,
    FiberForVisualReasoning,
    GroundingConfig,
    PretrainingConfig,
    TaskModel,
)
from torch import Tensor

ANSWERS = ("yes", "no", "red", "blue", "2", "3")
# Attention heads of 64 channels, as RoBERTa of any size has them; dropout and such, which no tensor tells, as published.
PUBLISHED = {name: getattr(FiberConfig(), name) for name in ("drop_path_rate", "hidden_dropout", "attention_dropout")}
PUBLISHED |= {"initializer_range": 0.02, "num_attention_heads": 2, "embed_dim": 24, "image_num_heads": (1, 2, 4)}
SIZES = FiberConfig.from_preset("fiber_tiny", **PUBLISHED)


def make(name: str) -> TaskModel:
    """A small model of a task, its weights random, gates included."""
    torch.manual_seed(0)
    head = GroundingConfig.as_original(channels=32, num_blocks=2, strides=(4, 8, 16, 32, 64), max_tokens=64)
    backbones = {"fine": SIZES.fine_stage(), "caption": SIZES.replaced(decoder_projections=True)}
    backbone = FiberBackbone.from_config(backbones.get(name, SIZES))
    objectives = {"pretrain": ("itc", "itm", "mlm"), "itc": ("itc",), "itm": ("itm",)}
    model: TaskModel
    if name in objectives:
        kind = FiberForPretraining if name == "pretrain" else FiberForRetrieval
        model = kind(backbone, PretrainingConfig(objectives=objectives[name], queue_size=0))
    else:
        model = {
            "vqa": lambda: FiberForQuestionAnswering(backbone, AnsweringConfig(answers=ANSWERS)),
            "nlvr2": lambda: FiberForVisualReasoning(backbone),
            "caption": lambda: FiberForCaptioning(backbone, CaptioningConfig()),
            "fine": lambda: FiberForGrounding(backbone, head),
        }[name]()
    for each, value in model.named_parameters():
        if each.endswith("gate"):
            torch.nn.init.constant_(value, 0.5)
    return model.eval()


def tensors_of(model: TaskModel) -> dict[str, Tensor]:
    """The model's weights by the original's names."""
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    pairs = [(f"backbone.{ours}", names) for ours, names in model.backbone.original_map().pairs]
    found: dict[str, Tensor] = {}
    for ours, names in [*pairs, *model.original_head_map().pairs]:
        if ours in own:
            found |= dict(zip(names, own[ours].chunk(len(names)) if len(names) > 1 else [own[ours]], strict=True))
    if isinstance(model, FiberForGrounding):
        for fine, coarse in FINE_TO_COARSE.items():
            found = {
                fine + name.removeprefix(coarse) if name.startswith(coarse) else name: found[name] for name in found
            }
        found[DETECTOR_PATCHES] = found[DETECTOR_PATCHES].flip(1)
        found["rpn.anchor_generator.cell_anchors.0"] = torch.zeros(1, 4)
    return found


class Callback:
    """Stands for what a training library leaves in a checkpoint."""

    def __init__(self) -> None:
        self.best = 0.5


def save(model: TaskModel, path: Path) -> Path:
    """Writes a file as the original's libraries did: the coarse stage's by Lightning, the fine stage's with `module.`."""
    tensors: Any = tensors_of(model)
    if isinstance(model, FiberForGrounding):
        content = {"model": {f"module.{name}": value for name, value in tensors.items()}, "iteration": 3}
    else:
        content = {
            "state_dict": tensors,
            "hyper_parameters": Namespace(max_text_len=40),
            "callbacks": {"a": Callback()},
        }
    torch.save(content, path)
    return path
