"""How well boxes fit words: detection by AP, phrases by recall, expressions by accuracy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fiber_data import (
    DetectionData,
    DetectionDataset,
    GroundingDataset,
    GroundingProcessor,
    GroundingSample,
    chunk_categories,
    encode_prompts,
)
from fiber_eval import (
    Phrase,
    Sentence,
    coco_ap,
    lvis_ap,
    phrase_grounding_recall,
    read_flickr30k_entities,
    referring_accuracy,
)
from fiber_heads import DetectionSettings
from fiber_heads.grounding.model import REFERRING
from lightning_fabric import Fabric

from fiber_train.tasks.base import Evaluation, gather

if TYPE_CHECKING:
    from fiber_train.tasks.grounding import Grounding

_KS = (1, 5, 10)


def measure_detection(
    task: Grounding, model: Any, data: DetectionData, processor: GroundingProcessor, fabric: Fabric
) -> Evaluation:
    """AP over the pictures that are on disk, against the annotation file; of LVIS the fixed AP.

    Without any box, as in a test split, only predictions come out: COCO's results file.
    """
    settings = task.config.grounding
    prompts = chunk_categories(
        task.categories(data),
        processor.tokenizer,
        processor.max_length - 2,
        settings.prompts.chunk_size,
        separator=settings.prompts.separator,
    )
    encoded = encode_prompts(prompts, processor.tokenizer, processor.max_length)
    dataset = DetectionDataset(data, task.make_transform(processor, False), prompts[0])
    found: dict[Any, list[dict[str, Any]]] = {}
    for batch in task.batches_of(dataset, processor, fabric):
        results = model.find_categories(batch, encoded, detection_settings(task), limit_together=not data.frequencies)
        found |= {name: _coco_rows(name, result) for name, result in zip(batch["ids"], results, strict=True)}
    found = gather(found)
    rows = [row for sample in data.samples for row in found[sample["id"]]]
    numbers: dict[str, float] = {"num_images": len(data.samples)}
    if any(sample["boxes"] for sample in data.samples):
        assert data.path is not None
        truth = json.loads(data.path.read_text(encoding="utf-8"))
        truth["images"] = [image for image in truth["images"] if image["id"] in found]
        truth["annotations"] = [box for box in truth["annotations"] if box["image_id"] in found]
        numbers |= lvis_ap(truth, rows, fixed=True) if data.frequencies else coco_ap(truth, rows)
    return Evaluation(numbers, {"detections.json": json.dumps(rows)})


def detection_settings(task: Grounding) -> DetectionSettings:
    """The run's threshold and count."""
    settings = task.config.grounding
    return DetectionSettings(score_threshold=settings.score_threshold, max_detections=settings.max_detections)


def _coco_rows(image_id: Any, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a results file of COCO: boxes as x, y, width, height."""
    boxes = result["boxes"].double()
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    columns = zip(sides.tolist(), result["scores"].tolist(), result["labels"].tolist(), strict=True)
    return [{"image_id": image_id, "category_id": label, "bbox": box, "score": score} for box, score, label in columns]


def measure_phrases(
    task: Grounding,
    model: Any,
    name: str,
    samples: list[GroundingSample],
    processor: GroundingProcessor,
    fabric: Fabric,
) -> Evaluation:
    """Recall at K of boxes for phrases, by any box of a phrase; the predictions are MDETR's for Flickr30k."""
    asked = {sample["id"]: _annotated(sample, place) for place, sample in enumerate(samples)}
    found: dict[Any, list[list[list[float]]]] = {}
    for batch, results in _find(task, model, samples, processor, fabric, detection_settings(task)):
        for entry, result in zip(batch["ids"], results, strict=True):
            found[entry] = [result["boxes"][result["labels"] == label].tolist() for label in asked[entry][1]]
    boxes = {asked[entry][0].key: of_phrases for entry, of_phrases in gather(found).items()}
    sentences = [sentence for sentence, _ in asked.values()]
    if (folder := task.config.grounding.entities) is not None:
        sentences = read_flickr30k_entities(Path(folder), task.config.data.eval_split)
    numbers: dict[str, float] = {f"{name}/num_sentences": len(samples)}
    if any(sentence.phrases for sentence in sentences):
        recalls = phrase_grounding_recall(sentences, boxes, _KS)
        numbers |= {f"{name}/{kind}": float(value) for kind, value in recalls.items()}
    entries = [{"image_id": key[0], "sentence_id": key[1], "boxes": each} for key, each in boxes.items()]
    return Evaluation(numbers, {f"{name}.json": json.dumps(entries)})


def _annotated(sample: GroundingSample, place: int) -> tuple[Sentence, list[int]]:
    """A caption with those of its phrases that have boxes, and their labels; a phrase has the boxes of its words."""
    caption, phrases, labels = sample["caption"], [], []
    for label, spans in enumerate(sample["phrases"], start=1):
        boxes = [box for box, own in zip(sample["boxes"], sample["spans"], strict=True) if set(own) & set(spans)]
        if boxes:
            words = " ".join(caption[start:end] for start, end in spans)
            phrases.append(Phrase(words, len(caption[: spans[0][0]].split()), (), tuple(boxes)))
            labels.append(label)
    number = int(sample.get("sentence_id", place))
    return Sentence(str(sample["original_id"]), number, caption, tuple(phrases)), labels


def measure_expressions(
    task: Grounding,
    model: Any,
    name: str,
    samples: list[GroundingSample],
    processor: GroundingProcessor,
    fabric: Fabric,
) -> Evaluation:
    """Precision at K of boxes for expressions, and at 1 for empty ones; the predictions are `fiber-eval refcoco`'s."""
    numbers: dict[str, float] = {f"{name}/num_expressions": len(samples)}
    targets = {sample["id"]: sample["boxes"][0] for sample in samples if sample["boxes"]}
    predictions: dict[str, str] = {}
    for empty in (False, True) if task.config.grounding.empty_expressions else (False,):
        found: dict[Any, tuple[list[list[float]], list[float]]] = {}
        for batch, results in _find(task, model, samples, processor, fabric, REFERRING, empty):
            for entry, result in zip(batch["ids"], results, strict=True):
                found[entry] = (result["boxes"].tolist(), result["scores"].tolist())
        found = gather(found)
        if not empty:
            entries = {entry: {"boxes": boxes, "scores": scores} for entry, (boxes, scores) in found.items()}
            predictions[f"{name}.json"] = json.dumps(entries)
        if len(targets) == len(samples):
            (precisions,) = referring_accuracy(targets, found, ks=(1,) if empty else _KS).values()
            numbers |= {f"{name}/{k}{'_empty' * empty}": value for k, value in precisions.items()}
    return Evaluation(numbers, predictions)


def _find(
    task: Grounding,
    model: Any,
    samples: list[GroundingSample],
    processor: GroundingProcessor,
    fabric: Fabric,
    settings: DetectionSettings,
    empty: bool = False,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Batches of captions with the boxes found for their phrases; or, if `empty`, for no word at all."""
    dataset = GroundingDataset(samples, task.make_transform(processor, False))
    for batch in task.batches_of(dataset, processor, fabric):
        yield batch, model.find(batch | _empty_texts(len(batch["ids"]), processor) if empty else batch, settings)


def _empty_texts(count: int, processor: GroundingProcessor) -> dict[str, Any]:
    """Empty texts, whose special tokens stand for one phrase."""
    tokens = processor(text=[""] * count)
    maps = list(tokens["attention_mask"][:, None].bool())
    return {**tokens, "phrase_maps": maps, "phrase_labels": [torch.ones(1, dtype=torch.int64)] * count}


def describe(numbers: dict[str, float]) -> str:
    """A line for each measure."""
    lines = []
    if "AP" in numbers:
        names = [name for name in ("AP", "AP50", "AP75", "APr", "APc", "APf") if name in numbers]
        shown = "   ".join(f"{name} {numbers[name]:.3f}" for name in names)
        lines.append(f"{int(numbers['num_images']):,} pictures   {shown}")
    for key, value in numbers.items():
        name, _, kind = key.rpartition("/")
        if kind == "num_sentences" and f"{name}/recall@1" in numbers:
            shown = "   ".join(f"R@{k} {numbers[f'{name}/recall@{k}']:.3f}" for k in _KS)
            lines.append(f"{int(value):,} captions ({name})   {shown}")
        if kind == "num_expressions" and f"{name}/P@1" in numbers:
            line = f"{int(value):,} expressions ({name})   accuracy {numbers[f'{name}/P@1']:.3f}"
            blind = numbers.get(f"{name}/P@1_empty")
            lines.append(line if blind is None else f"{line} (empty expression {blind:.3f})")
    return "\n".join(lines)
