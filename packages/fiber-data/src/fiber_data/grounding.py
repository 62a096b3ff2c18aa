"""Boxes by name and by phrase as map-style data sets; see `fiber_data.dataset.SeededDataset` of their common traits.

Both give the same kind of item, so that a batch may mix them: a caption, boxes, and for each box the words of the
caption that name it. For detection the caption is a prompt made of category names.

- ``pixel_values``: what the transform made of the image, float32 (3, H, W);
- ``original_size``: (height, width) of the image as its boxes see it;
- ``text``: the caption, and ``text_id``: the position among the samples;
- ``target``: of the n boxes ``boxes`` (n, 4) float32, corners (x1, y1, x2, y2) in half-open pixels of
  ``pixel_values``; ``labels`` (n,) int64; ``area`` (n,) float32, scaled with the image; ``iscrowd`` (n,) bool;
  ``image_id``, the position among the samples, int64 ();
- ``spans``: for each box the [start, end) of its words in characters of the text;
- ``phrases``: the spans of each of the P things that the text names, and ``phrase_labels`` (P,) int64, what a
  detection of each is called: category ids, or 1 .. P;
- ``id``, ``image_id``, ``index``, ``seed`` as in the other data sets.

A flip is held back by a caption that names a side, and by a box whose category does.

Boxes are for an image as it is stored or as EXIF turns it for display, which the annotated size tells: the image is
given so, and is a `BrokenSample` if it has that size neither way. Where both have it, ``exif`` decides, by default
stored: then most tools that made the boxes did not look at EXIF.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from fiber_data.columns import image_numbers, pairs
from fiber_data.dataset import SeededDataset, Transform, is_lazy
from fiber_data.formats.boxes import Box
from fiber_data.formats.detection import DetectionData, DetectionSample
from fiber_data.formats.grounding import GroundingSample, Spans
from fiber_data.images import BrokenImageError, Orientation
from fiber_data.prompts import Prompt, PromptSampler

Sample = TypeVar("Sample", bound=DetectionSample | GroundingSample)


class BoxDataset(SeededDataset[Sample]):
    """What data sets of images with boxes share.

    Args:
        samples: Samples as of `fiber_data.read_detection` or `fiber_data.read_grounding`. Sizes are read before the
            start, see `fiber_data.MappedSamples`.
        transform: Such as `fiber_data.build_detection_training_transform` makes; it keeps all boxes.
        include_crowds: Whether boxes around crowds are kept; they name no single object to learn from.
        seed: Seed of everything random.
        exif: As the module says, like `max_pixels` as of `SeededDataset`.
        max_pixels: As there.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        transform: Transform,
        include_crowds: bool,
        seed: int,
        *,
        exif: Orientation | None = None,
        max_pixels: int | None = None,
    ) -> None:
        samples = samples if is_lazy(samples) else list(samples)
        super().__init__(samples, transform, seed, exif=exif, max_pixels=max_pixels)
        self.include_crowds = include_crowds
        self._sizes = pairs(samples, "size")

    @property
    def image_sizes(self) -> Tensor:
        """For every item the (height, width) of its image in pixels, as the file says, int64 (len(self), 2)."""
        return torch.as_tensor(np.asarray(self._sizes))

    @property
    def aspect_groups(self) -> Tensor:
        """For every item 1 where the image is taller than wide, else 0: `alike_groups` of `EpochSampler`."""
        return (self.image_sizes[:, 0] > self.image_sizes[:, 1]).long()

    def _ground(
        self,
        index: int,
        sample: Sample,
        text: str,
        labels: Sequence[int],
        spans: Sequence[Spans | None],
        categories: Mapping[int, str] | None = None,
    ) -> dict[str, Any]:
        """The item of a sample; boxes whose spans are None are left out."""
        try:
            image = self.load(sample["image"], sample["size"])
        except BrokenImageError as error:
            if isinstance(sample["image"], str | Path):
                raise
            raise BrokenImageError(f"sample {sample['id']!r}: {error}") from error
        size = (image.shape[-2], image.shape[-1])
        kept = [
            number
            for number, own in enumerate(spans)
            if own is not None and (self.include_crowds or not sample["iscrowd"][number])
        ]
        boxes = _boxes([sample["boxes"][number] for number in kept], size)
        names = [categories[labels[number]] for number in kept] if categories else []  # "arrow_(left)" is but "arrow"
        item = self.transform({"image": image, "boxes": boxes, "text": text, "names": names})
        item.pop("names", None)
        pixel_values = item.pop("image").as_subclass(Tensor).contiguous()
        scale = pixel_values.shape[-2] * pixel_values.shape[-1] / (size[0] * size[1])
        target = {
            "boxes": item.pop("boxes").as_subclass(Tensor),
            "labels": torch.tensor([labels[number] for number in kept], dtype=torch.int64),
            "area": torch.tensor([sample["area"][number] for number in kept], dtype=torch.float32) * scale,
            "iscrowd": torch.tensor([sample["iscrowd"][number] for number in kept], dtype=torch.bool),
            "image_id": torch.tensor(index),
        }
        return {
            "pixel_values": pixel_values,
            "original_size": size,
            **item,
            "text_id": index,
            "target": target,
            "spans": [spans[number] for number in kept],
            "id": sample["id"],
            "image_id": index,
        }


def _boxes(boxes: list[Box], size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return tv_tensors.BoundingBoxes(corners, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size)


class DetectionDataset(BoxDataset[DetectionSample]):
    """Images with the boxes of categories, as grounding of a prompt; the module says what an item is.

    Args:
        data: What `fiber_data.read_detection` gives.
        transform: As of `BoxDataset`.
        prompts: A `fiber_data.PromptSampler`, which draws a prompt for each item, or one `fiber_data.Prompt` for
            all, such as `fiber_data.make_prompt` or `fiber_data.chunk_categories` makes. Boxes of categories that
            the prompt of an item does not name are left out.
        include_crowds: Whether boxes around crowds are kept.
        seed: Seed of everything random.
        exif: As of `BoxDataset`, like `max_pixels`.
        max_pixels: As there.

    Raises:
        ValueError: There are no samples, or the prompt names none of the data's categories.
    """

    def __init__(
        self,
        data: DetectionData,
        transform: Transform,
        prompts: PromptSampler | Prompt,
        *,
        include_crowds: bool = False,
        seed: int = 0,
        exif: Orientation | None = None,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__(data.samples, transform, include_crowds, seed, exif=exif, max_pixels=max_pixels)
        named = prompts.spans if isinstance(prompts, Prompt) else prompts.categories
        if named.keys().isdisjoint(data.categories):
            raise ValueError(
                f"the prompt names none of the data's categories: its ids begin {sorted(named)[:5]}, those of the data "
                f"{sorted(data.categories)[:5]}; make it of the data's categories"
            )
        self.categories = data.categories
        self.prompts = prompts

    def make_item(self, index: int) -> dict[str, Any]:
        """The item at `index`, as the module describes it."""
        sample = self.samples[index]
        labels = sample["labels"]
        if isinstance(self.prompts, Prompt):
            prompt = self.prompts
        else:
            crowds = [False] * len(labels) if self.include_crowds else sample["iscrowd"]
            prompt = self.prompts([label for label, crowd in zip(labels, crowds, strict=True) if not crowd])
        spans = [[prompt.spans[label]] if label in prompt.spans else None for label in labels]
        return {
            **self._ground(index, sample, prompt.text, labels, spans, self.categories),
            "phrases": [[span] for span in prompt.spans.values()],
            "phrase_labels": torch.tensor(list(prompt.spans), dtype=torch.int64),
        }


class GroundingDataset(BoxDataset[GroundingSample]):
    """Captions whose phrases name boxes, and referring expressions; the module says what an item is.

    The ``labels`` of all boxes are 1, as in MDETR's files; which phrase a box belongs to, its spans say.

    Args:
        samples: Samples as of `fiber_data.read_grounding`.
        transform: As of `BoxDataset`.
        captions: "each" gives an item for every caption, "random" for every image, with one of its captions.
        include_crowds: Whether boxes around crowds are kept.
        seed: Seed of everything random.
        exif: As of `BoxDataset`, like `max_pixels`.
        max_pixels: As there.

    Raises:
        ValueError: There are no samples.
    """

    def __init__(
        self,
        samples: Iterable[GroundingSample],
        transform: Transform,
        *,
        captions: Literal["each", "random"] = "each",
        include_crowds: bool = False,
        seed: int = 0,
        exif: Orientation | None = None,
        max_pixels: int | None = None,
    ) -> None:
        samples = samples if is_lazy(samples) else list(samples)
        super().__init__(samples, transform, include_crowds, seed, exif=exif, max_pixels=max_pixels)
        self._choices: tuple[Tensor, Tensor] | None = None  # positions by image, and where those of each image begin
        if captions == "random":
            numbers = image_numbers(samples, "original_id")
            counts = torch.bincount(numbers)
            self._choices = torch.argsort(numbers, stable=True), torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def __len__(self) -> int:
        return len(self.samples) if self._choices is None else len(self._choices[1]) - 1

    @property
    def image_sizes(self) -> Tensor:
        """For every item the (height, width) of its image in pixels, as the file says, int64 (len(self), 2)."""
        sizes = super().image_sizes
        return sizes if self._choices is None else sizes[self._choices[0][self._choices[1][:-1]]]

    def make_item(self, index: int) -> dict[str, Any]:
        """The item at `index`, as the module describes it."""
        if self._choices is not None:
            places, starts = self._choices
            first, end = starts[index : index + 2].tolist()
            index = int(places[first + int(torch.randint(end - first, ())) if end - first > 1 else first])
        sample = self.samples[index]
        return {
            **self._ground(index, sample, sample["caption"], [1] * len(sample["boxes"]), sample["spans"]),
            "phrases": sample["phrases"],
            "phrase_labels": torch.arange(1, len(sample["phrases"]) + 1),
        }
