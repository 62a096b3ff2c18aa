"""How well boxes fit words: detection by AP, phrases by recall, expressions by accuracy.

`look` of the functions asks the model about the images of a data set in all their views; `collect` is
`fiber_train.Task.collect`. What is found of all files is to be kept before any of it is scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from fiber_heads import DetectionSettings, FiberForGrounding
from fiber_heads.distributed import gather_by_id
from fiber_heads.grounding.model import REFERRING

from fiber_train.evaluation import Evaluation, LeftOut, Measure
from fiber_train.tasks.base import NO_ANNOTATIONS
from fiber_train.tasks.grounding.boxes import has_box_to_learn, is_box
from fiber_train.tasks.grounding.settings import GroundingSettings
from fiber_train.tasks.grounding.views import Looker
from fiber_train.tasks.ids import in_order

_KS = (1, 5, 10)
_AP_NAMES = ("AP", "AP50", "AP75", "APr", "APc", "APf")
_AP_TITLES = {"AP": "AP, IoU 0.5 to 0.95", "AP50": "AP at IoU 0.5, categories by name"}
Collect = Callable[..., tuple[Sequence[Any], Evaluation]]


@dataclass
class Found:
    """What a model found for one file.

    Attributes:
        predictions: The file that the benchmark's tool takes, by its name.
        score: Measures it.
    """

    predictions: dict[str, str]
    score: Callable[[Collect], Evaluation]


def find_detection(
    model: FiberForGrounding,
    data: DetectionData,
    categories: Mapping[int, str | Wording],
    processor: GroundingProcessor,
    look: Looker,
    settings: GroundingSettings,
) -> Found:
    """The boxes of all categories; the predictions are COCO's results file."""
    tokenizer, length, separator = processor.tokenizer, processor.max_length, settings.prompts.separator
    prompts = chunk_categories(
        categories, tokenizer, max_tokens=length - 2, max_categories=settings.chunk_size, separator=separator
    )
    encoded = encode_prompts(prompts, tokenizer, max_length=length)
    rows: dict[Any, list[dict[str, Any]]] = {}
    together = not data.frequencies
    find = partial(model.find_categories, prompts=encoded, settings=settings.detection, limit_together=together)
    make, names = partial(DetectionDataset, data, prompts=prompts[0]), " . ".join(map(str, categories.values()))
    for batch, results in look(make, find, settings.detection, words=names, limit_together=together):
        if data.frequencies:
            results = _as_evaluated(model, results)
        rows |= {name: _coco_rows(name, result) for name, result in zip(batch["ids"], results, strict=True)}
    rows = gather_by_id(rows)
    ordered = [row for sample in glance(data.samples, "id") for row in rows.get(sample["id"], ())]
    return Found({"detections.json": json.dumps(ordered)}, partial(score_detection, rows, data))


def score_detection(rows: Mapping[Any, list[dict[str, Any]]], data: DetectionData, collect: Collect) -> Evaluation:
    """AP of COCO's rows by image id over the images that could be read, against their boxes; of LVIS the fixed AP.

    Images without boxes count where others have some that are no crowds; without any box, as in a test split, nothing
    is measured.
    """
    samples, found = collect(rows, data.samples, "images")
    found.outputs = {"detection": rows}
    if not any(map(has_box_to_learn, glance(samples, "boxes", "iscrowd"))):
        found.left_out += LeftOut.of("images", list(rows), len(rows), NO_ANNOTATIONS)
        return found
    truth = _ground_truth(replace(data, samples=samples))
    ordered = [row for sample in glance(samples, "id") for row in rows[sample["id"]]]
    scores = lvis_ap(ordered, truth, fixed=True) if data.frequencies else coco_ap(ordered, truth)
    found.counts["num_images"] = len(rows)
    found.measures += [Measure(name, float(value), title=_AP_TITLES.get(name, "")) for name, value in scores.items()]
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
    """Rows of a results file of COCO: half-open boxes as x, y, width, height.

    Of the original's inclusive boxes the width is x2 - x1 + 1 in their own terms, as in its files for COCO and ODinW.
    """
    boxes = result["boxes"].double()
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    columns = zip(sides.tolist(), result["scores"].tolist(), result["labels"].tolist(), strict=True)
    return [{"image_id": image_id, "category_id": label, "bbox": box, "score": score} for box, score, label in columns]


def _as_evaluated(model: Any, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as the evaluators of LVIS, Flickr30k and expressions get them: half-open, as everywhere.

    With one exception: those of the original take x2 - x1 for the width of its inclusive boxes, a pixel less than they
    are wide. A detector with `GroundingConfig.inclusive_boxes` is measured so too, or its numbers would not be
    comparable with published ones; its boxes then lack the pixel in the files of predictions as well.
    """
    if not model.config.inclusive_boxes:
        return results
    cut = [
        torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:] - 1, boxes[:, :2])], dim=1)
        for boxes in (result["boxes"] for result in results)
    ]
    return [{**result, "boxes": boxes} for result, boxes in zip(results, cut, strict=True)]


def find_phrases(
    model: FiberForGrounding,
    name: str,
    samples: Sequence[GroundingSample],
    look: Looker,
    settings: GroundingSettings,
    split: str,
) -> Found:
    """Boxes for phrases; the predictions are MDETR's for Flickr30k.

    Phrases that the longest text cuts off cannot be asked, and count as not found; `num_cut_phrases` says how many.
    """
    asked = ask_phrases(name, samples)
    found: dict[Any, list[list[list[float]]]] = {}
    cut: dict[Any, int] = {}
    for batch, results in _find(model, samples, look, settings.detection):
        for entry, result, maps in zip(batch["ids"], results, batch["phrase_maps"], strict=True):
            cut[entry] = sum(not maps[label - 1].any() for label in asked[entry][1])
            found[entry] = [result["boxes"][result["labels"] == label].tolist() for label in asked[entry][1]]
    found, num_cut = in_order(samples, gather_by_id(found)), sum(gather_by_id(cut).values())
    keys = {entry: asked[entry][0].key for entry in found}
    entries = [{"image_id": key[0], "sentence_id": key[1], "boxes": found[entry]} for entry, key in keys.items()]
    score = partial(score_phrases, found, name, samples, asked, settings, split, num_cut)
    return Found({f"{name}.json": json.dumps(entries)}, score)


def ask_phrases(name: str, samples: Sequence[GroundingSample]) -> dict[Any, tuple[Sentence, list[int]]]:
    """By id the captions of the file `name` with those of their phrases that have boxes, and these phrases' labels.

    Raises:
        ValueError: Two captions are one for the benchmark: of one image, by the same number.
    """
    known = glance(samples, "id", "original_id", "sentence_id", "caption", "phrases", "boxes", "spans")
    asked = {sample["id"]: _annotated(sample, place) for place, sample in enumerate(known)}
    seen: dict[Any, Any] = {}
    for entry, (sentence, _) in asked.items():
        if (first := seen.setdefault(sentence.key, entry)) != entry:
            raise ValueError(
                f"{name}: captions {first!r} and {entry!r} are both number {sentence.sentence_id} of image "
                f"{sentence.image_id!r}; give each a sentence_id of its own, or none"
            )
    return asked


def score_phrases(
    found: Mapping[Any, list[list[list[float]]]],
    name: str,
    samples: Sequence[GroundingSample],
    asked: Mapping[Any, tuple[Sentence, list[int]]],
    settings: GroundingSettings,
    split: str,
    num_cut: int,
    collect: Collect,
) -> Evaluation:
    """Recall at K of boxes by caption, a list for each phrase of `asked`, by any box of a phrase.

    `split` is that of `settings.entities`, from which types of phrases come.
    """
    samples, measured = collect(found, samples, "captions", name)
    measured.outputs = {name: found}
    if num_cut:
        measured.counts[_cut_phrases(name)] = num_cut
    known = {sentence.key for sentence, _ in asked.values()}
    asked = {entry: asked[entry] for entry in asked if entry in found}
    boxes = {asked[entry][0].key: of_phrases for entry, of_phrases in found.items()}
    bare = [entry for entry, (sentence, _) in asked.items() if not sentence.phrases]
    num_phrases = [len(sample["phrases"]) for sample in glance(samples, "phrases")]
    boxless = [  # an id for each phrase
        entry
        for count, (entry, (sentence, _)) in zip(num_phrases, asked.items(), strict=True)
        for _ in range(count - len(sentence.phrases))
    ]
    sentences = [sentence for sentence, _ in asked.values()]
    if settings.entities is not None:
        every = read_flickr30k_entities(Path(settings.entities), split=split)
        sentences = [sentence for sentence in every if sentence.key in boxes]
        absent = [" ".join(map(str, sentence.key)) for sentence in every if sentence.key not in known]
        measured.left_out += LeftOut.of("captions", absent, len(every), "in task.entities alone", name)
    else:
        measured.left_out += LeftOut.of("captions", bare, len(asked), "no phrase with a box", name)
        measured.left_out += LeftOut.of("phrases", boxless, sum(num_phrases), "no box has their very words", name)
    if num_measured := sum(bool(sentence.phrases) for sentence in sentences):
        measured.counts[_sentences(name)] = num_measured
        titles = {"recall@1": f"phrases of captions found, {name}"}
        measured.measures += [
            Measure(f"{name}/{kind}", float(value), title=titles.get(kind, ""), group=name)
            for kind, value in phrase_grounding_recall(boxes, sentences, ks=_KS).items()
        ]
    return measured


def _annotated(sample: Mapping[str, Any], place: int) -> tuple[Sentence, list[int]]:
    """A caption with those of its phrases that have boxes, and their labels; a phrase has the boxes of its words."""
    caption, phrases, labels = sample["caption"], [], []
    rows = [row for row in zip(sample["boxes"], sample["spans"], strict=True) if is_box(row[0])]
    for label, spans in enumerate(sample["phrases"], start=1):
        boxes = [box for box, own in rows if set(own) & set(spans)]
        if boxes:
            words = " ".join(caption[start:end] for start, end in spans)
            phrases.append(Phrase(words, len(caption[: spans[0][0]].split()), (), tuple(boxes)))
            labels.append(label)
    number = sample.get("sentence_id", place)
    if not str(number).isdecimal():
        raise ValueError(f"caption {sample['id']!r}: sentence_id must be a whole number from 0 on, but is {number!r}")
    return Sentence(str(sample["original_id"]), int(number), caption, tuple(phrases)), labels


def find_expressions(
    model: FiberForGrounding,
    name: str,
    samples: Sequence[GroundingSample],
    processor: GroundingProcessor,
    look: Looker,
    settings: GroundingSettings,
) -> Found:
    """Boxes for expressions and, if the settings ask, for empty ones; predictions for `fiber-eval refcoco`."""
    found = _find_expressions(model, samples, look, None)
    blind: dict[Any, Any] = {}
    if settings.empty_expressions:
        blind = _find_expressions(model, samples, look, processor)
    found = in_order(samples, found)
    entries = {entry: {"boxes": boxes, "scores": scores} for entry, (boxes, scores) in found.items()}
    score = partial(score_expressions, found, name, samples, blind)
    return Found({f"{name}.json": json.dumps(entries)}, score)


def score_expressions(
    found: Mapping[Any, tuple[list[list[float]], list[float]]],
    name: str,
    samples: Sequence[GroundingSample],
    blind: Mapping[Any, Any],
    collect: Collect,
) -> Evaluation:
    """Precision at K of boxes and scores by expression, of those expressions that have one box.

    At 1 it stands beside that of `blind`, what was found for empty expressions, if that was asked.
    """
    samples, measured = collect(found, samples, "expressions", name)
    measured.outputs = {name: found}
    targets: dict[Any, Any] = {}
    bare: list[Any] = []
    several: list[Any] = []
    for sample in glance(samples, "id", "boxes"):
        boxes = [box for box in sample["boxes"] if is_box(box)]
        if len(boxes) == 1:
            targets[sample["id"]] = boxes[0]
        else:
            (several if boxes else bare).append(sample["id"])
    total = len(targets) + len(bare) + len(several)
    measured.left_out += LeftOut.of("expressions", bare, total, "no box", name)
    measured.left_out += LeftOut.of("expressions", several, total, "several boxes", name)
    if not targets:
        return measured
    guessed = _precisions(blind, targets, (1,)) if blind else {}
    titles, guess = {"P@1": f"expressions found, {name}"}, "empty expression"
    measured.counts[_expressions(name)] = len(targets)
    measured.measures += [
        Measure(
            f"{name}/{kind}", value, guessed.get(kind), guess * (kind in guessed), True, "", titles.get(kind, ""), name
        )
        for kind, value in _precisions(found, targets, _KS).items()
    ]
    return measured


def _precisions(found: Mapping[Any, Any], targets: Mapping[Any, Any], ks: Sequence[int]) -> dict[str, float]:
    (precisions,) = referring_accuracy({name: found[name] for name in targets}, targets, ks=ks).values()
    return {kind: float(value) for kind, value in precisions.items()}


def _find_expressions(
    model: FiberForGrounding, samples: Sequence[GroundingSample], look: Looker, blind: GroundingProcessor | None
) -> dict[Any, tuple[list[list[float]], list[float]]]:
    """By id the boxes and scores of all processes."""
    found: dict[Any, tuple[list[list[float]], list[float]]] = {}

    for batch, results in _find(model, samples, look, REFERRING, blind, _with_tokens_left):
        for entry, result in zip(batch["ids"], results, strict=True):
            found[entry] = (result["boxes"].tolist(), result["scores"].tolist())
    return gather_by_id(found)


def _find(
    model: FiberForGrounding,
    samples: Sequence[GroundingSample],
    look: Looker,
    settings: DetectionSettings,
    blind: GroundingProcessor | None = None,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda batch: batch,
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Batches of captions with the boxes found for their phrases, or, with the processor `blind`, for empty texts."""

    def find(batch: dict[str, Any]) -> list[dict[str, Any]]:
        asked = prepare(batch) if blind is None else batch | _empty_texts(len(batch["ids"]), blind)
        return model.find(asked, settings)

    for batch, results in look(partial(GroundingDataset, samples), find, settings):
        yield batch, _as_evaluated(model, results)


def _with_tokens_left(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch in which an expression whose phrase is cut off is asked by all the tokens that are left of it."""
    maps = []
    for own, mask in zip(batch["phrase_maps"], batch["attention_mask"].bool(), strict=True):
        words = mask.clone()
        words[0] = words[mask.sum() - 1] = False  # the special tokens
        maps.append(own if own.any() else own | words.to(own.device))
    return {**batch, "phrase_maps": maps}


def _empty_texts(count: int, processor: GroundingProcessor) -> dict[str, Any]:
    """Empty texts, whose special tokens stand for one phrase."""
    tokens = processor(text=[""] * count)
    maps = list(tokens["attention_mask"][:, None].bool())
    return {**tokens, "phrase_maps": maps, "phrase_labels": [torch.ones(1, dtype=torch.int64)] * count}


def _sentences(name: str) -> str:
    return f"{name}/num_sentences"


def _cut_phrases(name: str) -> str:
    return f"{name}/num_cut_phrases"


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
        if num_cut := found.counts.get(_cut_phrases(name)):
            lines.append(f"{num_cut:,} phrases ({name}) beyond data.max_length count as not found")
        if (count := found.counts.get(_expressions(name))) is not None:
            accuracy = found.find(f"{name}/P@1")
            line = f"{count:,} expressions ({name})   accuracy {accuracy.value:.3f}"
            blind = accuracy.baseline
            lines.append(line if blind is None else f"{line} ({accuracy.baseline_name} {blind:.3f})")
    return "\n".join(lines)
