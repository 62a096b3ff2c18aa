"""Pictures of any shape, and categories or phrases, to the tensors that a grounding model takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from transformers import PreTrainedTokenizerBase

from fiber_data.collate import ImageTextCollator, pad_images
from fiber_data.images import ImageSource, load_image
from fiber_data.phrases import noun_phrases
from fiber_data.processor import FiberProcessor, as_list, read_settings, write_settings
from fiber_data.prompts import chunk_categories, encode_prompts
from fiber_data.text import load_tokenizer, positive_map
from fiber_data.transforms import IMAGENET_MEAN, IMAGENET_STD, build_detection_evaluation_transform

_KEYS = ("shorter", "longest", "max_length", "size_divisor", "mean", "std")


class GroundingProcessor:
    """The evaluation transform and the tokenizer of a grounding model, saved and loaded with it.

    Args:
        tokenizer: A fast tokenizer, see `fiber_data.load_tokenizer`.
        shorter: Length that a picture's shorter side gets, in pixels.
        longest: Bound of the longer side.
        max_length: Most tokens of a prompt or caption, special ones included.
        size_divisor: What height and width of a batch are multiples of; the model's last stride.
        mean: Mean of each colour channel, on the scale [0, 1].
        std: Standard deviation of each colour channel, on the same scale.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        shorter: int = 800,
        longest: int = 1333,
        max_length: int = 256,
        size_divisor: int = 32,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        self.tokenizer = tokenizer
        self.shorter, self.longest, self.max_length, self.size_divisor = shorter, longest, max_length, size_divisor
        self.mean: tuple[float, float, float] = (mean[0], mean[1], mean[2])
        self.std: tuple[float, float, float] = (std[0], std[1], std[2])
        self.transform = build_detection_evaluation_transform(shorter, longest, self.mean, self.std)
        self._collator = ImageTextCollator(tokenizer, max_length, mlm_probability=None)

    def __call__(
        self, images: ImageSource | Sequence[ImageSource] | None = None, text: str | Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Prepares pictures, texts or both.

        Args:
            images: One picture or several, as `fiber_data.FiberProcessor` takes them.
            text: One text or several (T).

        Returns:
            ``pixel_values`` (B, 3, H, W) float32, padded to the right and below, ``image_sizes`` and
            ``original_sizes`` (B, 2) int64, (height, width) before padding and before resizing, if pictures were
            given; ``input_ids`` and ``attention_mask`` (T, L) int64 if texts were.

        Raises:
            ValueError: Neither was given, or a list is empty.
            BrokenImageError: A picture cannot be read.
        """
        if images is None and text is None:
            raise ValueError("give images, text or both")
        batch: dict[str, Tensor] = {}
        if images is not None:
            loaded = [load_image(image) for image in as_list(images)]
            if not loaded:
                raise ValueError("images is empty; give at least one picture")
            pixel_values, image_sizes = pad_images([self._prepare(image) for image in loaded], self.size_divisor)
            original_sizes = torch.tensor([image.shape[-2:] for image in loaded])
            batch |= {"pixel_values": pixel_values, "image_sizes": image_sizes, "original_sizes": original_sizes}
        if text is not None:
            batch |= self._collator.tokenize([text] if isinstance(text, str) else list(text))
        return batch

    def _prepare(self, image: tv_tensors.Image) -> Tensor:
        return self.transform({"image": image})["image"].as_subclass(Tensor)

    def category_prompts(self, categories: Sequence[str], chunk_size: int | None = None) -> dict[str, Any]:
        """Prompts that name all categories, as many as they need.

        Args:
            categories: Their names; the label of each is its place.
            chunk_size: Most categories of a prompt, or None for as many as fit.

        Returns:
            As `fiber_data.encode_prompts`.

        Raises:
            ValueError: A name is empty or does not fit a prompt.
        """
        prompts = chunk_categories(dict(enumerate(categories)), self.tokenizer, self.max_length - 2, chunk_size)
        return encode_prompts(prompts, self.tokenizer, self.max_length)

    def phrase_prompts(
        self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]] | None] | None = None
    ) -> dict[str, Any]:
        """Sentences and their phrases.

        Args:
            texts: N sentences.
            spans: For each the [start, end) of its phrases in characters; None finds noun phrases by simple rules.

        Returns:
            As `fiber_data.encode_prompts`, each label a phrase's place in its sentence; and ``phrase_texts``, the
            phrases of each sentence.

        Raises:
            ValueError: There are not as many lists of spans as sentences, or a span lies outside its sentence.
        """
        given = [None] * len(texts) if spans is None else list(spans)
        if len(given) != len(texts):
            raise ValueError(f"{len(texts)} sentences came with spans of {len(given)}; give a list for each")
        found = [noun_phrases(text) if own is None else list(own) for text, own in zip(texts, given, strict=True)]
        for text, own in zip(texts, found, strict=True):
            if wrong := [span for span in own if not 0 <= span[0] < span[1] <= len(text)]:
                raise ValueError(f"the span {wrong[0]} is none of the {len(text)} characters of {text!r}")
        encoded = self.tokenizer(
            list(texts),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        length = encoded["input_ids"].shape[1]
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "phrase_maps": [
                positive_map(encoding, [[span] for span in own], length)
                for encoding, own in zip(encoded.encodings or (), found, strict=True)
            ],
            "phrase_labels": [torch.arange(len(own)) for own in found],
            "phrase_texts": [[text[a:b] for a, b in own] for text, own in zip(texts, found, strict=True)],
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer's files and ``preprocessor_config.json`` to a folder, made if need be."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(target))
        write_settings(target, self, _KEYS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "GroundingProcessor":
        """Reads what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: The folder holds no ``preprocessor_config.json`` or no tokenizer.
            KeyError: The file lacks a setting.
        """
        settings = read_settings(folder, _KEYS, cls.__name__)
        return cls(load_tokenizer(folder), **settings)


def load_processor(folder: str | Path) -> FiberProcessor | GroundingProcessor:
    """The processor that a folder holds, of whichever kind.

    Raises:
        FileNotFoundError: The folder holds no ``preprocessor_config.json`` or no tokenizer.
        KeyError: The file lacks a setting.
        ValueError: It is of a kind that is not known here.
    """
    kinds = {kind.__name__: kind for kind in (FiberProcessor, GroundingProcessor)}
    name = read_settings(folder, ("processor_class",), "FiberProcessor")["processor_class"]
    if name not in kinds:
        raise ValueError(f"{folder}: expected one of {', '.join(kinds)} in preprocessor_config.json, found {name!r}")
    return kinds[name].from_pretrained(folder)
