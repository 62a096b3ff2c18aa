"""The coarse stage: retrieval, matching and masked words on held-out pairs, beside what a guess would reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from fiber_data import (
    CaptionDataset,
    CaptionSample,
    FiberProcessor,
    ImageTextCollator,
    derive_seed,
    read_captions,
)
from fiber_eval import RetrievalRecall
from fiber_heads import FiberForPretraining, PretrainingConfig
from lightning_fabric import Fabric

from fiber_train.config import TrainConfig
from fiber_train.tasks.base import Evaluation, Task


class CaptionTask(Task):
    """What tasks on pictures with captions share."""

    def read(self, split: str) -> list[CaptionSample]:
        """Pictures with captions, in any format that `fiber_data.read_captions` knows."""
        return read_captions(self.config.data.root, split)

    def texts(self, samples: list[CaptionSample]) -> Iterator[str]:
        """All captions."""
        return (caption for sample in samples for caption in sample["captions"])

    def make_dataset(self, samples: list[CaptionSample], transform: Any, training: bool, model: Any) -> CaptionDataset:
        """An item for each caption or picture in training, for each picture with all its captions otherwise."""
        captions = self.config.data.captions if training else "all"
        return CaptionDataset(samples, transform, captions=captions, seed=self.config.trainer.seed)  # type: ignore[arg-type]

    def sampling_groups(self, dataset: CaptionDataset) -> dict[str, Any]:
        """No two captions of one picture meet in a batch."""
        return {"unique_groups": dataset.image_ids} if self.config.data.captions == "each" else {}


class Pretraining(CaptionTask):
    """Contrast, matching and masked words together."""

    model_class = FiberForPretraining
    monitor = "mean_recall"

    def make_model(
        self, backbone: FiberBackbone, samples: list[CaptionSample], processor: FiberProcessor
    ) -> FiberForPretraining:
        """A fresh model of the run's objectives."""
        return FiberForPretraining(backbone, pretraining_config(self.config, processor))

    def make_collator(self, processor: FiberProcessor, training: bool) -> ImageTextCollator:
        """Masks words where they are an objective; a queue that stores texts needs them of one length."""
        masked = "mlm" in self.config.objectives.objectives or not training
        return ImageTextCollator(
            processor.tokenizer,
            processor.max_length,
            self.config.data.mlm_probability if masked else None,
            fill_broken=True,
            pad_to_max_length=training and self.config.objectives.queue_inputs != "none",
        )

    def needs_unused_parameters(self) -> bool:
        """Each objective uses parts that the others do not."""
        return len(self.config.objectives.objectives) < 3

    def evaluate(
        self, model: Any, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """Retrieval over all pictures and captions; matching against hard negatives; masked words.

        Numbers are fractions in 0..1 and, where named so, ranks: `image_to_text_recall@1` and the like (see
        `fiber_eval`), with `chance_recall@K` of a random order; `itm_accuracy` and `mlm_accuracy`, each with
        `..._constant`, what the best constant guess reaches on the same decisions; and `num_images`, `num_texts`.
        """
        numbers: dict[str, float] = count(samples)
        if model.contrastive_head is not None:
            numbers |= self.measure_recall(model, samples, processor, fabric)
        if model.matching_head is not None or model.word_head is not None:
            numbers |= self._decisions(model, samples, processor, fabric)
        return Evaluation(numbers)

    def measure_recall(
        self, model: Any, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> dict[str, float]:
        """Recall by cosines."""
        metric = RetrievalRecall().to(fabric.device)
        for batch in self.batches(model, samples, processor, fabric):
            metric.update(
                image_features=model.encode_images(batch["pixel_values"]),
                image_ids=batch["image_ids"],
                text_features=model.encode_texts(batch["input_ids"], batch["attention_mask"]),
                text_ids=batch["text_ids"],
                text_image_ids=batch["text_image_ids"],
            )
        return {name: float(value) for name, value in metric.compute().items()} | chance(len(samples), metric.ks)

    def _decisions(
        self, model: Any, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> dict[str, float]:
        """Accuracies of the objectives' own decisions, counted over all processes."""
        one = OneCaption(self.config)
        seed = self.config.trainer.seed
        words = torch.zeros(model.backbone.config.vocab_size, device=fabric.device)
        right = {name: torch.zeros((), device=fabric.device) for name in ("itm", "mlm")}
        matches = torch.zeros(2, device=fabric.device)
        for number, batch in enumerate(one.batches(model, samples, processor, fabric, shuffle=True, seed=seed)):
            torch.manual_seed(derive_seed(seed, number, fabric.global_rank))
            output = model(batch)
            for name in right.keys() & output.losses.keys():
                right[name] += (output.metrics[f"{name}_accuracy"] * output.metrics[f"{name}_count"]).round()
            if output.mlm_logits is not None:
                words += torch.bincount(batch["mlm_labels"][batch["mlm_labels"] != -100], minlength=len(words))
            if output.itm_logits is not None:
                matches += torch.bincount(output.itm_labels[output.itm_labels != -100], minlength=2)
        results = {}
        for name, counts in (("itm", matches), ("mlm", words)):
            total, good = (torch.as_tensor(fabric.all_reduce(part, reduce_op="sum")) for part in (counts, right[name]))
            if total.sum() > 0:
                results[f"{name}_accuracy"] = float(good / total.sum())
                results[f"{name}_constant"] = float(total.max() / total.sum())
        return results

    def describe(self, numbers: dict[str, float]) -> str:
        """Recalls beside chance, accuracies beside the best constant guess."""
        lines = describe_retrieval(numbers)
        for name, title in (("itm", "matching"), ("mlm", "masked words")):
            if f"{name}_accuracy" in numbers:
                accuracy, constant = numbers[f"{name}_accuracy"], numbers[f"{name}_constant"]
                lines.append(f"{title:14} accuracy {accuracy:.3f} (best constant guess {constant:.3f})")
        return "\n".join(lines)


class OneCaption(Pretraining):
    """The same with one caption of each picture, among which hard negatives are sought."""

    def make_dataset(self, samples: list[CaptionSample], transform: Any, training: bool, model: Any) -> CaptionDataset:
        """An item for each picture."""
        return CaptionDataset(samples, transform, captions="random", seed=self.config.trainer.seed)


def pretraining_config(config: TrainConfig, processor: FiberProcessor) -> PretrainingConfig:
    """The run's objectives, with what its pictures are normalised by, to store them in a queue."""
    return PretrainingConfig(
        objectives=tuple(config.objectives.objectives),
        temperature=config.objectives.temperature,
        queue_size=config.objectives.queue_size,
        queue_inputs=config.objectives.queue_inputs,  # type: ignore[arg-type]
        original=config.objectives.original,
        image_mean=tuple(processor.mean),
        image_std=tuple(processor.std),
    )


def count(samples: list[CaptionSample]) -> dict[str, float]:
    """How many pictures and texts an evaluation saw."""
    return {"num_images": len(samples), "num_texts": sum(len(sample["captions"]) for sample in samples)}


def chance(num_images: int, ks: tuple[int, ...]) -> dict[str, float]:
    """The recall of a random order."""
    return {f"chance_recall@{k}": min(1.0, k / num_images) for k in ks}


def describe_retrieval(numbers: dict[str, float]) -> list[str]:
    """Lines with both directions' recalls beside chance."""
    lines = [f"{int(numbers['num_images']):,} pictures, {int(numbers['num_texts']):,} captions"]
    for direction in ("image_to_text", "text_to_image"):
        prefix = f"{direction}_recall@"
        ks = [name.removeprefix(prefix) for name in numbers if name.startswith(prefix)]
        if ks:
            shown = "   ".join(
                f"R@{k} {numbers[prefix + k]:.3f} (chance {numbers[f'chance_recall@{k}']:.3f})" for k in ks
            )
            lines.append(f"{direction.replace('_', ' '):14} {shown}")
    return lines
