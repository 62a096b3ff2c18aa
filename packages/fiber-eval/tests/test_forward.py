"""Calling a detection metric scores the batch alone."""

from __future__ import annotations

import pytest
import torch
from fiber_eval import CocoAP


def test_the_batch_alone_counts():
    box = {"category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500}
    truths = [box | {"id": image_id, "image_id": image_id} for image_id in (1, 2)]
    metric = CocoAP({"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1}], "annotations": truths})
    found = {"boxes": torch.tensor([[10, 10, 60, 60]]), "scores": torch.ones(1), "labels": torch.tensor([1])}
    assert metric([found], ids=[2])["AR1"] == 1  # of both images it would be a half
    with pytest.raises(ValueError, match="1 of 2 images of the annotations never came: 1;"):
        metric.compute()
