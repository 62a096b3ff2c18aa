"""Trains every recipe on generated scenes for a few minutes, and writes what it reached to RESULTS.md.

    python results.py --out results [--only vqa coco] [--page RESULTS.md]

A run that is whole is not made again; one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiber_data import read_captions, train_tokenizer
from fiber_data.scenes import generate_scenes
from fiber_train.config import TrainConfig, load_config
from fiber_train.evaluation import Evaluation, Measure
from fiber_train.run import train
from fiber_train.tasks.base import make_task
from fiber_train.writing import replace_folder, write_file

try:
    from .layouts import write_genome_questions, write_lvis, write_roboflow
except ImportError:  # as a script
    from layouts import write_genome_questions, write_lvis, write_roboflow

PAGE = Path(__file__).resolve().parents[1] / "RESULTS.md"
SPLITS = {"train": 2000, "val": 200}
DONE_FILE = "result.json"
THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
BEFORE = "before it learned"
HEAD = f"""# What the recipes reach on generated scenes

Written by `nox -s results`: each recipe, laid over with `small`, on {SPLITS["train"]:,} generated images for a few minutes on a CPU, measured on {SPLITS["val"]} others. It shows that a recipe learns what its task asks for, not what the published sizes reach, and all runs are far from their end. Where a measure has no guess to be compared with, the baseline is the model {BEFORE}.

| recipe | starts from | measure | reached | baseline | which is | steps |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Recipe:
    """A run.

    Attributes:
        name: Of its folder, and of the recipe in the table.
        layers: The recipes that are laid over each other.
        start: The run whose weights it starts from.
        steps: How many.
        words: Further settings.
        data: The folder of its data, in that of all.
    """

    name: str
    layers: list[str]
    start: str | None
    steps: int
    words: tuple[str, ...] = ()
    data: str = "scenes"


CAPTIONS = ("task.train.captions=[scenes]", "task.evaluate.captions=[scenes]")
EXPRESSIONS = ("task.train.expressions=[refcoco+]", "task.evaluate.expressions=[refcoco+]")
BOTH = ("task.model.objectives=[itc,itm]",)  # matching alone would look at every pair
QUESTIONS = ("data.train_split=train", "data.eval_split=val")
VALID = ("data.eval_split=valid", "trainer.eval_every=0.25", "trainer.batch_size=8")
RUNS = [
    Recipe("quickstart", ["quickstart"], None, 300, ("trainer.eval_every=0",)),
    Recipe("coarse", ["coarse", "small"], "quickstart", 150),
    Recipe("vqa", ["vqa", "small"], "quickstart", 300),
    Recipe("vqa vqa_genome", ["vqa", "vqa_genome", "small"], "quickstart", 200, data="questions"),
    Recipe("nlvr2", ["nlvr2", "small"], "quickstart", 150),
    Recipe("retrieval_itc", ["retrieval_itc", "small"], "quickstart", 150),
    Recipe("retrieval_itm", ["retrieval_itm", "small"], "quickstart", 100, BOTH),
    Recipe("caption_mle", ["caption_mle", "small"], "quickstart", 150),
    Recipe("caption_gold", ["caption_gold", "small"], "caption_mle", 60),
    Recipe("caption_cider", ["caption_cider", "small"], "caption_gold", 15, ("optim.learning_rate=2e-5",)),
    Recipe("fine", ["fine", "small", "quickstart_fine"], "quickstart", 200),
    Recipe(
        "fine_expressions",
        ["fine", "fine_expressions", "small"],
        "quickstart",
        100,
        (*CAPTIONS, *EXPRESSIONS[1:], "optim.learning_rate=1e-3"),
    ),
    Recipe("coco", ["coco", "small"], "fine", 60),
    Recipe("lvis", ["lvis", "small"], "fine", 60, ("data.eval_split=val",), "lvis"),
    Recipe("flickr", ["flickr", "small"], "fine", 60, CAPTIONS),
    Recipe("refcoco", ["refcoco", "small"], "fine", 60, EXPRESSIONS),
    Recipe("odinw", ["odinw", "small"], "fine", 40, ("task.shots=10", *VALID), "wild"),
    Recipe("linear_probe", ["odinw", "small", "linear_probe"], "fine", 40, VALID, "wild"),
    Recipe("prompt_v2", ["odinw", "small", "prompt_v2"], "fine", 40, VALID, "wild"),
    Recipe("prompt_v4", ["odinw", "small", "prompt_v4"], "fine", 40, VALID, "wild"),
]


def prepare(out: Path) -> None:
    """The scenes, in the layouts that recipes read, and one tokenizer for all."""
    makers = {
        "scenes": lambda folder: generate_scenes(folder, SPLITS),
        "tokenizer": lambda folder: _tokenizer(out / "scenes").save_pretrained(folder),
        "lvis": lambda folder: write_lvis(out / "scenes", folder),
        "wild": lambda folder: write_roboflow(out / "scenes", folder),
        "questions": lambda folder: _questions(out / "scenes", folder),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, make in makers.items():
        if not (out / name).is_dir():
            replace_folder(out / name, make, name)


def _tokenizer(scenes: Path) -> Any:
    return train_tokenizer((text for sample in read_captions(scenes, "train") for text in sample["captions"]), 400)


def _questions(scenes: Path, folder: Path) -> None:
    (folder / "vqav2").symlink_to(scenes.resolve())
    write_genome_questions(scenes, folder / "visual_genome", 500)


def config_of(recipe: Recipe, out: Path, *words: str) -> TrainConfig:
    """The configuration of a run."""
    given = [f"data.root={out / recipe.data}", f"out={out / 'runs' / _folder(recipe.name)}"]
    given += [f"trainer.max_steps={recipe.steps}", f"trainer.threads={THREADS}", "data.num_workers=0"]
    start = next((other for other in RUNS if other.name == recipe.start), None)
    if start is None:
        given.append(f"data.tokenizer={out / 'tokenizer'}")
    else:
        given += [f"model.checkpoint={out / 'runs' / _folder(start.name)}", "data.tokenizer=null"]
        given += ["model.image_weights=null", "model.text_weights=null"]
    return load_config(recipe.layers, [*given, *recipe.words, *words])


def _folder(name: str) -> str:
    return name.replace(" ", "_")


def run(recipe: Recipe, out: Path) -> bool:
    """Makes a run, unless it is whole; False if it was stopped."""
    config = config_of(recipe, out)
    done = Path(config.out) / DONE_FILE
    if done.is_file():
        return True
    found = train(config)
    if found is None:
        return False
    best = _chosen(make_task(config).keeps_best_by, found)
    if best.baseline is None:
        best = Measure(best.name, best.value, _before(recipe, out, best.name), BEFORE)
    result = {"name": best.name, "value": best.value, "baseline": best.baseline, "unit": best.unit}
    result |= {"baseline_name": best.baseline_name}
    write_file(done, json.dumps(result, indent=2) + "\n")
    return True


def _chosen(name: str | None, found: Evaluation) -> Measure:
    return found.find(name) if name is not None else found.measures[0]


def _before(recipe: Recipe, out: Path, name: str) -> float:
    """The measure of the weights with which the run begins."""
    config = config_of(recipe, out, "trainer.max_steps=1", "optim.learning_rate=0", "trainer.eval_every=0")
    config.out += "_before"
    config.trainer.patience = None
    config.optim.schedule = "constant"
    found = train(config)
    assert found is not None
    return found[name]


def write_page(out: Path) -> str:
    """The table of all runs that are whole."""
    return HEAD + ("".join(_rows(out)) or "\nNo run is whole yet.\n")


def _rows(out: Path) -> Iterator[str]:
    for recipe in RUNS:
        path = out / "runs" / _folder(recipe.name) / DONE_FILE
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            reached, baseline = (
                "" if each is None else f"{each:.1f} %" if found["unit"] == "%" else f"{each:.3f}{found['unit']}"
                for each in (found["value"], found["baseline"])
            )
            row = [f"`{recipe.name}`", f"`{recipe.start}`" if recipe.start else "nothing", found["name"]]
            row += [reached, baseline, found["baseline_name"], str(recipe.steps)]
            yield f"| {' | '.join(row)} |\n"


def main() -> int:
    """Runs all, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--only", nargs="*", help="names of runs; what they start from has to be whole")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    prepare(options.out)
    for recipe in RUNS:
        if (not options.only or recipe.name in options.only) and not run(recipe, options.out):
            return 3
    write_file(options.page, write_page(options.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
