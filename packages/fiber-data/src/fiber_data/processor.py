"""Images and texts as a user holds them to the tensors that a model takes."""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from transformers import PreTrainedTokenizerBase

from fiber_data.collate import ImageTextCollator
from fiber_data.formats.ids import shown
from fiber_data.formats.samples import read_json
from fiber_data.images import ImageSource, load_image
from fiber_data.seams import name_of, resolve
from fiber_data.settings import LEAST_SIDE, read_mean, read_std, read_whole
from fiber_data.text import load_tokenizer
from fiber_data.transforms import IMAGENET_MEAN, IMAGENET_STD, build_evaluation_transform

_FILE = "preprocessor_config.json"
_GROUP = "fiber.processors"
_LONGEST_NAME = 120  # characters of a class's import path


class Processor(ABC):
    """The evaluation transform and the tokenizer of a model, saved and loaded with it.

    A subclass says how images are prepared. Its constructor takes the tokenizer, and every one of its `settings` by
    name; each is an attribute too. Declared as an entry point of ``fiber.processors``, `load_processor` finds it.

    Args:
        tokenizer: A fast tokenizer, see `fiber_data.load_tokenizer`.
        max_length: Most tokens of a text, special tokens included.
        mean: Mean of each color channel, on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.

    Raises:
        ValueError: A setting cannot be used; the message names it. A subclass checks its own.
    """

    settings: ClassVar[tuple[str, ...]] = ("max_length", "mean", "std")
    least_length: ClassVar[int] = 3  # first and last token, and one between
    """What ``preprocessor_config.json`` holds beside the class."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = read_whole(max_length, "max_length", least=self.least_length)
        self.mean, self.std = read_mean(mean), read_std(std)
        self._collator = ImageTextCollator(tokenizer, self.max_length, mlm_probability=None)

    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Prepares images, texts or both.

        Args:
            images: One image or several (B), each as `fiber_data.load_image` takes it: path, URL, bytes, file object,
                PIL image, array (H, W, 3), tensor (3, H, W). A list, a column of `datasets` or another sequence, and a
                batched array or tensor are several.
            text: One text or several (T).

        Returns:
            What `prepare_images` makes if images were given; ``input_ids`` and ``attention_mask`` (T, L) int64 if texts
            were.

        Raises:
            ValueError: Neither was given, or a list is empty.
            BrokenImageError: An image cannot be read.
        """
        if images is None and text is None:
            raise ValueError("give images, text or both")
        batch: dict[str, Tensor] = {}
        if images is not None:
            loaded = [load_image(image) for image in _as_list(images)]
            if not loaded:
                raise ValueError("images is empty; give at least one image")
            batch |= self.prepare_images(loaded)
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not texts:
                raise ValueError("text is empty; give at least one text")
            batch |= self._collator.tokenize(texts)
        return batch

    @abstractmethod
    def prepare_images(self, images: Sequence[tv_tensors.Image]) -> dict[str, Tensor]:
        """The model's tensors of B images, each uint8 RGB (3, H, W); at least ``pixel_values``."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer's files and ``preprocessor_config.json`` to a folder, made if need be."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(target))
        kind = {"processor_class": name_of(type(self), _GROUP)}
        content = kind | {key: getattr(self, key) for key in self.settings}
        (target / _FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Reads what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: The folder holds no ``preprocessor_config.json`` or no tokenizer.
            KeyError: The file lacks a setting.
            ValueError: The file is not JSON in UTF-8, or a setting cannot be used.
        """
        settings, tokenizer = _read_settings(folder, cls.settings, cls.__name__), load_tokenizer(folder)
        try:
            return cls(tokenizer, **settings)
        except ValueError as error:
            raise ValueError(f"{Path(folder) / _FILE}: {error}") from error


class FiberProcessor(Processor):
    """The processor of models that see images as squares of one size.

    Images become ``pixel_values`` (B, 3, image_size, image_size) float32.

    Args:
        tokenizer: A fast tokenizer, see `fiber_data.load_tokenizer`.
        image_size: Side of the square that images are resized to, in pixels.
        max_length: Most tokens of a text, special tokens included.
        mean: Mean of each color channel, on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.
    """

    settings = ("image_size", *Processor.settings)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int,
        max_length: int,
        *,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__(tokenizer, max_length, mean=mean, std=std)
        self.image_size = read_whole(image_size, "image_size", least=LEAST_SIDE)
        self.transform = build_evaluation_transform(self.image_size, mean=self.mean, std=self.std)

    def prepare_images(self, images: Sequence[tv_tensors.Image]) -> dict[str, Tensor]:
        """``pixel_values`` of B images, float32 (B, 3, image_size, image_size)."""
        return {"pixel_values": torch.stack([self.transform(image).as_subclass(Tensor) for image in images])}


def load_processor(folder: str | Path, *, trusted: Collection[str] = ()) -> Processor:
    """The processor that a folder holds, of whichever kind.

    Args:
        folder: What `Processor.save_pretrained` wrote.
        trusted: Import paths of processors (``package.module:Name``) that the folder may name; those that an installed
            distribution declares in ``fiber.processors`` need not be named here.

    Raises:
        FileNotFoundError: The folder holds no ``preprocessor_config.json`` or no tokenizer.
        KeyError: The file lacks a setting.
        ValueError: The class is not installed, not trusted or no processor; or as of `Processor.from_pretrained`.
    """
    name = _read_settings(folder, ("processor_class",), Processor.__name__)["processor_class"]
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        what = "expected processor_class as the name of a class"
        raise ValueError(f"{Path(folder) / _FILE}: {what}, found {shown(name)}")
    try:
        kind = resolve(name, _GROUP, trusted=trusted)
    except ValueError as error:
        raise ValueError(f"{Path(folder) / _FILE}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Processor)):
        raise ValueError(f"{Path(folder) / _FILE}: {name!r} is not a class that derives from fiber_data.Processor")
    return kind.from_pretrained(folder)


def _read_settings(folder: str | Path, keys: Sequence[str], kind: str) -> dict[str, Any]:
    path = Path(folder) / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a folder written by {kind}.save_pretrained")
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected an object with settings, found {type(settings).__name__}")
    if missing := [key for key in keys if key not in settings]:
        raise KeyError(f"{path}: no {', '.join(missing)}; expected a file written by {kind}.save_pretrained")
    return {key: settings[key] for key in keys}


def _as_list(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """One image or several as a list; a batched array or tensor counts as several."""
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, str | bytes | bytearray | memoryview | Mapping) or hasattr(images, "read"):
        return [cast(ImageSource, images)]
    several = isinstance(images, Iterable) or hasattr(images, "__getitem__")  # a column may have but the latter
    return list(cast(Iterable[ImageSource], images)) if several else [cast(ImageSource, images)]
