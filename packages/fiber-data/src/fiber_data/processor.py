"""Pictures and texts as a user holds them to the tensors that a model takes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fiber_data.collate import ImageTextCollator
from fiber_data.images import ImageSource, load_image
from fiber_data.text import load_tokenizer
from fiber_data.transforms import IMAGENET_MEAN, IMAGENET_STD, build_evaluation_transform

SETTINGS_FILE = "preprocessor_config.json"
_KEYS = ("image_size", "max_length", "mean", "std")


class FiberProcessor:
    """The evaluation transform and the tokenizer of a model, saved and loaded with it.

    Args:
        tokenizer: A fast tokenizer, see `fiber_data.load_tokenizer`.
        image_size: Side of the square that pictures are resized to, in pixels.
        max_length: Most tokens of a text, special tokens included.
        mean: Mean of each colour channel, on the scale [0, 1].
        std: Standard deviation of each colour channel, on the same scale.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int,
        max_length: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.max_length = max_length
        self.mean: tuple[float, float, float] = (mean[0], mean[1], mean[2])
        self.std: tuple[float, float, float] = (std[0], std[1], std[2])
        self.transform = build_evaluation_transform(image_size, mean, std)
        self._collator = ImageTextCollator(tokenizer, max_length, mlm_probability=None)

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Prepares pictures, texts or both.

        Args:
            images: One picture or several (B), each as `fiber_data.load_image` takes it: path, PIL image,
                array (H, W, 3), tensor (3, H, W), bytes. A batched array or tensor counts as several.
            text: One text or several (T).

        Returns:
            ``pixel_values`` (B, 3, image_size, image_size) float32 if pictures were given; ``input_ids`` and
            ``attention_mask`` (T, L) int64 if texts were.

        Raises:
            ValueError: Neither was given, or a list is empty.
            BrokenImageError: A picture cannot be read.
        """
        if images is None and text is None:
            raise ValueError("give images, text or both")
        batch: dict[str, Tensor] = {}
        if images is not None:
            several = as_list(images)
            if not several:
                raise ValueError("images is empty; give at least one picture")
            batch["pixel_values"] = torch.stack([self._prepare(image) for image in several])
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not texts:
                raise ValueError("text is empty; give at least one text")
            batch.update(self._collator.tokenize(texts))
        return batch

    def _prepare(self, image: ImageSource) -> Tensor:
        return self.transform(load_image(image)).as_subclass(Tensor)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer's files and ``preprocessor_config.json`` to a folder, made if need be."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(target))
        write_settings(target, self, _KEYS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "FiberProcessor":
        """Reads what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: The folder holds no ``preprocessor_config.json`` or no tokenizer.
            KeyError: The file lacks a setting.
        """
        settings = read_settings(folder, _KEYS, cls.__name__)
        return cls(load_tokenizer(folder), **settings)


def write_settings(folder: Path, processor: Any, keys: Sequence[str]) -> None:
    """Writes a processor's class and settings to ``preprocessor_config.json``."""
    settings = {"processor_class": type(processor).__name__, **{key: getattr(processor, key) for key in keys}}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_settings(folder: str | Path, keys: Sequence[str], kind: str) -> dict[str, Any]:
    """The settings of a processor of some kind that a folder holds; raises as `FiberProcessor.from_pretrained`."""
    path = Path(folder) / SETTINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a folder written by {kind}.save_pretrained")
    settings = json.loads(path.read_text(encoding="utf-8"))
    if missing := [key for key in keys if key not in settings]:
        raise KeyError(f"{path}: no {', '.join(missing)}; expected a file written by {kind}.save_pretrained")
    return {key: settings[key] for key in keys}


def as_list(images: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    """One picture or several as a list; a batched array or tensor counts as several."""
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images)
    return [cast(ImageSource, images)]
