"""What an evaluation found: named numbers beside what they are to be compared with, and files of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fiber_data.formats import faults_of

from fiber_train.writing import Content, write_file

EVALUATION_FILE = "evaluation.json"
_MOST_NAMES = 20  # of measures in a message
_FEW = 5  # ids that are kept of samples left out


@dataclass(frozen=True)
class Measure:
    """One number.

    Attributes:
        name: Such as `"accuracy"`; unique in an evaluation.
        value: As the benchmark gives it.
        baseline: The same of something simple, such as a guess; None if nothing was compared.
        baseline_name: What that is, such as `"chance"`.
        higher_is_better: Whether the best weights are those with the highest value.
        unit: Of value and baseline, such as `"%"`; empty for fractions, counts and scores without one.
        title: What was measured, for people; empty for numbers that are not shown by themselves.
        group: What it was measured on, if on a part of the data: a file, a type of question.
    """

    name: str
    value: float
    baseline: float | None = None
    baseline_name: str = ""
    higher_is_better: bool = True
    unit: str = ""
    title: str = ""
    group: str = ""

    def __str__(self) -> str:
        text = f"{self.title or self.name:14} {self.value:.3f}{self.unit}"
        if self.baseline is None:
            return text
        return f"{text} ({self.baseline_name or 'baseline'} {self.baseline:.3f}{self.unit})"


@dataclass(frozen=True)
class LeftOut:
    """Samples that no measure counts.

    Attributes:
        name: What they are, such as `"expressions"`.
        count: How many.
        total: Of how many, themselves included.
        reason: Why, such as `"no box"`.
        ids: Those of the first few.
        group: What they are a part of, as of `Measure`.
    """

    name: str
    count: int
    total: int
    reason: str
    ids: tuple[Any, ...] = ()
    group: str = ""

    @classmethod
    def of(cls, name: str, ids: Sequence[Any], total: int, reason: str, group: str = "") -> list[LeftOut]:
        """Of samples with these ids, one for each that is counted; empty without any."""
        return [cls(name, len(ids), total, reason, tuple(dict.fromkeys(ids))[:_FEW], group)] if ids else []

    def __str__(self) -> str:
        where = f" ({self.group})" if self.group else ""
        text = f"{self.count:,} of {self.total:,} {self.name}{where} not measured: {self.reason}"
        if self.count == self.total or not self.ids:
            return text
        return f"{text} ({', '.join(map(str, self.ids))}{', ...' * (self.count > len(self.ids))})"


def absent_from(samples: Any) -> list[LeftOut]:
    """What the reader of held-out samples left out, such as those whose images are not on disk."""
    lost = (fault for fault in faults_of(samples) if fault.samples)
    return [
        LeftOut(each.of, each.count, each.samples, f"they {each.what}", (each.first,) if each.first else ())
        for each in lost
    ]


@dataclass
class Evaluation:
    """What was measured of a model; `evaluation[name]` is the value of a measure.

    Attributes:
        measures: The task's own; none where the samples have no annotations.
        predictions: By name the files that the benchmark's server or tool takes, as text or bytes; none for some tasks.
        counts: What was measured, such as `{"num_images": 500}`.
        outputs: Predictions by the sample's id, for metrics in Python; not written anywhere.
        extra: Measures of the user's own metrics (`task.metrics`).
        left_out: What measures and counts do not count, such as expressions without a box.
    """

    measures: list[Measure] = field(default_factory=list)
    predictions: Mapping[str, Content] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    outputs: Mapping[Any, Any] = field(default_factory=dict)
    extra: list[Measure] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def __iter__(self) -> Iterator[Measure]:
        yield from self.measures
        yield from self.extra

    def __contains__(self, name: object) -> bool:
        return any(measure.name == name for measure in self)

    def __getitem__(self, name: str) -> float:
        return self.find(name).value

    def find(self, name: str) -> Measure:
        """The measure of a name.

        Raises:
            KeyError: There is none; the message names those that there are.
        """
        for measure in self:
            if measure.name == name:
                return measure
        raise KeyError(f"the evaluation has no measure {name!r}; it has {self.names()}")

    def names(self) -> str:
        """The names of its measures for messages, the first ones of many."""
        found = [measure.name for measure in self]
        more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        return f"{', '.join(found[:_MOST_NAMES])}{more}" if found else "none"

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(
            [*self.measures, *other.measures],
            {**self.predictions, **other.predictions},
            {**self.counts, **other.counts},
            {**self.outputs, **other.outputs},
            [*self.extra, *other.extra],
            [*self.left_out, *other.left_out],
        )

    def numbers(self) -> dict[str, float]:
        """All counts and values by name, baselines as `NAME/baseline`, numbers left out as `left_out/NAME`, to log."""
        values: dict[str, float] = dict(self.counts)
        for each in self.left_out:
            name = "/".join(part for part in ("left_out", each.group, each.name) if part)
            values[name] = values.get(name, 0) + each.count
        for measure in self:
            values[measure.name] = measure.value
            if measure.baseline is not None:
                values[f"{measure.name}/baseline"] = measure.baseline
        return values

    def to_json(self) -> dict[str, Any]:
        """Counts, measures and what was left out; predictions are files of their own."""
        lists: dict[str, list[Any]] = {"measures": self.measures, "extra": self.extra, "left_out": self.left_out}
        return {"counts": self.counts, **{name: list(map(asdict, part)) for name, part in lists.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Evaluation:
        """What `to_json` gave."""
        measures, extra = ([Measure(**each) for each in content.get(name, ())] for name in ("measures", "extra"))
        left_out = [LeftOut(**{**each, "ids": tuple(each["ids"])}) for each in content.get("left_out", ())]
        return cls(measures, counts=dict(content["counts"]), extra=extra, left_out=left_out)

    def write_predictions(self, folder: Path) -> None:
        """Writes the files to a folder."""
        write_predictions(self.predictions, folder)


def read_evaluation(run: str | Path) -> Evaluation:
    """The final evaluation of a run.

    Raises:
        FileNotFoundError: The run is not finished.
    """
    path = Path(run) / EVALUATION_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a report needs a finished run")
    return Evaluation.from_json(json.loads(path.read_text(encoding="utf-8")))


def write_predictions(files: Mapping[str, Content], folder: Path) -> None:
    """Writes files to a folder, each of them whole or not at all."""
    for name, content in files.items():
        write_file(folder / name, content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file beside its target first, so that it is never half there."""
    write_file(path, json.dumps(content, indent=2) + "\n")
