"""Images with boxes: detection as COCO, LVIS and Roboflow write it, and phrases with boxes as MDETR does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fuzz.target import Documents
from fuzz.targets.readers import ReaderTarget

_BOXES = [(0, 0, 64, 48), (10.5, 4, 20, 12.25), (3, 3, 9, 9), (30, 20, 30, 20), (1, 2, 3, 4), (40, 8, 16, 30)]


def boxes(first_category: int = 1) -> dict[str, Any]:
    """Four images, one of them empty, with six boxes of three categories, as COCO writes them."""
    images = [{"id": 7 + row, "file_name": f"{row}.jpg", "height": 48, "width": 64} for row in range(4)]
    annotations = [
        {
            "id": 1 + row,
            "image_id": 7 + row // 2,
            "category_id": first_category + row % 3,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for row, box in enumerate(_BOXES)
    ]
    names = ("dog", "café", "traffic light")
    categories = [{"id": first_category + row, "name": name, "supercategory": "x"} for row, name in enumerate(names)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def lvis_boxes() -> dict[str, Any]:
    """The same, as LVIS writes them."""
    content = boxes()
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [3]}
    for category, frequency in zip(content["categories"], "rcf", strict=True):
        category |= {"frequency": frequency, "synset": "dog.n.01", "image_count": 5}
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    return content


def _roboflow_boxes() -> dict[str, Any]:
    content = boxes()
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    for category in content["categories"][1:]:
        category["supercategory"] = "animals"
    return content


def _phrases() -> dict[str, Any]:
    captions = ["a dog beside two café tables", "Ein Hund läuft – schnell", "a red ball"]
    images = [
        {
            "id": row,
            "file_name": f"{row}.jpg",
            "height": 48,
            "width": 64,
            "caption": caption,
            "original_img_id": 70 + row,
            "sentence_id": 0,
            "dataset_name": "flickr",
            "tokens_positive_eval": [[[0, 5]]] if row < 2 else [],
        }
        for row, caption in enumerate(captions)
    ]
    spans: list[list[list[int]]] = [[[0, 5]], [[13, 28]], [[0, 8]], [[0, 3], [4, 8]], [[0, 10]], [[2, 10]]]
    annotations = [
        {**annotation, "image_id": row // 2, "category_id": 1, "tokens_positive": spans[row]}
        for row, annotation in enumerate(boxes()["annotations"])
    ]
    return {"info": [], "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}


class CategoriesTarget(ReaderTarget):
    """A reader whose samples come with categories."""

    def samples(self, result: Any) -> Iterable[Mapping[str, Any]]:
        return result.samples

    def breaches(self, result: Any) -> list[str]:
        named = all(type(key) is int and isinstance(name, str) for key, name in result.categories.items())
        return [*super().breaches(result), *([] if named else [f"categories: {result.categories}"])]


def _counts(documents: Documents) -> Mapping[str, int]:
    (content,) = documents.values()
    return {"samples": len(content["images"]), "boxes": len(content["annotations"])}


_IMAGES = [f"{row}.jpg" for row in range(4)]
_BOXED: dict[str, Any] = {
    "format": "detection",
    "split": "val",
    "sample": "DetectionSample",
    "counted": {"boxes": "boxes"},
    "expected": _counts,
}
_IN_VAL = tuple(str(Path("val2017", name)) for name in _IMAGES)
TARGETS = [
    CategoriesTarget(
        "coco_boxes", {"annotations/instances_val2017.json": json.dumps(boxes())}, beside=_IN_VAL, **_BOXED
    ),
    CategoriesTarget("lvis_boxes", {"lvis_v1_val.json": json.dumps(lvis_boxes())}, beside=_IN_VAL, **_BOXED),
    CategoriesTarget(
        "roboflow_boxes",
        {"val/_annotations.coco.json": json.dumps(_roboflow_boxes())},
        beside=tuple(f"val/{name}" for name in _IMAGES),
        **_BOXED,
    ),
    ReaderTarget(
        "phrases",
        {"final_flickr_val.json": json.dumps(_phrases(), ensure_ascii=False)},
        beside=tuple(f"flickr30k_images/{name}" for name in _IMAGES),
        format="grounding",
        split="val",
        sample="GroundingSample",
        counted={"boxes": "boxes"},
        expected=_counts,
    ),
]
