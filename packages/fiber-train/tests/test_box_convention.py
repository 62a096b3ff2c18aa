"""Right boxes through all that a detector's boxes go through: they must come out right, under either convention."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fiber_data import GroundingSample, train_tokenizer
from fiber_heads import DetectionSettings, GroundingConfig
from fiber_heads.grounding.anchors import level_anchors
from fiber_heads.grounding.boxes import SCALE_WEIGHT, SHIFT_WEIGHT, box_centers, box_sizes
from fiber_heads.grounding.postprocess import detect_boxes
from fiber_heads.grounding.scaling import Scaling
from fiber_train.config import load_config
from fiber_train.evaluation import Evaluation
from fiber_train.tasks.base import make_task
from fiber_train.tasks.grounding.boxes import BoxData
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

CONVENTIONS = pytest.mark.parametrize("inclusive", [False, True], ids=["half-open", "inclusive"])


class PerfectDetector:
    """Says of the anchor nearest to each box that it is taught exactly what it is taught."""

    def __init__(self, inclusive: bool) -> None:
        self.config = GroundingConfig(inclusive_boxes=inclusive)

    def find_categories(self, batch: Mapping[str, Any], *_: Any, **__: Any) -> list[dict[str, Tensor]]:
        return self._find(batch, [target["labels"] for target in batch["targets"]])

    def find(self, batch: Mapping[str, Any], _: DetectionSettings) -> list[dict[str, Tensor]]:
        return self._find(batch, [labels[:1] for labels in batch["phrase_labels"]])

    def _find(self, batch: Mapping[str, Any], labels: list[Tensor]) -> list[dict[str, Tensor]]:
        scaling = Scaling(batch["image_sizes"], batch["original_sizes"], self.config.inclusive_boxes)
        canvas, strides = batch["pixel_values"].shape[2:], self.config.strides
        shapes = [(-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in strides]
        anchors = torch.cat(level_anchors(shapes, strides, self.config.anchor_scale))
        settings = DetectionSettings(max_iou=1.0, max_detections=1000)  # right boxes may overlap as they like
        found = []
        for row, boxes in enumerate(scaling.to_taught([target["boxes"] for target in batch["targets"]])):
            distances = (box_centers(anchors) - box_centers(boxes)[:, None]).norm(dim=-1)
            own = anchors[
                (distances + (box_sizes(anchors) - box_sizes(boxes)[:, None]).abs().sum(dim=-1)).argmin(dim=1)
            ]
            shift = (box_centers(boxes) - box_centers(own)) / box_sizes(own) * SHIFT_WEIGHT
            scale = (box_sizes(boxes) / box_sizes(own)).log() * SCALE_WEIGHT
            certain = torch.eye(len(boxes)).mul(18) - 9
            found += detect_boxes(
                certain[None],
                torch.cat([shift, scale], dim=1)[None],
                torch.full((1, len(boxes)), 9.0),
                anchors=own,
                anchors_per_level=[len(own)],
                image_sizes=scaling.limits[row : row + 1],
                class_tokens=[torch.eye(len(boxes)).bool()],
                labels=[labels[row]],
                settings=settings,
                keep_outside=self.config.inclusive_boxes,
            )
        return scaling.to_original(found)


def evaluate(root: Path, inclusive: bool, shorter: int, longest: int, samples: BoxData | None = None) -> Evaluation:
    """What the evaluation of a run says of the perfect detector."""
    given = [f"data.root={root}", "out=none", "data.eval_split=val", "data.num_workers=0", "data.max_length=1000"]
    given += [f"task.shorter_in_evaluation={shorter}", f"task.longest={longest}"]
    task = make_task(load_config(["coco"], given))
    samples = samples or task.read("val")
    processor = task.make_processor(train_tokenizer(list(task.texts(samples)), 1000))
    return task.evaluate(PerfectDetector(inclusive), samples, processor, Fabric(accelerator="cpu"))


@CONVENTIONS
@pytest.mark.parametrize(("shorter", "longest"), [(64, 107), (800, 1333)])
def test_real_boxes_are_found_exactly(real_photos: Path, inclusive: bool, shorter: int, longest: int) -> None:
    found = evaluate(real_photos, inclusive, shorter, longest)
    numbers = {name: found[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
    assert numbers == pytest.approx(dict.fromkeys(numbers, 1.0), abs=5e-4)


ODD_SIZES = [(6000, 20), (20, 6000), (1, 1), (3, 400), (1333, 1), (2000, 1500), (37, 41)]  # width, height


def write_boxes(root: Path, sizes: list[tuple[int, int]], **of_category: str) -> Path:
    """Images, each with a box as large as it is, one in a corner and one pixel in the other; as COCO or LVIS."""
    folders = root / "images" / "val", root / "annotations"
    for folder in folders:
        folder.mkdir(parents=True)
    images, annotations = [], []
    for number, (width, height) in enumerate(sizes, start=1):
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(folders[0] / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        images[-1] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        half = [max(1, width // 2), max(1, height // 2)]
        corners = {(0, 0, width, height), (width - half[0], height - half[1], *half), (0, 0, 1, 1)}
        annotations += [
            {"image_id": number, "category_id": label, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
            for label, box in enumerate(sorted(corners), start=1)
        ]
    content = {
        "images": images,
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
        "categories": [
            {"id": label, "name": name, **of_category} for label, name in enumerate(("dog", "cat", "bird"), start=1)
        ],
    }
    (folders[1] / "instances_val.json").write_text(json.dumps(content))
    return root


@CONVENTIONS
@pytest.mark.parametrize(("shorter", "longest"), [(64, 107), (800, 1333)])
def test_images_of_odd_shapes_have_all_of_their_boxes(
    tmp_path: Path, inclusive: bool, shorter: int, longest: int
) -> None:
    found = evaluate(write_boxes(tmp_path, ODD_SIZES), inclusive, shorter, longest)
    assert found["AP"] == pytest.approx(1.0, abs=5e-4)
    rows = json.loads(found.predictions["detections.json"])
    assert len(rows) > 2 * len(ODD_SIZES)
    for row in rows:
        width, height = ODD_SIZES[row["image_id"] - 1]
        x, y, w, h = row["bbox"]
        assert min(w, h) > 0
        assert min(x, y) >= 0
        assert x + w <= width + (1 if inclusive else 1e-9)
        assert y + h <= height + (1 if inclusive else 1e-9)


@CONVENTIONS
def test_evaluators_that_count_no_last_pixel_get_the_originals_boxes(tmp_path: Path, inclusive: bool) -> None:
    """Those of LVIS, Flickr30k and expressions take x2 - x1 of inclusive boxes, in the original too."""
    root = write_boxes(tmp_path, [(37, 41)], frequency="f")
    sample: GroundingSample = {
        "image": root / "images" / "val" / "1.png",
        "id": 1,
        "original_id": 1,
        "size": (41, 37),
        "caption": "a dog",
        "boxes": [(5.0, 7.0, 25.0, 37.0)],
        "area": [600.0],
        "iscrowd": [False],
        "spans": [[(0, 5)]],
        "phrases": [[(0, 5)]],
        "dataset_name": "mixed",
    }
    found = evaluate(root, inclusive, 64, 107, BoxData(captions={"mixed": [sample]}, expressions={"refcoco": [sample]}))
    expected = [[5, 7, 24, 36] if inclusive else [5, 7, 25, 37]]
    assert np.allclose(json.loads(found.predictions["mixed.json"])[0]["boxes"][0], expected, atol=1e-3)
    assert np.allclose(json.loads(found.predictions["refcoco.json"])["1"]["boxes"], expected, atol=1e-3)
    rows = json.loads(evaluate(root, inclusive, 64, 107).predictions["detections.json"])
    widths = sorted(row["bbox"][2] for row in rows)
    assert np.allclose(widths, [0, 17, 36] if inclusive else [1, 18, 37], atol=1e-3)
