"""Pipelines: steps in a file, each done once, going on where they stopped; and weights of either stage for any task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fiber_train import steps
from fiber_train.checkpoint import load_task_model
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.pipeline import read_pipeline, run_pipeline
from fiber_train.run import dry_run, train
from fiber_train.stopping import STATUS

from .conftest import FEW, OWN, SMALL
from .test_stopping import ask

LITTLE = [word for word in SMALL if not word.startswith("trainer.max_steps")]
FILE = """
out: nowhere
steps:
  - name: scenes
    scenes: {splits: {train: 40, val: 20, test: 20}}
  - name: coarse
    recipe: quickstart
    data: scenes
    overrides: [trainer.max_steps=2]
  - name: fine
    recipe: [fine, small, quickstart_fine]
    data: scenes
    start: coarse
    overrides: [trainer.max_steps=1, task.model.channels=16]
  - name: vqa
    recipe: [vqa, small]
    data: scenes
    start: fine
    overrides: [trainer.max_steps=1, task.min_count=2, data.test_split=test]
  - name: measured
    evaluate: coarse
    splits: [val, test]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


def modified(root: Path) -> dict[str, int]:
    kept = [*root.rglob("model.safetensors"), *root.rglob("evaluation.json"), *root.rglob("manifest.json")]
    return {str(path): path.stat().st_mtime_ns for path in kept}


def test_steps_are_done_once_and_go_on(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "out"
    words = ["pipeline", str(file), f"out={root}", *LITTLE]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "scenes: to generate 40 scenes of train, 20 scenes of val, 20 scenes of test"
    assert said[2] == f"fine: to train fine small quickstart_fine from {root / 'coarse'}"
    assert not root.exists()

    with pytest.MonkeyPatch.context() as patch:  # a signal comes when the fine stage begins
        begin = steps.TrainStep.run

        def interrupted(step: steps.TrainStep) -> bool:
            if step.name == "fine":
                ask()
            return begin(step)

        patch.setattr(steps.TrainStep, "run", interrupted)
        assert main(words) == STATUS
    assert (root / "coarse" / "model").is_dir()
    assert not (root / "fine" / "model").exists()
    before = modified(root)
    assert main(words) == 0
    assert before.items() <= modified(root).items(), "what was done stays as it is"
    for split, number in (("val", 20), ("test", 20)):
        found = json.loads((root / "measured" / split / "evaluation.json").read_text())
        assert found["counts"]["num_images"] == number
    assert (root / "vqa" / "test" / "predictions.json").is_file()

    capsys.readouterr()
    before = modified(root)
    assert main(words) == 0
    assert capsys.readouterr().err.count("done already") == 5
    assert before == modified(root)

    weights = root / "measured" / "val" / "evaluation.json"
    weights.write_text("{}")
    assert main([*words, "--dry-run"]) == 0
    assert "measured: to evaluate" in (said := capsys.readouterr().err)
    assert "evaluation.json has 2 bytes of" in said
    shutil.rmtree(root / "coarse")
    shutil.rmtree(root / "measured")
    assert main([*words, "coarse_seed=1"]) == 1
    assert "no setting is called 'coarse_seed'" in capsys.readouterr().err
    (root / "pipeline.json").write_text((root / "pipeline.json").read_text().replace('"seed": 0', '"seed": 1'))
    assert main([*words, "--dry-run"]) == 0
    assert "scenes: to generate 40 scenes of train" in (said := capsys.readouterr().err)
    assert "as its settings have changed" in said


def test_a_run_is_not_lost_when_what_it_started_from_changes(file: Path, tmp_path: Path) -> None:
    file.write_text(
        FILE[: FILE.index("  - name: fine")] + "  - {name: more, recipe: quickstart, data: scenes, start: coarse}\n"
    )
    few = [f"out={tmp_path / 'out'}", *LITTLE, "trainer.checkpoint_every=1", "trainer.max_steps=1"]
    assert run_pipeline(*read_pipeline(file, few))
    with pytest.raises(
        ValueError, match=r"more was made of another coarse than there is now; remove it to make it anew"
    ):
        run_pipeline(*read_pipeline(file, [*few, "trainer.max_steps=3"]))


def test_optional_steps_are_done_where_they_are_asked_for(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(FILE.replace("  - name: vqa\n", "  - name: vqa\n    optional: true\n"))
    words = ["pipeline", str(file), f"out={tmp_path / 'out'}", "--dry-run"]
    for more, names in ([], ["scenes", "coarse", "fine", "measured"]), (["--with", "vqa"], None):
        assert main([*words, *more]) == 0
        said = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
        assert said == (names or ["scenes", "coarse", "fine", "vqa", "measured"])
    assert main([*words, "--with", "vqq"]) == 1
    assert "no optional step is called 'vqq'; there are vqa" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [
    ("steps: []\n", "steps must be a list of at least one step, is empty"),
    ("steps: [{name: a}]\n", r"steps\[0\] \(a\): expected one of recipe, evaluate, scenes, train_tokenizer, found none"),
    ("steps: [{nam: a}]\n", r"no setting is called 'steps\[0\].nam'; did you mean 'steps\[0\].name'"),
    ("steps: [{name: a, recipe: quickstart, data: d, start: b}, {name: b, evaluate: a}]\n", r"\(a\): start: b is no ea"),
    (
        "steps: [{name: a, recipe: quickstart, data: d, optional: true}, {name: b, evaluate: a}]\n",
        r"steps\[1\] \(b\): evaluate: a is optional; ask for it too",
    ),
    ("steps: [{name: a, recipe: quickstart}]\n", r"steps\[0\] \(a\): data.root is not set; give it as data.root="),
    ("steps: [{name: a/b, recipe: quickstart}]\n", "name must be a name of its own for a folder, is 'a/b'"),
    ("steps: [{name: a, recipe: quickstar, data: d}]\n", "quickstar: no such recipe or file"),
])  # fmt: skip
def test_a_file_out_of_format_is_one_sentence(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_pipeline(tmp_path / "bad.yaml", ["out=o"])


RECIPES = {
    "coarse": [],
    "vqa": OWN["vqa"],
    "nlvr2": [],
    "retrieval_itm": ["task.model.objectives=[itc,itm]"],
    "caption_mle": OWN["caption_mle"],
    "coco": ["task.model.channels=16"],
    "refcoco": [
        "task.model.channels=16",
        "task.train.expressions=[refcoco+]",
        "task.evaluate.expressions=[refcoco+]",
    ],
}


@pytest.fixture(scope="module")
def starts(scenes: Path, coarse: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each stage, and of a task of each."""
    folder, found = tmp_path_factory.mktemp("starts"), {"coarse": coarse}
    for name in ("coco", "caption_mle"):
        train(load_config([name, "small"], begin(name, scenes, coarse, folder / name)))
        found[name] = folder / name
    return found


def begin(recipe: str, scenes: Path, start: Path, out: Path, *more: str) -> list[str]:
    few = [word for word in FEW if not word.startswith(("trainer.eval_every", "trainer.max_steps"))]
    given = [f"data.root={scenes}", f"model.checkpoint={start}", f"out={out}", "trainer.max_steps=1"]
    return [*given, *few, *RECIPES[recipe], *more]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("start", ["coarse", "coco", "caption_mle"])
def test_any_weights_start_any_task(
    start: str, recipe: str, starts: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    own = ["model.preset=fiber_base", "task.monitor=none"]  # the weights bring their sizes
    size = ["model.image_size=96"] if recipe != "vqa" else []
    found = dry_run(load_config([recipe, "small"], begin(recipe, scenes, starts[start], tmp_path, *own, *size)))
    (line,) = [line for line in found.lines if line.startswith("weights to start from")]
    assert int(line.split(" tensors taken")[0].split()[-1]) > 170, "both streams and their fusion"
    assert ("(0 resized)" in line) == (not size)


def test_a_coarse_task_learns_from_fine_weights(starts: dict[str, Path], scenes: Path, tmp_path: Path) -> None:
    given = begin("vqa", scenes, starts["coco"], tmp_path, "model.image_size=96", "trainer.max_steps=2")
    assert train(load_config(["vqa", "small"], given)) is not None
    made, start = (load_task_model(path).backbone for path in (tmp_path, starts["coco"]))
    assert (made.config.joint_projection, made.config.window_policy, made.config.image_size) == (True, "shrink", 96)
    assert made.config.normalize_image_query == start.config.normalize_image_query
    tables = [each.text_stream.embeddings.word_embeddings.weight for each in (made, start)]
    assert 0 < (tables[0] - tables[1]).abs().max() < 0.01
