"""From nothing to a measured model in a few minutes: generate scenes, pre-train on them, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fiber_data.scenes import generate_scenes
from lightning_fabric.utilities.rank_zero import rank_zero_only

from fiber_train.config import load_config
from fiber_train.report import write_report
from fiber_train.run import train
from fiber_train.tasks import make_task

SPLITS = {"train": 4000, "val": 500}


def quickstart(out: str | Path, overrides: Sequence[str] = ()) -> dict[str, float] | None:
    """Runs the quickstart recipe on generated scenes.

    Args:
        out: Folder for the scenes (`scenes/`), the run (`run/`) and the page (`report.html`).
        overrides: Settings of the recipe to change, such as `"trainer.max_steps=50"`.

    Returns:
        The evaluation, or None if the run was asked to stop; the same call goes on.
    """
    root = Path(out)
    defaults = [f"data.root={root / 'scenes'}", f"out={root / 'run'}"]
    config = load_config("quickstart", [*defaults, *overrides])
    if not _has_scenes(root / "scenes"):
        generate_scenes(root / "scenes", SPLITS)
    results = train(config)
    if results is not None:
        held_out = make_task(config).read(config.data.eval_split)
        rank_zero_only(write_report)(config.out, held_out, root / "report.html")
    return results


def _has_scenes(folder: Path) -> bool:
    """Whether the scenes were generated whole; the manifest is written last."""
    manifest = folder / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["splits"] == SPLITS
