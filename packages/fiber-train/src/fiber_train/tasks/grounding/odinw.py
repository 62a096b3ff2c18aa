"""ODinW, object detection in the wild: a run for each of its data sets from the same weights, and their average.

Source: GLIP (Li et al., CVPR 2022), whose thirteen data sets FIBER reports, and ELEVATER (Li et al., NeurIPS 2022),
which has 35.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fiber_data import SplitNotFoundError
from fiber_eval import odinw_average
from yaml import safe_load

from fiber_train.checkpoint import load_model
from fiber_train.config import load_config
from fiber_train.evaluation import Evaluation, write_json
from fiber_train.launch import build_fabric
from fiber_train.ownership import check_ours, locked, mark
from fiber_train.run import train
from fiber_train.stopping import say
from fiber_train.tasks.base import check_monitor
from fiber_train.tasks.find import task_of_model

KNOWN = Path(__file__).with_name("odinw.yaml")
TABLE_FILE, TEST_FILE = "odinw.json", "test.json"
TEST = "test"


@dataclass(frozen=True)
class WildData:
    """A data set of ODinW.

    Attributes:
        root: Its folder, below the one of all.
        eval_split: By which the best weights are kept.
        wording: Its `task.wording`.
        of_13: Its name among the thirteen; None if it is none of them.
    """

    root: str
    eval_split: str = "valid"
    wording: dict[str, str] = field(default_factory=dict)
    of_13: str | None = None


def known_sets(file: Path = KNOWN) -> dict[str, WildData]:
    """The data sets by name, of ours or of a file like `odinw.yaml`.

    Raises:
        ValueError: The file is none.
    """
    content = safe_load(file.read_text(encoding="utf-8"))
    try:
        return {str(name): WildData(**entry) for name, entry in content.items()}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{file}: expected NAME: {{root: FOLDER}} for each data set ({error})") from error


def choose_sets(which: str) -> dict[str, WildData]:
    """The data sets that are meant: "13", "35", a file, or names with commas between.

    Raises:
        ValueError: There is no data set of such a name.
    """
    if which.endswith((".yaml", ".yml")):
        return known_sets(Path(which))
    known = known_sets()
    if which == "35":
        return known
    thirteen = {each.of_13: each for each in known.values() if each.of_13}
    if which == "13":
        return thirteen
    names = [name.strip() for name in which.split(",")]
    known |= thirteen
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--sets: {unknown[0]!r} is no data set of ODinW; known are {', '.join(sorted(known))}")
    return {name: known[name] for name in names}


def run_odinw(
    root: Path, out: Path, sets: dict[str, WildData], recipes: Sequence[str], overrides: Sequence[str]
) -> dict[str, float] | None:
    """Trains on each data set, in a folder of its own; those that are done already are skipped.

    Args:
        root: Folder of all data sets.
        out: Gets a run for each, its AP on the test split in `test.json`, and all of them in `odinw.json`.
        sets: By name.
        recipes: To lay over `odinw`.
        overrides: Settings of all runs, such as `model.checkpoint=...`.

    Returns:
        AP by data set, and `average`; or None if it was asked to stop, and the same call goes on.

    Raises:
        FileNotFoundError: A data set is missing, before the first run.
    """
    if absent := [name for name, data in sets.items() if not (root / data.root).is_dir()]:
        raise FileNotFoundError(f"{root / sets[absent[0]].root}: no such folder, of {absent[0]}; {len(absent)} lack")
    out.mkdir(parents=True, exist_ok=True)
    check_ours(out, "odinw", [*sets, TABLE_FILE])
    found: dict[str, float] = {}
    with locked(out):
        mark(out, "odinw")
        for name, data in sets.items():
            ap = _run_one(root / data.root, out / name, data, recipes, overrides)
            if ap is None:
                return None
            found[name] = ap
            say(f"{name}: AP {ap:.3f} ({len(found)} of {len(sets)})")
        table = {name: float(value) for name, value in odinw_average(found, datasets=list(sets)).items()}
        write_json(out / TABLE_FILE, table)
    return table


def _run_one(root: Path, out: Path, data: WildData, recipes: Sequence[str], overrides: Sequence[str]) -> float | None:
    """The AP of the best weights on the test split, or, where there is none, on the one they were chosen by."""
    done = out / TEST_FILE
    if not done.is_file():
        given = [f"data.root={root}", f"out={out}", f"data.eval_split={data.eval_split}"]
        given += [f"task.wording={json.dumps(data.wording)}"] if data.wording else []
        if (last := train(load_config(["odinw", *recipes], [*given, *overrides]))) is None:
            return None
        write_json(done, _on_test(root, out / "best", last).to_json())
    return Evaluation.from_json(json.loads(done.read_text(encoding="utf-8")))["AP"]


def _on_test(root: Path, best: Path, last: Evaluation) -> Evaluation:
    """What the best weights reach on the test split."""
    model, processor = load_model(best)
    task = task_of_model(best, model, [f"data.root={root}", f"data.eval_split={TEST}"])
    try:
        samples = task.samples(TEST)
        check_monitor(task, task.check(samples))
    except SplitNotFoundError:
        say(f"{root}: no split {TEST!r}; the AP is that of the best weights on the split that they were chosen by")
        return Evaluation.from_json(json.loads((best / "evaluation.json").read_text(encoding="utf-8")))
    fabric = build_fabric(task)
    return task.measure(fabric.strategy.precision.convert_module(model.to(fabric.device)), samples, processor, fabric)


def as_table(found: dict[str, float]) -> str:
    """The APs in lines for people, the average last."""
    rows = [(name, value) for name, value in found.items() if name != "average"]
    return "".join(f"{name:28} {value:.3f}\n" for name, value in [*rows, ("average", found["average"])])
