"""One self-contained HTML page of runs: what they learned, beside chance, where they err, and what to do next."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
import torch
from omegaconf import OmegaConf

from fiber_train.charts import calibration, calibration_error, curves
from fiber_train.checkpoint import find_model, load_model
from fiber_train.evaluation import Evaluation, Measure, read_evaluation
from fiber_train.examples import Shown
from fiber_train.next_commands import next_commands
from fiber_train.recipe_files import read_recipe
from fiber_train.run_folder import CONFIG_FILE
from fiber_train.tasks.base import Task
from fiber_train.tasks.find import task_of_model
from fiber_train.tracking import read_metrics
from fiber_train.writing import write_file

TITLE = "<title>FIBER: what was learned</title>"
_MOST_ROWS = 40  # of a table of measures
_PACKAGES = ("fiber-train", "fiber-heads", "fiber-backbone", "torch")
_SUMMARY = "summary.txt"


@dataclass(frozen=True)
class Row:
    """A measure in a table.

    Attributes:
        name: For people.
        cells: Of each run (or split) the value, its share of the whole (None without a whole), and the baseline.
    """

    name: str
    cells: list[_Cell | None]


@dataclass(frozen=True)
class _Cell:
    text: str
    share: float | None
    baseline: str
    baseline_share: float | None


@dataclass(frozen=True)
class _Section:
    """Runs of one task beside each other."""

    title: str
    lead: str
    columns: list[str]
    rows: list[Row]
    left_out: list[str]
    charts: list[str]
    shown: Shown
    calibrations: list[tuple[str, float, int]]
    commands: list[str]
    facts: dict[str, list[str]]
    settings: dict[str, str]


def write_report(
    runs: Mapping[str, Path] | Path | str,
    out: str | Path,
    *,
    data: str | Path | None = None,
    also: Sequence[str] = (),
    num_examples: int = 12,
    trusted: Sequence[str] = (),
) -> Path:
    """Writes the page of finished runs; those of one task are set beside each other.

    Args:
        runs: Their folders by title, or a single one. Of each task the first run's model is shown at work.
        out: The HTML file to write.
        data: Folder of the data set, in place of the one that the first run of each task was measured on.
        also: Splits on which the first run of each task is measured too, such as `"unseen"`.
        num_examples: Samples that are shown of each task, spread evenly over the held-out ones.
        trusted: Import paths that the runs' files may name.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: A run is not finished, or its data is not where it was.
    """
    named = {Path(runs).name: Path(runs)} if isinstance(runs, str | Path) else dict(runs)
    groups: dict[str, dict[str, Path]] = {}
    for title, run in named.items():
        read_evaluation(run)  # or says that it is not finished
        name = str(OmegaConf.select(read_recipe(run / CONFIG_FILE), "task.name"))
        groups.setdefault(name, {})[title] = run
    sections = [_section(group, data, also, num_examples, trusted) for group in groups.values()]
    template = resources.files("fiber_train").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, page.render(sections=sections, versions=f"{versions}, Python {platform.python_version()}"))
    return target


def is_report(path: Path) -> bool:
    """Whether a file is a page that `write_report` wrote, which may be replaced."""
    try:
        with path.open(encoding="utf-8") as file:
            return TITLE in file.read(2000)
    except (OSError, ValueError):
        return False


def _section(
    runs: Mapping[str, Path], data: str | Path | None, also: Sequence[str], number: int, trusted: Sequence[str]
) -> _Section:
    title, first = next(iter(runs.items()))
    folder = find_model(first)
    model, _ = load_model(folder, trusted=trusted)
    task = _task(first, folder, model, data, trusted)
    samples = task.samples(task.config.data.eval_split)
    with torch.inference_mode():
        shown = task.show(model, samples, number)
    found = {name: read_evaluation(run) for name, run in runs.items()}
    found |= {split: _measure(task, model, split) for split in also}
    logs = {name: read_metrics(run) for name, run in runs.items()}
    sure = [(name, each) for name, each in shown.confidences.items() if each]
    return _Section(
        title=title if len(runs) == 1 else " and ".join(runs),
        lead=task.summary(found[title]).partition("\n")[0],
        columns=list(found),
        rows=_rows(list(found.values())),
        left_out=list(map(str, found[title].left_out)),
        charts=[
            *_charts(logs, task.keeps_best_by),
            *(calibration(f"calibration: {name}", each) for name, each in sure),
        ],
        shown=shown,
        calibrations=[(name, calibration_error(each), len(each)) for name, each in sure],
        commands=next_commands(task, first, samples),
        facts={name: _facts(run, logs[name]) for name, run in runs.items()},
        settings={name: (run / CONFIG_FILE).read_text(encoding="utf-8") for name, run in runs.items()},
    )


def _task(run: Path, folder: Path, model: Any, data: str | Path | None, trusted: Sequence[str]) -> Task[Any]:
    """The task of a run's model, on the run's data."""
    own = read_recipe(run / CONFIG_FILE)
    root = Path(data or str(OmegaConf.select(own, "data.root")))
    if data is None and not root.exists():
        raise FileNotFoundError(f"{root}, the data of {run}, is not there; name the folder (--data)")
    split = OmegaConf.select(own, "data.eval_split")
    return task_of_model(folder, model, [f"data.root={root}", f"data.eval_split={split}"], trusted)


def _measure(task: Task[Any], model: Any, split: str) -> Evaluation:
    """An evaluation of one more split."""
    from fiber_train.launch import build_fabric

    fabric = build_fabric(task)
    return task.measure(model.to(fabric.device), task.samples(split), model.processor, fabric)


def _rows(evaluations: Sequence[Evaluation]) -> list[Row]:
    """The measures that have a baseline or a title; of none that, all."""
    everything = {each.name: each for found in evaluations for each in found}
    chosen = {name: each for name, each in everything.items() if each.baseline is not None or each.title}
    rows = []
    for name, each in list((chosen or everything).items())[:_MOST_ROWS]:
        cells = [_cell(found.find(name)) if name in found else None for found in evaluations]
        shown = each.title or each.name.replace("_", " ").replace("@", " @ ")
        rows.append(Row(f"{each.group}: {shown}" if each.group and each.group not in shown else shown, cells))
    return rows


def _cell(measure: Measure) -> _Cell:
    if measure.baseline is None:
        baseline, share = "", None
    else:
        baseline = f"{measure.baseline_name or 'baseline'} {measure.baseline:.3f}{measure.unit}"
        share = _share(measure.baseline, measure)
    return _Cell(f"{measure.value:.3f}{measure.unit}", _share(measure.value, measure), baseline, share)


def _share(value: float, measure: Measure) -> float | None:
    """Of the whole, in percent: for fractions and percentages of which more is better."""
    percent = value if measure.unit == "%" else 100 * value
    return percent if measure.higher_is_better and not measure.unit.strip("%") and 0 <= percent <= 100 else None


def _charts(logs: Mapping[str, Sequence[tuple[int, str, float]]], monitor: str | None) -> list[str]:
    """Curves of the losses and of the measure that the best is kept by."""
    names = dict.fromkeys(name for rows in logs.values() for _, name, _ in rows if name.startswith("train/"))
    losses = [name for name in names if name.endswith("_loss") and name.count("/") == 1] or ["train/loss"]
    wanted = {name: name.removeprefix("train/").replace("_", " ") for name in losses}
    wanted |= {f"eval/{monitor}": f"held out: {monitor}"} if monitor else {}
    charts = []
    for name, title in wanted.items():
        lines = {run: [(step, value) for step, row, value in rows if row == name] for run, rows in logs.items()}
        if any(len(points) > 1 for points in lines.values()):
            charts.append(curves(title, lines))
    return charts


def _facts(run: Path, rows: Sequence[tuple[int, str, float]]) -> list[str]:
    """What the run said of itself at its start, how far it went and how long that took."""
    path = run / _SUMMARY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    steps = max((step for step, _, _ in rows), default=0)
    return [*lines, f"{steps:,} steps"]
