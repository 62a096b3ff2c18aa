"""The fine stage's reference cases: what the head said and what it was taught.

The boxes of their files include their last pixel; those that the functions give are half-open, as everywhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_heads.grounding.boxes import SCALE_WEIGHT, SHIFT_WEIGHT, box_centers, box_sizes
from safetensors.torch import load_file
from torch import Tensor

from .conftest import REFERENCE


def fine_folder(name: str) -> Path:
    """A folder of the reference numbers; skips where there is none, fails where there must be one."""
    folder = REFERENCE / "fine" / name
    if not folder.is_dir():
        reason = f"no reference numbers at {folder}; set FIBER_REFERENCE to the folder that holds fine/"
        (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
    return folder


def half_open(boxes: Tensor) -> Tensor:
    """Inclusive boxes (..., 4), whose width is x2 - x1 + 1."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] + 1], dim=-1)


def read_outputs(folder: Path) -> dict[str, Any]:
    """The head's stored outputs in float64, as the functions take them; all stored token columns stand for the rest."""
    stored, meta = load_file(folder / "forward.safetensors"), json.loads((folder / "meta.json").read_text())
    maps = [[stored[f"head.{name}.level{level}"].double() for level in range(5)] for name in ("bbox_reg", "centerness")]
    logits = torch.cat([stored[f"head.dot_product_logits.level{level}"].double() for level in range(5)], dim=1)
    rest = logits[..., -1:].expand(-1, -1, meta["max_query_len"] - logits.shape[2])
    deltas, centerness = (torch.cat([part.flatten(2).mT for part in parts], dim=1) for parts in maps)
    levels = [stored[f"anchors.level{level}"] for level in range(5)]
    return {
        "token_logits": torch.cat([logits, rest], dim=2),
        "deltas": deltas,
        "centerness": centerness.squeeze(2),
        "anchors": half_open(torch.cat(levels).double()),
        "anchors_per_level": [len(level) for level in levels],
        "text_mask": stored["attention_mask"],
        "image_sizes": stored["image_sizes"],
    }


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) as the deltas (..., 4) dx, dy, dw, dh from their anchors (..., 4) that the head predicts."""
    sizes = box_sizes(anchors)
    shift = (box_centers(boxes) - box_centers(anchors)) / sizes
    scale = (box_sizes(boxes) / sizes).log()
    return torch.cat([shift * SHIFT_WEIGHT, scale * SCALE_WEIGHT], dim=-1)


def read_targets(folder: Path, name: str) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    stored = load_file(folder / "loss.safetensors")
    stored = {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}
    boxes = [half_open(stored[f"boxes{row}"].double()) for row in (0, 1)]
    return boxes, list(stored["positive_map"].split([len(own) for own in boxes])), stored


def picture(outputs: dict[str, Any], row: int) -> dict[str, Any]:
    """One picture of a batch as a batch of its own."""
    per_picture = ("token_logits", "deltas", "centerness", "text_mask", "image_sizes")
    return {name: value[row : row + 1] if name in per_picture else value for name, value in outputs.items()}
