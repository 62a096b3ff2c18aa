"""From nothing to a measured model in minutes: generate scenes, train both stages on them, report."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fiber_data import read_captions, train_tokenizer
from fiber_data.scenes import generate_scenes

from fiber_train.config import TrainConfig, has_setting, load_config
from fiber_train.evaluation import read_evaluation
from fiber_train.ownership import check_ours, locked, mark
from fiber_train.report import write_report
from fiber_train.run import train
from fiber_train.stopping import STATUS, stop_with_parent, stopping
from fiber_train.tasks.base import make_task
from fiber_train.writing import explained, replace_folder, restore

NAMES = ("scenes", "tokenizer", "coarse", "fine", "fine_from_scratch", "report.html")
SPLITS = {"train": 4000, "val": 500}
COARSE, FINE, SCRATCH = "coarse stage", "fine stage after the coarse stage", "fine stage from scratch"


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
    configs = run_configs(root, overrides)
    if (trainer := configs[COARSE].trainer).devices * trainer.num_nodes > 1:
        raise ValueError(
            "the quickstart runs on one device; leave trainer.devices and num_nodes at 1, or train recipes"
        )
    with stopping(), ExitStack() as stack:
        with explained(root):
            check_ours(root, "quickstart", NAMES)
            stack.enter_context(locked(root))
            mark(root, "quickstart")
        _prepare(root, splits, configs[COARSE].data.vocab_size)
        with _beside(configs[SCRATCH]) as process:
            if any(train(configs[title]) is None for title in (COARSE, FINE)):
                return None
        if process.exitcode and train(configs[SCRATCH]) is None:  # it failed, which is seen now
            return None
    write_report({title: Path(config.out) for title, config in configs.items()}, root / "report.html")
    return {title: make_task(config).summary(read_evaluation(config.out)) for title, config in configs.items()}


def run_configs(root: Path, overrides: Sequence[str] = ()) -> dict[str, TrainConfig]:
    """The three runs by title."""
    given = [f"data.root={root / 'scenes'}", f"data.tokenizer={root / 'tokenizer'}"]
    start, fine = f"model.checkpoint={root / 'coarse'}", ["fine", "small", "quickstart_fine"]
    runs: dict[str, tuple[list[str], list[str]]] = {
        COARSE: (["quickstart"], [*given, f"out={root / 'coarse'}"]),
        FINE: (fine, [*given, f"out={root / 'fine'}", start]),
        SCRATCH: (fine, [*given, f"out={root / 'fine_from_scratch'}"]),
    }
    plain = {title: load_config(*run) for title, run in runs.items()}
    own = [word for word in overrides if word.startswith("task.")]
    nobodys = [word for word in own if not any(_takes(config, word) for config in plain.values())]  # to be refused
    return {
        title: load_config(
            recipes,
            [*settings, *(word for word in overrides if word not in own or _takes(plain[title], word)), *nobodys],
        )
        for title, (recipes, settings) in runs.items()
    }


def _takes(config: TrainConfig, override: str) -> bool:
    return has_setting(config, override.partition("=")[0])


def _prepare(root: Path, splits: Mapping[str, int], vocab_size: int) -> None:
    """Scenes, and one tokenizer for all runs, so that they differ in their weights alone."""
    scenes, tokenizer = root / "scenes", root / "tokenizer"
    restore(scenes)
    restore(tokenizer)
    if _made_scenes(scenes) != dict(splits):
        replace_folder(scenes, partial(_draw, splits), "scenes")
    if not tokenizer.is_dir():
        texts = (text for sample in read_captions(scenes, "train") for text in sample["captions"])
        replace_folder(tokenizer, partial(_save_tokenizer, train_tokenizer(texts, vocab_size)), "tokenizer")


def _made_scenes(folder: Path) -> dict[str, int] | None:
    """The splits of the scenes in a folder; None if it holds none that are whole."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("dataset") == "scenes" and isinstance(manifest["splits"], dict)
    return manifest["splits"] if ours else None


def _draw(splits: Mapping[str, int], folder: Path) -> None:
    generate_scenes(folder, splits)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder))


@contextmanager
def _beside(config: TrainConfig) -> Iterator[BaseProcess]:
    """Trains on another core meanwhile, with a log in place of a progress bar; stops with the block if that fails."""
    process = multiprocessing.get_context("spawn").Process(target=_train_with_log, args=(config,))
    process.start()
    try:
        yield process
        process.join()
    finally:
        with stopping() as stop, stop.deferred():
            process.terminate()  # of a process that runs: it finishes its step and writes a checkpoint
            process.join()


def _train_with_log(config: TrainConfig) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # a terminal asks the first process alone to stop, which asks this one
    stop_with_parent()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        if train(config) is None:
            sys.exit(STATUS)
