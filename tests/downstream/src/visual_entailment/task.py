"""The task: what `fiber train` and `fiber evaluate` need to know of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fiber_heads.distributed import gather_by_id
from fiber_train import Evaluation, Measure, Task, TaskSettings

from visual_entailment.data import EntailmentDataset, EntailmentSample, read_entailment
from visual_entailment.metrics import entailment_accuracy
from visual_entailment.model import EntailmentConfig, FiberForEntailment


@dataclass
class EntailmentSettings(TaskSettings):
    """What a recipe may say under `task`."""

    model: EntailmentConfig = field(default_factory=EntailmentConfig)


class Entailment(Task[EntailmentSettings]):
    """Visual entailment: the lines of `entailment.jsonl`, and the accuracy of what is predicted of them."""

    settings_class = EntailmentSettings
    model_class = FiberForEntailment
    monitor = "accuracy"

    def read(self, split: str) -> list[EntailmentSample]:
        """Hypotheses about images."""
        return read_entailment(self.config.data.root, split)

    def texts(self, samples: list[EntailmentSample]) -> Iterator[str]:
        """All hypotheses."""
        return (sample["hypothesis"] for sample in samples)

    def make_dataset(
        self, samples: list[EntailmentSample], transform: Any, training: bool, model: FiberForEntailment
    ) -> EntailmentDataset:
        """Hypotheses with their images."""
        return EntailmentDataset(samples, transform, model.config.labels, self.config.trainer.seed)

    def evaluate(self, model: Any, samples: list[EntailmentSample], processor: Any, fabric: Any) -> Evaluation:
        """`accuracy` 0..1 beside the most frequent label's share, and the lines that `fiber-eval entailment` scores."""
        found: dict[str, str] = {}
        for batch in self.batches(model, samples, processor, fabric):
            best = model(**batch).logits.argmax(dim=1).tolist()
            found |= zip(batch["ids"], (model.config.labels[row] for row in best), strict=True)
        found = gather_by_id(found)
        samples, evaluation = self.collect(found, samples, "hypotheses")
        file = "".join(json.dumps({"id": name, "label": label}) + "\n" for name, label in found.items())
        evaluation.predictions = self.keep({"predictions.jsonl": file})
        evaluation.counts["hypotheses"] = len(samples)
        if labels := {sample["id"]: sample["label"] for sample in samples if "label" in sample}:
            reached = entailment_accuracy(found, labels)
            evaluation.measures.append(
                Measure("accuracy", reached["accuracy"], reached["most_frequent"], "most frequent label")
            )
        return evaluation
