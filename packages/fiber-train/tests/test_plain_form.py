"""A folder with images and one plain file: every task learns from it and measures, told nothing but the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fiber_data.formats import read_grounding, read_nlvr2, read_vqav2
from fiber_data.formats.detection import read_detection
from fiber_train.config import load_config
from fiber_train.evaluation import Evaluation
from fiber_train.run import train

from .conftest import CAPTIONS, FEW

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0"]
UNNAMED = ["task.train.expressions=[]", "task.evaluate.expressions=[]"]


def _name(sample: Any, scenes: Path) -> str:
    return str(Path(sample["image"]).relative_to(scenes / "images"))


def _records(scenes: Path) -> dict[str, list[dict[str, Any]]]:
    """The generated scenes as somebody would write them down: corners, or COCO's boxes, and words."""
    questions = [
        {"image": _name(sample, scenes), "question": sample["question"], "answers": sample["answers"]}
        for sample in read_vqav2(scenes, "train")
    ]
    statements = [
        {"images": [str(Path(image).relative_to(scenes / "nlvr2" / "images")) for image in sample["images"]]}
        | {"sentence": sample["statement"], "label": sample["label"]}
        for sample in read_nlvr2(scenes, "train")
    ]
    data = read_detection(scenes, "train")
    boxes = [
        {"image": _name(sample, scenes), "boxes": [{"box": box, "name": data.categories[label]} for box, label in rows]}
        for sample in data.samples
        for rows in [zip(sample["boxes"], sample["labels"], strict=True)]
    ]
    phrases = [
        {"image": _name(sample, scenes), "caption": sample["caption"]}
        | {"boxes": [{"box": box, "spans": spans} for box, spans in zip(sample["boxes"], sample["spans"], strict=True)]}
        for sample in read_grounding(scenes, "train", name="scenes")
    ]
    expressions = [
        {"image": _name(sample, scenes), "expression": sample["caption"]} | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        for sample in read_grounding(scenes, "train", name="refcoco")
        for x1, y1, x2, y2 in sample["boxes"]
    ]
    names = ("questions", "statements", "boxes", "phrases", "expressions")
    return dict(zip(names, (questions, statements, boxes, phrases, expressions), strict=True))


@pytest.mark.parametrize(
    ("form", "recipe", "options", "measures"),
    [
        ("questions", "vqa", ["task.min_count=2"], ["overall", "yes/no"]),
        ("statements", "nlvr2", [], ["accuracy"]),
        ("captions", "caption_mle", CAPTIONS, ["CIDEr"]),
        ("boxes", "coco", LITTLE, ["AP"]),
        ("phrases", "flickr", LITTLE, ["flickr_separateGT/recall@1"]),
        ("expressions", "refcoco", LITTLE, ["refcoco/P@1"]),
        ("expressions", "refcoco", LITTLE + UNNAMED, ["expressions/P@1"]),
    ],
)
def test_two_steps_and_an_evaluation(
    scenes: Path, coarse: Path, tmp_path: Path, form: str, recipe: str, options: list[str], measures: list[str]
) -> None:
    root, out = tmp_path / "mine", tmp_path / "run"
    root.mkdir()
    (root / "images").symlink_to(scenes / ("nlvr2/images" if form == "statements" else "images"))
    lines = _records(scenes).get(form) or [
        {"image": f"train/{number:06}.png", "caption": f"scene {number}"} for number in range(40)
    ]
    (root / f"{form}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = [f"data.root={root}", f"model.checkpoint={coarse}", f"out={out}", *FEW, "trainer.max_steps=2", *options]
    with pytest.warns(UserWarning, match="are held out as 'val', by a rule that depends on ids alone"):
        train(load_config([recipe, "small"], words))
    best = Evaluation.from_json(json.loads((out / "best" / "evaluation.json").read_text()))
    assert all(name in best for name in measures)
