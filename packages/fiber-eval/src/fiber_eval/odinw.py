"""ODinW, object detection in the wild: the mean of the box AP of many small data sets.

Follows GLIP (Li et al., "Grounded Language-Image Pre-training", CVPR 2022) and ELEVATER (Li et al., NeurIPS 2022):
every data set weighs the same, however many images it has. The AP of each is COCO's, averaged over IoU 0.5 to 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import SupportsFloat

from torch import Tensor

from fiber_eval._coco_evaluation import Backend
from fiber_eval._regions import IouType
from fiber_eval.detection import coco_ap
from fiber_eval.files import naming
from fiber_eval.samples import as_numbers, as_tensors

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


def odinw_average(
    average_precisions: Mapping[str, SupportsFloat], *, datasets: Collection[str] = ODINW_13
) -> dict[str, Tensor]:
    """The mean AP over the data sets.

    Args:
        average_precisions: The AP of each data set (0..1, or 0..100 throughout), by name; numbers or scalars.
        datasets: The data sets to average, each of which must have its AP and no other may: the thirteen of GLIP.

    Returns:
        `average`, in the unit of the APs, and the AP of each data set by name; scalars in float64 on the CPU.

    Raises:
        ValueError: A data set has no AP or is not asked for, an AP is NaN or negative (COCO's -1 says that nothing was
            annotated), or `datasets` is empty.

    Example:
        >>> from fiber_eval.odinw import odinw_average
        >>> odinw_average({"Aquarium": 0.25, "pothole": 0.75}, datasets=["Aquarium", "pothole"])["average"].item()
        0.5
    """
    names = sorted(set(datasets))
    if not names:
        raise ValueError("datasets is empty; name at least one data set to average")
    absent = [name for name in names if name not in average_precisions]
    extra = sorted(set(average_precisions) - set(names))
    if absent or extra:
        raise ValueError(
            f"the average needs one AP for each data set: missing {absent}, not asked for {extra}; score them all, or "
            "name those that you want in datasets"
        )
    values = {name: float(average_precisions[name]) for name in names}
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(
                f"the AP of {name} must be 0 or more, but is {value}; -1 says that its annotations hold no object"
            )
    return as_tensors({"average": math.fsum(values.values()) / len(names)} | values)


def score_files(
    annotations: Path,
    results: Path,
    *,
    datasets: Collection[str] = ODINW_13,
    iou_type: IouType = "bbox",
    backend: Backend = "faster_coco_eval",
) -> dict[str, float]:
    """Score detections on all data sets, and average.

    Args:
        annotations: folder of COCO annotation files, one a data set: Aquarium.json, pothole.json, ...
        results: folder of COCO results files of the same names
        datasets: The data sets to average.
        iou_type: As of `coco_ap`, like `backend`.
        backend: The evaluator.

    Returns:
        As `odinw_average`, in Python's numbers.

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
            raise ValueError(f"{folder} must hold a file NAME.json for each data set, but has none for {absent}")
    precisions = {
        name: coco_ap(
            Path(results) / f"{name}.json", Path(annotations) / f"{name}.json", iou_type=iou_type, backend=backend
        )["AP"]
        for name in names
    }
    with naming(annotations):
        return as_numbers(odinw_average(precisions, datasets=names))
