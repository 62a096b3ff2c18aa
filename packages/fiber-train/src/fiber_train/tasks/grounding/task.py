"""The fine stage: detection by name, phrase grounding and referring expressions, alone or together."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain
from typing import Any

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import (
    DetectionDataset,
    GroundingDataset,
    GroundingProcessor,
    ImageTextCollator,
    PromptConfig,
    PromptSampler,
    Transform,
    build_detection_evaluation_transform,
    build_detection_training_transform,
    glance,
    take_shots,
)
from fiber_eval.submissions import MOST_DETECTIONS
from fiber_heads import FiberForGrounding, GroundingConfig
from lightning_fabric import Fabric
from torch.utils.data import ConcatDataset
from transformers import PreTrainedTokenizerBase

from fiber_train.classes import Classes
from fiber_train.config import share_of_lines
from fiber_train.data import backbone_sizes, trusted_names
from fiber_train.evaluation import Evaluation
from fiber_train.examples import Shown
from fiber_train.tasks.base import Task, fill_in
from fiber_train.tasks.grounding.boxes import (
    BoxData,
    as_boxes,
    files_of,
    has_box_to_learn,
    read_boxes,
    take_share,
    worded_categories,
)
from fiber_train.tasks.grounding.evaluation import (
    ask_phrases,
    describe,
    find_detection,
    find_expressions,
    find_phrases,
    score_detection,
    score_expressions,
    score_phrases,
)
from fiber_train.tasks.grounding.examples import show_boxes
from fiber_train.tasks.grounding.settings import BoxFiles, GroundingSettings
from fiber_train.tasks.grounding.views import Looker, View, views_of
from fiber_train.tasks.ids import only


class Grounding(Task[GroundingSettings]):
    """Boxes for words."""

    settings_class = GroundingSettings
    model_class = FiberForGrounding
    commands = (
        "fiber detect {image} --categories {categories} --checkpoint {run} --draw drawn",
        "fiber ground {image} {caption} --checkpoint {run} --draw drawn",
        "fiber refer {image} {caption} --checkpoint {run} --draw drawn",
    )
    training_settings = (
        *("model", "train", "original", "shots", "copies", "shorter", "longest", "shorter_in_evaluation", "flip"),
        *(f"prompts.{each.name}" for each in fields(PromptConfig) if each.name != "separator"),
    )

    @property
    def evaluation_batch_size(self) -> int:  # type: ignore[override]
        """Of the settings: images differ in size by data set."""
        return self.settings.evaluation_batch_size

    @property
    def submission(self) -> str:  # type: ignore[override]
        """Of boxes by category: LVIS takes more of them an image."""
        return "lvis" if self.settings.detection.max_detections > MOST_DETECTIONS["coco"] else "coco"

    @property
    def monitor(self) -> str:  # type: ignore[override]
        """The first measure that is taken."""
        files = self.settings.evaluate
        if self.given is None and self.config.data.format is None:
            files = files_of(self.config.data.root, self.config.data.eval_split, files)
        names = ["AP"] if files.detection else []
        names += [f"{name}/recall@1" for name in files.captions] + [f"{name}/P@1" for name in files.expressions]
        return names[0] if names else "AP"

    def read(self, split: str) -> BoxData:
        """The split's files of `task.evaluate`."""
        return self._read(split, self.settings.evaluate, "task.evaluate")

    def read_training(self) -> BoxData:
        """The training split's files of `task.train`."""
        return self._read(self.config.data.train_split, self.settings.train, "task.train")

    def _read(self, split: str, files: BoxFiles, setting: str) -> BoxData:
        data = self.config.data
        return read_boxes(self.open, split, files_of(data.root, split, files), setting, share_of_lines(data))

    def samples(self, split: str, training: bool = False) -> BoxData:
        """Boxes of any format; in training of categories as many shots as are asked for."""
        data = as_boxes(super().samples(split, training))
        if training and data.detection is not None and self.settings.shots is not None:
            few = take_shots(data.detection, self.settings.shots, seed=self.config.trainer.seed)
            copies = self.settings.copies or usual_copies(self.settings.shots)
            data.detection = replace(few, samples=[*few.samples] * copies)
        return data

    def take_share(self, samples: Any, share: float, *, held: bool) -> BoxData:
        """Of each file the boxes of the images that are held out, or of all others."""
        return take_share(as_boxes(samples), share, held=held)

    def texts(self, samples: BoxData) -> Iterator[str]:
        """Captions, expressions and names of categories."""
        for part in (*samples.captions.values(), *samples.expressions.values()):
            yield from (sample["caption"] for sample in glance(part, "caption"))
        yield from samples.detection.categories.values() if samples.detection else ()

    def classes(self, model: FiberForGrounding, samples: BoxData) -> Classes | None:
        """Categories, with their boxes."""
        if (data := samples.detection) is None:
            return None
        counts = Counter(chain.from_iterable(each["labels"] for each in glance(data.samples, "labels")))
        named = Counter[str]()  # several may have one name
        for number, name in data.categories.items():
            named[name] += counts[number]
        return Classes("categories", "boxes", named, apart=True)

    def backbone_switches(self) -> dict[str, Any]:
        """Those in which the stages differ, and the drop-path of a detector."""
        fine, coarse = asdict(FiberConfig().fine_stage()), asdict(FiberConfig())
        return {name: value for name, value in fine.items() if value != coarse[name]}

    def make_model(self, backbone: FiberBackbone, samples: BoxData, processor: GroundingProcessor) -> FiberForGrounding:
        """A fresh model."""
        last = backbone.strides[-1]
        strides = (last // 4, last // 2, last, 2 * last, 4 * last)
        length = self.config.data.max_length
        head = fill_in(self.settings.model, "task.model", strides=strides, max_tokens=length)
        if self.settings.original:
            given = {item.name: getattr(head, item.name) for item in fields(head)}
            usual = asdict(GroundingConfig())
            head = GroundingConfig.as_original(**{name: own for name, own in given.items() if own != usual[name]})
        return FiberForGrounding(backbone, head)

    def make_processor(self, tokenizer: PreTrainedTokenizerBase, start: Any = None) -> GroundingProcessor:
        """Images of any shape, padded to the backbone's last stride."""
        settings = self.settings
        with torch.device("meta"):  # sizes alone
            backbone = FiberBackbone.from_config(backbone_sizes(self.config), trusted=trusted_names(self.config))
        return GroundingProcessor(
            tokenizer,
            shorter=settings.shorter_in_evaluation,
            longest=settings.longest,
            max_length=self.config.data.max_length,
            size_divisor=backbone.strides[-1],
            **({} if start is None else {"mean": start.mean, "std": start.std}),
        )

    def make_transform(self, processor: GroundingProcessor, training: bool) -> Any:
        """One of several sizes and a flip in training."""
        settings = self.settings
        if not training:
            return build_detection_evaluation_transform(processor.shorter, processor.longest, normalize=False)
        return build_detection_training_transform(
            settings.shorter, settings.longest, flip_probability=settings.flip, normalize=False
        )

    def make_dataset(
        self, samples: BoxData, transform: Transform, training: bool, model: FiberForGrounding
    ) -> ConcatDataset:
        """All boxes of training; evaluations look at each file for itself."""
        seed = self.config.trainer.seed
        parts: list[Any] = []
        if samples.detection is not None:
            prompts = PromptSampler(
                worded_categories(samples.detection, self.settings.wording),
                model.processor.tokenizer,  # type: ignore[union-attr]
                self.settings.prompts,
                max_tokens=self.config.data.max_length - 2,
            )
            parts.append(DetectionDataset(samples.detection, transform, prompts, seed=seed, **self.image_options))
        if samples.texts:
            captions: Any = self.config.data.captions
            options = {"captions": captions, "seed": seed, **self.image_options}
            parts.append(GroundingDataset(samples.texts, transform, **options))
        return ConcatDataset(parts)

    def sampling_groups(self, dataset: ConcatDataset) -> dict[str, Any]:
        """Tall images meet tall ones."""
        return {"alike_groups": torch.cat([part.aspect_groups for part in dataset.datasets])}  # type: ignore[attr-defined]

    def needs_unused_parameters(self) -> bool:
        """Every parameter takes part in every step, boxes or not."""
        return False

    def make_collator(self, processor: GroundingProcessor, training: bool) -> ImageTextCollator:
        """Pads images to the backbone's last stride."""
        return ImageTextCollator(
            processor.tokenizer,
            processor.max_length,
            mlm_probability=None,
            size_divisor=processor.size_divisor,
        )

    def evaluate(
        self, model: FiberForGrounding, samples: BoxData, processor: GroundingProcessor, fabric: Fabric
    ) -> Evaluation:
        """Every file by its benchmark's measure, in 0..1.

        `AP`, `AP50` and the others of COCO, or of LVIS (fixed AP); of the file `name` of captions `name/recall@K`; of
        expressions `name/P@K`, `P@1` beside that of empty expressions. Predictions are those of each file by its name
        ("detection" for categories): by id the boxes found.
        """

        def batches(make: Callable[..., Any], view: View) -> Iterable[dict[str, Any]]:
            transform = build_detection_evaluation_transform(
                view.shorter, view.longest, normalize=False, mirror=view.mirrored
            )
            return self.batches_of(make(transform=transform, **self.image_options), processor, fabric)

        parts, settings, split = [], self.settings, self.config.data.eval_split
        views = views_of(settings, processor.shorter, processor.longest)
        look = Looker(batches, views, settings.test_time.merging)
        if (data := samples.detection) is not None:
            categories = worded_categories(data, settings.wording)
            parts.append(find_detection(model, data, categories, processor, look, settings))
        for name, captions in samples.captions.items():
            parts.append(find_phrases(model, name, captions, look, settings, split))
        for name, expressions in samples.expressions.items():
            parts.append(find_expressions(model, name, expressions, processor, look, settings))
        files = self.keep({name: content for part in parts for name, content in part.predictions.items()})
        return sum((part.score(self.collect) for part in parts), Evaluation(predictions=files))

    def only(self, samples: BoxData, outputs: Mapping[Any, Any]) -> BoxData:
        """Of each file those of which there are predictions."""
        captions, expressions = (
            {name: only(part, outputs[name]) for name, part in files.items()}
            for files in (samples.captions, samples.expressions)
        )
        if (data := samples.detection) is not None:
            data = replace(data, samples=only(data.samples, outputs["detection"]))
        return BoxData(data, captions, expressions)

    def preview(self, samples: BoxData) -> Evaluation:
        """The measures of no box found."""
        found, split = Evaluation(), self.config.data.eval_split
        if (data := samples.detection) is not None:
            rows: dict[Any, Any] = {sample["id"]: [] for sample in glance(data.samples, "id")}
            found += score_detection(rows, data, self.collect)
        for name, captions in samples.captions.items():
            asked = ask_phrases(name, captions)
            blank: dict[Any, Any] = {entry: [[] for _ in labels] for entry, (_, labels) in asked.items()}
            found += score_phrases(blank, name, captions, asked, self.settings, split, 0, self.collect)
        for name, expressions in samples.expressions.items():
            nothing: dict[Any, Any] = {sample["id"]: ([], []) for sample in glance(expressions, "id")}
            found += score_expressions(nothing, name, expressions, {}, self.collect)
        return found

    def parts(self, samples: BoxData) -> dict[str, Sequence[Any]]:
        """Each file has ids of its own."""
        return {f"{self.config.data.eval_split}, {name}": part for name, part in samples.parts.items()}

    def check_training(self, samples: BoxData) -> None:
        """One box that words name, in one of the files, is the least; of a file without any a warning tells."""
        keys, split = ("boxes", "spans", "iscrowd"), self.config.data.train_split
        bare = [name for name, part in samples.parts.items() if not any(map(has_box_to_learn, glance(part, *keys)))]
        if len(bare) == len(samples.parts):
            raise ValueError(
                f"{split}: not one box to learn from in {', '.join(bare)}; boxes count that hold something, are no "
                "crowds, and have words in the caption"
            )
        for name in bare:
            warnings.warn(f"{split}: not one box to learn from in {name}", stacklevel=2)

    def show(self, model: FiberForGrounding, samples: BoxData, number: int) -> Shown:
        """Boxes, right or wrong."""
        return show_boxes(model, samples, number)

    def describe(self, found: Evaluation) -> str:
        """A line for each file."""
        return describe(found)


def usual_copies(shots: int) -> int:
    """How often an epoch passes images of few-shot training: GLIP's 8, 4, 2 and 1 times with 1, 3, 5 and 10 shots."""
    return 2 ** max(0, round(math.log2(10 / shots)))
