"""The coarse stage: retrieval, matching and masked tokens on held-out pairs, beside what a guess would reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from fiber_data import CaptionDataset, CaptionSample, FiberProcessor, ImageTextCollator
from fiber_eval import RetrievalRecall
from fiber_heads import FiberForPretraining
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric

from fiber_train.evaluation import Evaluation, Measure
from fiber_train.examples import Shown
from fiber_train.tasks.captions import (
    CaptionTask,
    check_captioned,
    check_contrast,
    count,
    count_captions,
    with_normalization,
)
from fiber_train.tasks.pretraining.settings import PretrainingSettings
from fiber_train.tasks.recall import KS, recall_lines, recall_measures, recall_preview
from fiber_train.tasks.search_examples import show_search

_GUESS = "best constant guess"
_TITLES = {
    "itm": "does this caption belong to this image? (against the hardest of its batch)",
    "mlm": "which word is masked?",
}


class Pretraining(CaptionTask[PretrainingSettings]):
    """Contrast, matching and masked tokens together."""

    settings_class = PretrainingSettings
    model_class = FiberForPretraining
    commands = (
        "fiber retrieve --images {folder} --query {caption} --checkpoint {run}",
        "fiber train vqa data.root=VQA model.checkpoint={run} out=runs/vqa",
        "fiber train fine data.root=BOXES model.checkpoint={run} out=runs/fine",
    )

    @property
    def monitor(self) -> str:  # type: ignore[override]
        """Mean recall where there is a contrast, else the accuracy of the first objective."""
        objectives = self.settings.model.objectives
        return "mean_recall" if "itc" in objectives else f"{objectives[0]}_accuracy"

    def make_model(
        self, backbone: FiberBackbone, samples: Sequence[CaptionSample], processor: FiberProcessor
    ) -> FiberForPretraining:
        """A fresh model of the run's objectives."""
        return FiberForPretraining(backbone, with_normalization(self.settings.model, processor))

    def make_collator(self, processor: FiberProcessor, training: bool) -> ImageTextCollator:
        """Masks words where they are an objective; a queue that stores texts needs them of one length."""
        masked = "mlm" in self.settings.model.objectives or not training
        return ImageTextCollator(
            processor.tokenizer,
            processor.max_length,
            mlm_probability=self.config.data.mlm_probability if masked else None,
            pad_to_max_length=training and self.settings.model.queue_inputs != "none",
        )

    def needs_unused_parameters(self) -> bool:
        """Each objective uses parts that the others do not."""
        return len(self.settings.model.objectives) < 3

    def preview(self, samples: Sequence[CaptionSample]) -> Evaluation:
        """The recalls and accuracies of the run's objectives; a single image has nothing to be matched against."""
        check_captioned(samples, self.config.data.eval_split)
        objectives = set(self.settings.model.objectives) - ({"itm"} if len(samples) < 2 else set())
        found = Evaluation(recall_preview() if "itc" in objectives else [], counts=count(samples))
        found.measures += [Measure(f"{name}_accuracy", 0.0) for name in ("itm", "mlm") if name in objectives]
        return found

    def check_training(self, samples: Sequence[CaptionSample]) -> None:
        """Images need captions that tell them apart; words are learned where some are masked."""
        super().check_training(samples)
        check_contrast(samples, self.config, self.settings.model)
        if "mlm" in self.settings.model.objectives and self.config.data.mlm_probability <= 0:
            raise ValueError(
                f"data.mlm_probability is {self.config.data.mlm_probability}, which leaves no masked token to learn "
                "from; raise it, or leave mlm out of task.model.objectives"
            )

    def evaluate(
        self, model: FiberForPretraining, samples: Sequence[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """Retrieval over all images and captions; matching against hard negatives; masked tokens.

        Measures are fractions in 0..1 and, where named so, ranks: `image_to_text_recall@1` and the like (see
        `fiber_eval`) beside the recall of a random order; `itm_accuracy` and `mlm_accuracy` beside what the best
        constant guess reaches on the same decisions.
        """
        seen: dict[Any, None] = {}
        metric, decisions = None, []
        if model.contrastive_head is not None:
            metric = self._recall(model, samples, processor, fabric, seen)
        if model.matching_head is not None or model.word_head is not None:
            decisions = self._decisions(model, samples, processor, fabric, seen)
        samples, found = self.collect(gather_by_id(seen), samples, "images")
        found.outputs, found.counts = {}, count(samples)
        if metric is not None:
            found.measures += recall_measures(metric.compute(), count_captions(samples))
        found.measures += decisions
        return found

    def _recall(
        self,
        model: FiberForPretraining,
        samples: Sequence[CaptionSample],
        processor: FiberProcessor,
        fabric: Fabric,
        seen: dict[Any, None],
    ) -> RetrievalRecall:
        """Recall by cosines; adds the ids of its images to `seen`."""
        metric = RetrievalRecall(ks=KS).to(fabric.device)
        for batch in self.batches(model, samples, processor, fabric):
            seen |= dict.fromkeys(batch["ids"])
            metric.update(
                image_features=model.encode_images(batch["pixel_values"]),
                image_ids=batch["image_ids"],
                text_features=model.encode_texts(batch["input_ids"], batch["attention_mask"]),
                text_ids=batch["text_ids"],
                text_image_ids=batch["text_image_ids"],
            )
        return metric

    def _decisions(
        self,
        model: FiberForPretraining,
        samples: Sequence[CaptionSample],
        processor: FiberProcessor,
        fabric: Fabric,
        seen: dict[Any, None],
    ) -> list[Measure]:
        """Accuracies of the objectives' own decisions, counted over all processes; adds ids of images to `seen`."""
        seed = self.config.trainer.seed
        transform = self.make_transform(processor, False)
        # With one caption of each image, hard negatives are other images'.
        dataset = CaptionDataset(samples, transform, captions="random", seed=seed, **self.image_options)
        words = torch.zeros(model.backbone.vocab_size, device=fabric.device)
        right = {name: torch.zeros((), device=fabric.device) for name in ("itm", "mlm")}
        matches = torch.zeros(2, device=fabric.device)
        # In eval mode negatives are of the process's own batch, so the batches must not hang on who takes them.
        for batch in self.batches_of(dataset, processor, fabric, shuffle=True, seed=seed, deal=True):
            seen |= dict.fromkeys(batch["ids"])
            output, again = model(**batch), batch["replaced"]  # what fills another's place is no sample
            decided = {
                "itm": (output.itm_logits, output.itm_labels, again.repeat(3), matches),
                "mlm": (output.mlm_logits, batch["mlm_labels"], again[:, None], words),
            }
            for name, (logits, labels, masked, counts) in decided.items():
                if logits is not None:
                    labels = labels.masked_fill(masked, -100)
                    right[name] += ((logits.argmax(dim=-1) == labels) & (labels != -100)).sum()
                    counts += torch.bincount(labels[labels != -100], minlength=len(counts))
        measures = []
        for name, counts in (("itm", matches), ("mlm", words)):
            total, good = (torch.as_tensor(fabric.all_reduce(part, reduce_op="sum")) for part in (counts, right[name]))
            if total.sum() > 0:
                accuracy, guessed = float(good / total.sum()), float(total.max() / total.sum())
                measures.append(Measure(f"{name}_accuracy", accuracy, guessed, _GUESS, title=_TITLES[name]))
        return measures

    def show(self, model: FiberForPretraining, samples: Sequence[CaptionSample], number: int) -> Shown:
        """Captions found for images."""
        return show_search(model, samples, number)

    def describe(self, found: Evaluation) -> str:
        """Recalls beside chance, accuracies beside the best constant guess."""
        lines = recall_lines(found)
        for name, title in (("itm_accuracy", "matching"), ("mlm_accuracy", "masked tokens")):
            if name in found:
                measure = found.find(name)
                lines.append(
                    f"{title:14} accuracy {measure.value:.3f} ({measure.baseline_name} {measure.baseline:.3f})"
                )
        return "\n".join(lines)
