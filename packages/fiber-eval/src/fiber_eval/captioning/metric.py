"""The whole caption suite: over captions by image id, as a torchmetric, and over COCO's files.

Chen et al., "Microsoft COCO captions: data collection and evaluation server", 2015; code: `eval.py` of
tylin/coco-caption, whose names and scales the results have: `CIDEr` is CIDEr-D, all values are in 0..1 but for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from torch import Tensor

from fiber_eval.captioning._ngrams import CaptionSet, Floats
from fiber_eval.captioning.bleu import bleu_of
from fiber_eval.captioning.cider import cider_of
from fiber_eval.captioning.meteor.metric import meteor_score
from fiber_eval.captioning.rouge import rouge_l
from fiber_eval.captioning.spice.metric import NativeSpice, OfficialSpice
from fiber_eval.captioning.tokenization import ptb_tokenize
from fiber_eval.files import Id, check_entry, check_ids, naming, read_json, shown, some
from fiber_eval.samples import MetricOptions, RecordMetric, as_numbers, as_tensors

# Of tokenized candidates and references: the value of the corpus, and [images] the value of each.
Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], tuple[float, Floats]]
DEFAULT_METRICS = ("bleu", "rouge_l", "cider_d")


class _Options(TypedDict, total=False):
    """Those of `score_captions` that a `CaptionScores` keeps."""

    metrics: Sequence[str]
    extra: Mapping[str, Scorer] | None
    tokenize: bool


def score_captions(
    predictions: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    extra: Mapping[str, Scorer] | None = None,
    tokenize: bool = True,
    per_image: bool = False,
) -> dict[str, Any]:
    """Score captions by image id.

    Args:
        predictions: The caption of each image.
        references: The references of the same images, one or more each.
        metrics: Any of "bleu", "rouge_l", "cider_d", "cider_plain", "meteor" (needs METEOR's jar, but no Java),
            "spice_native" (needs spaCy and an English pipeline) and "spice_official" (needs its jars and Java).
        extra: Further scorers of tokenized captions by the name their values get.
        tokenize: Whether to run `ptb_tokenize` over all texts; False if they are tokenized already.
        per_image: Whether the values of each image are wanted too.

    Returns:
        `Bleu_1` to `Bleu_4`, `ROUGE_L` (0..1), `CIDEr` (CIDEr-D, 0..10), and as asked for `CIDEr_plain` (0..10),
        `METEOR`, `SPICE_native`, `SPICE` (0..1) and the extras, in scalars in float64 on the CPU; with `per_image` also
        `perImage`, the same by image id in Python's numbers.

    Raises:
        ValueError: An id is null or missing from either side, an image has no reference, or a metric is unknown.
        TypeError: A caption is no string.
        FileNotFoundError: METEOR or SPICE was asked for, and files that it needs are missing; the text says which.

    Example:
        >>> references = {1: ["A dog runs.", "The dog"], 2: ["A blue car."]}
        >>> result = score_captions({1: "a dog runs", 2: "A red car!"}, references)
        >>> {name: round(value.item(), 4) for name, value in result.items()}
        {'Bleu_1': 0.8333, 'Bleu_2': 0.6455, 'Bleu_3': 0.5928, 'Bleu_4': 0.0214, 'ROUGE_L': 0.8333, 'CIDEr': 2.8082}
    """
    check_metrics(metrics)
    _check_ids(predictions, references)
    ids = sorted(predictions, key=lambda image: (isinstance(image, str), image))
    word = ptb_tokenize if tokenize else str
    texts = CaptionSet(
        [word(predictions[image]) for image in ids], [[word(text) for text in references[image]] for image in ids]
    )
    columns = {key: value for name in metrics for key, value in _SUITE[name](texts).items()}
    columns |= {name: scorer(texts.candidates, texts.references) for name, scorer in (extra or {}).items()}
    result: dict[str, Any] = {**as_tensors({name: value for name, (value, _) in columns.items()})}
    if per_image:
        values = {name: each.tolist() for name, (_, each) in columns.items()}
        result["perImage"] = {image: {name: values[name][row] for name in values} for row, image in enumerate(ids)}
    return result


class CaptionScores(RecordMetric):
    """The caption suite over the captions of a data set whose references are known from the start.

    Batches, order and the number of processes are free: a process may hold any number of captions, none included. An
    image captioned again counts once (the first caption is kept; over processes, that of the lowest rank), which undoes
    the padding of a distributed sampler. Within a process, another caption for the same image is an error.

    `compute` needs a caption of every image. `forward` (calling the metric) scores the batch by itself, by which CIDEr
    has other weights; `update` does not.

    Args:
        references: The references by image id, one or more each.
        metrics: As in `score_captions`, like the two that follow.
        extra: Further scorers by name.
        tokenize: Whether the texts are to be tokenized.
        **kwargs: Options of `torchmetrics.Metric`, `process_group` for one.

    Raises:
        ValueError: There is no reference, or a metric is unknown.

    Example:
        >>> from fiber_eval.captioning import CaptionScores
        >>> metric = CaptionScores({1: ["A dog runs.", "The dog"], 2: ["A blue car."]}, metrics=["cider_d"])
        >>> metric.update(["A red car!", "a dog runs"], ids=[2, 1])
        >>> round(metric.compute()["CIDEr"].item(), 4)
        2.8082
    """

    def __init__(
        self,
        references: Mapping[Any, Sequence[str]],
        *,
        metrics: Sequence[str] = DEFAULT_METRICS,
        extra: Mapping[str, Scorer] | None = None,
        tokenize: bool = True,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        super().__init__(**kwargs)
        check_metrics(metrics)
        if not references:
            raise ValueError("there is nothing to score: no image has a reference")
        check_ids(references, "image")
        self.references = dict(references)
        self.options: _Options = {"metrics": tuple(metrics), "extra": dict(extra or {}), "tokenize": tokenize}

    def update(self, captions: Sequence[str], *, ids: Tensor | Sequence[Id]) -> None:
        """Add captions.

        Args:
            captions: [B] texts, as generated.
            ids: [B] image ids.

        Raises:
            ValueError: Numbers that disagree, an image without references, or a caption that is no text.
        """
        images = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if isinstance(captions, str) or len(captions) != len(images):
            came = "one string" if isinstance(captions, str) else len(captions)
            raise ValueError(f"captions must be a list, one for each of the {len(images)} ids, but {came} came")
        if unknown := [image for image in images if image not in self.references]:
            raise ValueError(f"{some(unknown)}: no image of such an id has references; give both of the same data set")
        for image, caption in zip(images, captions, strict=True):
            if not isinstance(caption, str):
                raise ValueError(f"the caption of image {shown(image)} must be text, but is {shown(caption)}")
        self.keep("".join(f"{json.dumps(pair)}\n" for pair in zip(images, captions, strict=True)).encode())

    def compute(self) -> dict[str, Tensor]:
        """Score all captions that came, over all processes.

        Returns:
            As `score_captions`; the same on every process.

        Raises:
            ValueError: An image has no caption, or came twice in a process with different ones.
        """
        return self._score()

    def per_image(self) -> dict[Id, dict[str, float]]:
        """The values of each image by its id; every process must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._score(per_image=True)["perImage"]

    def _score(self, *, per_image: bool = False) -> dict[str, Any]:
        captions = self._captions()
        references = self.references
        if self._batch_only:
            references = {image: references[image] for image in captions}
        return score_captions(captions, references, **self.options, per_image=per_image)

    def _captions(self) -> dict[Id, str]:
        captions: dict[Id, str] = {}
        for lines in self.kept():
            own: dict[Id, str] = {}
            for line in lines.splitlines():
                image, caption = json.loads(line)
                if own.setdefault(image, caption) != caption:
                    raise ValueError(
                        f"image {shown(image)} came twice with different captions; give each caption the id of "
                        "its image (not its index in the batch), and reset the metric between evaluations"
                    )
            captions = own | captions  # the lowest rank's stays
        return captions


def score_files(
    annotations: Path,
    results: Path,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    extra: Mapping[str, Scorer] | None = None,
    subset: bool = False,
    per_image: bool = False,
) -> dict[str, Any]:
    """Score a result file in COCO's format, with one caption for each annotated image.

    Args:
        annotations: COCO's captions_*.json, {images: [{id}], annotations: [{image_id, caption}]}
        results: JSON [{image_id, caption}]
        metrics: As in `score_captions`.
        extra: Further scorers by name; only from Python.
        subset: Whether the results may cover a part of the annotated images, which alone are then scored; CIDEr of a
            part is not comparable with CIDEr of all.
        per_image: Whether the values of each image are wanted too.

    Returns:
        As `score_captions`, in Python's numbers.

    Raises:
        ValueError: A malformed file, an unknown or repeated image, or one without a caption; names the file.
        FileNotFoundError: METEOR or SPICE was asked for, and files that it needs are missing; the text says which.

    Source: Chen et al. 2015, Microsoft COCO Captions, https://arxiv.org/abs/1504.00325

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.captioning import score_files
        >>> dog, car = ({"image_id": index, "caption": text} for index, text in enumerate(["A dog.", "A car."]))
        >>> with tempfile.TemporaryDirectory() as name:
        ...     annotations, results = Path(name, "annotations.json"), Path(name, "results.json")
        ...     _ = annotations.write_text(json.dumps({"annotations": [dog, car]}))
        ...     _ = results.write_text(json.dumps([car, dog]))
        ...     score_files(annotations, results, metrics=["rouge_l"])
        {'ROUGE_L': 1.0}
    """
    check_metrics(metrics)
    content = read_json(annotations)
    with naming(annotations):
        references = _references(content)
    content = read_json(results)
    with naming(results):
        captions = _captions(content)
        if subset:
            references = {image: texts for image, texts in references.items() if image in captions}
        _check_ids(captions, references)
    return as_numbers(score_captions(captions, references, metrics=metrics, extra=extra, per_image=per_image))


def check_metrics(metrics: Sequence[str]) -> None:
    """ValueError unless `metrics` are names of metrics, before a long run rather than after it."""
    if isinstance(metrics, str) or (unknown := [name for name in metrics if name not in _SUITE]):
        came = repr(metrics) if isinstance(metrics, str) else ", ".join(map(repr, unknown))
        raise ValueError(f"metrics must be a list of names out of {', '.join(_SUITE)}, but has {came}")


def _check_ids(captions: Mapping[Id, Any], references: Mapping[Id, Any]) -> None:
    check_ids([*captions, *references], "image")
    if unknown := [image for image in captions if image not in references]:
        raise ValueError(
            f"{len(unknown)} of {len(captions)} captions belong to images without references: {some(unknown)}; give "
            "captions and references of the same data set"
        )
    if absent := [image for image in references if image not in captions]:
        raise ValueError(
            f"{len(absent)} of {len(references)} images have no caption: {some(absent)}; caption each one, or leave "
            "its references out"
        )


def _references(content: object) -> dict[Id, list[str]]:
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError("expected a JSON object with a list 'annotations'")
    listed, images = content.get("images") or [], set[Id]()
    if not isinstance(listed, list):
        raise ValueError(f"expected 'images' as a list, but found {shown(listed)}")
    for index, image in enumerate(listed):
        if (own := check_entry(image, ("id",), f"image {index}")["id"]) in images:
            raise ValueError(f"image {index}: id {shown(own)} came before; give each image its own")
        images.add(own)
    references: dict[Id, list[str]] = {}
    for image, caption in _pairs(content["annotations"], "annotation"):
        references.setdefault(image, []).append(caption)
    return references


def _captions(content: object) -> dict[Id, str]:
    if not isinstance(content, list):
        raise ValueError(f"expected a JSON list of captions, but found {type(content).__name__}")
    captions: dict[Id, str] = {}
    for index, (image, caption) in enumerate(_pairs(content, "entry")):
        if image in captions:
            raise ValueError(f"entry {index}: image {shown(image)} came before; keep one caption of each")
        captions[image] = caption
    return captions


def _pairs(entries: Sequence[Any], kind: str) -> list[tuple[Id, str]]:
    for index, entry in enumerate(entries):
        check_entry(entry, ("image_id", "caption"), f"{kind} {index}")
        if not isinstance(entry["caption"], str):
            raise ValueError(
                f"{kind} {index}, image {shown(entry['image_id'])}: caption must be text, but is "
                f"{shown(entry['caption'])}"
            )
    return [(entry["image_id"], entry["caption"]) for entry in entries]


def _bleu(captions: CaptionSet) -> dict[str, tuple[float, Floats]]:
    corpus, per_image = bleu_of(captions)
    return {f"Bleu_{n}": (corpus[n - 1], per_image[n - 1]) for n in range(1, 5)}


_SUITE: dict[str, Callable[[CaptionSet], dict[str, tuple[float, Floats]]]] = {
    "bleu": _bleu,
    "rouge_l": lambda captions: {"ROUGE_L": rouge_l(captions.candidates, captions.references)},
    "cider_d": lambda captions: {"CIDEr": cider_of(captions, clipped=True)},
    "cider_plain": lambda captions: {"CIDEr_plain": cider_of(captions, clipped=False)},
    "meteor": lambda captions: {"METEOR": meteor_score(captions.candidates, captions.references)},
    "spice_native": lambda captions: {"SPICE_native": NativeSpice()(captions.candidates, captions.references)},
    "spice_official": lambda captions: {"SPICE": OfficialSpice()(captions.candidates, captions.references)},
}
