"""ODinW, object detection in the wild: the mean of the box AP of many small data sets.

Follows GLIP (Li et al., "Grounded Language-Image Pre-training", CVPR 2022) and ELEVATER (Li et al., NeurIPS 2022):
every data set weighs the same, however many images it has. The AP of each is COCO's, averaged over IoU 0.5 to 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from fiber_eval._coco_evaluation import Backend
from fiber_eval._regions import IouType
from fiber_eval.detection import coco_ap
from fiber_eval.files import naming

ODINW_13 = (
    "AerialMaritimeDrone",
    "Aquarium",
    "CottontailRabbits",
    "EgoHands",
    "NorthAmericaMushrooms",
    "Packages",
    "PascalVOC",
    "Raccoon",
    "ShellfishOpenImages",
    "VehiclesOpenImages",
    "pistols",
    "pothole",
    "thermalDogsAndPeople",
)
"""The thirteen data sets whose mean GLIP and FIBER report."""


def odinw_average(average_precisions: Mapping[str, float], datasets: Collection[str] = ODINW_13) -> float:
    """The mean AP over the data sets.

    Args:
        average_precisions: The AP of each data set (0..1, or 0..100 throughout), by name.
        datasets: The data sets to average, each of which must have its AP and no other may: the thirteen of GLIP.

    Returns:
        The mean, in the unit of the APs.

    Raises:
        ValueError: A data set has no AP or is not asked for, an AP is NaN or negative (COCO's -1 says that nothing was
            annotated), or `datasets` is empty.

    Example:
        >>> from fiber_eval.odinw import odinw_average
        >>> odinw_average({"Aquarium": 0.25, "pothole": 0.75}, datasets=["Aquarium", "pothole"])
        0.5
    """
    names = sorted(set(datasets))
    if not names:
        raise ValueError("datasets is empty; name at least one data set to average.")
    absent = [name for name in names if name not in average_precisions]
    extra = sorted(set(average_precisions) - set(names))
    if absent or extra:
        raise ValueError(
            f"the average needs one AP for each data set: missing {absent}, not asked for {extra}; score them all, or "
            "name those that you want in datasets."
        )
    for name in names:
        if not 0 <= average_precisions[name] < math.inf:
            raise ValueError(
                f"the AP of {name} must be 0 or more, but is {average_precisions[name]}; -1 says that its annotations "
                "hold no object."
            )
    return math.fsum(average_precisions[name] for name in names) / len(names)


def score_files(
    annotations: Path,
    results: Path,
    *,
    datasets: Collection[str] = ODINW_13,
    iou_type: IouType = "bbox",
    backend: Backend = "auto",
) -> dict[str, float]:
    """Score detections on all data sets, and average.

    Args:
        annotations: folder of COCO annotation files, one a data set: Aquarium.json, pothole.json, ...
        results: folder of COCO results files of the same names
        datasets: The data sets to average.
        iou_type: As of `coco_ap`, like `backend`.
        backend: The evaluator.

    Returns:
        `average`, and the AP of each data set by name; 0..1.

    Raises:
        ValueError: A file is missing or malformed, or a data set has no annotated object; names it.

    Source: Li et al. 2022, Grounded Language-Image Pre-training, https://arxiv.org/abs/2112.03857

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.odinw import score_files
        >>> box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
        >>> right = {**box, "id": 1, "area": 81, "iscrowd": 0}
        >>> truth = {"images": [{"id": 1}], "annotations": [right], "categories": [{"id": 1, "name": "pothole"}]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part, content in (("truth", truth), ("found", [{**box, "score": 0.9}])):
        ...         Path(folder, part).mkdir()
        ...         _ = Path(folder, part, "pothole.json").write_text(json.dumps(content))
        ...     result = score_files(Path(folder, "truth"), Path(folder, "found"), datasets=["pothole"])
        >>> round(result["average"], 6)
        1.0
    """
    names = sorted(set(datasets))
    for folder in (Path(annotations), Path(results)):
        if absent := [name for name in names if not (folder / f"{name}.json").is_file()]:
            raise ValueError(f"{folder} must hold a file NAME.json for each data set, but has none for {absent}.")
    precisions = {
        name: coco_ap(
            Path(results) / f"{name}.json", Path(annotations) / f"{name}.json", iou_type=iou_type, backend=backend
        )["AP"]
        for name in names
    }
    with naming(annotations):
        return {"average": odinw_average(precisions, names), **precisions}
