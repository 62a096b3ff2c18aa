"""From nothing to a measured model in minutes: generate scenes, train both stages on them, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fiber_data import read_grounding
from fiber_data.scenes import generate_scenes
from lightning_fabric.utilities.rank_zero import rank_zero_only

from fiber_train.config import TrainConfig, load_config
from fiber_train.report import FineRuns, write_report
from fiber_train.run import train
from fiber_train.tasks import make_task

SPLITS = {"train": 4000, "val": 500}
FINE, SCRATCH = "after the coarse stage", "from scratch"


def quickstart(out: str | Path, overrides: Sequence[str] = ()) -> dict[str, str] | None:
    """Runs the coarse stage, the fine stage after it, and for comparison the fine stage alone, on generated scenes.

    Args:
        out: Folder for the scenes (`scenes/`), the runs (`coarse/`, `fine/`, `fine_from_scratch/`) and the page
            (`report.html`).
        overrides: Settings of all three runs to change, such as `"trainer.max_steps=50"`.

    Returns:
        What each run reached, in lines for people by its title; or None if one was asked to stop, and the same call
        goes on.
    """
    root = Path(out)
    if not _has_scenes(root / "scenes"):
        generate_scenes(root / "scenes", SPLITS)
    reached = {}
    for title, config in run_configs(root, overrides).items():
        results = train(config)
        if results is None:
            return None
        reached[title] = make_task(config).describe(results)
    rank_zero_only(_report)(root, overrides)
    return reached


def run_configs(root: Path, overrides: Sequence[str] = ()) -> dict[str, TrainConfig]:
    """The three runs by title, in the order in which they have to run."""
    data, fine = f"data.root={root / 'scenes'}", ["fine", "small", "quickstart_fine"]
    start = f"model.checkpoint={root / 'coarse'}"
    return {
        "coarse stage": load_config("quickstart", [data, f"out={root / 'coarse'}", *overrides]),
        f"fine stage {FINE}": load_config(fine, [data, f"out={root / 'fine'}", start, *overrides]),
        f"fine stage {SCRATCH}": load_config(fine, [data, f"out={root / 'fine_from_scratch'}", *overrides]),
    }


def _report(root: Path, overrides: Sequence[str]) -> None:
    config = next(iter(run_configs(root, overrides).values()))
    captions = read_grounding(config.data.root, split=config.data.eval_split)
    fine = FineRuns({FINE: root / "fine", SCRATCH: root / "fine_from_scratch"}, captions)
    write_report(config.out, make_task(config).read(config.data.eval_split), root / "report.html", fine)


def _has_scenes(folder: Path) -> bool:
    """Whether the scenes were generated whole; the manifest is written last."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["splits"] == SPLITS
