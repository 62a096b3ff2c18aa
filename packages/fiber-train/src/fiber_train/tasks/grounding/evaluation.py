"""How well boxes fit words: detection by AP, phrases by recall, expressions by accuracy.

`batches` of the functions gives the evaluation batches of the data set that is made of the evaluation's transform.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fiber_data import (
    DetectionData,
    DetectionDataset,
    GroundingDataset,
    GroundingProcessor,
    GroundingSample,
    Wording,
    chunk_categories,
    encode_prompts,
    glance,
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
from fiber_heads.distributed import gather_by_id
from fiber_heads.grounding.model import REFERRING

from fiber_train.evaluation import Evaluation, Measure
from fiber_train.tasks.grounding.settings import GroundingSettings

_KS = (1, 5, 10)
_AP_NAMES = ("AP", "AP50", "AP75", "APr", "APc", "APf")
_AP_TITLES = {"AP": "AP, IoU 0.5 to 0.95", "AP50": "AP at IoU 0.5, categories by name"}
Batches = Callable[[Callable[[Any], Any]], Iterable[dict[str, Any]]]


def measure_detection(
    model: Any,
    data: DetectionData,
    categories: Mapping[int, str | Wording],
    processor: GroundingProcessor,
    batches: Batches,
    settings: GroundingSettings,
) -> Evaluation:
    """AP over the images that are on disk, against their boxes as they were read; of LVIS the fixed AP.

    Without any box, as in a test split, only predictions come out: COCO's results file.
    """
    tokenizer, length, separator = processor.tokenizer, processor.max_length, settings.prompts.separator
    prompts = chunk_categories(
        categories, tokenizer, max_tokens=length - 2, max_categories=settings.chunk_size, separator=separator
    )
    encoded = encode_prompts(prompts, tokenizer, max_length=length)
    rows: dict[Any, list[dict[str, Any]]] = {}
    for batch in batches(lambda transform: DetectionDataset(data, transform, prompts[0])):
        results = model.find_categories(batch, encoded, settings.detection, limit_together=not data.frequencies)
        rows |= {name: _coco_rows(name, result) for name, result in zip(batch["ids"], results, strict=True)}
    rows = gather_by_id(rows)
    ordered = [row for sample in glance(data.samples, "id") for row in rows[sample["id"]]]
    counts, files = {"num_images": len(data.samples)}, {"detections.json": json.dumps(ordered)}
    found = Evaluation([], files, counts, {"detection": rows})
    if any(sample["boxes"] for sample in glance(data.samples, "boxes")):
        truth = _ground_truth(data)
        truth["images"] = [image for image in truth["images"] if image["id"] in rows]
        truth["annotations"] = [box for box in truth["annotations"] if box["image_id"] in rows]
        scores = lvis_ap(ordered, truth, fixed=True) if data.frequencies else coco_ap(ordered, truth)
        found.measures += [
            Measure(name, float(value), title=_AP_TITLES.get(name, "")) for name, value in scores.items()
        ]
    return found


def _ground_truth(data: DetectionData) -> dict[str, Any]:
    """The samples as a file of annotations has them, with what LVIS adds; the file itself is not read again."""
    known = list(glance(data.samples, "id", "size", "boxes", "labels", "area", "iscrowd", *_lists(data)))
    annotations = [
        {"image_id": sample["id"], "category_id": label, "bbox": _sides(box), "area": area, "iscrowd": int(crowd)}
        for sample in known
        for box, label, area, crowd in zip(
            sample["boxes"], sample["labels"], sample["area"], sample["iscrowd"], strict=True
        )
    ]
    return {
        "images": [
            {"id": sample["id"], "height": sample["size"][0], "width": sample["size"][1]}
            | {key: sample.get(key, []) for key in _lists(data)}
            for sample in known
        ],
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
        "categories": [
            {"id": number, "name": name, "frequency": data.frequencies.get(number)}
            for number, name in data.categories.items()
        ],
    }


def _lists(data: DetectionData) -> tuple[str, ...]:
    """The keys of LVIS's samples."""
    return ("neg_category_ids", "not_exhaustive_category_ids") if data.frequencies else ()


def _sides(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _coco_rows(image_id: Any, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a results file of COCO: boxes as x, y, width, height."""
    boxes = result["boxes"].double()
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    columns = zip(sides.tolist(), result["scores"].tolist(), result["labels"].tolist(), strict=True)
    return [{"image_id": image_id, "category_id": label, "bbox": box, "score": score} for box, score, label in columns]


def measure_phrases(
    model: Any,
    name: str,
    samples: Sequence[GroundingSample],
    batches: Batches,
    settings: GroundingSettings,
    split: str,
) -> Evaluation:
    """Recall at K of boxes for phrases, by any box of a phrase; the predictions are MDETR's for Flickr30k.

    `split` is that of `settings.entities`, from which types of phrases come.
    """
    known = glance(samples, "id", "original_id", "sentence_id", "caption", "phrases", "boxes", "spans")
    asked = {sample["id"]: _annotated(sample, place) for place, sample in enumerate(known)}
    found: dict[Any, list[list[list[float]]]] = {}
    for batch, results in _find(model, samples, batches, settings.detection):
        for entry, result in zip(batch["ids"], results, strict=True):
            found[entry] = [result["boxes"][result["labels"] == label].tolist() for label in asked[entry][1]]
    found = gather_by_id(found)
    boxes = {asked[entry][0].key: of_phrases for entry, of_phrases in found.items()}
    sentences = [sentence for sentence, _ in asked.values()]
    if settings.entities is not None:
        sentences = read_flickr30k_entities(Path(settings.entities), split=split)
    entries = [{"image_id": key[0], "sentence_id": key[1], "boxes": each} for key, each in boxes.items()]
    files, counts = {f"{name}.json": json.dumps(entries)}, {_sentences(name): len(samples)}
    measured = Evaluation([], files, counts, {name: found})
    if any(sentence.phrases for sentence in sentences):
        titles = {"recall@1": f"phrases of captions found, {name}"}
        measured.measures += [
            Measure(f"{name}/{kind}", float(value), title=titles.get(kind, ""), group=name)
            for kind, value in phrase_grounding_recall(boxes, sentences, ks=_KS).items()
        ]
    return measured


def _annotated(sample: Mapping[str, Any], place: int) -> tuple[Sentence, list[int]]:
    """A caption with those of its phrases that have boxes, and their labels; a phrase has the boxes of its words."""
    caption, phrases, labels = sample["caption"], [], []
    for label, spans in enumerate(sample["phrases"], start=1):
        boxes = [box for box, own in zip(sample["boxes"], sample["spans"], strict=True) if set(own) & set(spans)]
        if boxes:
            words = " ".join(caption[start:end] for start, end in spans)
            phrases.append(Phrase(words, len(caption[: spans[0][0]].split()), (), tuple(boxes)))
            labels.append(label)
    number = sample.get("sentence_id", place)
    number = int(number) if str(number).isdecimal() else place
    return Sentence(str(sample["original_id"]), number, caption, tuple(phrases)), labels


def measure_expressions(
    model: Any,
    name: str,
    samples: Sequence[GroundingSample],
    processor: GroundingProcessor,
    batches: Batches,
    settings: GroundingSettings,
) -> Evaluation:
    """Precision at K of boxes for expressions, at 1 beside that of empty ones; predictions for `fiber-eval refcoco`."""
    found = _find_expressions(model, samples, batches, None)
    entries = {entry: {"boxes": boxes, "scores": scores} for entry, (boxes, scores) in found.items()}
    files, counts = {f"{name}.json": json.dumps(entries)}, {_expressions(name): len(samples)}
    measured = Evaluation([], files, counts, {name: found})
    targets = {sample["id"]: sample["boxes"][0] for sample in glance(samples, "id", "boxes") if sample["boxes"]}
    if len(targets) < len(samples):
        return measured
    blind: dict[str, float] = {}
    if settings.empty_expressions:
        blind = _precisions(_find_expressions(model, samples, batches, processor), targets, (1,))
    titles, guess = {"P@1": f"expressions found, {name}"}, "empty expression"
    measured.measures += [
        Measure(f"{name}/{kind}", value, blind.get(kind), guess * (kind in blind), True, "", titles.get(kind, ""), name)
        for kind, value in _precisions(found, targets, _KS).items()
    ]
    return measured


def _precisions(found: Mapping[Any, Any], targets: Mapping[Any, Any], ks: Sequence[int]) -> dict[str, float]:
    (precisions,) = referring_accuracy(found, targets, ks=ks).values()
    return {kind: float(value) for kind, value in precisions.items()}


def _find_expressions(
    model: Any, samples: Sequence[GroundingSample], batches: Batches, blind: GroundingProcessor | None
) -> dict[Any, tuple[list[list[float]], list[float]]]:
    """By id the boxes and scores of all processes."""
    found: dict[Any, tuple[list[list[float]], list[float]]] = {}
    for batch, results in _find(model, samples, batches, REFERRING, blind):
        for entry, result in zip(batch["ids"], results, strict=True):
            found[entry] = (result["boxes"].tolist(), result["scores"].tolist())
    return gather_by_id(found)


def _find(
    model: Any,
    samples: Sequence[GroundingSample],
    batches: Batches,
    settings: DetectionSettings,
    blind: GroundingProcessor | None = None,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Batches of captions with the boxes found for their phrases, or, with the processor `blind`, for empty texts."""
    for batch in batches(lambda transform: GroundingDataset(samples, transform)):
        asked = batch if blind is None else batch | _empty_texts(len(batch["ids"]), blind)
        yield batch, model.find(asked, settings)


def _empty_texts(count: int, processor: GroundingProcessor) -> dict[str, Any]:
    """Empty texts, whose special tokens stand for one phrase."""
    tokens = processor(text=[""] * count)
    maps = list(tokens["attention_mask"][:, None].bool())
    return {**tokens, "phrase_maps": maps, "phrase_labels": [torch.ones(1, dtype=torch.int64)] * count}


def _sentences(name: str) -> str:
    return f"{name}/num_sentences"


def _expressions(name: str) -> str:
    return f"{name}/num_expressions"


def describe(found: Evaluation) -> str:
    """A line for each file."""
    lines = []
    if "AP" in found:
        shown = "   ".join(f"{name} {found[name]:.3f}" for name in _AP_NAMES if name in found)
        lines.append(f"{found.counts['num_images']:,} images   {shown}")
    for name in dict.fromkeys(measure.group for measure in found.measures if measure.group):
        if (count := found.counts.get(_sentences(name))) is not None:
            shown = "   ".join(f"R@{k} {found[f'{name}/recall@{k}']:.3f}" for k in _KS)
            lines.append(f"{count:,} captions ({name})   {shown}")
        if (count := found.counts.get(_expressions(name))) is not None:
            accuracy = found.find(f"{name}/P@1")
            line = f"{count:,} expressions ({name})   accuracy {accuracy.value:.3f}"
            blind = accuracy.baseline
            lines.append(line if blind is None else f"{line} ({accuracy.baseline_name} {blind:.3f})")
    return "\n".join(lines)
