"""Visual reasoning (NLVR2): whether a statement is true of two pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fiber_backbone import FiberBackbone
from fiber_data import FiberProcessor, ReasoningDataset, ReasoningSample, read_nlvr2
from fiber_eval import nlvr2_accuracy
from fiber_heads import FiberForVisualReasoning
from lightning_fabric import Fabric

from fiber_train.tasks.base import Evaluation, Task, gather


class Reasoning(Task):
    """NLVR2's files, the official accuracy and consistency, and the file that its script takes."""

    model_class = FiberForVisualReasoning
    monitor = "accuracy"

    def read(self, split: str) -> list[ReasoningSample]:
        """Pairs of pictures with statements."""
        return read_nlvr2(self.config.data.root, split)

    def texts(self, samples: list[ReasoningSample]) -> Iterator[str]:
        """All statements."""
        return (sample["statement"] for sample in samples)

    def make_model(
        self, backbone: FiberBackbone, samples: list[ReasoningSample], processor: FiberProcessor
    ) -> FiberForVisualReasoning:
        """A fresh model."""
        return FiberForVisualReasoning(backbone)

    def make_dataset(
        self, samples: list[ReasoningSample], transform: Any, training: bool, model: Any
    ) -> ReasoningDataset:
        """Statements with their pairs."""
        return ReasoningDataset(samples, transform, seed=self.config.trainer.seed)

    def evaluate(
        self, model: Any, samples: list[ReasoningSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """`accuracy` and `consistency` in 0..1, and `constant`, the share of the more frequent label."""
        found: dict[str, bool] = {}
        for batch in self.batches(model, samples, processor, fabric):
            judged = model(batch).logits.argmax(dim=1).bool().tolist()
            found |= dict(zip(batch["ids"], judged, strict=True))
        found = gather(found)
        predictions = "".join(f"{name},{truth}\n" for name, truth in found.items())
        labels = {sample["id"]: sample["label"] for sample in samples if sample["label"] is not None}
        if len(labels) < len(samples):
            return Evaluation({"num_statements": len(samples)}, {"predictions.csv": predictions})
        true = sum(labels.values()) / len(labels)
        numbers = {"num_statements": len(samples), **nlvr2_accuracy(labels, found), "constant": max(true, 1 - true)}
        return Evaluation(numbers, {"predictions.csv": predictions})

    def describe(self, numbers: dict[str, float]) -> str:
        """Accuracy beside the more frequent label's share."""
        lines = [f"{int(numbers['num_statements']):,} statements"]
        if "accuracy" in numbers:
            lines.append(f"accuracy       {numbers['accuracy']:.3f} (best constant guess {numbers['constant']:.3f})")
            lines.append(f"consistency    {numbers['consistency']:.3f}")
        return "\n".join(lines)
