"""Asking a trained model about one's own pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fiber_data import BrokenImageError, FiberProcessor, load_processor
from fiber_heads import FiberForPretraining, TaskModel
from torch import Tensor
from tqdm import tqdm

from fiber_train.checkpoint import find_model, load_task_model

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Match:
    """A picture and how well it fits.

    Attributes:
        path: The picture's file.
        score: Cosine in [-1, 1], or the matcher's logit after re-ranking.
    """

    path: Path
    score: float


def load_model(checkpoint: str | Path, kind: type[TaskModel] = TaskModel) -> tuple[Any, Any]:
    """The model, in eval mode on the best device, and the processor of a run, checkpoint or model folder.

    Args:
        checkpoint: Of a run its best model is taken, else the finished or the newest one.
        kind: The class that the model must be of.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: It is of another task.
    """
    folder = find_model(checkpoint)
    model = load_task_model(folder)
    if not isinstance(model, kind):
        raise ValueError(f"{folder} holds a {type(model).__name__}, but a {kind.__name__} is needed; train one first")
    model.processor = processor = load_processor(folder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), processor


def find_images(folder: str | Path) -> list[Path]:
    """The pictures below a folder, sorted.

    Raises:
        FileNotFoundError: There is no such folder, or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of pictures")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{root} holds no picture ({', '.join(IMAGE_SUFFIXES)})")
    return found


@torch.inference_mode()
def retrieve(
    model: FiberForPretraining,
    processor: FiberProcessor,
    images: Sequence[Path],
    query: str,
    top: int = 5,
    rerank: int = 0,
    batch_size: int = 32,
) -> list[Match]:
    """The pictures that fit a text best.

    Args:
        model: Trained with contrast, and with matching if `rerank` is used.
        processor: The model's own.
        images: Files to search; those that cannot be read are left out with a warning.
        query: What to look for.
        top: How many to return.
        rerank: How many of the best to look at again together with the text, which is slower and sharper.
        batch_size: Pictures encoded at a time.

    Returns:
        At most `top` matches, best first; re-ranked ones come before the others.

    Raises:
        ValueError: The query is empty, or no picture could be read.
    """
    if not query.strip():
        raise ValueError("the query is empty; say what to look for")
    device = next(model.parameters()).device
    paths, features = [], []
    for start in tqdm(range(0, len(images), batch_size), desc="encoding", unit="batch", disable=None):
        good, pixels = _read(processor, images[start : start + batch_size])
        if good:
            paths += good
            features.append(model.encode_images(pixels.to(device)))
    if not paths:
        raise ValueError(f"none of the {len(images)} pictures could be read; the first is {images[0]}")
    text = {name: value.to(device) for name, value in processor(text=query).items()}
    scores = (torch.cat(features) @ model.encode_texts(**text).T).squeeze(1)
    order = scores.argsort(descending=True)
    matches = [Match(paths[i], float(scores[i])) for i in order[: max(top, rerank)].tolist()]
    if rerank:
        best = matches[:rerank]
        _, pixels = _read(processor, [match.path for match in best])
        begun = model.backbone.begin_text(**text).repeat_interleave(len(best))
        logits = model.match(model.backbone.begin_image(pixels.to(device)), begun)[:, 1]
        again = [Match(best[i].path, float(logits[i])) for i in logits.argsort(descending=True).tolist()]
        matches = again + matches[rerank:]
    return matches[:top]


def _read(processor: FiberProcessor, paths: Sequence[Path]) -> tuple[list[Path], Tensor]:
    good, pixels = [], []
    for path in paths:
        try:
            pixels.append(processor(images=path)["pixel_values"])
            good.append(path)
        except BrokenImageError as error:
            warnings.warn(f"{error}; left out", stacklevel=3)
    return good, torch.cat(pixels) if pixels else torch.empty(0)
