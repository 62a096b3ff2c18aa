"""Captioning, by likelihood, off-policy weights or a self-critical reward, measured by the caption metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from fiber_data import CaptionDataset, CaptionSample, FiberProcessor, Transform, glance, load_image
from fiber_eval import score_captions
from fiber_eval.captioning import DocumentFrequencies, cider_d_reward, ptb_tokenize
from fiber_heads import CaptioningConfig, FiberForCaptioning
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric
from torch import Tensor

from fiber_train.evaluation import Evaluation, Measure
from fiber_train.examples import Example, Said, Shown, show_image, spread
from fiber_train.tasks.base import fill_in
from fiber_train.tasks.captioning.settings import CaptioningSettings
from fiber_train.tasks.captions import CaptionTask, check_captioned

_TOKENS = ("begin_token_id", "end_token_id", "pad_token_id", "forbidden_token_ids")  # of GenerationConfig: the model's


class Captioning(CaptionTask[CaptioningSettings]):
    """Texts for images."""

    settings_class = CaptioningSettings
    model_class = FiberForCaptioning
    monitor = "CIDEr"
    submission = "captions"
    evaluation_batch_size = 16
    commands = ("fiber caption {image} --checkpoint {run}",)
    training_settings = (
        *(f"model.{each.name}" for each in fields(CaptioningConfig) if each.name != "generation"),
        *(f"model.generation.{name}" for name in _TOKENS),
    )

    @classmethod
    def settings_of(cls, model: FiberForCaptioning) -> dict[str, Any]:
        """How the model writes captions."""
        found = asdict(model.config.generation)
        return {f"model.generation.{name}": value for name, value in found.items() if name not in _TOKENS}

    def backbone_switches(self) -> dict[str, Any]:
        """The text stream reads a finished image through projections of its own."""
        return {"decoder_projections": True}

    def make_model(
        self, backbone: FiberBackbone, samples: Sequence[CaptionSample], processor: FiberProcessor
    ) -> FiberForCaptioning:
        """A fresh model whose texts begin, end and are filled up by the tokenizer's own tokens."""
        model, tokenizer = self.settings.model, processor.tokenizer
        generation = fill_in(
            model.generation,
            "task.model.generation",
            begin_token_id=tokenizer.bos_token_id,
            end_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            forbidden_token_ids=(tokenizer.unk_token_id, tokenizer.mask_token_id),
        )
        batches = model.refresh_every * self.config.trainer.accumulate
        return FiberForCaptioning(backbone, replace(model, generation=generation, refresh_every=batches))

    def prepare_training(self, model: FiberForCaptioning, samples: Sequence[CaptionSample], processor: Any) -> None:
        """The reward weighs words by how many training images have them in their captions."""
        if self.settings.model.objective == "cider":
            references = [[_words(text) for text in sample["captions"]] for sample in glance(samples, "captions")]
            model.reward = CiderReward(processor.tokenizer, DocumentFrequencies.count(references))

    def make_dataset(
        self, samples: Sequence[CaptionSample], transform: Transform, training: bool, model: FiberForCaptioning
    ) -> CaptionDataset:
        """As for all captions, with all references of each image where they are rewarded."""
        return CaptionDataset(
            samples,
            transform,
            captions=self.config.data.captions if training else "random",  # type: ignore[arg-type]
            references=training and self.settings.model.objective == "cider",
            seed=self.config.trainer.seed,
            **self.image_options,
        )

    def evaluate(
        self, model: FiberForCaptioning, samples: Sequence[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """BLEU, ROUGE-L (0..1) and CIDEr-D (`CIDEr`, 0..10) beside that of the most frequent caption."""
        captions: dict[Any, str] = {}
        own = model.config.generation
        generation = replace(self.settings.model.generation, **{name: getattr(own, name) for name in _TOKENS})
        for batch in self.batches(model, samples, processor, fabric):
            found = model.generate(batch["pixel_values"], generation)
            captions |= {name: best[0].text for name, best in zip(batch["ids"], found, strict=True)}
        samples, evaluation = self.collect(gather_by_id(captions), samples, "images")
        captions = dict(evaluation.outputs)
        file = json.dumps([{"image_id": name, "caption": text} for name, text in captions.items()])
        evaluation.predictions = self.keep({"predictions.json": file})
        evaluation.counts["num_images"] = len(samples)
        evaluation.measures += measure_captions(captions, _references(samples))
        return evaluation

    def preview(self, samples: Sequence[CaptionSample]) -> Evaluation:
        """The measures of one empty caption."""
        check_captioned(samples, self.config.data.eval_split)
        name, references = next(iter(_references(samples).items()))
        return Evaluation(measure_captions({name: ""}, {name: references}), counts={"num_images": len(samples)})

    def check_training(self, samples: Sequence[CaptionSample]) -> None:
        """Captions need words; a reward by words that are rare needs images to compare with."""
        super().check_training(samples)
        if self.settings.model.objective == "cider" and len(samples) < 2:
            split = self.config.data.train_split
            raise ValueError(f"{split}: the reward, CIDEr-D, is 0 for any caption of a single image; give more images")

    def show(self, model: FiberForCaptioning, samples: Sequence[CaptionSample], number: int) -> Shown:
        """Captions beside those of people."""
        shown = Shown(note="What the model writes; right is what a person wrote word for word.")
        for sample in spread(samples, number):
            image = load_image(sample["image"])
            written = [each.text or "" for each in model.caption(image)[0]]
            people = set(map(_plain, sample["captions"]))
            said = [Said(text, None, _plain(text) in people or None) for text in written]
            truth = "; ".join(sample["captions"][:2])
            shown.examples.append(Example((show_image(image),), (), tuple(said), truth))
        return shown

    def describe(self, found: Evaluation) -> str:
        """CIDEr-D beside that of the most frequent caption."""
        lines, cider = [f"{found.counts['num_images']:,} images"], found.find("CIDEr")
        lines.append(f"CIDEr-D        {cider.value:.3f} ({cider.baseline_name} {cider.baseline:.3f})")
        lines.append(f"BLEU-4         {found['Bleu_4']:.3f}")
        lines.append(f"ROUGE-L        {found['ROUGE_L']:.3f}")
        return "\n".join(lines)


def _plain(text: str) -> str:
    """A caption without case, blanks and full stop."""
    return " ".join(text.lower().split()).rstrip(".")


def _references(samples: Sequence[CaptionSample]) -> dict[Any, list[str]]:
    """By id the captions that have words."""
    known = glance(samples, "id", "captions")
    return {sample["id"]: [text for text in sample["captions"] if text.strip()] for sample in known}


def measure_captions(captions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> list[Measure]:
    """The caption metrics of captions by image id, CIDEr-D beside that of the most frequent reference."""
    common = Counter(text for texts in references.values() for text in texts).most_common(1)[0][0]
    guess = score_captions(dict.fromkeys(references, common), references, metrics=["cider_d"])
    return [
        Measure(name, float(value), float(guess[name]), "most frequent caption")
        if name in guess
        else Measure(name, float(value))
        for name, value in score_captions(captions, references).items()
    ]


@dataclass
class CiderReward:
    """CIDEr-D of sampled tokens against the references of their images, 0..10.

    Both sides are tokenized alike and end with a word for the end, so that stopping in mid-sentence is not rewarded.

    Args:
        tokenizer: That the tokens are of.
        frequencies: Of the training references, made by the same rule.
    """

    tokenizer: Any
    frequencies: DocumentFrequencies

    def __call__(self, token_ids: Tensor, references: Sequence[Sequence[str]]) -> Tensor:
        """Rewards (B S,) of samples (B S, L), S of each of B images one after the other."""
        texts = self.tokenizer.batch_decode(token_ids.tolist(), skip_special_tokens=True)
        repeats = len(texts) // len(references)
        right = [[_words(text) for text in of_image] for of_image in references]
        repeated = [of_image for of_image in right for _ in range(repeats)]
        return torch.from_numpy(cider_d_reward([_words(text) for text in texts], repeated, self.frequencies))


def _words(text: str) -> str:
    return f"{ptb_tokenize(text)} <eos>"
