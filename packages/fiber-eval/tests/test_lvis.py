"""LVIS AP and fixed AP equal the official evaluators, with both backends."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fiber_eval.lvis import LvisAP, lvis_ap, score_files
from pycocotools import mask as rle_ops

BOX = [10, 10, 50, 50]
ELSEWHERE = [100, 100, 50, 50]


@pytest.fixture(scope="module")
def lvis_reference(eval_reference: Path) -> Path:
    return eval_reference / "lvis"


@pytest.fixture(params=["pycocotools", "faster_coco_eval"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def two_images(**first_image: Any) -> dict[str, Any]:
    """A frequent category 1 and a rare 2, annotated in images 7 and 8; a common 3, annotated in 8 only."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": [], "height": 200, "width": 200}
    pairs = [(7, 1), (7, 2), (8, 1), (8, 2), (8, 3)]
    return {
        "images": [{"id": 8} | lists, {"id": 7} | lists | first_image],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": category_id, "bbox": BOX, "area": 2500}
            for number, (image_id, category_id) in enumerate(pairs)
        ],
        "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "r"}, {"id": 3, "frequency": "c"}],
    }


def found(image_id: int, category_id: int, bbox: list[float] = BOX, score: float = 0.5) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


ALL_RIGHT = [found(7, 1), found(7, 2), found(8, 1), found(8, 2), found(8, 3)]


def load(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


# Equal to the official evaluators


@pytest.mark.parametrize("protocol", ["standard", "fixed", "fixed, 5 a category"])
def test_equal_to_the_official_sample(lvis_reference: Path, backend: str, protocol: str):
    golden = json.loads((lvis_reference / "golden.json").read_text())["lvis_val_100"]
    options: dict[str, Any] = {"backend": backend}
    if protocol == "standard":
        options["per_category"] = True
        expected = golden["standard_max300"] | {f"AP/{key}": ap for key, ap in golden["per_category_AP"].items()}
    else:
        options |= {"fixed": True, "fixed_per_category": 5 if "5" in protocol else 10_000}
        expected = golden["fixed"][str(options["fixed_per_category"])]
    result = score_files(
        lvis_reference / "lvis_val_100_gt_boxes.json.gz", lvis_reference / "lvis_val_100_dt.json.gz", **options
    )
    absent = {name: value for name, value in result.items() if name not in expected}
    assert set(absent.values()) <= {-1}  # categories that nobody annotated
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=0, abs=1e-9)


# What LVIS counts


def test_groups_of_frequency(backend: str):
    result = lvis_ap(ALL_RIGHT[:3], two_images(), backend=backend)
    assert (result["APf"], result["APr"], result["APc"]) == pytest.approx((1, 51 / 101, 0))
    assert result["AP"] == pytest.approx((1 + 51 / 101 + 0) / 3)
    assert result["AR@300"] == pytest.approx((1 + 0.5 + 0) / 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, 1),  # nobody looked for category 3 in image 7: dropped
        ({"neg_category_ids": [3]}, 0.5),  # it is known to be absent: wrong
    ],
)
def test_categories_that_nobody_looked_for(backend: str, image: dict[str, Any], expected: float):
    more = [*ALL_RIGHT, found(7, 3, score=0.9)]
    assert lvis_ap(more, two_images(**image), backend=backend)["APc"] == pytest.approx(expected)


@pytest.mark.parametrize("box", [ELSEWHERE, BOX, [180, 180, 400, 400], [5, 5, 0, 30]])
def test_categories_not_annotated_exhaustively(backend: str, box: list[float]):
    more = [*ALL_RIGHT, found(7, 1, box, score=0.9), found(8, 2, ELSEWHERE, score=0.9)]
    listed = two_images(not_exhaustive_category_ids=[1])
    right = lvis_ap(ALL_RIGHT, listed, backend=backend, per_category=True)
    result = lvis_ap(more, listed, backend=backend, per_category=True)
    assert result["AP/1"] == right["AP/1"] == pytest.approx(1)
    assert result["AP/2"] < 1  # listed for the other image and category only
    unlisted = [*ALL_RIGHT, found(7, 1, ELSEWHERE, score=0.9)]
    assert lvis_ap(unlisted, two_images(), backend=backend, per_category=True)["AP/1"] < 1


def test_unmatched_masks_where_annotation_is_not_exhaustive(backend: str):
    annotations = two_images(not_exhaustive_category_ids=[1])
    more = [*ALL_RIGHT, found(7, 1, ELSEWHERE, score=0.9), found(7, 2, ELSEWHERE, score=0.9)]
    more = [dict(entry) for entry in more + [found(8, 1, ELSEWHERE, score=0.1)] * 299]
    for entry in annotations["annotations"] + more:
        x, y, width, height = entry["bbox"]
        mask = np.zeros((200, 200), dtype=np.uint8, order="F")
        mask[y : y + height, x : x + width] = 1
        entry["segmentation"] = rle_ops.encode(mask)
    result = lvis_ap(more, annotations, iou_type="segm", backend=backend)
    assert (result["APf"], result["APc"]) == pytest.approx((1, 1))
    assert 0.5 < result["APr"] < 1


def test_the_best_of_an_image_and_of_a_category(backend: str):
    lower = [found(7, 1, ELSEWHERE, 0.9)] * 2 + [found(7, 2, ELSEWHERE, 0.9)] * 2 + ALL_RIGHT
    assert lvis_ap(lower, two_images(), per_image=5, backend=backend)["AR@5"] == pytest.approx((0.5 + 1 + 1) / 3)
    fixed = lvis_ap(lower, two_images(), fixed=True, fixed_per_category=3, per_image=1, backend=backend)
    assert fixed["AR@-1"] == pytest.approx((0.5 + 0.5 + 1) / 3)  # of equal scores, the first


def test_more_than_a_hundred_of_a_category(backend: str):
    many = [found(7, 1, ELSEWHERE, 0.9)] * 298
    assert lvis_ap(many + ALL_RIGHT, two_images(), backend=backend)["AR@300"] == pytest.approx(1)
    many *= 2
    assert lvis_ap(many + ALL_RIGHT, two_images(), backend=backend)["AR@300"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert lvis_ap(many + ALL_RIGHT, two_images(), backend=backend, fixed=True)["AR@-1"] == pytest.approx(1)


def test_no_detections_at_all(backend: str):
    result = lvis_ap([], two_images(), backend=backend)
    assert (result["AP"], result["APr"], result["APs"], result["AR@300"]) == (0, 0, -1, 0)


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neg_category_ids": None}, "truth.json: image 7 must hold a list neg_category_ids; give LVIS annotations"),
        ({"not_exhaustive_category_ids": [4]}, "not_exhaustive_category_ids of image 7 holds 4, which is no category"),
    ],
)
def test_malformed_images(tmp_path: Path, change: dict[str, Any], message: str):
    (tmp_path / "truth.json").write_text(json.dumps(two_images(**change)))
    (tmp_path / "results.json").write_text(json.dumps(ALL_RIGHT))
    with pytest.raises(ValueError, match=message):
        score_files(tmp_path / "truth.json", tmp_path / "results.json")


def test_malformed_frequency():
    annotations = two_images() | {"categories": [{"id": number, "frequency": "often"} for number in (1, 2, 3)]}
    with pytest.raises(ValueError, match="frequency of category 1 must be one of r, c, f, but is 'often'"):
        lvis_ap([], annotations)


def test_malformed_results(tmp_path: Path):
    (tmp_path / "truth.json").write_text(json.dumps(two_images()))
    (tmp_path / "results.json").write_text(json.dumps([*ALL_RIGHT, found(9, 1)]))
    with pytest.raises(ValueError, match=r"results.json, entry 5: image_id must be one of the 2 in the annotations"):
        score_files(tmp_path / "truth.json", tmp_path / "results.json")


@pytest.mark.parametrize("name", ["per_image", "fixed_per_category"])
def test_limits_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, but is 0"):
        LvisAP(two_images(), **{name: 0})
    with pytest.raises(ValueError, match=f"{name} must be at least 1, but is 0"):
        lvis_ap([], two_images(), **{name: 0})


# The metric


def update(metric: LvisAP, results: list[dict[str, Any]], image_ids: list[int]) -> None:
    for image_id in image_ids:
        rows = [entry for entry in results if entry["image_id"] == image_id]
        prediction = {
            "boxes": torch.tensor([entry["bbox"] for entry in rows], dtype=torch.float64).reshape(-1, 4),
            "scores": torch.tensor([entry["score"] for entry in rows], dtype=torch.float64),
            "labels": torch.tensor([entry["category_id"] for entry in rows], dtype=torch.int64),
        }
        metric.update([prediction], ids=[image_id])


@pytest.mark.parametrize("options", [{}, {"fixed": True, "fixed_per_category": 5}, {"per_image": 4}])
def test_the_metric_equals_the_function(lvis_reference: Path, options: dict[str, Any]):
    annotations = load(lvis_reference / "lvis_val_100_gt_boxes.json.gz")
    results = load(lvis_reference / "lvis_val_100_dt.json.gz")
    image_ids = sorted(image["id"] for image in annotations["images"])
    results.sort(key=lambda entry: entry["image_id"])  # of equal scores the first counts, in the order of images
    metric = LvisAP(annotations, box_format="xywh", **options)
    update(metric, results, image_ids[::-1])
    update(metric, results, image_ids[:3])  # came before: counts once
    assert {name: value.item() for name, value in metric.compute().items()} == lvis_ap(results, annotations, **options)


def work(rank: int, folder: str) -> None:
    metric, idle = (LvisAP(two_images(), box_format="xywh", fixed=True) for _ in range(2))
    update(metric, ALL_RIGHT, [7] if rank == 0 else [8, 7])
    update(idle, ALL_RIGHT, [7, 8] if rank == 0 else [])
    torch.save([metric.compute(), idle.compute()], f"{folder}/{rank}.pt")


def test_two_processes_equal_one(tmp_path: Path, two_processes: Callable[..., None]):
    two_processes(work)
    for rank in (0, 1):
        for result in torch.load(tmp_path / f"{rank}.pt"):
            assert {name: value.item() for name, value in result.items()} == lvis_ap(
                ALL_RIGHT, two_images(), fixed=True
            )


# Equal to the package lvis


def region(bbox: list[float], iou_type: str) -> dict[str, Any]:
    """A box, or the mask that fills it."""
    x, y, width, height = (int(value) for value in bbox)
    mask = np.zeros((300, 300), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    rle = rle_ops.encode(mask)
    return {"bbox": bbox} if iou_type == "bbox" else {"segmentation": rle | {"counts": rle["counts"].decode()}}


def random_case(seed: int, iou_type: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and detections with touching, empty and repeated boxes, ties, areas left out, and many detections."""
    pick = np.random.default_rng(seed)
    image_ids, category_ids = (pick.choice(50, pick.integers(1, 5), replace=False).tolist() for _ in range(2))

    def box() -> list[float]:
        x, y, *size = (pick.integers((0, 0, 1, 1), (8, 8, 6, 6)) * 20).tolist()
        sides: list[list[float]] = [size, size, [0, size[1]], [size[0], 0], [32, 32], [96, 96]]
        return [x, y, *sides[pick.integers(len(sides))]]

    def some_of(ids: list[int]) -> list[int]:
        return [each for each in ids if pick.random() < 0.3]

    truths: list[dict[str, Any]] = []
    for number in range(1, int(pick.integers(1, 14))):
        bbox = box()
        entry = {"id": number, "image_id": int(pick.choice(image_ids)), "category_id": int(pick.choice(category_ids))}
        areas: list[dict[str, float]] = [
            {},
            {},
            {"area": bbox[2] * bbox[3]},
            {"area": 0},
            {"area": 1024},
            {"area": 2e10},
        ]
        truths.append(entry | region(bbox, iou_type) | areas[pick.integers(len(areas))] | {"place": bbox})
    results = []
    for _ in range(int(pick.integers(1, 700 if pick.random() < 0.15 else 40))):
        near = truths[pick.integers(len(truths))] if truths and pick.random() < 0.5 else None
        if near is None:
            entry = {"image_id": int(pick.choice(image_ids)), "category_id": int(pick.choice(category_ids))}
            entry |= region(box(), iou_type)
        else:
            x, y, width, height = near["place"]
            entry = {key: near[key] for key in ("image_id", "category_id")}
            entry |= region([x + int(pick.integers(0, 3)) * 10, y, width, height], iou_type)
        results.append(entry | {"score": int(pick.integers(0, 6)) / 5})
    size = {"height": 300, "width": 300}
    images = [
        {"id": each, "neg_category_ids": some_of(category_ids), "not_exhaustive_category_ids": some_of(category_ids)}
        | size
        for each in image_ids
    ]
    categories = [{"id": each, "frequency": str(pick.choice(list("rcf")))} for each in category_ids]
    return {"images": images, "annotations": truths, "categories": categories}, results


def best_of_categories(results: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    ranked = sorted(range(len(results)), key=lambda row: -results[row]["score"])
    kept: list[int] = []
    for category_id in {entry["category_id"] for entry in results}:
        kept += [row for row in ranked if results[row]["category_id"] == category_id][:count]
    return [results[row] for row in sorted(kept)]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("fixed", [False, True])
def test_random_cases_equal_the_official_package(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch, iou_type: str, fixed: bool
):
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis is older than numpy 2
    from lvis import LVIS, LVISEval, LVISResults

    for seed in range(25):
        annotations, results = random_case(seed, iou_type)
        limit = 10_000 if seed % 2 else 5
        official = {**annotations, "annotations": [dict(entry) for entry in annotations["annotations"]]}
        for entry in official["annotations"]:  # lvis fails without areas
            bbox = entry["bbox"] if iou_type == "bbox" else rle_ops.toBbox(entry["segmentation"]).tolist()
            entry.setdefault("area", bbox[2] * bbox[3])
        (tmp_path / "truth.json").write_text(json.dumps(official))
        truth = LVIS(str(tmp_path / "truth.json"))
        counted = best_of_categories(results, limit) if fixed else results
        evaluation = LVISEval(
            truth, LVISResults(truth, [dict(entry) for entry in counted], max_dets=-1 if fixed else 300), iou_type
        )
        if fixed:
            evaluation.params.max_dets = -1
        evaluation.run()
        found = lvis_ap(results, annotations, iou_type=iou_type, fixed=fixed, fixed_per_category=limit, backend=backend)
        assert {name: value.item() for name, value in found.items()} == pytest.approx(
            evaluation.get_results(), rel=0, abs=1e-9
        ), seed


def test_regions_without_area_do_not_count(backend: str):
    empty = found(7, 1, [10, 10, 0, 50], score=0.9)
    assert lvis_ap([*ALL_RIGHT, empty], two_images(), backend=backend)["AP"] == pytest.approx(1)
    annotations = two_images()
    annotations["annotations"].append(annotations["annotations"][0] | {"id": 99, "bbox": [0, 0, 0, 9], "area": 0})
    assert lvis_ap(ALL_RIGHT, annotations, backend=backend)["AR@300"] == pytest.approx(1)
