"""Pictures with captions as a map-style data set, the same item whatever process asks for it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fiber_data.formats.samples import CaptionSample
from fiber_data.images import BrokenImageError, load_image
from fiber_data.packed import PackedRecords
from fiber_data.seeding import derive_seed, seeded


@dataclass(frozen=True)
class BrokenSample:
    """What the data set gives for a picture that cannot be read; the collator leaves it out and counts it."""

    reason: str


class CaptionDataset(Dataset[dict[str, Any] | BrokenSample]):
    """Pictures with captions.

    An item is a dict:

    - ``pixel_values``: what the transform made of the picture, float32 (3, H, W);
    - ``text``: one caption, and ``text_id``: its number, counting all captions of the data set in order
      (with ``captions="all"`` instead lists ``texts``, ``text_ids``);
    - ``id``: the picture's id in its file; ``image_id``: its position among the samples;
    - ``index``: the position of the item; ``seed``: a number drawn from (seed, epoch, index), from which
      everything random about the item follows.

    The epoch comes with the index (`fiber_data.EpochIndex`, which `fiber_data.EpochSampler` gives) and is 0
    for plain integers. A picture that cannot be read gives a `BrokenSample` instead of an item.

    Args:
        samples: The samples of a reader in `fiber_data.formats`; each has at least one caption.
        transform: A torchvision v2 transform of a dict with ``image`` and ``text``, such as
            `fiber_data.build_evaluation_transform` makes. It may be random.
        captions: ``"each"``: an item for every caption. ``"random"``: an item for every picture, with one of
            its captions, drawn anew each epoch. ``"all"``: an item for every picture, with all of its
            captions.
        seed: Seed of everything random.

    Raises:
        ValueError: There are no samples, or a sample has no caption, or `captions` is none of the three.
    """

    def __init__(
        self,
        samples: Iterable[CaptionSample],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        captions: Literal["each", "random", "all"] = "each",
        seed: int = 0,
    ) -> None:
        if captions not in ("each", "random", "all"):
            raise ValueError(f"captions must be 'each', 'random' or 'all', not {captions!r}")
        self.samples: Sequence[CaptionSample] = PackedRecords(samples)
        self.transform = transform
        self.captions = captions
        self.seed = seed
        counts = torch.tensor([len(sample["captions"]) for sample in self.samples], dtype=torch.int64)
        if len(counts) == 0:
            raise ValueError("the data set has no samples: check the annotation file and the split")
        if int(counts.min()) == 0:
            raise ValueError(f"sample {self.samples[int(counts.argmin())]['id']!r} has no caption: leave it out")
        self._first_text = counts.cumsum(0) - counts
        self._image_of_text = torch.repeat_interleave(counts)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def image_ids(self) -> Tensor:
        """For every item the position of its picture among the samples, int64 (len(self),).

        As `unique_groups` of `fiber_data.EpochSampler`, it keeps captions of a picture out of each other's
        batch.
        """
        return self._image_of_text if self.captions == "each" else torch.arange(len(self.samples))

    def __getitem__(self, index: int) -> dict[str, Any] | BrokenSample:
        """The item at `index`, in the epoch that the index names."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        seed = derive_seed(self.seed, getattr(index, "epoch", 0), int(index))
        image_id = int(self._image_of_text[index]) if self.captions == "each" else int(index)
        sample = self.samples[image_id]
        try:
            image = load_image(Path(sample["image"]))
        except BrokenImageError as error:
            return BrokenSample(str(error))
        with seeded(seed):
            texts = self._texts(sample["captions"], image_id, int(index))
            item = self.transform({"image": image, **texts})
        pixel_values = item.pop("image").as_subclass(Tensor).contiguous()
        return {
            "pixel_values": pixel_values,
            **item,
            "id": sample["id"],
            "image_id": image_id,
            "index": int(index),
            "seed": seed,
        }

    def _texts(self, captions: list[str], image_id: int, index: int) -> dict[str, Any]:
        first = int(self._first_text[image_id])
        if self.captions == "all":
            return {"texts": captions, "text_ids": list(range(first, first + len(captions)))}
        chosen = index - first if self.captions == "each" else int(torch.randint(len(captions), ()))
        return {"text": captions[chosen], "text_id": first + chosen}
