"""ODinW: every data set weighs the same, and none is left out unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fiber_eval.odinw import ODINW_13, odinw_average, score_files

# GLIP-T (C), zero-shot, as its authors report it: the mean is published as 0.392.
PUBLISHED = {
    "AerialMaritimeDrone": 0.130,
    "Aquarium": 0.190,
    "CottontailRabbits": 0.744,
    "EgoHands": 0.315,
    "NorthAmericaMushrooms": 0.296,
    "Packages": 0.699,
    "PascalVOC": 0.565,
    "pistols": 0.504,
    "pothole": 0.058,
    "Raccoon": 0.244,
    "ShellfishOpenImages": 0.302,
    "thermalDogsAndPeople": 0.510,
    "VehiclesOpenImages": 0.534,
}


def test_published_average():
    result = odinw_average(PUBLISHED)
    assert round(result["average"].item(), 3) == 0.392
    assert result["pothole"] == PUBLISHED["pothole"]
    percents = {name: 100 * value for name, value in PUBLISHED.items()}
    assert odinw_average(percents)["average"] == pytest.approx(100 * result["average"].item())


@pytest.mark.parametrize(
    ("changed", "datasets", "message"),
    [
        ({"pothole": None}, ODINW_13, r"missing \['pothole'\], not asked for \[\]"),
        ({"BCCD": 0.3}, ODINW_13, r"missing \[\], not asked for \['BCCD'\]"),
        ({"pothole": -1.0}, ODINW_13, "AP of pothole must be 0 or more, but is -1.0"),
        ({"pothole": float("nan")}, ODINW_13, "AP of pothole must be 0 or more, but is nan"),
        ({}, (), "datasets is empty"),
    ],
)
def test_average_refuses(changed: dict, datasets: tuple, message: str):
    precisions = {name: value for name, value in {**PUBLISHED, **changed}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        odinw_average(precisions, datasets=datasets)


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two data sets of different size; all is found in the small one and nothing in the large one."""
    for name, count, found in (("small", 1, True), ("large", 5, False)):
        boxes = [{"image_id": image, "category_id": 1, "bbox": [0, 0, 9, 9]} for image in range(1, count + 1)]
        truth = {
            "images": [{"id": box["image_id"]} for box in boxes],
            "annotations": [{**box, "id": box["image_id"], "area": 81, "iscrowd": 0} for box in boxes],
            "categories": [{"id": 1, "name": "thing"}],
        }
        results = [{**box, "score": 0.9, "bbox": [0, 0, 9, 9] if found else [50, 50, 9, 9]} for box in boxes]
        for part, content in (("truth", truth), ("results", results)):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / f"{name}.json").write_text(json.dumps(content))
    return tmp_path / "truth", tmp_path / "results"


def test_data_sets_weigh_the_same(tmp_path: Path):
    result = score_files(*folders(tmp_path), datasets=("small", "large"))
    assert result == pytest.approx({"average": 0.5, "small": 1, "large": 0})


def test_nothing_annotated(tmp_path: Path):
    truth, results = folders(tmp_path)
    path = truth / "small.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(ValueError, match=r"truth: the AP of small must be 0 or more, but is -1\.0; -1 says that its"):
        score_files(truth, results, datasets=("small", "large"))


def test_absent_file_is_named(tmp_path: Path):
    truth, results = folders(tmp_path)
    (results / "large.json").unlink()
    with pytest.raises(ValueError, match=r"results must hold a file NAME.json for each .* none for \['large'\]"):
        score_files(truth, results, datasets=("small", "large"))
