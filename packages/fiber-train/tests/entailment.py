"""A task of a stranger's, in one module: does a caption belong to an image?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from fiber_data import SeededDataset, read_captions
from fiber_heads import ClassificationHead, TaskModel, TaskOutput
from fiber_heads.distributed import gather_by_id
from fiber_train import Evaluation, Measure, Task, TaskSettings
from torch import Tensor


@dataclass
class EntailmentConfig:
    labels: tuple[str, ...] = ("no", "yes")

    def __post_init__(self) -> None:
        self.labels = tuple(self.labels)  # a list, when it comes from a file


class FiberForEntailment(TaskModel):
    config_class = EntailmentConfig

    def __init__(self, backbone: FiberBackbone, config: EntailmentConfig | None = None) -> None:
        super().__init__(backbone, config)
        width = 2 * backbone.text_dim
        self.head = ClassificationHead(width, width, len(self.config.labels))

    def forward(
        self, *, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any
    ) -> TaskOutput:
        logits = self.head(self.backbone(pixel_values, input_ids, attention_mask).pooled)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return TaskOutput(loss, {"entailment": loss}, logits=logits)


@dataclass
class EntailmentSettings(TaskSettings):
    model: EntailmentConfig = field(default_factory=EntailmentConfig)
    wrong_every: int = 2
    """One of so many captions is another image's."""


class EntailmentDataset(SeededDataset[dict[str, Any]]):
    def make_item(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        item = self.transformed(sample["image"], {"text": sample["hypothesis"], "text_id": index})
        return {**item, "labels": torch.tensor(sample["label"]), "id": sample["id"], "image_id": index}


class Entailment(Task[EntailmentSettings]):
    """Captions, right and wrong."""

    settings_class = EntailmentSettings
    model_class = FiberForEntailment
    monitor = "accuracy"

    def read(self, split: str) -> list[dict[str, Any]]:
        found, samples = read_captions(self.config.data.root, split), []
        for row, sample in enumerate(found):
            right = row % self.settings.wrong_every > 0
            text = (sample if right else found[row - 1])["captions"][0]
            samples.append({"id": row, "image": sample["image"], "hypothesis": text, "label": int(right)})
        return samples

    def texts(self, samples: Any) -> Iterator[str]:
        return (sample["hypothesis"] for sample in samples)

    def make_model(self, backbone: FiberBackbone, samples: Any, processor: Any) -> FiberForEntailment:
        return FiberForEntailment(backbone, self.settings.model)

    def make_dataset(self, samples: Any, transform: Any, training: bool, model: Any) -> EntailmentDataset:
        return EntailmentDataset(samples, transform, self.config.trainer.seed)

    def evaluate(self, model: Any, samples: Any, processor: Any, fabric: Any) -> Evaluation:
        found: dict[int, str] = {}
        for batch in self.batches(model, samples, processor, fabric):
            rows = model(**batch).logits.argmax(dim=1).tolist()
            found |= zip(batch["ids"], (model.config.labels[row] for row in rows), strict=True)
        found = gather_by_id(found)
        samples, evaluation = self.collect(found, samples, "hypotheses")
        right = [found[sample["id"]] == model.config.labels[sample["label"]] for sample in samples]
        evaluation.measures.append(Measure("accuracy", sum(right) / len(right), 0.5, "chance"))
        evaluation.counts["hypotheses"] = len(samples)
        return evaluation


def share_of_yes(predictions: Mapping[Any, str], samples: Any) -> dict[str, float]:
    """A metric beside the task's own."""
    return {"yes": sum(text == "yes" for text in predictions.values()) / len(samples)}


def tripled(step: int, max_steps: int, *, factor: float = 3.0) -> float:
    """A schedule."""
    return factor if step >= max_steps / 2 else 1.0


def read_lines(root: str, split: str, *, suffix: str = ".txt") -> list[dict[str, Any]]:
    """A format: captions as lines `image|caption`."""
    lines = (Path(root) / f"{split}{suffix}").read_text().splitlines()
    return [{"image": Path(line.split("|")[0]), "captions": [line.split("|")[1]], "id": line} for line in lines]
