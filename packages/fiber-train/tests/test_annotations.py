"""Annotations are parsed once: measures take what the reader parsed, and a run keeps what was wrong with the files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fiber_data import read_detection
from fiber_eval import coco_ap, lvis_ap
from fiber_train.config import load_config
from fiber_train.data_check import read_samples
from fiber_train.tasks.base import make_task
from fiber_train.tasks.grounding.evaluation import _ground_truth
from lightning_fabric import Fabric

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.fixture(scope="session")
def real_data() -> Path:
    root = Path(os.environ.get("FIBER_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
    if not root.is_dir():
        reason = f"no folder {root}; set FIBER_DATA to the folder of the real data"
        (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
    return root


def detections(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Boxes near the right ones, of which some are of another category, and some are missing."""
    random = np.random.default_rng(0)
    names = [category["id"] for category in content["categories"]]
    found = []
    for box in content["annotations"]:
        if random.random() < 0.9:
            shift = random.normal(0, 0.1, 4) * np.array([*box["bbox"][2:]] * 2)
            label = box["category_id"] if random.random() < 0.8 else int(random.choice(names))
            corners = [box["bbox"][0], box["bbox"][1], *np.maximum(box["bbox"][2:], 1)]
            corners = (np.array(corners) + shift * [1, 1, 0.5, 0.5]).tolist()
            row = {"image_id": box["image_id"], "category_id": label, "bbox": corners}
            found.append({**row, "score": round(float(random.random()), 2)})
    return found


@pytest.mark.parametrize("file", ["coco_mini/annotations/instances_val2017.json", "lvis/lvis_val_100.json"])
def test_ap_is_that_of_the_official_file(real_data: Path, file: str) -> None:
    content = json.loads((real_data / file).read_text())
    data = read_detection(real_data, "val", annotation_file=real_data / file, check_images=False)
    score, found = (lvis_ap if data.frequencies else coco_ap), detections(content)
    expected, ours = score(found, content), score(found, _ground_truth(data))
    assert 0.1 < expected["AP"] < 0.9
    assert {name: value.item() for name, value in ours.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, abs=1e-9
    )


def image(number: Any, name: str = "a.png") -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 40, "height": 30}


def box(number: Any, corners: Any = (1, 2, 10, 20), **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": number, "category_id": 1, "bbox": corners, **more}


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.filterwarnings("ignore:.*of the boxes")
@pytest.mark.parametrize(
    "content",
    [
        {"images": [image(1)], "annotations": [box(1), box(1, (5, 5, 9, 9))]},
        {"images": [image(1)], "annotations": [box(1, area=None, iscrowd=None), box(1, (5, 5, 9, 9), area="x")]},
        {"images": [image(397133.0)], "annotations": [box(397133.0), box(397133, (5, 5, 9, 9))]},
        {"images": [image("a.png")], "annotations": [box("a.png"), box("a.png", (5, 5, 9, 9))]},
        {"images": [image(1)], "annotations": [box(1), box(1, (5, 5, 9, 9)), box(1, (1, 1, -5, 5)), box(1, [])]},
        {"images": [image(1)], "annotations": [box(1), box(1, (5, 5, 9, 9)), box(1, (1, float("nan"), 5, 5))]},
    ],
)
def test_what_the_reader_mends_the_measure_takes(tmp_path: Path, content: dict[str, Any]) -> None:
    put(tmp_path / "instances_val.json", {**content, "categories": CATEGORIES})
    data = read_detection(tmp_path, "val", check_images=False)
    (tmp_path / "instances_val.json").unlink()  # nothing reads it again
    found = [
        {"image_id": sample["id"], "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for sample in data.samples
        for (x1, y1, x2, y2), label in zip(sample["boxes"], sample["labels"], strict=True)
    ]
    assert len(found) == 2
    assert coco_ap(found, _ground_truth(data))["AP"].item() == pytest.approx(1)
    assert coco_ap(found[:1], _ground_truth(data))["AP"].item() == pytest.approx(0.505, abs=0.01)


def run(root: Path, recipe: list[str], *overrides: str) -> tuple[Any, Any, dict[str, Any]]:
    """Samples, held-out ones, and what the run's folder says of them."""
    out = root / "run"
    out.mkdir(exist_ok=True)
    task = make_task(load_config(recipe, [f"data.root={root}", f"out={out}", *overrides]))
    samples, held_out = read_samples(task, Fabric(accelerator="cpu", devices=1))
    return samples, held_out, json.loads((out / "data_check.json").read_text())


def test_a_run_keeps_what_was_wrong_with_its_files(tmp_path: Path) -> None:
    for split, given in (("train", [box(1), box(1, [])]), ("val", [box(1)])):
        content = {"images": [image(1)], "annotations": given, "categories": CATEGORIES}
        put(tmp_path / "annotations" / f"instances_{split}.json", content)
        put(tmp_path / split / "a.png", "")
    with pytest.warns(UserWarning, match="of the boxes 1 are left out, their annotation having no bbox"):
        *_, found = run(tmp_path, ["coco", "small"])
    (fault,) = found["train"]
    assert found["val"] == [] and fault["count"] == 1 and fault["first"] == "annotations[1]"
    put(tmp_path / "annotations" / "instances_val.json", {**content, "annotations": [box(True)]})
    with pytest.raises(ValueError, match=r"instances_val\.json: annotations\[0\]: expected image_id"):
        run(tmp_path, ["coco", "small"])


@pytest.mark.filterwarnings("ignore:.*are held out")
def test_the_held_out_split_may_be_a_share(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(40)]
    for name in names:
        put(tmp_path / "images" / name, "")
    put(tmp_path / "captions.jsonl", "\n".join(json.dumps({"image": name, "caption": "a cat"}) for name in names))
    content = {"images": [image(name, name) for name in names], "categories": CATEGORIES}
    put(tmp_path / "instances_train.json", {**content, "annotations": [box(name) for name in names]})
    samples, held_out, _ = run(tmp_path, ["coarse"], "data.eval_split=0.25")
    held = {sample["id"] for sample in held_out}
    assert held | {sample["id"] for sample in samples} == set(names) and len(samples) + len(held) == 40
    assert 3 < len(held) < 20
    boxes, held_boxes, _ = run(tmp_path, ["coco", "small"], "data.eval_split=0.25")
    assert {sample["id"] for sample in held_boxes.detection.samples} == held
    assert len(boxes.detection.samples) == 40 - len(held)
    samples, held_out, found = run(tmp_path, ["coarse"])
    assert len(samples) + len(held_out) == 40 and 0 < len(held_out) < 12
    assert "are held out as 'val'" in found["val"][0]["what"]
