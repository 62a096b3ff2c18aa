"""What an evaluation found: named numbers beside what they are to be compared with, and files of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fiber_train.writing import write_file

EVALUATION_FILE = "evaluation.json"


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


@dataclass
class Evaluation:
    """What was measured of a model; `evaluation[name]` is the value of a measure.

    Attributes:
        measures: The task's own; none where the samples have no annotations.
        predictions: By name the files that the benchmark's server or tool takes, as text or bytes; none for some tasks.
        counts: What was measured, such as `{"num_images": 500}`.
        outputs: Predictions by the sample's id, for metrics in Python; not written anywhere.
        extra: Measures of the user's own metrics (`task.metrics`).
    """

    measures: list[Measure] = field(default_factory=list)
    predictions: Mapping[str, str | bytes] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    outputs: Mapping[Any, Any] = field(default_factory=dict)
    extra: list[Measure] = field(default_factory=list)

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
        found = ", ".join(measure.name for measure in self) or "none"
        raise KeyError(f"the evaluation has no measure {name!r}; it has {found}")

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(
            [*self.measures, *other.measures],
            {**self.predictions, **other.predictions},
            {**self.counts, **other.counts},
            {**self.outputs, **other.outputs},
            [*self.extra, *other.extra],
        )

    def numbers(self) -> dict[str, float]:
        """All counts and values by name, baselines as `NAME/baseline`, to log."""
        values: dict[str, float] = dict(self.counts)
        for measure in self:
            values[measure.name] = measure.value
            if measure.baseline is not None:
                values[f"{measure.name}/baseline"] = measure.baseline
        return values

    def to_json(self) -> dict[str, Any]:
        """Counts and measures; predictions are files of their own."""
        lists = {"measures": self.measures, "extra": self.extra}
        return {"counts": self.counts, **{name: list(map(asdict, part)) for name, part in lists.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Evaluation:
        """What `to_json` gave."""
        measures, extra = ([Measure(**each) for each in content.get(name, ())] for name in ("measures", "extra"))
        return cls(measures, counts=dict(content["counts"]), extra=extra)

    def write_predictions(self, folder: Path, name: str | None = None) -> None:
        """Writes the files to a folder; `name` is that of a single one, its own by default."""
        for own, content in self.predictions.items():
            (folder / (name or own)).write_bytes(content.encode() if isinstance(content, str) else content)


def read_evaluation(run: str | Path) -> Evaluation:
    """The final evaluation of a run.

    Raises:
        FileNotFoundError: The run is not finished.
    """
    path = Path(run) / EVALUATION_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a report needs a finished run")
    return Evaluation.from_json(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file beside its target first, so that it is never half there."""
    write_file(path, json.dumps(content, indent=2) + "\n")
