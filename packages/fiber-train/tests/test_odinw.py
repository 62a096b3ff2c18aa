"""ODinW in one command: a run for each data set from the same weights, gone on with where it stopped, averaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fiber_data.scenes import generate_scenes
from fiber_eval.odinw import ODINW_13
from fiber_train.checkpoint import load_task_model
from fiber_train.cli import main
from fiber_train.tasks.grounding.odinw import choose_sets, known_sets

from .conftest import FEW
from .layouts import write_roboflow

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0", "data.max_length=40"]


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, of which one has a test split."""
    root = tmp_path_factory.mktemp("odinw")
    for seed, (name, splits) in enumerate(
        {
            "Packages/Raw": {"train": "train", "val": "valid"},
            "pothole": {"train": "train", "val": "valid", "test": "test"},
        }.items()
    ):
        scenes = generate_scenes(root / f"scenes{seed}", {"train": 20, "val": 20, "test": 20}, seed=seed)
        write_roboflow(scenes, root / name, splits)
    return root


def test_the_thirteen_and_the_thirty_five() -> None:
    assert set(choose_sets("13")) == set(ODINW_13)
    assert len(choose_sets("35")) == 35
    assert choose_sets("pothole, Aquarium").keys() == {"pothole", "Aquarium"}
    assert len({data.root for data in known_sets().values()}) == 35
    with pytest.raises(ValueError, match="'potholes' is no data set of ODinW; known are"):
        choose_sets("potholes")


def test_all_are_run_from_the_same_weights_and_averaged(wild: Path, coarse: Path, tmp_path: Path, capsys) -> None:
    sets = tmp_path / "sets.yaml"
    sets.write_text("Packages: {root: Packages/Raw}\npothole: {root: pothole}\n")
    words = [
        "--data",
        str(wild),
        "--out",
        str(tmp_path / "runs"),
        "--sets",
        str(sets),
        "small",
        f"model.checkpoint={coarse}",
    ]
    words = ["odinw", *words, *FEW, *LITTLE, "task.shots=2", "trainer.batch_size=2"]
    assert main(words) == 0
    table = json.loads((tmp_path / "runs" / "odinw.json").read_text())
    assert table["average"] == pytest.approx((table["Packages"] + table["pothole"]) / 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Packages", "pothole", "average"]
    models = [load_task_model(tmp_path / "runs" / name) for name in ("Packages", "pothole")]
    assert models[0].grounding_head.config == models[1].grounding_head.config
    best = json.loads((tmp_path / "runs" / "Packages" / "best" / "evaluation.json").read_text())
    test = json.loads((tmp_path / "runs" / "Packages" / "test.json").read_text())
    assert test["measures"] == best["measures"], "it has no test split"
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.safetensors")}
    (tmp_path / "runs" / "pothole" / "test.json").unlink()
    assert main(words) == 0
    assert "going on from" in "".join(capsys.readouterr())
    assert json.loads((tmp_path / "runs" / "odinw.json").read_text()) == table
    kept = {path for path, when in written.items() if path.exists() and path.stat().st_mtime_ns == when}
    assert {path for path in written if "Packages" in path.parts} <= kept


def test_a_data_set_that_is_missing_is_told_before_the_first_run(wild: Path, tmp_path: Path, capsys) -> None:
    assert main(["odinw", "--data", str(wild), "--out", str(tmp_path / "runs"), "--sets", "pothole,Aquarium"]) == 1
    assert "raw-1024.coco: no such folder, of Aquarium; 1 lack" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
