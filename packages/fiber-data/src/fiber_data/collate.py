"""Items to batches under the names of transformers, and plain lists for what metrics and people need back."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from fiber_data.dataset import BrokenSample
from fiber_data.seeding import make_generator
from fiber_data.text import mask_tokens, positive_map

_STACKED = ("answer_targets", "labels")
_LISTED = ("references", "answers", "spans", "phrases", "phrase_labels")
_USED = ("pixel_values", "text", "texts", "text_id", "text_ids", "id", "image_id", "index", "seed")
_USED_WITH_BOXES = ("original_size", "target")


class ImageTextCollator:
    """Makes a batch of the items of any `fiber_data.SeededDataset`: an image, or a pair, with one or several texts.

    The batch holds, with B images and T texts (T = B unless items bring several texts):

    - ``pixel_values`` (B, 3, H, W), of pairs (B, 2, 3, H, W), and ``image_sizes`` (B, 2), see `pad_images`;
    - ``input_ids``, ``attention_mask`` (T, L): the longest text decides L, at most `max_length`;
    - ``mlm_input_ids``, ``mlm_labels`` (T, L), if `mlm_probability` is given;
    - ``image_ids`` (B,), ``indices`` (B,), ``text_ids`` (T,) and ``text_image_ids`` (T,), the image of each
      text: int64;
    - ``seeds`` (B,) int64, of each item its own, for what a model draws of it;
    - where the items have them, ``answer_targets`` (B, A) float32 and ``labels`` (B,) int64;
    - the lists ``ids`` (B) and ``texts`` (T), and where the items have them ``references`` and ``answers`` (B),
      lists of texts;
    - where the items have boxes (`fiber_data.grounding`): the list ``targets`` of B dicts, each with ``boxes`` (n, 4),
      ``labels``, ``area``, ``iscrowd`` (n,), ``image_id`` () and ``positive_map`` (n, L) bool, the tokens of the words
      that name each box, without the boxes whose words `max_length` cut off; ``phrases``, ``phrase_labels`` (P,) and
      ``phrase_maps`` (P, L) bool, the things that the text names and their tokens, and ``spans``, as lists (B); and
      ``original_sizes`` (B, 2) int64, (height, width) on disk;
    - the list ``broken``: a sentence for each sample that could not be read;
    - every other key of the items under its own name: tensors of one shape and type stacked, all else as a list (B).

    Masking draws from each item's own seed, so that a sample is masked alike in any batch, worker or rank.

    Args:
        tokenizer: A fast tokenizer, see `fiber_data.load_tokenizer`.
        max_length: Most tokens of a text, special tokens included; longer texts are cut, and a warning says
            so once. Boxes whose words are cut off altogether are left out, and a warning counts them.
        mlm_probability: Share of tokens to predict, or None for no masking.
        pad_to_max_length: Whether L is always `max_length`, as compiled models like it.
        size_divisor: Images are padded to a height and width that this divides, see `pad_images`; 32 for
            detection.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        mlm_probability: float | None = 0.15,
        pad_to_max_length: bool = False,
        size_divisor: int = 1,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.mlm_probability = mlm_probability
        self.pad_to_max_length = pad_to_max_length
        self.size_divisor = size_divisor

    def __call__(self, items: Sequence[dict[str, Any] | BrokenSample]) -> dict[str, Any]:
        """Makes the batch.

        Args:
            items: Items of one data set; broken ones are left out and counted. A training loop rather has others in
                their place, see `fiber_data.ReplacingDataset`.

        Returns:
            The batch as the class describes it.

        Raises:
            RuntimeError: Not one image of the batch could be read.
            ValueError: Only some items have a key, or a key of theirs is one that the batch makes itself.
        """
        good = [item for item in items if not isinstance(item, BrokenSample)]
        broken = [item.reason for item in items if isinstance(item, BrokenSample)]
        if broken:
            self._report(broken, len(items))
        texts = [_texts_of(item) for item in good]
        pixel_values, image_sizes = pad_images([item["pixel_values"] for item in good], size_divisor=self.size_divisor)
        encoded = self._encode([text for of_item in texts for text in of_item])
        image_ids = torch.tensor([item["image_id"] for item in good])
        batch: dict[str, Any] = {
            "pixel_values": pixel_values,
            "image_sizes": image_sizes,
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "image_ids": image_ids,
            "indices": torch.tensor([item["index"] for item in good]),
            "seeds": torch.tensor([item["seed"] for item in good]),
            "text_ids": torch.tensor([number for item in good for number in _text_ids_of(item)]),
            "text_image_ids": image_ids.repeat_interleave(torch.tensor([len(of_item) for of_item in texts])),
            "ids": [item["id"] for item in good],
            "texts": [text for of_item in texts for text in of_item],
            "broken": broken,
            **{key: _join([item[key] for item in good]) for key in _STACKED if key in good[0]},
            **{key: [item[key] for item in good] for key in _LISTED if key in good[0]},
        }
        used: tuple[str, ...] = _USED + _STACKED + _LISTED
        if "target" in good[0]:
            batch |= _ground(good, encoded)
            used += _USED_WITH_BOXES
        if self.mlm_probability is not None:
            generators = [make_generator(item["seed"], number) for item in good for number in _text_ids_of(item)]
            masked = mask_tokens(
                batch["input_ids"], self.tokenizer, probability=self.mlm_probability, generator=generators
            )
            batch["mlm_input_ids"], batch["mlm_labels"] = masked
        return batch | _others(good, used, batch)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokens of T texts.

        Returns:
            ``input_ids`` and ``attention_mask`` (T, L), int64; the mask is 1 on real tokens, padding is on
            the right.
        """
        encoded = self._encode(texts)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def _encode(self, texts: Sequence[str]) -> BatchEncoding:
        encoded = self.tokenizer(
            list(texts),
            padding="max_length" if self.pad_to_max_length else "longest",
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        if any(encoding.overflowing for encoding in encoded.encodings or ()):
            warnings.warn(f"texts longer than max_length ({self.max_length} tokens) are cut", stacklevel=3)
        return encoded

    def _report(self, broken: list[str], size: int) -> None:
        if len(broken) == size:
            raise RuntimeError(f"none of the {size} images of a batch can be read; the first: {broken[0]}")
        warnings.warn(f"{len(broken)} of {size} images of a batch left out: {'; '.join(broken)}", stacklevel=3)


def _others(items: Sequence[dict[str, Any]], used: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of items that no one else has used: those of a data set of the user's own."""
    keys = [key for key in dict.fromkeys(itertools.chain(*items)) if key not in used]
    for key in keys:
        if key in batch:
            raise ValueError(f"the items have a key {key!r}, which the batch makes itself; call it otherwise")
        if lacking := sum(key not in item for item in items):
            raise ValueError(f"{lacking} of {len(items)} items of a batch lack {key!r}; give it to all or none")
    return {key: _join([item[key] for item in items]) for key in keys}


def _join(values: list[Any]) -> Tensor | list[Any]:
    """Tensors of one shape and type as one, all else as it is."""
    kinds = {(value.shape, value.dtype) if isinstance(value, Tensor) else None for value in values}
    return torch.stack(values) if len(kinds) == 1 and None not in kinds else values


def _ground(items: Sequence[dict[str, Any]], encoded: BatchEncoding) -> dict[str, Any]:
    """What a batch of items with boxes has besides: where in the tokens their words are."""
    length = encoded["input_ids"].shape[1]
    pairs = list(zip(items, encoded.encodings or (), strict=True))
    maps = [positive_map(encoding, item["spans"], length) for item, encoding in pairs]
    # Nothing names a box any more whose words are cut off; one that came without words stays.
    kept = [
        positive.any(1) | torch.tensor([not spans or not encoding.overflowing for spans in item["spans"]]).bool()
        for positive, (item, encoding) in zip(maps, pairs, strict=True)
    ]
    if num_cut := sum(int((~own).sum()) for own in kept):
        warnings.warn(
            f"boxes left out of a batch because max_length ({length} tokens) cuts off all words that name them: "
            f"{num_cut}",
            stacklevel=4,
        )
    return {
        "original_sizes": torch.tensor([item["original_size"] for item in items]),
        "targets": [
            {**_at(own, item["target"]), "positive_map": positive[own]}
            for own, positive, item in zip(kept, maps, items, strict=True)
        ],
        "spans": [list(itertools.compress(item["spans"], own)) for own, item in zip(kept, items, strict=True)],
        "phrase_maps": [positive_map(encoding, item["phrases"], length) for item, encoding in pairs],
    }


def _at(kept: Tensor, target: dict[str, Tensor]) -> dict[str, Tensor]:
    per_box = ("boxes", "labels", "area", "iscrowd")
    return {name: value[kept] if name in per_box else value for name, value in target.items()}


def pad_images(images: Sequence[Tensor], *, size_divisor: int = 1) -> tuple[Tensor, Tensor]:
    """Stacks images, with zeros to the right and below where sizes differ.

    Args:
        images: B tensors (3, H_i, W_i), or pairs (2, 3, H_i, W_i).
        size_divisor: What the height and the width of the stack must be multiples of.

    Returns:
        The stack (B, 3, H, W), or (B, 2, 3, H, W), where H and W are the least that all fit in, and the true
        (height, width) of each, int64 (B, 2).
    """
    sizes = torch.tensor([image.shape[-2:] for image in images])
    height, width = (-(-side // size_divisor) * size_divisor for side in sizes.amax(0).tolist())
    if bool((sizes == torch.tensor([height, width])).all()):
        return torch.stack(list(images)), sizes
    stack = images[0].new_zeros(len(images), *images[0].shape[:-2], height, width)
    for row, image in zip(stack, images, strict=True):
        row[..., : image.shape[-2], : image.shape[-1]] = image
    return stack, sizes


def _texts_of(item: dict[str, Any]) -> list[str]:
    return item["texts"] if "texts" in item else [item["text"]]


def _text_ids_of(item: dict[str, Any]) -> list[int]:
    return item["text_ids"] if "text_ids" in item else [item["text_id"]]
