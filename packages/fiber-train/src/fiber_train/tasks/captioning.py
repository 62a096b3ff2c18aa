"""Captioning, by likelihood, off-policy weights or a self-critical reward, measured by the caption metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fiber_backbone import FiberBackbone
from fiber_data import CaptionDataset, CaptionSample, FiberProcessor
from fiber_eval import score_captions
from fiber_eval.captioning import DocumentFrequencies, cider_d_reward, ptb_tokenize
from fiber_heads import CaptioningConfig, FiberForCaptioning, GenerationConfig
from lightning_fabric import Fabric
from torch import Tensor

from fiber_train.tasks.base import Evaluation, gather
from fiber_train.tasks.pretraining import CaptionTask


class Captioning(CaptionTask):
    """Texts for pictures."""

    model_class = FiberForCaptioning
    monitor = "CIDEr"
    evaluation_batch_size = 16

    def backbone_switches(self) -> dict[str, Any]:
        """The text stream reads a finished image through projections of its own."""
        return {"decoder_projections": True}

    def make_model(
        self, backbone: FiberBackbone, samples: list[CaptionSample], processor: FiberProcessor
    ) -> FiberForCaptioning:
        """A fresh model whose texts begin, end and are filled up by the tokenizer's own tokens."""
        settings, tokenizer = self.config.captioning, processor.tokenizer
        generation = GenerationConfig(
            num_beams=settings.num_beams,
            max_length=settings.generated_length,
            min_length=settings.min_length,
            begin_token_id=tokenizer.bos_token_id,
            end_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            forbidden_token_ids=(tokenizer.unk_token_id, tokenizer.mask_token_id),
        )
        return FiberForCaptioning(
            backbone,
            CaptioningConfig(
                objective=settings.objective,  # type: ignore[arg-type]
                refresh_every=settings.refresh_every * self.config.trainer.accumulate,
                num_samples=settings.num_samples,
                reward_weight=settings.reward_weight,
                baseline=settings.baseline,  # type: ignore[arg-type]
                generation=generation,
            ),
        )

    def prepare_training(self, model: FiberForCaptioning, samples: list[CaptionSample], processor: Any) -> None:
        """The reward weighs words by how many training pictures have them in their captions."""
        if self.config.captioning.objective == "cider":
            references = [[_words(text) for text in sample["captions"]] for sample in samples]
            model.reward = CiderReward(processor.tokenizer, DocumentFrequencies.count(references))

    def make_dataset(self, samples: list[CaptionSample], transform: Any, training: bool, model: Any) -> CaptionDataset:
        """As for all captions, with all references of each picture where they are rewarded."""
        return CaptionDataset(
            samples,
            transform,
            captions=self.config.data.captions if training else "random",  # type: ignore[arg-type]
            references=training and self.config.captioning.objective == "cider",
            seed=self.config.trainer.seed,
        )

    def evaluate(
        self, model: Any, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
    ) -> Evaluation:
        """BLEU, ROUGE-L (0..1), CIDEr-D (`CIDEr`, 0..10), and `constant/CIDEr`, that of the most frequent caption."""
        captions: dict[Any, str] = {}
        for batch in self.batches(model, samples, processor, fabric):
            found = model.generate(batch["pixel_values"])
            captions |= {name: best[0].text for name, best in zip(batch["ids"], found, strict=True)}
        captions = gather(captions)
        references = {sample["id"]: sample["captions"] for sample in samples}
        predictions = json.dumps([{"image_id": name, "caption": text} for name, text in captions.items()])
        common = Counter(text for texts in references.values() for text in texts).most_common(1)[0][0]
        guessed = score_captions(dict.fromkeys(references, common), references, metrics=["cider_d"])
        numbers = {"num_images": len(samples), **score_captions(captions, references)}
        return Evaluation(numbers | {"constant/CIDEr": guessed["CIDEr"]}, {"predictions.json": predictions})

    def describe(self, numbers: dict[str, float]) -> str:
        """CIDEr-D beside that of the most frequent caption."""
        lines = [f"{int(numbers['num_images']):,} pictures"]
        lines.append(f"CIDEr-D        {numbers['CIDEr']:.3f} (most frequent caption {numbers['constant/CIDEr']:.3f})")
        lines.append(f"BLEU-4         {numbers['Bleu_4']:.3f}")
        lines.append(f"ROUGE-L        {numbers['ROUGE_L']:.3f}")
        return "\n".join(lines)


@dataclass
class CiderReward:
    """CIDEr-D of sampled tokens against the references of their pictures, 0..10.

    Both sides are tokenised alike and end with a word for the end, so that stopping in mid-sentence is not rewarded.

    Args:
        tokenizer: That the tokens are of.
        frequencies: Of the training references, made by the same rule.
    """

    tokenizer: Any
    frequencies: DocumentFrequencies

    def __call__(self, token_ids: Tensor, references: Sequence[Sequence[str]]) -> Tensor:
        """Rewards (B S,) of samples (B S, L), S of each of B pictures one after the other."""
        texts = self.tokenizer.batch_decode(token_ids.tolist(), skip_special_tokens=True)
        repeats = len(texts) // len(references)
        right = [[_words(text) for text in of_picture] for of_picture in references]
        repeated = [of_picture for of_picture in right for _ in range(repeats)]
        return torch.from_numpy(cider_d_reward([_words(text) for text in texts], repeated, self.frequencies))


def _words(text: str) -> str:
    return f"{ptb_tokenize(text)} <eos>"
