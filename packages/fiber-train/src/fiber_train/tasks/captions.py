"""What tasks on images with captions share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fiber_data import CaptionDataset, CaptionSample, FiberProcessor, Transform, glance, read_captions
from fiber_heads import PretrainingConfig

from fiber_train.config import TrainConfig, share_of_lines
from fiber_train.tasks.base import Settings, Task, fill_in


class CaptionTask(Task[Settings]):
    """A task on images with captions."""

    def read(self, split: str) -> Sequence[CaptionSample]:
        """Images with captions, in any format that `fiber_data.read_captions` knows."""
        return self.open(read_captions, split, hold_out=share_of_lines(self.config.data))

    def texts(self, samples: Sequence[CaptionSample]) -> Iterator[str]:
        """All captions."""
        return (caption for sample in glance(samples, "captions") for caption in sample["captions"])

    def check_training(self, samples: Sequence[CaptionSample]) -> None:
        """Captions need words."""
        if not any(text.strip() for text in self.texts(samples)):
            split = self.config.data.train_split
            raise ValueError(f"{split}: the captions of {len(samples)} images hold no word to learn from; give others")

    def make_dataset(
        self, samples: Sequence[CaptionSample], transform: Transform, training: bool, model: Any
    ) -> CaptionDataset:
        """An item for each caption or image in training, for each image with all its captions otherwise."""
        captions: Any = self.config.data.captions if training else "all"
        seed = self.config.trainer.seed
        return CaptionDataset(samples, transform, captions=captions, seed=seed, **self.image_options)

    def sampling_groups(self, dataset: CaptionDataset) -> dict[str, Any]:
        """No two captions of one image meet in a batch."""
        return {"unique_groups": dataset.image_ids} if self.config.data.captions == "each" else {}


def check_captioned(samples: Sequence[CaptionSample], split: str) -> None:
    """Refuses held-out images without a caption, which all measures compare with.

    Raises:
        ValueError: Some have none; the message names the first.
    """
    bare = [sample["id"] for sample in glance(samples, "id", "captions") if not any(map(str.strip, sample["captions"]))]
    if bare:
        raise ValueError(
            f"{split}: {len(bare)} of {len(samples)} images have no caption to measure by, the first: {bare[0]!r}; "
            "leave them out"
        )


def check_contrast(samples: Sequence[CaptionSample], config: TrainConfig, objectives: PretrainingConfig) -> None:
    """Refuses training in which nothing tells one image from another: every loss would be that of a sure guess.

    Raises:
        ValueError: All images have the same captions, or batches are of one pair and no queue adds to them.
    """
    split, trainer, names = config.data.train_split, config.trainer, objectives.objectives
    if not {"itc", "itm"} & set(names):
        return
    first: set[str] | None = None
    for sample in glance(samples, "captions"):
        captions = set(sample["captions"])
        first = captions if first is None else first
        if captions != first:
            break
    else:
        raise ValueError(
            f"{split}: {len(samples)} images with the same captions leave nothing to tell apart; give at least two "
            "images with different ones"
        )
    together = trainer.batch_size
    if objectives.original:  # each part is compared in itself
        together //= trainer.accumulate * trainer.devices * trainer.num_nodes
    queued = "itc" in names and objectives.queue_size > 0
    for name, known in (("itc", queued), ("itm", queued and objectives.queue_inputs != "none")):
        if name in names and together < 2 and not known:
            raise ValueError(
                f"trainer.batch_size: with one pair in a batch {name} has nothing to compare it with; raise "
                "trainer.batch_size, or set task.model.queue_size and task.model.queue_inputs"
            )


def count_captions(samples: Sequence[CaptionSample]) -> list[int]:
    """The number of captions of each image."""
    return [len(sample["captions"]) for sample in glance(samples, "captions")]


def count(samples: Sequence[CaptionSample]) -> dict[str, int]:
    """How many images and texts an evaluation saw."""
    return {"num_images": len(samples), "num_texts": sum(count_captions(samples))}


def with_normalization(objectives: PretrainingConfig, processor: FiberProcessor) -> PretrainingConfig:
    """The run's objectives with what its images are normalized by, to store them in a queue."""
    return fill_in(objectives, "task.model", image_mean=tuple(processor.mean), image_std=tuple(processor.std))
