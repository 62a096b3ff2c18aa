"""Phrase grounding on Flickr30k Entities: recall at K of boxes for phrases, overall and for each type of phrase.

The protocol is MDETR's evaluator (`datasets/flickr_eval.py` of ashkamath/mdetr, https://arxiv.org/abs/2104.12763) on
the annotations of Plummer et al. (https://arxiv.org/abs/1505.04870): a phrase is found at K if one of its K best boxes
overlaps a right one with an IoU of at least 0.5; a phrase without boxes asks nothing; a phrase of two types counts for
both. As there, boxes keep the 1-based coordinates of the XML files (the data set's own reader subtracts 1).

What differs: predictions that MDETR cannot score or scores as they are (a box of negative size, NaN, boxes for a phrase
that has none) are errors, and a phrase for which no box is predicted is missed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from fiber_eval.files import check_ids, holds_boolean, naming, read_json, shown
from fiber_eval.flickr30k_entities import Phrase, Sentence, SentenceKey, read_flickr30k_entities
from fiber_eval.samples import MetricOptions, PerSampleMetric, as_numbers, as_tensors

Protocol = Literal["separate", "merged"]

MOST_DIGITS = 9  # of the number of a sentence

_MISSED = 0  # the outcome of a phrase without a right box; of others, the rank of the first one, from 1


def phrase_grounding_recall(
    predictions: Mapping[SentenceKey, Sequence[Tensor | Sequence[Sequence[float]]]],
    sentences: Sequence[Sentence],
    *,
    ks: Sequence[int] = (1, 5, 10),
    protocol: Protocol = "separate",
    iou_threshold: float = 0.5,
) -> dict[str, Tensor]:
    """Recall at K of predicted boxes.

    Args:
        predictions: For each (image id, sentence id) the boxes of its phrases in order, each [N, 4] as x1, y1, x2, y2
            in pixels, the best first. Sentences without phrases may be left out.
        sentences: What is to be found, as `read_flickr30k_entities` gives it.
        ks: The K of each recall, at least 1.
        protocol: "separate": any box of a phrase is right (MDETR's any-box, used by FIBER). "merged": the only right
            box is the one that encloses them all.
        iou_threshold: The least overlap of a box that is right, above 0 and at most 1.

    Returns:
        `recall@K`, `upper_bound` (all boxes count), and for each type of phrase, say people, `people_recall@K` and
        `people_upper_bound`; in 0..1, scalars in float64 on the CPU.

    Raises:
        ValueError: As `PhraseGroundingRecall`.

    Example:
        >>> from fiber_eval.flickr30k_entities import Phrase, Sentence
        >>> from fiber_eval.phrase_grounding import phrase_grounding_recall
        >>> dog = Phrase("a dog", 0, ("animals",), ((10, 10, 50, 50),))
        >>> sentences = [Sentence("1000", 0, "a dog runs", (dog,))]
        >>> result = phrase_grounding_recall({("1000", 0): [[[0, 0, 9, 9], [12, 10, 50, 50]]]}, sentences)
        >>> result["recall@1"].item(), result["animals_recall@5"].item()
        (0.0, 1.0)
    """
    metric = PhraseGroundingRecall(
        sentences, ks=ks, protocol=protocol, iou_threshold=iou_threshold, sync_on_compute=False
    )
    metric.update(list(predictions.values()), ids=list(predictions))
    return metric.compute()


class PhraseGroundingRecall(PerSampleMetric):
    """Recall at K of boxes for phrases; the right boxes are given at the start, the predicted ones in batches.

    Every sentence that has phrases must come before `compute`, on whichever process; how those that come again are
    counted is told at `PerSampleMetric`, whose samples are here the phrases.

    Args:
        sentences: As in `phrase_grounding_recall`, like all that follow.
        ks: The K of each recall.
        protocol: "separate" or "merged".
        iou_threshold: The least overlap of a box that is right.
        **kwargs: Options of `torchmetrics.Metric`, `process_group` for one.

    Raises:
        ValueError: A bad option, two sentences of one id, or no phrase at all.

    Example:
        >>> import torch
        >>> from fiber_eval.flickr30k_entities import Phrase, Sentence
        >>> from fiber_eval.phrase_grounding import PhraseGroundingRecall
        >>> dog = Phrase("a dog", 0, ("animals",), ((10, 10, 50, 50),))
        >>> metric = PhraseGroundingRecall([Sentence("1000", 0, "a dog runs", (dog,))])
        >>> metric.update([[torch.tensor([[12.0, 10.0, 50.0, 50.0]])]], ids=[("1000", 0)])
        >>> metric.compute()["recall@1"].item()
        1.0
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        *,
        ks: Sequence[int] = (1, 5, 10),
        protocol: Protocol = "separate",
        iou_threshold: float = 0.5,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        _check_options(ks, protocol, iou_threshold)
        self.ks, self.protocol, self.iou_threshold = tuple(ks), protocol, iou_threshold
        check_ids((part for sentence in sentences for part in sentence.key), "image or sentence")
        self.sentences = {sentence.key: sentence for sentence in sentences}
        if len(self.sentences) < len(sentences):
            repeated = next(key for key, count in Counter(each.key for each in sentences).items() if count > 1)
            raise ValueError(f"{_name(repeated)} is annotated twice; give each sentence a number of its own")
        self.phrases = {name: phrase for sentence in sentences for name, phrase in _named(sentence)}
        super().__init__([name for sentence in sentences for name, _ in _named(sentence)], "phrase", **kwargs)

    def update(
        self, boxes: Sequence[Sequence[Tensor | Sequence[Sequence[float]]]], *, ids: Sequence[SentenceKey]
    ) -> None:
        """Add predictions.

        Args:
            boxes: For each sentence the boxes of its phrases in order, each [N, 4] as x1, y1, x2, y2, the best first.
            ids: (image id, sentence id) of each sentence.

        Raises:
            ValueError: An unknown sentence, another number of phrases than it has, boxes that are none, or boxes of
                another rank for a phrase that came before.
        """
        if len(ids) != len(boxes):
            raise ValueError(f"update got {len(ids)} sentence ids, but boxes of {len(boxes)} sentences")
        check_ids((part for key in ids for part in key), "image or sentence")
        keys = [(str(image_id), int(sentence_id)) for image_id, sentence_id in ids]
        ranks = [rank for pair in zip(keys, boxes, strict=True) for rank in self._sentence_ranks(*pair)]
        self.record([name for key in keys for name, _ in _named(self.sentences[key])], ranks)

    def compute(self) -> dict[str, Tensor]:
        """The official numbers, over all processes.

        Returns:
            As `phrase_grounding_recall`.

        Raises:
            ValueError: Predictions of a sentence that has phrases never came.
        """
        ranks = defaultdict(list)
        for name, rank in self.seen().items():
            for group in ("", *(f"{kind}_" for kind in self.phrases[str(name)].types)):
                ranks[group].append(rank)
        result = {}
        for group in sorted(ranks):
            own = ranks[group]
            for k in self.ks:
                result[f"{group}recall@{k}"] = sum(_MISSED < rank <= k for rank in own) / len(own)
            result[f"{group}upper_bound"] = sum(rank > _MISSED for rank in own) / len(own)
        return as_tensors(result)

    def _sentence_ranks(self, key: SentenceKey, boxes: Sequence[Tensor | Sequence[Sequence[float]]]) -> list[int]:
        """For each phrase the rank, from 1, of its first right box; 0 without one."""
        if key not in self.sentences:
            raise ValueError(
                f"sentence {key[1]} of image {shown(key[0])} is not among the {len(self.sentences)} annotated sentences"
            )
        phrases = self.sentences[key].phrases
        if len(boxes) != len(phrases):
            raise ValueError(
                f"{_name(key)} has {len(phrases)} phrases with boxes, but predictions of {len(boxes)} came; give one "
                "list of boxes for each, in reading order, and none for a phrase without boxes"
            )
        ranks = []
        for index, (phrase, predicted) in enumerate(zip(phrases, boxes, strict=True)):
            candidates = _as_boxes(predicted, f"phrase {index} of {_name(key)}")
            targets = torch.tensor(phrase.boxes_xyxy, dtype=torch.float64)
            if self.protocol == "merged":
                targets = torch.cat([targets[:, :2].amin(0), targets[:, 2:].amax(0)])[None]
            hits = (_iou(candidates, targets) >= self.iou_threshold).any(dim=1).nonzero()
            ranks.append(int(hits[0]) + 1 if len(hits) else _MISSED)
        return ranks


def score_files(
    annotations: Path,
    results: Path,
    *,
    split: str = "test",
    ks: Sequence[int] = (1, 5, 10),
    protocol: Protocol = "separate",
    iou_threshold: float = 0.5,
) -> dict[str, float]:
    """Score a result file in MDETR's form: boxes in pixels, phrases in reading order.

    Args:
        annotations: folder of Flickr30k Entities: Annotations/*.xml, Sentences/*.txt and test.txt
        results: JSON [{image_id, sentence_id, boxes: for each phrase with boxes [[x1, y1, x2, y2], ...], best first}]
        split: Which list of images.
        ks: As in `phrase_grounding_recall`, like the two that follow.
        protocol: "separate" or "merged".
        iou_threshold: The least overlap of a box that is right.

    Returns:
        As `phrase_grounding_recall`, in Python's numbers.

    Raises:
        ValueError: A malformed file; the sentence names it and the entry.

    Source: Plummer et al. 2015, Flickr30k Entities, https://arxiv.org/abs/1505.04870; protocol of MDETR

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.phrase_grounding import score_files
        >>> box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>60</xmax><ymax>60</ymax></bndbox>"
        >>> files = {"test.txt": "7", "Sentences/7.txt": "[/EN#1/animals A dog] runs ."}
        >>> files["Annotations/7.xml"] = f"<annotation><object><name>1</name>{box}</object></annotation>"
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for path, text in files.items():
        ...         Path(name, path).parent.mkdir(exist_ok=True)
        ...         _ = Path(name, path).write_text(text)
        ...     results = Path(name, "results.json")
        ...     _ = results.write_text('[{"image_id": "7", "sentence_id": 0, "boxes": [[[10, 10, 60, 50]]]}]')
        ...     score_files(Path(name), results, ks=[1])["animals_recall@1"]
        1.0
    """
    sentences = read_flickr30k_entities(Path(annotations), split=split)
    with naming(annotations):
        metric = PhraseGroundingRecall(
            sentences, ks=ks, protocol=protocol, iou_threshold=iou_threshold, sync_on_compute=False
        )
    _add_file(metric, results)
    with naming(results):
        return as_numbers(metric.compute())


def _add_file(metric: PhraseGroundingRecall, results: Path) -> None:
    entries = read_json(results)
    if not isinstance(entries, list):
        raise ValueError(f"{results} must hold a list of predictions, but holds a {type(entries).__name__}")
    seen: dict[SentenceKey, int] = {}
    for index, entry in enumerate(entries):
        key = _entry_key(entry, f"{results}, entry {index}")
        if key in seen:
            raise ValueError(f"{results}, entry {index}: {_name(key)} has a prediction already, entry {seen[key]}")
        seen[key] = index
        with naming(f"{results}, entry {index}"):
            metric.update([entry["boxes"]], ids=[key])


def _entry_key(entry: object, location: str) -> SentenceKey:
    if not isinstance(entry, dict) or not entry.keys() >= {"image_id", "sentence_id", "boxes"}:
        came = f"the keys {shown(', '.join(entry))[1:-1]}" if isinstance(entry, dict) else f"a {type(entry).__name__}"
        raise ValueError(f"{location} must be an object with image_id, sentence_id and boxes, but is {came}")
    if not isinstance(entry["boxes"], list):
        raise ValueError(f"{location}: boxes must be a list with one list of boxes for each phrase")
    number = str(entry["sentence_id"])
    if not number.isdecimal() or len(number) > MOST_DIGITS:
        raise ValueError(
            f"{location}: sentence_id must be a whole number from 0 on, but is {shown(entry['sentence_id'])}"
        )
    if isinstance(entry["image_id"], bool) or not isinstance(entry["image_id"], int | str):
        raise ValueError(f"{location}: image_id must be a whole number or text, but is {shown(entry['image_id'])}")
    return str(entry["image_id"]), int(entry["sentence_id"])


def _named(sentence: Sentence) -> list[tuple[str, Phrase]]:
    """The phrases of a sentence, each with a name of its own in the data set."""
    return [(f"phrase {index} of {_name(sentence.key)}", phrase) for index, phrase in enumerate(sentence.phrases)]


def _name(key: SentenceKey) -> str:
    return f"sentence {key[1]} of image {key[0]}"


def _check_options(ks: Sequence[int], protocol: str, iou_threshold: float) -> None:
    if not ks or any(int(k) != k or k < 1 for k in ks):
        raise ValueError(f"ks must be whole numbers from 1 on, but is {tuple(ks)}")
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, but is {protocol!r}")
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, but is {iou_threshold}")


def _as_boxes(boxes: Tensor | Sequence[Sequence[float]], name: str) -> Tensor:
    """[N, 4] in float64 on the CPU."""
    try:
        if holds_boolean(boxes):
            raise ValueError("true and false are no numbers")
        tensor = torch.as_tensor(boxes, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the boxes of {name} must be numbers [N, 4], but are {shown(boxes)}") from error
    if not tensor.numel():
        return tensor.reshape(0, 4)
    if tensor.ndim != 2 or tensor.shape[1] != 4:
        raise ValueError(f"the boxes of {name} must have shape [N, 4], but have {list(tensor.shape)}")
    wrong = ~tensor.isfinite().all(dim=1) | (tensor[:, 2:] < tensor[:, :2]).any(dim=1)
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(
            f"box {index} of {name} must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, but is {tensor[index].tolist()}"
        )
    return tensor


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """[N, M], overlap over union of boxes [N, 4] and [M, 4]; 0 where both are empty. Sides are x2 - x1, without + 1."""
    sides = torch.minimum(boxes[:, None, 2:], others[:, 2:]) - torch.maximum(boxes[:, None, :2], others[:, :2])
    overlap = sides.clamp(min=0).prod(dim=2)
    areas, other_areas = ((every[:, 2:] - every[:, :2]).prod(dim=1) for every in (boxes, others))
    return (overlap / (areas[:, None] + other_areas - overlap)).nan_to_num(0)
