"""Map-style data sets whose item is the same whatever process asks for it, and that of images with captions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from fiber_data.columns import ImagesOfTexts, ends_of_texts
from fiber_data.formats.samples import CaptionSample
from fiber_data.images import IN_MEMORY, BrokenImageError, ImageSource, Orientation, load_image
from fiber_data.packed import PackedRecords
from fiber_data.seeding import derive_seed, seeded

Sample = TypeVar("Sample")
Transform = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class BrokenSample:
    """What the data set gives for an image that cannot be read.

    `fiber_data.ImageTextCollator` leaves it out and counts it, `fiber_data.ReplacingDataset` has another in its place.
    """

    reason: str


class SeededDataset(Dataset[dict[str, Any] | BrokenSample], Generic[Sample], ABC):
    """A data set whose items follow from (seed, epoch, index) alone; what an item is, a subclass says.

    The epoch comes with the index (`fiber_data.EpochIndex`, which `fiber_data.EpochSampler` gives) and is 0
    for plain integers. An image that cannot be read gives a `BrokenSample` instead of an item. Every item has
    ``index``, its position, and ``seed``, the number drawn from the three.

    Args:
        samples: The samples of a reader in `fiber_data.formats`, or of your own: a list or an iterator of dicts, which
            is packed so that worker processes share it; or any other sequence, which stays as it is and is asked for
            a sample when it is needed, such as `fiber_data.MappedSamples` or a `datasets.Dataset`. The image of a
            sample may be whatever `fiber_data.load_image` takes.
        transform: A torchvision v2 transform of a dict with ``image`` and texts, such as
            `fiber_data.build_evaluation_transform` makes. It may be random.
        seed: Seed of everything random.
        exif: "stored" gives images as they are stored, "displayed" turns them as EXIF says. None is displayed, and
            stored where samples have boxes; an image whose annotated size tells it is given as that says.
        max_pixels: Images of more pixels count as unreadable; None is Pillow's setting, see `fiber_data.load_image`.

    Raises:
        ValueError: There are no samples, or `exif` or `max_pixels` is none of these.
    """

    def __init__(
        self,
        samples: Iterable[Sample],
        transform: Transform,
        seed: int,
        *,
        exif: Orientation | None = None,
        max_pixels: int | None = None,
    ) -> None:
        if exif not in ("stored", "displayed", None):
            raise ValueError(f"exif must be 'stored', 'displayed' or None, not {exif!r}")
        if max_pixels is not None and max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, or None, not {max_pixels}")
        self.samples: Sequence[Sample] = samples if is_lazy(samples) else PackedRecords(samples)
        self.transform = transform
        self.seed = seed
        self.exif = exif
        self.max_pixels = max_pixels
        if len(self.samples) == 0:
            raise ValueError("the data set has no samples: check the annotation file and the split")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any] | BrokenSample:
        """The item at `index`, in the epoch that the index names."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        seed = derive_seed(self.seed, getattr(index, "epoch", 0), int(index))
        try:
            with seeded(seed):
                item = self.make_item(int(index))
        except BrokenImageError as error:
            reason = str(error)
            return BrokenSample(f"item {int(index)}: {reason}" if reason.startswith(IN_MEMORY) else reason)
        return {**item, "index": int(index), "seed": seed}

    @abstractmethod
    def make_item(self, index: int) -> dict[str, Any]:
        """The item at `index`, which a subclass makes; it runs under the item's seed.

        Returns:
            At least ``pixel_values``, ``text`` and ``text_id`` (or lists ``texts`` and ``text_ids``), ``id`` and
            ``image_id``; `fiber_data.ImageTextCollator` passes other keys on.

        Raises:
            BrokenImageError: The image cannot be read; the data set then gives a `BrokenSample`.
        """

    def load(self, image: ImageSource, size: tuple[int, int] | None = None) -> tv_tensors.Image:
        """An image as `fiber_data.load_image` gives it by `exif` and `max_pixels`.

        Args:
            image: What `fiber_data.load_image` takes.
            size: The (height, width) that annotations are for.

        Raises:
            BrokenImageError: The image cannot be read, is of another size, or is none.
        """
        try:
            return load_image(image, size=size, exif=self.exif, max_pixels=self.max_pixels)
        except BrokenImageError:
            raise
        except (TypeError, ValueError) as error:  # of what a row of a table holds in place of an image, such as None
            raise BrokenImageError(f"{IN_MEMORY}: {error}") from error

    def transformed(self, image: ImageSource, texts: dict[str, Any]) -> dict[str, Any]:
        """An image, transformed with all the texts that must stay true of it.

        Args:
            image: What `fiber_data.load_image` takes.
            texts: Texts by name; a flip spares the image if one of them names a side.

        Returns:
            ``pixel_values`` (3, H, W), float32 or, of a transform that does not normalize, uint8; and the texts.

        Raises:
            BrokenImageError: The image cannot be read.
        """
        item = self.transform({"image": self.load(image), **texts})
        return {"pixel_values": item.pop("image").as_subclass(Tensor).contiguous(), **item}


def is_lazy(samples: Iterable[Sample]) -> TypeGuard[Sequence[Sample]]:
    """Whether samples are a sequence that is to stay as it is; lists and tuples are packed, iterators have to be."""
    return not isinstance(samples, list | tuple) and hasattr(samples, "__len__") and hasattr(samples, "__getitem__")


class CaptionDataset(SeededDataset[CaptionSample]):
    """Images with captions.

    An item is a dict:

    - ``pixel_values``: what the transform made of the image, float32 (3, H, W);
    - ``text``: one caption, and ``text_id``: its number, counting all captions of the data set in order
      (with ``captions="all"`` instead lists ``texts``, ``text_ids``);
    - ``references``, if asked for: all captions of the image;
    - ``id``: the image's id in its file; ``image_id``: its position among the samples;
    - ``index``: the position of the item; ``seed``: a number drawn from (seed, epoch, index), from which
      everything random about the item follows.

    Of epochs and broken images see `SeededDataset`.

    Args:
        samples: As of `SeededDataset`; each has at least one caption. Captions are counted before the start, see
            `fiber_data.MappedSamples`.
        transform: A torchvision v2 transform of a dict with ``image`` and ``text``, such as
            `fiber_data.build_evaluation_transform` makes. It may be random.
        captions: ``"each"``: an item for every caption. ``"random"``: an item for every image, with one of
            its captions, drawn anew each epoch. ``"all"``: an item for every image, with all of its
            captions.
        references: Whether an item brings all captions of its image, as training against a caption metric
            needs. None of them is then made false by a flip.
        seed: Seed of everything random.
        exif: As of `SeededDataset`, like `max_pixels`.
        max_pixels: As there.

    Raises:
        ValueError: There are no samples, or a sample has no caption, or `captions` is none of the three.
    """

    def __init__(
        self,
        samples: Iterable[CaptionSample],
        transform: Transform,
        *,
        captions: Literal["each", "random", "all"] = "each",
        references: bool = False,
        seed: int = 0,
        exif: Orientation | None = None,
        max_pixels: int | None = None,
    ) -> None:
        if captions not in ("each", "random", "all"):
            raise ValueError(f"captions must be 'each', 'random' or 'all', not {captions!r}")
        super().__init__(samples, transform, seed, exif=exif, max_pixels=max_pixels)
        self.captions = captions
        self.references = references
        self._ends = ends_of_texts(self.samples, "captions")
        counts = np.diff(np.asarray(self._ends), prepend=0)
        if counts.min() == 0:
            raise ValueError(f"sample {self.samples[int(counts.argmin())]['id']!r} has no caption: leave it out")
        self._image_of_text = ImagesOfTexts(self._ends)

    def __len__(self) -> int:
        return len(self._image_of_text) if self.captions == "each" else len(self.samples)

    @property
    def image_ids(self) -> ImagesOfTexts | Tensor:
        """For every item the position of its image among the samples: what arrays index like int64 (len(self),).

        As `unique_groups` of `fiber_data.EpochSampler`, it keeps captions of an image out of each other's
        batch.
        """
        return self._image_of_text if self.captions == "each" else torch.arange(len(self.samples))

    def make_item(self, index: int) -> dict[str, Any]:
        """The item at `index`, as the class describes it."""
        image_id = int(self._image_of_text[index]) if self.captions == "each" else index
        sample = self.samples[image_id]
        texts = self._texts(sample["captions"], image_id, index)
        if self.references:
            texts["references"] = sample["captions"]
        return {**self.transformed(sample["image"], texts), "id": sample["id"], "image_id": image_id}

    def _texts(self, captions: list[str], image_id: int, index: int) -> dict[str, Any]:
        first = int(self._ends[image_id - 1]) if image_id else 0
        if self.captions == "all":
            return {"texts": captions, "text_ids": list(range(first, first + len(captions)))}
        chosen = index - first if self.captions == "each" else int(torch.randint(len(captions), ()))
        return {"text": captions[chosen], "text_id": first + chosen}
