"""Model cards: the `README.md` beside weights that says what they are, what was measured, and how to load them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fiber_heads import TaskModel
from huggingface_hub import ModelCardData

from fiber_train.evaluation import Evaluation, Measure
from fiber_train.machine import installed_versions
from fiber_train.tasks.base import Task

CARD_FILE = "README.md"
_MOST_ROWS = 60  # of numbers; some benchmarks have hundreds of groups


def write_card(folder: Path, text: str) -> None:
    """Writes a card into a model's folder, in place of the one without numbers that saving a model leaves."""
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def run_card(task: Task[Any], model: TaskModel, found: Evaluation, step: int) -> str:
    """The card of a run's model.

    Args:
        task: With the run's configuration.
        model: What is saved.
        found: The evaluation of these very weights.
        step: Optimizer steps that made them.
    """
    config = task.config
    data = [source.name for source in config.data.sources] or [Path(config.data.root).name]
    start = config.model.checkpoint or " and ".join(
        filter(None, (config.model.image_weights, config.model.text_weights))
    )
    settings = {
        "steps": f"{step:,}, of {config.trainer.batch_size:,} samples each",
        "learning rate": f"{config.optim.learning_rate:g} ({config.optim.schedule})",
        "optimizer": config.optim.optimizer,
        "precision": config.trainer.precision,
        "seed": config.trainer.seed,
        "started from": Path(start).name if start else f"random weights ({config.model.preset})",
    }
    parts = [
        f"A {type(model).__name__} of {_millions(model)} parameters, trained by the task `{config.task.name}`.",
        "## Data",
        f"Learned from {', '.join(f'`{name}`' for name in data)} (split `{config.data.train_split}`), measured on the "
        f"split `{config.data.eval_split}`.",
        "## Settings",
        _table(("setting", "value"), [(name, f"`{value}`") for name, value in settings.items()]),
        "## Measured",
        _measured(found),
        "## Limits",
        _limits(model, config.data.eval_split, found),
    ]
    return _card(type(model), parts)


def converted_card(model: TaskModel, source: Path, told: Sequence[str]) -> str:
    """The card of a model converted from a file of the original.

    Args:
        model: What is saved.
        source: The file; its name alone is written.
        told: What it was recognized as, and what was assumed.
    """
    parts = [
        f"A {type(model).__name__} of {_millions(model)} parameters, converted from `{source.name}`, a checkpoint of "
        "the original FIBER (Dou et al. 2022, https://arxiv.org/abs/2206.07643).",
        "## Data and settings",
        "Those of the original; the file does not say which. Of its tensors this was read or assumed:",
        "\n".join(f"- {sentence.removeprefix(f'{source}: ')}" for sentence in told),
        "## Measured",
        "Nothing was measured here: `fiber evaluate --checkpoint THIS_FOLDER --data DATA`.",
        "## Limits",
        _limits(model, "", Evaluation()),
    ]
    return _card(type(model), parts)


def _card(kind: type[TaskModel], parts: Sequence[str]) -> str:
    data: Any = ModelCardData(library_name="fiber", tags=["vision-language", "fiber", kind.__name__], language="en")
    example = kind.example or "model.eval()"
    load = f'from fiber_heads import AutoFiber\nmodel = AutoFiber.from_pretrained("FOLDER")\nprint({example})'
    whole = [
        f"---\n{data.to_yaml()}\n---",
        f"# {kind.__name__}",
        parts[0],
        "## Load",
        f"```python\n{load}\n```",
        *parts[1:],
        "## Versions",
        installed_versions(),
    ]
    return "\n\n".join(whole) + "\n"


def _measured(found: Evaluation) -> str:
    counts = ", ".join(
        f"{count:,} {name.removeprefix('num_').replace('_', ' ')}" for name, count in found.counts.items()
    )
    if not found.measures and not found.extra:
        return f"Nothing: {counts or 'no sample has annotations'}."
    shown = list(found)[:_MOST_ROWS]
    rows = [(each.title or each.name, _number(each, each.value), _baseline(each)) for each in shown]
    more = [f"{len(list(found)) - len(shown)} more in `evaluation.json`."] if len(list(found)) > len(shown) else []
    left_out = [f"- {each}" for each in found.left_out]
    table = _table(("measure", "value", "to compare with"), rows)
    return "\n\n".join([f"On {counts}:", table, *more, *(["\n".join(left_out)] if left_out else [])])


def _number(measure: Measure, value: float) -> str:
    return f"{value:.4g}{measure.unit}"


def _baseline(measure: Measure) -> str:
    if measure.baseline is None:
        return ""
    return f"{measure.baseline_name or 'baseline'} {_number(measure, measure.baseline)}"


def _limits(model: TaskModel, split: str, found: Evaluation) -> str:
    known = [
        f"Texts are read up to {getattr(model.processor, 'max_length', model.backbone.max_text_length)} tokens; longer "
        "ones are cut."
    ]
    if size := getattr(model.processor, "image_size", None):
        known.append(f"Images are resized to squares of {size} px; small things in large images may be lost.")
    if found.measures:
        known.append(
            f"The numbers are of the split `{split}` of the data above. The best weights may have been chosen by them. "
            "They say little about other images and texts."
        )
    known.append("Biases of the data are not known to be absent; look at mistakes before anything depends on it.")
    return "\n".join(f"- {sentence}" for sentence in known)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _millions(model: TaskModel) -> str:
    return f"{sum(each.numel() for each in model.parameters()) / 1e6:,.1f} million"
