"""Visual reasoning (NLVR2): whether a statement is true of two images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fiber_data import FiberProcessor, ReasoningDataset, ReasoningSample, glance, read_nlvr2
from fiber_eval import nlvr2_accuracy
from fiber_heads import FiberForVisualReasoning
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric

from fiber_train.config import TaskSettings
from fiber_train.evaluation import Evaluation, Measure
from fiber_train.tasks.base import Task


class Reasoning(Task[TaskSettings]):
    """NLVR2's files, the official accuracy and consistency, and the file that its script takes."""

    model_class = FiberForVisualReasoning
    monitor = "accuracy"

    def read(self, split: str) -> list[ReasoningSample]:
        """Pairs of images with statements."""
        return read_nlvr2(self.config.data.root, split)

    def texts(self, samples: Sequence[ReasoningSample]) -> Iterator[str]:
        """All statements."""
        return (sample["statement"] for sample in glance(samples, "statement"))

    def make_dataset(
        self, samples: Sequence[ReasoningSample], transform: Any, training: bool, model: Any
    ) -> ReasoningDataset:
        """Statements with their pairs."""
        return ReasoningDataset(samples, transform, seed=self.config.trainer.seed, **self.image_options)

    def evaluate(
        self, model: Any, samples: Sequence[ReasoningSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """`accuracy` beside the share of the more frequent label, and `consistency`, in 0..1."""
        judged: dict[str, bool] = {}
        for batch in self.batches(model, samples, processor, fabric):
            truths = model(**batch).logits.argmax(dim=1).bool().tolist()
            judged |= dict(zip(batch["ids"], truths, strict=True))
        judged = gather_by_id(judged)
        file = "".join(f"{name},{truth}\n" for name, truth in judged.items())
        found = Evaluation([], {"predictions.csv": file}, {"num_statements": len(samples)}, judged)
        known = glance(samples, "id", "label")
        labels = {sample["id"]: sample["label"] for sample in known if sample["label"] is not None}
        if len(labels) == len(samples):
            true = sum(labels.values()) / len(labels)
            scores = nlvr2_accuracy(judged, labels)
            guess = {"accuracy": max(true, 1 - true)}
            found.measures += [
                Measure(name, float(value), guess.get(name), "best constant guess" * (name in guess))
                for name, value in scores.items()
            ]
        return found

    def describe(self, found: Evaluation) -> str:
        """Accuracy beside the more frequent label's share."""
        lines = [f"{found.counts['num_statements']:,} statements"]
        if found.measures:
            accuracy = found.find("accuracy")
            lines.append(f"accuracy       {accuracy.value:.3f} ({accuracy.baseline_name} {accuracy.baseline:.3f})")
            lines.append(f"consistency    {found['consistency']:.3f}")
        return "\n".join(lines)
