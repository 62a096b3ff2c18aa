"""A model that several people ask about images: one at a time, each image begun once, what it knows in words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiber_backbone import ImageCache
from fiber_heads import TaskModel

from fiber_train.card import CARD_FILE
from fiber_train.checkpoint import find_model, load_model

_TOLD = ("## Data", "## Measured", "## Limits")  # sections of a card


@dataclass
class AskedModel:
    """A model on the page.

    Attributes:
        name: What people call it; no path.
        model: In eval mode.
        about: What it was trained on and what it reached, Markdown.
    """

    name: str
    model: Any
    about: str
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.model.backbone.image_cache = ImageCache()

    def can(self, method: str) -> bool:
        """Whether it can be asked so."""
        return callable(getattr(self.model, method, None))

    @contextmanager
    def alone(self) -> Iterator[Any]:
        """The model, for one thread at a time."""
        with self._lock:
            yield self.model


def load_asked(path: Path, **options: Any) -> AskedModel:
    """The model that a checkpoint names; options and errors as of `fiber_train.load_model`."""
    folder = find_model(path)
    model, _ = load_model(folder, **options)
    return AskedModel(_name(folder.resolve()), model, about(folder, model))


def _name(folder: Path) -> str:
    """Of a run, if it is a run's model, else its own."""
    inner = folder.name in ("best", "model", "checkpoints") or folder.name.startswith("step-")
    return _name(folder.parent) if inner and folder.parent.name else folder.stem


def about(folder: Path, model: TaskModel) -> str:
    """What a model's card says of its data, its numbers and its limits; without a card, its size alone."""
    millions = sum(each.numel() for each in model.parameters()) / 1e6
    lead = f"A {type(model).__name__} of {millions:,.1f} million parameters."
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if folder.is_dir() and card.is_file() else ""
    sections = [f"## {part}".strip() for part in text.split("\n## ")[1:]]
    told = [part.replace("## ", "#### ", 1) for part in sections if part.startswith(_TOLD)]
    unknown = "Nothing beside its weights says what it was trained on; expect little of it outside of that."
    return "\n\n".join([lead, *(told or [unknown])])
