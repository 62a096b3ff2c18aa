"""What tasks on images with captions share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fiber_data import CaptionDataset, CaptionSample, FiberProcessor, glance, read_captions
from fiber_heads import PretrainingConfig

from fiber_train.config import as_share
from fiber_train.tasks.base import Settings, Task, fill_in


class CaptionTask(Task[Settings]):
    """A task on images with captions."""

    def read(self, split: str) -> list[CaptionSample]:
        """Images with captions, in any format that `fiber_data.read_captions` knows."""
        root = self.config.data.root
        if as_share(self.config.data.eval_split) is None:
            return read_captions(root, split)
        return read_captions(root, split, hold_out=0.0)  # the task takes the share of all lines

    def texts(self, samples: Sequence[CaptionSample]) -> Iterator[str]:
        """All captions."""
        return (caption for sample in glance(samples, "captions") for caption in sample["captions"])

    def make_dataset(
        self, samples: Sequence[CaptionSample], transform: Any, training: bool, model: Any
    ) -> CaptionDataset:
        """An item for each caption or image in training, for each image with all its captions otherwise."""
        captions = self.config.data.captions if training else "all"
        return CaptionDataset(samples, transform, captions=captions, seed=self.config.trainer.seed)  # type: ignore[arg-type]

    def sampling_groups(self, dataset: CaptionDataset) -> dict[str, Any]:
        """No two captions of one image meet in a batch."""
        return {"unique_groups": dataset.image_ids} if self.config.data.captions == "each" else {}


def count(samples: Sequence[CaptionSample]) -> dict[str, int]:
    """How many images and texts an evaluation saw."""
    return {
        "num_images": len(samples),
        "num_texts": sum(len(sample["captions"]) for sample in glance(samples, "captions")),
    }


def with_normalization(objectives: PretrainingConfig, processor: FiberProcessor) -> PretrainingConfig:
    """The run's objectives with what its images are normalized by, to store them in a queue."""
    return fill_in(objectives, "task.model", image_mean=tuple(processor.mean), image_std=tuple(processor.std))
