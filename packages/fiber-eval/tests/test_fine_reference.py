"""What the evaluators of the original's fine stage give on small hand-made cases: phrases, expressions, LVIS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fiber_eval import lvis_ap, phrase_grounding_recall, read_flickr30k_entities, referring_accuracy

from .conftest import reference_folder


@pytest.fixture(scope="module")
def folder() -> Path:
    return reference_folder("fine/eval")


@pytest.fixture(scope="module")
def goldens(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "eval_goldens.json").read_text())


@pytest.mark.parametrize("protocol", ["separate", "merged"])
def test_recall_of_phrases(goldens, folder: Path, protocol) -> None:
    case = goldens["flickr"]
    sentences = read_flickr30k_entities(folder / "flickr_mini")
    boxes: dict[tuple[str, int], Any] = {}
    for entry in case["predictions"]:  # a second prediction of a sentence counts for nothing
        boxes.setdefault((str(entry["image_id"]), entry["sentence_id"]), entry["boxes"])
    found = phrase_grounding_recall(boxes, sentences, protocol=protocol)
    for name, value in case["expected"][protocol].items():
        measure, _, kind = name.rpartition("_")
        ours = ("" if kind == "all" else f"{kind}_") + measure.lower()
        assert float(found[ours]) == pytest.approx(value, abs=1e-12), name


def test_precision_of_expressions(goldens) -> None:
    """The original thresholds generalized IoU, and sorts its three numbers."""
    case = goldens["refexp"]
    targets = {name: [x, y, x + width, y + height] for name, (x, y, width, height) in case["gt_xywh"].items()}
    predictions = {name: (each["boxes_xyxy"], each["scores"]) for name, each in case["predictions"].items()}
    found = referring_accuracy(
        predictions, targets, datasets=case["dataset"], ks=case["k"], criterion="giou", threshold=case["thresh"]
    )
    asked = {name: numbers for name, numbers in case["expected"].items() if name in found}
    assert asked.keys() == found.keys()
    for name, numbers in asked.items():
        assert sorted(found[name].values()) == pytest.approx(numbers), name


@pytest.mark.parametrize(
    ("golden", "options"),
    [
        ("fixed_ap_10000", {"fixed": True}),
        ("fixed_ap_top5", {"fixed": True, "fixed_per_category": 5}),
        ("standard_max_dets_per_image_4", {"per_image": 4}),
    ],
)
def test_lvis(goldens, folder: Path, golden: str, options: dict[str, Any]) -> None:
    case = goldens["lvis"]
    truth = json.loads((folder / case["gt_file"]).read_text())
    rows = [
        {"image_id": each["image_id"], "category_id": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for each in case["predictions"]
        for (x1, y1, x2, y2), label, score in zip(each["boxes"], each["labels"], each["scores"], strict=True)
    ]
    expected = case[golden].get("results", case[golden])
    if "per_image" in options:  # the original says 300 whatever the limit
        expected = {name.replace("@300", f"@{options['per_image']}"): value for name, value in expected.items()}
    found = lvis_ap(rows, truth, backend="pycocotools", per_category=True, **options)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    for category, value in case[golden].get("AP_per_category", {}).items():
        assert found[f"AP/{category}"] == pytest.approx(value, abs=1e-9)
