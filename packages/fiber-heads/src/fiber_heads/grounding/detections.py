"""What was found in an image: a dictionary that prints, draws and shows itself."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes
from transformers.image_utils import load_image
from transformers.utils.generic import ModelOutput

from fiber_heads.grounding.boxes import outermost_pixels
from fiber_heads.processing import Image
from fiber_heads.task import NONE

PALETTE = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


@dataclass
class Detections(ModelOutput):
    """The boxes of one image, best first: dictionary, tuple and attributes at once.

    `supervision.Detections.from_transformers(found, id2label=...)` takes it as it is.

    Attributes:
        boxes: (K, 4) corners x1, y1, x2, y2 in the pixels of the image as it came; half-open, x2 - x1 is the width.
        scores: (K,) in [0, 1], descending.
        labels: (K,) int64, index into the categories or among the sentence's phrases.
        text_labels: The K categories or phrases themselves.
        image: The image as it was given, to draw on; no key of the dictionary.
    """

    boxes: Tensor
    scores: Tensor = NONE
    labels: Tensor = NONE
    text_labels: list[str] = NONE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image: Image | None = None

    def __str__(self) -> str:
        lines = [f"{'score':>6}  {'label':24}  {'x1':>7}  {'y1':>7}  {'x2':>7}  {'y2':>7}"]
        lines += [
            f"{score:6.3f}  {name:24}  {'  '.join(f'{side:7.1f}' for side in box)}" for score, name, box in self.rows()
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = ([f"{score:.3f}", name, *(f"{side:.1f}" for side in box)] for score, name, box in self.rows())
        lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells]
        head = "".join(f"<th>{name}</th>" for name in ("score", "label", "x1", "y1", "x2", "y2"))
        table = "".join(f"<tr>{line}</tr>" for line in (head, *lines))
        drawn = ""
        if self.image is not None:
            file = BytesIO()
            self.draw().save(file, "PNG")
            drawn = f'<img src="data:image/png;base64,{b64encode(file.getvalue()).decode()}">'
        return f"{drawn}<table>{table}</table>"

    def best(self, count: int) -> Detections:
        """The first so many."""
        kept = Detections(self.boxes[:count], self.scores[:count], self.labels[:count], self.text_labels[:count])
        kept.image = self.image
        return kept

    def rows(self) -> list[tuple[float, str, list[float]]]:
        """Score, label and corners of each box."""
        return list(zip(self.scores.tolist(), self.text_labels, self.boxes.tolist(), strict=True))

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain values under the same keys, for JSON."""
        return {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in self.items()}

    def draw(self, image: Image | None = None) -> PILImage.Image:
        """The image with its boxes, each with label and score, a color for each label.

        Args:
            image: What to draw on; by default the image that was asked about.

        Raises:
            ValueError: If there is no image, or it is of no kind that can be opened.
        """
        pixels = pil_to_tensor(_open(self.image if image is None else image))
        if not len(self.boxes):
            return to_pil_image(pixels)
        names = [f"{name} {score:.2f}" for score, name, _ in self.rows()]
        colors = [PALETTE[label % len(PALETTE)] for label in self.labels.tolist()]
        corners = outermost_pixels(self.boxes.cpu())  # as Pillow draws: the last one included
        return to_pil_image(draw_bounding_boxes(pixels, corners, names, colors, width=2))

    def show(self) -> None:
        """Opens the drawn image in a viewer."""
        self.draw().show()


def _open(image: Image | None) -> PILImage.Image:
    """An image as PIL has it, RGB and upright."""
    if isinstance(image, Tensor):
        opened = to_pil_image(image.cpu())
    elif isinstance(image, np.ndarray):
        opened = to_pil_image(torch.from_numpy(image[..., None] if image.ndim == 2 else image).movedim(-1, 0))
    elif isinstance(image, PILImage.Image):
        opened = image
    elif isinstance(image, bytes):
        opened = PILImage.open(BytesIO(image))
    elif isinstance(image, str | Path):  # a path or an address
        opened = load_image(str(image))
    elif image is not None and hasattr(image, "read"):
        image.seek(0)  # the processor has read it
        opened = PILImage.open(image)
    else:
        raise ValueError(
            f"there is no image to draw on in {image!r}; give draw a path, a URL, a PIL image, an array or a tensor"
        )
    return ImageOps.exif_transpose(opened).convert("RGB")
