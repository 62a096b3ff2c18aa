"""NLVR2: accuracy and consistency.

NLVR2 is Suhr et al., "A Corpus for Reasoning About Natural Language Grounded in Photographs" (ACL 2019); the official
code is lil-lab/nlvr, `nlvr2/eval/metrics.py`. What differs from it: a prediction that is neither true nor false, an
unknown identifier and a repeated line are errors; the official code counts the first as wrong and ignores the others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from torch import Tensor

from fiber_eval.files import Id, check_entry, naming, read_text, shown
from fiber_eval.samples import MetricOptions, PerSampleMetric, as_numbers, as_tensors


class NLVR2Accuracy(PerSampleMetric):
    """Accuracy and consistency on NLVR2, as fractions (0..1).

    Consistency is the share of sentences that are judged right with every one of their image pairs: identifiers that
    agree in all but the third field (`dev-850-0-1` and `dev-850-3-1`) share a sentence.

    Ids may be the identifiers only; how samples are counted is told at `PerSampleMetric`.

    Args:
        labels: The label of each identifier, in any form that `update` takes.
        subsets: Identifiers of parts whose accuracy is wanted too, by name, such as "balanced" and "unbalanced".
        **kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: No label, a label that is not true or false, an identifier of another form, or a subset that is
            empty or holds an identifier without a label.

    Example:
        >>> from fiber_eval.reasoning import NLVR2Accuracy
        >>> metric = NLVR2Accuracy({"dev-1-0-0": True, "dev-1-1-0": False, "dev-1-0-1": True})
        >>> metric.update([True, True], ids=["dev-1-0-0", "dev-1-1-0"])
        >>> metric.update(["True"], ids=["dev-1-0-1"])
        >>> metric.compute()["consistency"].item()
        0.5
    """

    def __init__(
        self,
        labels: Mapping[str, bool | str],
        *,
        subsets: Mapping[str, Collection[str]] | None = None,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        super().__init__(list(labels), "example", **kwargs)
        self.labels = {name: _truth(label, f"the label of {shown(name)}") for name, label in labels.items()}
        self.sentences = {name: _sentence(name) for name in labels}
        self.subsets: dict[str, list[Id]] = {}
        for name, part in (subsets or {}).items():
            with naming(f"subset {name!r}"):
                self.subsets[name] = self.known(sorted(set(part)))
                if not part:
                    raise ValueError("it is empty; give the identifiers of at least one example")

    def update(self, predictions: Tensor | Sequence[bool | str], *, ids: Sequence[str]) -> None:
        """Add predictions.

        Args:
            predictions: [B], each a bool, 0 or 1, or "true" or "false" in any case.
            ids: [B] identifiers, such as `dev-850-0-1`.

        Raises:
            ValueError: An unknown identifier, numbers that disagree, a prediction that is not true or false, or another
                prediction for an identifier that came before.
        """
        listed = self.known(ids, predictions=predictions)
        values = predictions.tolist() if isinstance(predictions, Tensor) else predictions
        truths = [_truth(value, f"the prediction of {shown(name)}") for name, value in zip(listed, values, strict=True)]
        self.record(listed, [int(truth == self.labels[str(name)]) for name, truth in zip(listed, truths, strict=True)])

    def compute(self) -> dict[str, Tensor]:
        """The official numbers, over all processes.

        Returns:
            `accuracy` (the official code prints it as "precision"), `consistency`, and `NAME_accuracy` for each subset;
            scalars in float64 on the CPU.

        Raises:
            ValueError: An example has no prediction.
        """
        right = self.seen()
        consistent: dict[Id, bool] = {}
        for name, outcome in right.items():
            sentence = self.sentences[str(name)]
            consistent[sentence] = consistent.get(sentence, True) and bool(outcome)
        result = {"accuracy": _share(list(right.values())), "consistency": _share(list(consistent.values()))}
        for name, part in self.subsets.items():
            result[f"{name}_accuracy"] = _share([right[member] for member in part if member in right])
        return as_tensors(result)

    def per_example(self) -> dict[Id, bool]:
        """Whether each example is right, over all processes; every process must call it."""
        return {name: bool(outcome) for name, outcome in self.seen_everywhere().items()}


def nlvr2_accuracy(
    predictions: Mapping[str, bool | str],
    labels: Mapping[str, bool | str],
    *,
    subsets: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Tensor]:
    """Accuracy and consistency of predictions by identifier; arguments and result as of `NLVR2Accuracy`.

    Example:
        >>> from fiber_eval.reasoning import nlvr2_accuracy
        >>> labels = {"dev-1-0-0": "True", "dev-1-1-0": "False"}
        >>> nlvr2_accuracy({"dev-1-0-0": "True", "dev-1-1-0": "True"}, labels)["accuracy"].item()
        0.5
    """
    metric = NLVR2Accuracy(labels, subsets=subsets, sync_on_compute=False)
    metric.update(list(predictions.values()), ids=list(predictions))
    return metric.compute()


def score_files(annotations: Path, results: Path, *, subsets: Mapping[str, Path] | None = None) -> dict[str, float]:
    """Score a file of NLVR2 predictions; "true" and "false" count in any case.

    Args:
        annotations: NLVR2's dev.json or test1.json, one JSON object {identifier, label} a line
        results: text, one identifier,True or identifier,False a line
        subsets: Files as `annotations` that hold a part of its examples, by name: `balanced_dev.json` for one.

    Returns:
        As `nlvr2_accuracy`, in Python's numbers.

    Raises:
        ValueError: A malformed line, an unknown or repeated identifier, or one without a prediction; names the file.

    Source: Suhr et al. 2019, A Corpus for Reasoning about Natural Language, https://arxiv.org/abs/1811.00491

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.reasoning import score_files
        >>> with tempfile.TemporaryDirectory() as name:
        ...     annotations, results = Path(name, "dev.json"), Path(name, "predictions.csv")
        ...     _ = annotations.write_text(json.dumps({"identifier": "dev-1-0-0", "label": "True"}))
        ...     _ = results.write_text("dev-1-0-0,true")
        ...     score_files(annotations, results)
        {'accuracy': 1.0, 'consistency': 1.0}
    """
    labels = _read_labels(Path(annotations))
    parts = {name: list(_read_labels(Path(path))) for name, path in (subsets or {}).items()}
    with naming(annotations):
        metric = NLVR2Accuracy(labels, subsets=parts, sync_on_compute=False)
    predictions: dict[str, str] = {}
    for number, line in enumerate(read_text(results).splitlines(), 1):
        if not line.strip():
            continue
        identifier, comma, prediction = line.strip().partition(",")
        if not comma:
            raise ValueError(
                f"{results}, line {number}: expected 'identifier,prediction', but found {shown(line.strip())}"
            )
        if identifier in predictions:
            raise ValueError(f"{results}, line {number}: {shown(identifier)} came before; keep one prediction of each")
        predictions[identifier] = prediction
    with naming(results):
        metric.update(list(predictions.values()), ids=list(predictions))
        return as_numbers(metric.compute())


def _read_labels(path: Path) -> dict[str, str]:
    labels: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        with naming(f"{path}, line {number}"):
            try:
                example = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"expected a JSON object with identifier and label, but found {shown(line)}"
                ) from error
            check_entry(example, ("identifier", "label"), "the example")
            if example["identifier"] in labels:
                raise ValueError(f"{shown(example['identifier'])} came before; keep one line of each")
        labels[example["identifier"]] = example["label"]
    return labels


def _truth(value: object, name: str) -> bool:
    truth = {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value
    if truth not in (True, False):
        raise ValueError(f"{name} must be true or false, but is {shown(value)}")
    return bool(truth)


def _sentence(identifier: str) -> str:
    """What the examples of one sentence share: the identifier without its third field, the image pair."""
    fields = str(identifier).split("-")
    if len(fields) < 4:
        raise ValueError(f"an identifier must have the form split-set-pair-sentence, but one is {shown(identifier)}")
    return "-".join([*fields[:2], *fields[3:]])


def _share(outcomes: Sequence[int]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else float("nan")
