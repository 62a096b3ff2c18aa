"""From nothing to a measured model in minutes: the pipeline `quickstart.yaml`, and a report of what it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fiber_train.pipeline import read_pipeline, run_pipeline
from fiber_train.report import write_report
from fiber_train.steps import ScenesStep, Step, TokenizerStep, TrainStep

FILE = Path(__file__).parent / "pipelines" / "quickstart.yaml"
SPLITS = {"train": 4000, "val": 500}
COARSE, FINE, SCRATCH = "coarse stage", "fine stage after the coarse stage", "fine stage from scratch"
RUNS = {COARSE: "coarse", FINE: "fine", SCRATCH: "fine_from_scratch"}
REPORT = "report.html"


def quickstart(
    out: str | Path, overrides: Sequence[str] = (), splits: Mapping[str, int] = SPLITS
) -> dict[str, str] | None:
    """Runs the coarse stage and then the fine stage; beside them, to compare, the fine stage alone.

    Args:
        out: Folder for the scenes (`scenes/`), their tokenizer, the runs (`coarse/`, `fine/`, `fine_from_scratch/`)
            and the page (`report.html`).
        overrides: Settings of all three runs to change, such as `"trainer.max_steps=50"`; of `task.` those runs' whose
            task has the setting.
        splits: How many scenes to generate.

    Returns:
        What each run reached, in lines for people by its title; or None if it was asked to stop, and the same call
        goes on.

    Raises:
        FileExistsError: The folder holds files of somebody else's that would be overwritten.
        ValueError: It is to run on several devices.
    """
    root = Path(out)
    steps = read_steps(root, overrides, splits)
    runs = {title: step for title, name in RUNS.items() for step in steps if step.name == name}
    coarse = runs[COARSE]
    assert isinstance(coarse, TrainStep)
    if (trainer := coarse.config.trainer).devices * trainer.num_nodes > 1:
        raise ValueError(
            "the quickstart runs on one device; leave trainer.devices and num_nodes at 1, or train recipes"
        )
    if not run_pipeline(root, steps, also=(REPORT,)):
        return None
    write_report({title: step.folder for title, step in runs.items()}, root / REPORT)
    return {title: step.summary() for title, step in runs.items() if isinstance(step, TrainStep)}


def read_steps(root: Path, overrides: Sequence[str] = (), splits: Mapping[str, int] = SPLITS) -> list[Step]:
    """The steps of the file, below `root`, with so many scenes and a vocabulary of the size that the runs name."""
    _, steps = read_pipeline(FILE, [*overrides, f"out={root}"])
    sizes = [step.config.data.vocab_size for step in steps if isinstance(step, TrainStep) and step.name == "coarse"]
    for step in steps:
        if isinstance(step, ScenesStep):
            step.splits = dict(splits)
        if isinstance(step, TokenizerStep):
            step.vocab_size = sizes[0]
    return steps
