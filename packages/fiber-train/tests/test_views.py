"""Evaluation in several views: one view is the plain evaluation, and mirrored boxes come back to where they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fiber_data import build_detection_evaluation_transform
from fiber_heads import DetectionSettings
from fiber_train.checkpoint import load_model
from fiber_train.config import load_config
from fiber_train.run import train
from fiber_train.tasks.base import make_task
from fiber_train.tasks.grounding.views import Looker, View, views_of
from lightning_fabric import Fabric

from .conftest import FEW

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0"]
FILES = ["task.evaluate.expressions=[refcoco]", "task.evaluate.captions=[scenes]", "data.num_workers=0"]


@pytest.fixture(scope="module")
def run(scenes: Path, coarse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("views") / "run"
    train(
        load_config(
            ["coco", "small"], [f"data.root={scenes}", f"model.checkpoint={coarse}", f"out={out}", *FEW, *LITTLE]
        )
    )
    return out


def measure(run: Path, scenes: Path, *words: str):
    given = [f"data.root={scenes}", "out=o", "task.detection.score_threshold=0", *FILES, *words]
    task = make_task(load_config(["coco", "small"], given))
    model, processor = load_model(run)
    return task.measure(model, task.samples("val"), processor, Fabric(accelerator="cpu"))


def test_one_scale_without_a_mirror_is_the_plain_evaluation(run: Path, scenes: Path) -> None:
    plain, one = (
        measure(run, scenes),
        measure(run, scenes, "task.test_time.shorter=[64]", "task.test_time.merging=vote"),
    )
    assert one.numbers() == plain.numbers()
    assert one.predictions == plain.predictions


def test_several_views_find_other_boxes_and_keep_to_the_limits(run: Path, scenes: Path) -> None:
    plain = measure(run, scenes)
    words = ["task.test_time.shorter=[48,64]", "task.test_time.mirrored=true", "task.detection.max_detections=7"]
    several = measure(run, scenes, *words)
    assert several.counts == plain.counts
    assert several.predictions != plain.predictions
    rows = several.outputs["detection"]
    assert max(map(len, rows.values())) == 7
    assert all(x >= 0 and x + width <= 64 for own in rows.values() for row in own for x, _, width, _ in [row["bbox"]])


def test_views_that_settings_ask_for() -> None:
    given = ["data.root=d", "out=o", "task.test_time.shorter=[400,800]", "task.test_time.mirrored=true"]
    settings = load_config("coco", given).task
    views = views_of(settings, 800, 1333)
    assert [(view.shorter, view.longest, view.mirrored) for view in views] == [
        (400, 666, False),
        (800, 1333, False),
        (400, 666, True),
        (800, 1333, True),
    ]
    assert views_of(load_config("coco", given[:2]).task, 800, 1333) == [View(800, 1333)]
    with pytest.raises(ValueError, match="merging must be 'nms' or 'vote', is 'mean'"):
        load_config("coco", [*given, "task.test_time.merging=mean"])


def test_what_is_found_in_the_mirror_lies_where_it_is() -> None:
    """A detector that finds the bright pixels finds them in the mirror too, unless words name a side."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:20, 5:25] = 255

    def batches(make, view):
        seen = build_detection_evaluation_transform(view.shorter, view.longest, normalize=False, mirror=view.mirrored)
        yield {
            "ids": ["one"],
            "texts": [make],
            "pixel_values": seen({"image": image})["image"][None],
            "original_sizes": torch.tensor([[40, 60]]),
        }

    def find(batch):
        rows, columns = (batch["pixel_values"][0, 0] > 127).nonzero().unbind(1)
        ratio = 40 / batch["pixel_values"].shape[2]
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = torch.stack(corners)[None] * ratio
        return [{"boxes": box, "scores": torch.tensor([0.9 - 0.1 * (ratio < 1)]), "labels": torch.tensor([1])}]

    plain, mirrored = View(40, 100), View(80, 200, mirrored=True)
    look = Looker(batches, [plain, mirrored], "vote")
    ((_, (found,)),) = list(look("a bright thing", find, DetectionSettings()))
    assert found["boxes"][0].tolist() == pytest.approx([5, 10, 25, 20], abs=0.6)
    assert len(found["boxes"]) == 1, "both views agree"
    ((_, (sided,)),) = list(look("the thing on the left", find, DetectionSettings()))
    assert sided["scores"].tolist() == pytest.approx([0.9])
    assert sided["boxes"].tolist() == [[5, 10, 25, 20]]
