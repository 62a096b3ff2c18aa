"""Visual reasoning (NLVR2): whether a statement is true of two images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fiber_data import FiberProcessor, ReasoningDataset, ReasoningSample, Transform, glance, load_image
from fiber_data.formats import read_statements
from fiber_eval import nlvr2_accuracy
from fiber_heads import FiberForVisualReasoning
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric

from fiber_train.config import TaskSettings, share_of_lines
from fiber_train.evaluation import Evaluation, LeftOut, Measure
from fiber_train.examples import Example, Said, Shown, show_image, spread
from fiber_train.tasks.base import NO_ANNOTATIONS, Task

_MEASURED = 300  # statements, for calibration


class Reasoning(Task[TaskSettings]):
    """NLVR2's files or plain ones, the official accuracy and consistency, and the file that its script takes."""

    model_class = FiberForVisualReasoning
    monitor = "accuracy"
    commands = ("fiber judge {images} {statement} --checkpoint {run}",)
    submission = "nlvr2"

    def read(self, split: str) -> Sequence[ReasoningSample]:
        """Pairs of images with statements."""
        return self.open(read_statements, split, hold_out=share_of_lines(self.config.data))

    def texts(self, samples: Sequence[ReasoningSample]) -> Iterator[str]:
        """All statements."""
        return (sample["statement"] for sample in glance(samples, "statement"))

    def make_dataset(
        self, samples: Sequence[ReasoningSample], transform: Transform, training: bool, model: FiberForVisualReasoning
    ) -> ReasoningDataset:
        """Statements with their pairs."""
        return ReasoningDataset(samples, transform, seed=self.config.trainer.seed, **self.image_options)

    def evaluate(
        self,
        model: FiberForVisualReasoning,
        samples: Sequence[ReasoningSample],
        processor: FiberProcessor,
        fabric: Fabric,
    ) -> Evaluation:
        """`accuracy` beside the share of the more frequent label, and `consistency`, in 0..1."""
        judged: dict[str, bool] = {}
        for batch in self.batches(model, samples, processor, fabric):
            truths = model(**batch).logits.argmax(dim=1).bool().tolist()
            judged |= dict(zip(batch["ids"], truths, strict=True))
        return self._score(gather_by_id(judged), samples)

    def preview(self, samples: Sequence[ReasoningSample]) -> Evaluation:
        """As if everything were judged false."""
        return self._score({sample["id"]: False for sample in glance(samples, "id")}, samples)

    def check_training(self, samples: Sequence[ReasoningSample]) -> None:
        """Statements need labels."""
        if all(sample.get("label") is None for sample in glance(samples, "label")):
            split = self.config.data.train_split
            raise ValueError(f"{split}: not one of {len(samples)} statements has a label to learn from; give others")

    def _score(self, judged: Mapping[Any, bool], samples: Sequence[ReasoningSample]) -> Evaluation:
        """The measures of judgements by id."""
        samples, found = self.collect(judged, samples, "statements")
        file = "".join(f"{name},{truth}\n" for name, truth in found.outputs.items())
        found.predictions = self.keep({"predictions.csv": file})
        labels: dict[Any, Any] = {sample["id"]: sample.get("label") for sample in glance(samples, "id", "label")}
        bare = [name for name, label in labels.items() if label is None]
        if bare and len(bare) < len(labels):
            raise ValueError(
                f"{self.config.data.eval_split}: {len(bare)} of {len(labels)} statements have no label, the first: "
                f"{bare[0]!r}; make one set of these, another of the rest"
            )
        if bare:
            found.left_out += LeftOut.of("statements", bare, len(labels), NO_ANNOTATIONS)
            return found
        true = sum(labels.values()) / len(labels)
        guess = {"accuracy": max(true, 1 - true)}
        found.counts["num_statements"] = len(labels)
        found.measures += [
            Measure(name, float(value), guess.get(name), "best constant guess" * (name in guess))
            for name, value in nlvr2_accuracy(judged, labels).items()
        ]
        return found

    def show(self, model: FiberForVisualReasoning, samples: Sequence[ReasoningSample], number: int) -> Shown:
        """Statements with how likely they are true."""
        shown = Shown(note="Whether the statement is true of both images together.")
        for place, sample in enumerate(spread(samples, max(number, _MEASURED))):
            first, second = (load_image(image) for image in sample["images"])
            chance, label = model.judge(first, second, sample["statement"])[0].probability, sample.get("label")
            sure = max(chance, 1 - chance)
            right = None if label is None else (chance >= 0.5) == label
            if right is not None:
                shown.confidences.setdefault("statements", []).append((sure, right))
            if place < number:
                images = (show_image(first), show_image(second))
                said = (Said("true" if chance >= 0.5 else "false", sure, right),)
                truth = "" if label is None else str(label).lower()
                shown.examples.append(Example(images, ((sample["statement"], None),), said, truth))
        return shown

    def describe(self, found: Evaluation) -> str:
        """Accuracy beside the more frequent label's share."""
        lines = []
        if found.measures:
            lines.append(f"{found.counts['num_statements']:,} statements")
            accuracy = found.find("accuracy")
            lines.append(f"accuracy       {accuracy.value:.3f} ({accuracy.baseline_name} {accuracy.baseline:.3f})")
            lines.append(f"consistency    {found['consistency']:.3f}")
        return "\n".join(lines)
