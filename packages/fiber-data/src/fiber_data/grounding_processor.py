"""Images of any shape, and categories or phrases, to the tensors that a grounding model takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from transformers import PreTrainedTokenizerBase

from fiber_data.collate import pad_images
from fiber_data.phrases import noun_phrases
from fiber_data.processor import Processor
from fiber_data.prompts import chunk_categories, encode_prompts
from fiber_data.settings import LEAST_SIDE, read_whole
from fiber_data.text import positive_map
from fiber_data.transforms import IMAGENET_MEAN, IMAGENET_STD, build_detection_evaluation_transform


class GroundingProcessor(Processor):
    """The processor of models that see images in their own shape, and look for categories and phrases.

    Images become ``pixel_values`` (B, 3, H, W) float32, padded to the right and below, with ``image_sizes`` and
    ``original_sizes`` (B, 2) int64, (height, width) before padding and before resizing.

    Args:
        tokenizer: A fast tokenizer, see `fiber_data.load_tokenizer`.
        shorter: Length that an image's shorter side gets, in pixels.
        longest: Bound of the longer side.
        max_length: Most tokens of a prompt or caption, special ones included.
        size_divisor: What height and width of a batch are multiples of; the model's last stride.
        mean: Mean of each color channel, on the scale [0, 1].
        std: Standard deviation of each color channel, on the same scale.
    """

    settings = ("shorter", "longest", "max_length", "size_divisor", "mean", "std")
    least_length = 8  # a prompt of fewer tokens has no room for a name of several

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        shorter: int = 800,
        longest: int = 1333,
        max_length: int = 256,
        *,
        size_divisor: int = 32,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__(tokenizer, max_length, mean=mean, std=std)
        self.shorter = read_whole(shorter, "shorter", least=LEAST_SIDE)
        self.longest = read_whole(longest, "longest", least=LEAST_SIDE)
        self.size_divisor = read_whole(size_divisor, "size_divisor")
        self.transform = build_detection_evaluation_transform(self.shorter, self.longest, mean=self.mean, std=self.std)

    def prepare_images(self, images: Sequence[tv_tensors.Image]) -> dict[str, Tensor]:
        """``pixel_values`` of B images, ``image_sizes`` and ``original_sizes``, as the class says."""
        resized = [self.transform({"image": image})["image"].as_subclass(Tensor) for image in images]
        pixel_values, image_sizes = pad_images(resized, size_divisor=self.size_divisor)
        original_sizes = torch.tensor([image.shape[-2:] for image in images])
        return {"pixel_values": pixel_values, "image_sizes": image_sizes, "original_sizes": original_sizes}

    def category_prompts(self, categories: str | Sequence[str], chunk_size: int | None = None) -> dict[str, Any]:
        """Prompts that name all categories, as many as they need.

        Args:
            categories: Their names; the label of each is its index. A lone text is one name.
            chunk_size: Most categories of a prompt, or None for as many as fit.

        Returns:
            As `fiber_data.encode_prompts`.

        Raises:
            ValueError: A name is empty, has no token or does not fit a prompt.
        """
        categories = [categories] if isinstance(categories, str) else categories
        prompts = chunk_categories(
            dict(enumerate(categories)), self.tokenizer, max_tokens=self.max_length - 2, max_categories=chunk_size
        )
        return encode_prompts(prompts, self.tokenizer, max_length=self.max_length)

    def phrase_prompts(
        self, texts: str | Sequence[str], spans: Sequence[Sequence[tuple[int, int]] | None] | None = None
    ) -> dict[str, Any]:
        """Sentences and their phrases.

        Args:
            texts: N sentences, or a lone one.
            spans: For each the [start, end) of its phrases in characters; None finds noun phrases by simple rules.

        Returns:
            As `fiber_data.encode_prompts`, each label a phrase's index in its sentence; and ``phrase_texts``, the
            phrases of each sentence.

        Raises:
            ValueError: There are not as many lists of spans as sentences, or a span lies outside its sentence.
        """
        texts = [texts] if isinstance(texts, str) else texts
        given = [None] * len(texts) if spans is None else list(spans)
        if len(given) != len(texts):
            raise ValueError(f"{len(texts)} sentences came with spans of {len(given)}; give a list for each")
        found = [noun_phrases(text) if own is None else list(own) for text, own in zip(texts, given, strict=True)]
        for text, own in zip(texts, found, strict=True):
            if wrong := [span for span in own if not _lies_in(text, span)]:
                raise ValueError(
                    f"the span {wrong[0]} is none of the {len(text)} characters of {text!r}; give for each sentence a "
                    "list of pairs (start, end)"
                )
        encoded = self.tokenizer(
            list(texts),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        length = encoded["input_ids"].shape[1]
        encodings = encoded.encodings or ()
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "phrase_maps": [
                positive_map(encoding, [[span] for span in own], length)
                for encoding, own in zip(encodings, found, strict=True)
            ],
            "phrase_labels": [torch.arange(len(own)) for own in found],
            "phrase_texts": [[text[a:b] for a, b in own] for text, own in zip(texts, found, strict=True)],
        }


def _lies_in(text: str, span: Any) -> bool:
    return isinstance(span, Sequence) and len(span) == 2 and 0 <= span[0] < span[1] <= len(text)
