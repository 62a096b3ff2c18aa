"""Generated scenes in the layouts of published data sets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, content: Any) -> None:
    """Writes a JSON file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lvis(scenes: Path, root: Path) -> Path:
    """The same images in LVIS's form, circles being rare."""
    for split in ("train", "val"):
        content = read(scenes / "annotations" / f"instances_{split}.json")
        for category in content["categories"]:
            category["frequency"] = "r" if category["name"] == "circle" else "f"
        for image in content["images"]:
            image |= {"neg_category_ids": [1, 2, 3, 4], "not_exhaustive_category_ids": []}
            image["coco_url"] = f"http://images.example/{split}/{image.pop('file_name')}"
        write(root / f"lvis_v1_{split}.json", content)
    (root / "images").symlink_to(scenes / "images")
    return root


def write_roboflow(scenes: Path, root: Path, splits: dict[str, str] | None = None) -> Path:
    """The same images as a data set of ODinW, with the category 0 that stands for the data set."""
    for split, name in (splits or {"train": "train", "val": "valid"}).items():
        content = read(scenes / "annotations" / f"instances_{split}.json")
        content["categories"].insert(0, {"id": 0, "name": "shape", "supercategory": "none"})
        write(root / name / "_annotations.coco.json", content)
        for image in (scenes / "images" / split).iterdir():
            os.link(image, root / name / image.name)
    return root


def write_genome_questions(scenes: Path, root: Path, count: int = 20) -> Path:
    """Some questions of the training scenes as Visual Genome has them."""
    questions = read(next(scenes.rglob("*train*questions.json")))["questions"][:count]
    names = {image["id"]: image["file_name"] for image in read(next(scenes.rglob("captions_train.json")))["images"]}
    entries = []
    for number, image_id in enumerate(sorted({question["image_id"] for question in questions})):
        own = [question for question in questions if question["image_id"] == image_id]
        pairs = [
            {"qa_id": 100 * number + place, "question": each["question"], "answer": "yes", "image_id": number + 1}
            for place, each in enumerate(own)
        ]
        entries.append({"id": number + 1, "qas": pairs})
        target = root / "VG_100K" / f"{number + 1}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(scenes / "images" / "train" / names[image_id], target)
    write(root / "question_answers.json", entries)
    return root
