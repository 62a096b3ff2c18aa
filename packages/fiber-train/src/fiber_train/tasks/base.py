"""What a task brings to a run: its data, its model, its evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fiber_backbone import FiberBackbone
from fiber_data import FiberProcessor, ImageTextCollator
from fiber_heads import TaskModel
from lightning_fabric import Fabric
from torch import Tensor, distributed

from fiber_train.config import TrainConfig
from fiber_train.data import build_evaluation_loader, on_device


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        numbers: By name.
        predictions: The text of the file that the benchmark's server or tool takes, if the task has one.
    """

    numbers: dict[str, float]
    predictions: str | None = None


class Task(ABC):
    """One task under one configuration.

    Attributes:
        model_class: Its model.
        monitor: The number of an evaluation by which the best weights are kept; higher is better.
        predictions_file: What the file of its predictions is called.
        evaluation_batch_size: Items looked at together in each process.
    """

    model_class: ClassVar[type[TaskModel]]
    monitor: ClassVar[str]
    predictions_file: ClassVar[str] = "predictions.json"
    evaluation_batch_size: ClassVar[int] = 50

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    @abstractmethod
    def read(self, split: str) -> list[Any]:
        """The samples of a split of the run's data set."""

    @abstractmethod
    def texts(self, samples: list[Any]) -> Iterator[str]:
        """The texts of samples, from which a tokenizer can be trained."""

    @abstractmethod
    def make_model(self, backbone: FiberBackbone, samples: list[Any], processor: FiberProcessor) -> TaskModel:
        """A fresh model for training samples."""

    @abstractmethod
    def make_dataset(self, samples: list[Any], transform: Any, training: bool, model: TaskModel) -> Any:
        """The samples as a map-style data set, for training or for evaluation."""

    @abstractmethod
    def evaluate(self, model: Any, samples: list[Any], processor: FiberProcessor, fabric: Fabric) -> Evaluation:
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

    def unique_groups(self, dataset: Any) -> Tensor | None:
        """For every item of the training data a group; no two of a group may meet in a batch."""
        return None

    def make_collator(self, processor: FiberProcessor, training: bool) -> ImageTextCollator:
        """What makes batches of items."""
        # Broken pictures are replaced: processes that gather from each other need batches of equal size.
        return ImageTextCollator(processor.tokenizer, processor.max_length, None, fill_broken=True)

    def prepare_training(self, model: Any, samples: list[Any], processor: FiberProcessor) -> None:
        """Gives the model what its objective needs beside batches: for most nothing."""
        return

    def needs_unused_parameters(self) -> bool:
        """Whether some parameters take no part in a step, which several processes must be told."""
        return True

    def batches(
        self,
        model: TaskModel,
        samples: list[Any],
        processor: FiberProcessor,
        fabric: Fabric,
        **options: Any,
    ) -> Iterable[dict[str, Any]]:
        """Evaluation batches in order on the device; the last repeat samples, so that all processes have as many."""
        return on_device(
            build_evaluation_loader(
                self.config.data,
                lambda transform: self.make_dataset(samples, transform, False, model),
                processor,
                fabric,
                self.make_collator(processor, False),
                **{"batch_size": self.evaluation_batch_size, **options},
            ),
            fabric,
        )

    def measure(self, model: Any, samples: list[Any], processor: FiberProcessor, fabric: Fabric) -> Evaluation:
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
