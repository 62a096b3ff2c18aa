"""What a task brings to a run: its data, its model, its evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import FiberProcessor, ImageTextCollator, build_evaluation_transform, build_training_transform
from fiber_heads import TaskModel
from lightning_fabric import Fabric
from torch import distributed

from fiber_train.config import TrainConfig
from fiber_train.data import build_evaluation_loader, image_overrides, on_device


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        numbers: By name.
        predictions: By name the files that the benchmark's server or tool takes, as text or bytes; none for some tasks.
    """

    numbers: dict[str, float]
    predictions: Mapping[str, str | bytes] = field(default_factory=dict)

    def write_predictions(self, folder: Path, name: str | None = None) -> None:
        """Writes the files to a folder; `name` is that of a single one, its own by default."""
        for own, content in self.predictions.items():
            (folder / (name or own)).write_bytes(content.encode() if isinstance(content, str) else content)


class Task(ABC):
    """One task under one configuration.

    Attributes:
        model_class: Its model.
        monitor: The number of an evaluation by which the best weights are kept; higher is better.
        evaluation_batch_size: Items looked at together in each process.
    """

    model_class: ClassVar[type[TaskModel]]
    monitor: str
    evaluation_batch_size: int = 50

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @abstractmethod
    def read(self, split: str) -> Any:
        """The samples of a split of the run's data set."""

    def read_training(self) -> Any:
        """The samples to learn from."""
        return self.read(self.config.data.train_split)

    @abstractmethod
    def texts(self, samples: Any) -> Iterator[str]:
        """The texts of samples, from which a tokenizer can be trained."""

    @abstractmethod
    def make_model(self, backbone: FiberBackbone, samples: Any, processor: Any) -> TaskModel:
        """A fresh model for training samples."""

    @abstractmethod
    def make_dataset(self, samples: Any, transform: Any, training: bool, model: Any) -> Any:
        """The samples as a map-style data set, for training or for evaluation."""

    @abstractmethod
    def evaluate(self, model: Any, samples: Any, processor: Any, fabric: Fabric) -> Evaluation:
        """Measures a model on held-out samples.

        Args:
            model: Of `model_class`, in eval mode, on the process's device.
            samples: Of `read`. Without annotations, as of a test split, only predictions come out.
            processor: The model's own.
            fabric: Devices; every process takes its share, and gets all the numbers.
        """

    @abstractmethod
    def describe(self, numbers: dict[str, float]) -> str:
        """The numbers for people, each beside what a guess would reach."""

    def backbone_switches(self) -> dict[str, Any]:
        """Fields of `FiberConfig` that the model needs set."""
        return {}

    def make_processor(self, tokenizer: Any, start: Any = None) -> Any:
        """What prepares pictures and texts.

        Args:
            tokenizer: Of the run.
            start: The processor of the weights that the run starts from, if it starts from any of ours.
        """
        overrides = image_overrides(self.config.model)
        size = overrides.get("image_size") or getattr(start, "image_size", None)
        size = size or FiberConfig.from_preset(self.config.model.preset, **overrides).image_size
        normalization = () if start is None else (start.mean, start.std)
        return FiberProcessor(tokenizer, size, self.config.data.max_length, *normalization)

    def make_transform(self, processor: Any, training: bool) -> Any:
        """What makes tensors of pictures."""
        build = build_training_transform if training and self.config.data.augment else build_evaluation_transform
        return build(processor.image_size, processor.mean, processor.std)

    def sampling_groups(self, dataset: Any) -> dict[str, Any]:
        """What the training data's sampler has to keep apart, or together (`unique_groups` of `EpochSampler`, ...)."""
        return {}

    def make_collator(self, processor: Any, training: bool) -> ImageTextCollator:
        """What makes batches of items."""
        # Broken pictures are replaced: processes that gather from each other need batches of equal size.
        return ImageTextCollator(processor.tokenizer, processor.max_length, None, fill_broken=True)

    def prepare_training(self, model: Any, samples: Any, processor: Any) -> None:
        """Gives the model what its objective needs beside batches: for most nothing."""
        return

    def needs_unused_parameters(self) -> bool:
        """Whether some parameters take no part in a step, which several processes must be told."""
        return True

    def batches(
        self, model: TaskModel, samples: Any, processor: Any, fabric: Fabric, **options: Any
    ) -> Iterable[dict[str, Any]]:
        """Evaluation batches in order on the device; the last repeat samples, so that all processes have as many."""
        dataset = self.make_dataset(samples, self.make_transform(processor, False), False, model)
        return self.batches_of(dataset, processor, fabric, **options)

    def batches_of(self, dataset: Any, processor: Any, fabric: Fabric, **options: Any) -> Iterable[dict[str, Any]]:
        """The same of a data set."""
        options = {"batch_size": self.evaluation_batch_size, **options}
        collate = self.make_collator(processor, False)
        return on_device(build_evaluation_loader(self.config.data, dataset, fabric, collate, **options), fabric)

    def measure(self, model: Any, samples: Any, processor: Any, fabric: Fabric) -> Evaluation:
        """`evaluate` without gradients, under the run's precision, leaving no trace in random numbers."""
        module = getattr(model, "module", model)
        was_training = module.training
        module.eval()
        with torch.no_grad(), fabric.autocast(), torch.random.fork_rng():
            found = self.evaluate(module, samples, processor, fabric)
        module.train(was_training)
        return found


def gather(found: dict[Any, Any]) -> dict[Any, Any]:
    """The predictions of all processes by id; of a sample that several saw, the lowest rank's."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return found
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, found)
    return {name: value for part in reversed(parts) for name, value in part.items()}
