"""One self-contained HTML page of a run: what it learned, beside chance, and where it errs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import torch
from fiber_data import CaptionSample, GroundingSample, ImageSource, load_image
from fiber_heads import FiberForPretraining
from matplotlib import rc_context
from matplotlib.figure import Figure
from torchvision.transforms.v2.functional import to_pil_image

from fiber_train.checkpoint import load_model
from fiber_train.evaluation import Evaluation, read_evaluation
from fiber_train.report_boxes import ground_examples
from fiber_train.tasks.recall import DIRECTIONS, KS, recalls
from fiber_train.tracking import read_metrics

_LOSSES = {"itc": "contrast", "itm": "matching", "mlm": "masked tokens"}
_BOX_LOSSES = {"token": "words of a place", "box": "its box", "centerness": "how central it is"}
_COLORS = ("#2458c5", "#e07a2d", "#2f8f5b")
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: sharp, small, and in the reader's font
    "svg.hashsalt": "fiber",  # the same run gives the same page
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SHOWN_SIDE = 144  # pixels of an image in the page


@dataclass(frozen=True)
class Retrieved:
    """A caption that the model found for an image."""

    text: str
    score: float
    right: bool


@dataclass(frozen=True)
class Example:
    """A held-out image and what was found for it."""

    image: str
    captions: list[str]
    found: list[Retrieved]


@dataclass(frozen=True)
class FineRuns:
    """Finished runs of the fine stage, to be set beside each other.

    Attributes:
        runs: Their folders by title; of the first one images are shown.
        samples: Held-out captions with boxes.
    """

    runs: Mapping[str, Path]
    samples: list[GroundingSample]


def write_report(
    run: str | Path, samples: list[CaptionSample], out: str | Path, fine: FineRuns | None = None, num_examples: int = 12
) -> Path:
    """Writes the page of a finished run of the coarse stage, and of runs of the fine stage after it.

    Args:
        run: The run's folder, with `metrics.csv`, `evaluation.json`, `config.yaml` and `model/`.
        samples: The held-out images that it was evaluated on.
        out: The HTML file to write.
        fine: Runs of the fine stage.
        num_examples: Images shown of each stage, spread evenly over the samples.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: A run is not finished.
    """
    folder, target = Path(run), Path(out)
    found = read_evaluation(folder)
    ranked = bool(recalls(found, DIRECTIONS[0]))
    template = resources.files("fiber_train").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    html = page.render(
        counts=found.counts,
        left_out=found.left_out,
        decisions=[measure for measure in found.measures if measure.title],
        losses=_loss_curves({"": folder}, _LOSSES),
        boxes=None if fine is None else _boxes(fine, num_examples),
        recall=_recall_bars(found) if ranked else "",
        examples=_examples(folder, samples, num_examples) if ranked else [],
        config=(folder / "config.yaml").read_text(encoding="utf-8"),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(target)
    return target


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]  # without the XML prologue, which HTML does not have


def _loss_curves(runs: Mapping[str, Path], losses: Mapping[str, str]) -> str:
    """A plot for each loss, a line for each run."""
    rows = {title: read_metrics(run) for title, run in runs.items()}
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        for axes, (key, name) in zip(figure.subplots(1, len(losses)), losses.items(), strict=True):
            for (title, of_run), color in zip(rows.items(), _COLORS, strict=False):
                points = [(step, value) for step, row, value in of_run if row == f"train/{key}_loss"]
                if points:
                    axes.plot(*zip(*points, strict=True), color=color, linewidth=1.5, label=title)
            axes.set(title=name, xlabel="step", ylim=(0, None))
        if len(runs) > 1:
            axes.legend(frameon=False)
        return _svg(figure)


def _boxes(fine: FineRuns, num_examples: int) -> dict[str, Any]:
    """What the template shows of the fine stage."""
    examples = ground_examples(next(iter(fine.runs.values())), fine.samples, num_examples)
    return {
        "titles": list(fine.runs),
        "table": _table([read_evaluation(run) for run in fine.runs.values()]),
        "left_out": read_evaluation(next(iter(fine.runs.values()))).left_out,
        "losses": _loss_curves(fine.runs, _BOX_LOSSES),
        "examples": [(example, _data_uri(example.image)) for example in examples],
    }


def _table(evaluations: list[Evaluation]) -> list[tuple[str, list[float | None]]]:
    """Rows for the measures that have titles, and for their baselines, with a value of each evaluation or None."""
    rows: dict[str, list[float | None]] = {}
    for place, found in enumerate(evaluations):
        for measure in found:
            shown = {measure.title: measure.value, f"{measure.title}: {measure.baseline_name}": measure.baseline}
            for row, value in shown.items():
                if measure.title and value is not None:
                    rows.setdefault(row, [None] * len(evaluations))[place] = value
    return list(rows.items())


def _recall_bars(found: Evaluation) -> str:
    titles = ("image to caption", "caption to image")
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        for axes, direction, title in zip(figure.subplots(1, 2, sharey=True), DIRECTIONS, titles, strict=True):
            measures, ticks = recalls(found, direction), [f"R@{k}" for k in KS]
            bars = axes.bar(ticks, [each.value for each in measures], color="#2458c5", width=0.55, label="model")
            axes.bar_label(bars, fmt="%.2f", padding=2)
            axes.bar(ticks, [each.baseline for each in measures], color="#e07a2d", width=0.55, label="chance")
            axes.set(title=title, ylim=(0, 1.1))
        axes.legend(frameon=False, loc="upper left")
        return _svg(figure)


@torch.inference_mode()
def _examples(run: Path, samples: list[CaptionSample], number: int) -> list[Example]:
    """Images with the three captions, of all held-out ones, that the contrast ranks first."""
    model, processor = load_model(run, kind=FiberForPretraining)
    device = next(model.parameters()).device
    texts = [(caption, row) for row, sample in enumerate(samples) for caption in sample["captions"]]
    features = []
    for start in range(0, len(texts), 250):
        batch = processor(text=[text for text, _ in texts[start : start + 250]])
        features.append(model.encode_texts(*(value.to(device) for value in batch.values())))
    encoded = torch.cat(features)
    examples = []
    for row in range(0, len(samples), max(1, len(samples) // number))[:number]:
        sample = samples[row]
        pixels = processor(images=sample["image"])["pixel_values"].to(device)
        scores = (encoded @ model.encode_images(pixels).T).squeeze(1)
        best = scores.topk(min(3, len(scores)))
        found = [
            Retrieved(texts[index][0], score, texts[index][1] == row)
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        examples.append(Example(_data_uri(sample["image"]), sample["captions"][:2], found))
    return examples


def _data_uri(image: ImageSource) -> str:
    thumbnail = to_pil_image(load_image(image))
    thumbnail.thumbnail((2 * _SHOWN_SIDE, 2 * _SHOWN_SIDE))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
