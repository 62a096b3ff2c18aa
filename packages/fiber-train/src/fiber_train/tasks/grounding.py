"""The fine stage: detection by name, phrase grounding and referring expressions, alone or together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import (
    DetectionData,
    DetectionDataset,
    GroundingDataset,
    GroundingProcessor,
    GroundingSample,
    ImageTextCollator,
    PromptSampler,
    Wording,
    build_detection_evaluation_transform,
    build_detection_training_transform,
    read_detection,
    read_grounding,
    take_shots,
)
from fiber_heads import FiberForGrounding
from fiber_heads import GroundingConfig as HeadConfig
from lightning_fabric import Fabric
from torch.utils.data import ConcatDataset

from fiber_train.config import BoxFilesConfig
from fiber_train.tasks.base import Evaluation, Task
from fiber_train.tasks.grounding_measures import describe, measure_detection, measure_expressions, measure_phrases


@dataclass
class BoxData:
    """The boxes of a split.

    Attributes:
        detection: By category.
        captions: By phrases of captions; a list for each file by its name.
        expressions: Of referring expressions, likewise.
    """

    detection: DetectionData | None = None
    captions: dict[str, list[GroundingSample]] = field(default_factory=dict)
    expressions: dict[str, list[GroundingSample]] = field(default_factory=dict)

    @property
    def texts(self) -> list[GroundingSample]:
        """All captions and expressions."""
        return [
            sample for files in (self.captions, self.expressions) for samples in files.values() for sample in samples
        ]


class Grounding(Task):
    """Boxes for words."""

    model_class = FiberForGrounding

    @property
    def evaluation_batch_size(self) -> int:  # type: ignore[override]
        """Of the configuration: pictures differ in size by task."""
        return self.config.grounding.evaluation_batch_size

    @property
    def monitor(self) -> str:  # type: ignore[override]
        """The first measure that is taken."""
        files = self.config.grounding.evaluate
        names = ["AP"] if files.detection else []
        names += [f"{name}/recall@1" for name in files.captions] + [f"{name}/P@1" for name in files.expressions]
        return names[0] if names else "AP"

    def read(self, split: str) -> BoxData:
        """The split's files of `grounding.evaluate`."""
        return self._read(split, self.config.grounding.evaluate, "grounding.evaluate")

    def read_training(self) -> BoxData:
        """The training split's files of `grounding.train`, of categories as many shots as are asked for."""
        data = self._read(self.config.data.train_split, self.config.grounding.train, "grounding.train")
        if data.detection is not None and self.config.grounding.shots is not None:
            data.detection = take_shots(data.detection, self.config.grounding.shots, self.config.trainer.seed)
        return data

    def _read(self, split: str, files: BoxFilesConfig, setting: str) -> BoxData:
        if not (files.detection or files.captions or files.expressions):
            raise ValueError(
                f"{setting} names no file; set {setting}.detection=true, {setting}.captions=[mixed] or "
                f"{setting}.expressions=[refcoco], by the names of the files"
            )
        root = Path(self.config.data.root)
        detection = read_detection(root, split=split) if files.detection else None
        captions, expressions = (
            {name: read_grounding(root, split=split, name=name) for name in names}
            for names in (files.captions, files.expressions)
        )
        return BoxData(detection, captions, expressions)

    def texts(self, samples: BoxData) -> Iterator[str]:
        """Captions, expressions and names of categories."""
        yield from (sample["caption"] for sample in samples.texts)
        yield from samples.detection.categories.values() if samples.detection else ()

    def backbone_switches(self) -> dict[str, Any]:
        """Those in which the stages differ, and the drop-path of a detector."""
        fine, coarse = asdict(FiberConfig().fine_stage()), asdict(FiberConfig())
        return {name: value for name, value in fine.items() if value != coarse[name]}

    def make_model(self, backbone: FiberBackbone, samples: BoxData, processor: GroundingProcessor) -> FiberForGrounding:
        """A fresh model."""
        settings = self.config.grounding
        make = HeadConfig.as_original if settings.original else HeadConfig
        last = backbone.config.strides[-1]
        sizes = {"strides": (last // 4, last // 2, last, 2 * last, 4 * last), "max_tokens": self.config.data.max_length}
        return FiberForGrounding(backbone, make(**{**sizes, **settings.head}))

    def make_processor(self, tokenizer: Any, start: Any = None) -> GroundingProcessor:
        """Pictures of any shape, padded to the backbone's last stride."""
        settings, normalization = self.config.grounding, () if start is None else (start.mean, start.std)
        sizes = settings.shorter_in_evaluation, settings.longest, self.config.data.max_length
        model = self.config.model
        stride = FiberConfig.from_preset(model.preset, **model.overrides).strides[-1]
        return GroundingProcessor(tokenizer, *sizes, stride, *normalization)

    def make_transform(self, processor: GroundingProcessor, training: bool) -> Any:
        """One of several sizes and a flip in training."""
        settings, normalization = self.config.grounding, (processor.mean, processor.std)
        if not training:
            return build_detection_evaluation_transform(processor.shorter, processor.longest, *normalization)
        shorter, longest = settings.shorter, settings.longest
        return build_detection_training_transform(shorter, longest, *normalization, flip_probability=settings.flip)

    def make_dataset(self, samples: BoxData, transform: Any, training: bool, model: FiberForGrounding) -> ConcatDataset:
        """All boxes of training; evaluations look at each file for itself."""
        seed = self.config.trainer.seed
        parts: list[Any] = []
        if samples.detection is not None:
            parts.append(DetectionDataset(samples.detection, transform, self._sampler(samples, model), seed=seed))
        if samples.texts:
            captions = self.config.data.captions
            parts.append(GroundingDataset(samples.texts, transform, captions=captions, seed=seed))  # type: ignore[arg-type]
        return ConcatDataset(parts)

    def _sampler(self, samples: BoxData, model: FiberForGrounding) -> PromptSampler:
        assert samples.detection is not None
        settings = self.config.grounding.prompts
        return PromptSampler(
            self.categories(samples.detection),
            model.processor.tokenizer,  # type: ignore[union-attr]
            max_negatives=settings.max_negatives,
            one_negative=settings.one_negative,
            no_negatives=settings.no_negatives,
            all_negatives=settings.all_negatives,
            max_tokens=self.config.data.max_length - 2,
            separator=settings.separator,
        )

    def categories(self, data: DetectionData) -> dict[int, str | Wording]:
        """Names of categories, or what `prompts.wording` says instead of them.

        Raises:
            ValueError: A wording is for no category, or has no name in braces.
        """
        wording = self.config.grounding.prompts.wording
        if unknown := wording.keys() - set(data.categories.values()):
            raise ValueError(
                f"grounding.prompts.wording: {sorted(unknown)[0]!r} is no category of {data.path}; it has "
                f"{', '.join(sorted(data.categories.values())[:8])}"
            )
        return {number: _worded(wording[name]) if name in wording else name for number, name in data.categories.items()}

    def sampling_groups(self, dataset: ConcatDataset) -> dict[str, Any]:
        """Tall pictures meet tall ones."""
        return {"alike_groups": torch.cat([part.aspect_groups for part in dataset.datasets])}  # type: ignore[attr-defined]

    def needs_unused_parameters(self) -> bool:
        """Every parameter takes part in every step, boxes or not."""
        return False

    def make_collator(self, processor: GroundingProcessor, training: bool) -> ImageTextCollator:
        """Pads pictures to the backbone's last stride."""
        return ImageTextCollator(
            processor.tokenizer, processor.max_length, None, fill_broken=True, size_divisor=processor.size_divisor
        )

    def evaluate(self, model: Any, samples: BoxData, processor: GroundingProcessor, fabric: Fabric) -> Evaluation:
        """Every file by its benchmark's measure, in 0..1.

        `AP`, `AP50` and the others of COCO, or of LVIS (fixed AP); of the file `name` of captions `name/recall@K`; of
        expressions `name/P@K`, and `name/P@1_empty`, that of empty expressions.
        """
        numbers: dict[str, float] = {}
        predictions: dict[str, str | bytes] = {}
        parts = (
            [] if samples.detection is None else [measure_detection(self, model, samples.detection, processor, fabric)]
        )
        parts += [measure_phrases(self, model, *item, processor, fabric) for item in samples.captions.items()]
        parts += [measure_expressions(self, model, *item, processor, fabric) for item in samples.expressions.items()]
        for part in parts:
            numbers |= part.numbers
            predictions |= part.predictions
        return Evaluation(numbers, predictions)

    def describe(self, numbers: dict[str, float]) -> str:
        """A line for each file."""
        return describe(numbers)


def _worded(text: str) -> Wording:
    parts = re.fullmatch(r"([^{}]*)\{([^{}]+)\}([^{}]*)", text)
    if parts is None:
        raise ValueError(
            f"grounding.prompts.wording: expected one name in braces, as in 'some {{holes}}', got {text!r}"
        )
    return Wording(parts[2], parts[1], parts[3])
