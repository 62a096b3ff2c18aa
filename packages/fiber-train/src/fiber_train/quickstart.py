"""From nothing to a measured model in minutes: the pipeline `quickstart.yaml`, and a report of what it reached."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from fiber_data import read_captions, read_detection, read_grounding

from fiber_train.config import load_config
from fiber_train.next_commands import next_commands
from fiber_train.pipeline import read_pipeline, run_pipeline
from fiber_train.recipe_files import QUICKSTART, optional_steps
from fiber_train.report import write_report
from fiber_train.steps import ScenesStep, Step, TokenizerStep, TrainStep
from fiber_train.stopping import say
from fiber_train.tasks.base import make_task

SPLITS = {"train": 4000, "val": 500}
REPORT = "report.html"


def quickstart(
    out: str | Path, overrides: Sequence[str] = (), splits: Mapping[str, int] = SPLITS, tasks: Sequence[str] = ()
) -> dict[str, str] | None:
    """Runs the coarse stage and then the fine stage; beside them, to compare, the fine stage alone.

    As soon as the coarse stage is done, the page shows what it learned.

    Args:
        out: Folder for the scenes (`scenes/`), their tokenizer, the runs (`coarse/`, `fine/`, `fine_from_scratch/` and
            one for each of the tasks) and the page (`report.html`).
        overrides: Settings of all runs to change, such as `"trainer.max_steps=50"`; of `task.` those runs' whose
            task has the setting.
        splits: How many scenes to generate.
        tasks: What else to learn from the coarse stage's model: names of the optional steps. What an earlier call has
            done is not done again.

    Returns:
        What each run reached, in lines for people by its title; or None if it was asked to stop, and the same call
        goes on.

    Raises:
        FileExistsError: The folder holds files of somebody else's that would be overwritten.
        ValueError: It is to run on several devices, or there is no such task.
    """
    root, began = Path(out), time.monotonic()
    steps = read_steps(root, overrides, splits, tasks)
    runs = sorted((step for step in steps if isinstance(step, TrainStep)), key=lambda step: step.beside)
    coarse = runs[0]
    if (trainer := coarse.config.trainer).devices * trainer.num_nodes > 1:
        raise ValueError(
            "the quickstart runs on one device; leave trainer.devices and num_nodes at 1, or train recipes"
        )

    def show(step: Step) -> None:
        if step is coarse:
            write_report({coarse.title: step.folder}, root / REPORT)
            say(f"a first result after {_minutes(began)}: open {root / REPORT}")

    if not run_pipeline(root, steps, also=(REPORT,), finished=show):
        return None
    write_report({step.title: step.folder for step in runs}, root / REPORT)
    say(f"all done after {_minutes(began)}")
    return {step.title: step.summary() for step in runs}


def _minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f} minutes"


def read_steps(
    root: Path, overrides: Sequence[str] = (), splits: Mapping[str, int] = SPLITS, tasks: Sequence[str] = ()
) -> list[Step]:
    """The steps of the file, below `root`, with so many scenes and a vocabulary of the size that the runs name.

    Raises:
        ValueError: There is no such task, or an override is out of place.
    """
    _, steps = read_pipeline(QUICKSTART, [*overrides, f"out={root}"], tasks)
    sizes = [step.config.data.vocab_size for step in steps if isinstance(step, TrainStep) and step.name == "coarse"]
    for step in steps:
        if isinstance(step, ScenesStep):
            step.splits = dict(splits)
        if isinstance(step, TokenizerStep):
            step.vocab_size = sizes[0]
    return steps


def commands(root: Path, tasks: Sequence[str] = ()) -> list[str]:
    """What to type to try a finished quickstart's models on its first held-out image, as a shell takes it.

    Args:
        root: Its folder.
        tasks: Those of its runs that are there beside the two stages.
    """
    scenes, fine = root / "scenes", str(root / "fine")
    caption = read_captions(scenes, "val")[0]
    image = str(caption["image"])
    expressions = read_grounding(scenes, "val", name="refcoco+")
    expression = next((each["caption"] for each in expressions if str(each["image"]) == image), "square")
    categories = ", ".join(read_detection(scenes, "val").categories.values())
    photos, sentence = str(Path(image).parent), caption["captions"][0]
    words = [
        ["retrieve", "--images", photos, "--query", sentence, "--top", "5", "--checkpoint", str(root / "coarse")],
        ["detect", image, "--categories", categories, "--checkpoint", fine, "--draw", str(root / "drawn")],
        ["ground", image, sentence, "--checkpoint", fine, "--draw", str(root / "drawn")],
        ["refer", image, expression, "--checkpoint", fine],
    ]
    lines = [shlex.join(["fiber", *each]) for each in words]
    for name in tasks:
        task = make_task(load_config(root / name / "config.yaml"))
        lines += next_commands(task, root / name, task.samples("val"))
    return lines


def further(root: Path, overrides: Sequence[str] = (), tasks: Sequence[str] = ()) -> str | None:
    """The command that learns what else there is to learn from the same models; None if nothing is left."""
    left = [task for task in optional_steps(QUICKSTART) if task not in tasks]
    if not left:
        return None
    named = chain.from_iterable(("--task", task) for task in [*tasks, *left])
    return shlex.join(["fiber", "quickstart", "--out", str(root), *named, *overrides])
