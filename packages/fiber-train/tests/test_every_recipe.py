"""Every recipe is run end to end: a few steps on generated scenes, an evaluation, the files of a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fiber_data.scenes import generate_scenes
from fiber_train.checkpoint import load_model
from fiber_train.config import load_config
from fiber_train.evaluation import read_evaluation
from fiber_train.ownership import MARKER
from fiber_train.recipe_files import find_recipes
from fiber_train.run import train
from fiber_train.tasks.base import make_task
from fiber_train.tracking import read_metrics

from .conftest import FEW, OWN, SMALL
from .layouts import write_genome_questions, write_lvis, write_roboflow
from .published import write_published

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0"]
FINE = ["fine", "coco", "lvis", "flickr", "refcoco", "odinw"]
# What a recipe is laid over, if it is none of its own.
BELOW = {
    "small": ["nlvr2"],
    "gpu_12gb": ["vqa"],
    "gpu_24gb": ["coco"],
    "coarse_mixture": ["coarse"],
    "fine_mixture": ["fine"],
    "fine_expressions": ["fine"],
    "quickstart_fine": ["fine"],
    "vqa_genome": ["vqa"],
    "linear_probe": ["odinw"],
    "prompt_v2": ["odinw"],
    "prompt_v4": ["odinw"],
}
PUBLISHED = ("coarse_mixture", "fine_mixture")
SCENES = ["task.train.captions=[scenes]"]
OWN_SETTINGS = {
    **OWN,
    "fine": SCENES,
    "fine_expressions": SCENES,
    "fine_mixture": ["data.eval_split=val", "data.train_split=train"],
    "flickr": [*SCENES, "task.evaluate.captions=[scenes]"],
    "lvis": ["task.chunk_size=3", "data.eval_split=val"],
    "odinw": ["data.eval_split=valid", "task.shots=3"],
    "linear_probe": ["data.eval_split=valid"],
    "prompt_v2": ["data.eval_split=valid"],
    "prompt_v4": ["data.eval_split=valid"],
    "vqa_genome": ["task.min_count=2"],
    "gpu_12gb": ["task.min_count=2"],
}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few scenes, so that evaluations are short."""
    return generate_scenes(tmp_path_factory.mktemp("few") / "scenes", {"train": 40, "val": 20})


@pytest.fixture(scope="module")
def roots(few: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of data by recipe, where it is not that of scenes."""
    made = tmp_path_factory.mktemp("data")
    wild = write_roboflow(few, made / "wild")
    published = write_published(made / "published")
    (made / "answering").mkdir()
    (made / "answering" / "vqav2").symlink_to(few)
    write_genome_questions(few, made / "answering" / "visual_genome")
    found = dict.fromkeys(("odinw", "linear_probe", "prompt_v2", "prompt_v4"), wild) | dict.fromkeys(
        PUBLISHED, published
    )
    return {**found, "lvis": write_lvis(few, made / "lvis"), "vqa_genome": made / "answering"}


@pytest.mark.parametrize(
    "recipe",
    sorted(
        name
        for name, paths in find_recipes().items()
        if all("fiber_train" in path.parts for path in paths) and not name.startswith("own_")  # see test_own_data
    ),
)
def test_a_recipe_trains_evaluates_and_leaves_its_files(
    recipe: str, few: Path, coarse: Path, roots: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    layers = [*BELOW.get(recipe, []), *([] if recipe in BELOW else [recipe])]
    layers += [*(["small"] if recipe != "quickstart" else []), *([recipe] if recipe in BELOW else [])]
    layers += ["small"] * recipe.startswith("gpu")
    words = [f"data.root={roots.get(recipe, few)}", f"out={out}", *FEW]
    words += LITTLE if {*FINE, "quickstart_fine"} & {*layers} else []
    fresh = recipe in ("quickstart", "coarse")
    words += [*SMALL[:8]] if fresh else [f"model.checkpoint={coarse}"]
    words += ["data.tokenizer=null", "model.image_weights=null", "model.text_weights=null"]
    words += [*OWN_SETTINGS.get(recipe, []), "trainer.accumulate=1", "trainer.max_epochs=null", "trainer.eval_every=0"]
    config = load_config(layers, words)
    found = train(config)
    assert found is not None
    assert max(step for step, name, _ in read_metrics(out) if name.startswith("train/")) == 3
    assert read_evaluation(out).numbers() == pytest.approx(found.numbers(), nan_ok=True)
    task = make_task(config)
    assert task.keeps_best_by in found
    assert (out / "best" / "evaluation.json").is_file()
    assert {path.name for path in (out / "predictions").glob("*")} - {MARKER} == set(found.predictions)
    model, processor = load_model(out / "model")
    assert processor.max_length == config.data.max_length
    assert sum(value.numel() for value in model.parameters()) < 1_000_000, "of the tiny size"
    shutil.rmtree(out)
