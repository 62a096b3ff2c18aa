"""The heads of original checkpoints: `load_original_checkpoint` of the task models."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from fiber_backbone import LoadReport, read_original_state_dict
from torch import Tensor

if TYPE_CHECKING:
    from fiber_heads.task import TaskModel

_RANK = ("rank_output.weight", "rank_output.bias")
_MATCHER = ("itm_score.fc.weight", "itm_score.fc.bias")
_QUEUE = (
    "queue_ptr",
    "queue_total",
    "image_queue",
    "text_queue",
    "image_input_queue",
    "text_input_queue",
    "text_input_mask_queue",
)
# Beside the queue, what the original stores in every checkpoint whether the task uses it or not.
_ALWAYS_STORED = (
    "cross_modal_text_transform_itc.",
    "cross_modal_image_transform_itc.",
    "cross_modal_text_pooler_itc.",
    "cross_modal_image_pooler_itc.",
    "copy_module.",
)

# Our name of each part of the heads, without `.weight` and `.bias`, and the original's.
_PARTS = {
    "contrastive_head.text_transform": "cross_modal_text_transform_itc",
    "contrastive_head.image_transform": "cross_modal_image_transform_itc",
    "contrastive_head.text_pooler": "cross_modal_text_pooler_itc.dense",
    "contrastive_head.image_pooler": "cross_modal_image_pooler_itc.dense",
    "matching_head.classifier": "itm_score.fc",
    "word_head.dense": "mlm_score.transform.dense",
    "word_head.norm": "mlm_score.transform.LayerNorm",
    "word_head.decoder": "mlm_score.decoder",
    "answer_head.dense": "vqa_classifier.0",
    "answer_head.norm": "vqa_classifier.1",
    "answer_head.decoder": "vqa_classifier.3",
    "reasoning_head.dense": "nlvr2_classifier.0",
    "reasoning_head.norm": "nlvr2_classifier.1",
    "reasoning_head.decoder": "nlvr2_classifier.3",
}
# Those that the rule does not give.
_SINGLE = {"contrastive_head.temperature": "temp", "word_head.decoder.bias": "mlm_score.bias"}


@dataclass
class TaskLoadReport:
    """What became of an original checkpoint.

    Attributes:
        backbone: The backbone's report.
        used: Keys of heads whose values are now in the model.
        left: Keys of heads that this model does not have.
        dropped: Keys that have no effect on this model's task: training state (the queue, the frozen copy of one
            captioning objective), the contrast's projections, which the original stores for every task, and the copy
            of the matcher's second row that retrieval used.
        fresh: Parameters of heads that the checkpoint lacks and that keep their own values, where that was allowed.
        rank_output_differs: Whether that copy disagrees with the matcher, whose values are the ones now used. The
            original could let the copy go stale, or overwrite the matcher by it on loading.
    """

    backbone: LoadReport
    used: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    rank_output_differs: bool = False

    def __str__(self) -> str:
        return (
            f"backbone: {self.backbone}; heads: {len(self.used)} tensors used, {len(self.left)} left, "
            f"{len(self.dropped)} without effect dropped"
        )


def original_head_map(model: TaskModel) -> dict[str, str]:
    """Our name of each parameter of the heads to the original's."""
    pairs: dict[str, str] = {}
    for name, _ in model.named_parameters():
        if not name.startswith("backbone."):
            part, _, kind = name.rpartition(".")
            pairs[name] = _SINGLE.get(name) or f"{_PARTS[part]}.{kind}"
    return pairs


def load_original_task(
    model: TaskModel, source: str | Path | Mapping[str, Tensor], partial: bool = False
) -> TaskLoadReport:
    """See `TaskModel.load_original_checkpoint`."""
    tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    pairs = original_head_map(model)
    fresh = [ours for ours, original in pairs.items() if partial and original not in tensors]
    pairs = {ours: original for ours, original in pairs.items() if ours not in fresh}
    parameters = dict(model.named_parameters())
    missing = [original for original in pairs.values() if original not in tensors]
    mismatched = [
        f"{original} {tuple(tensors[original].shape)} for {tuple(parameters[ours].shape)}"
        for ours, original in pairs.items()
        if original in tensors and tensors[original].shape != parameters[ours].shape
    ]
    for kind, names in (("lacks", missing), ("has other shapes:", mismatched)):
        if names:
            raise ValueError(
                f"{origin} {kind} {len(names)} tensors of the heads of {type(model).__name__} (first: {names[0]}); "
                "choose the model, the settings and the sizes that the checkpoint was trained with"
            )
    report = TaskLoadReport(model.backbone.load_original_checkpoint(tensors))
    with torch.no_grad():
        for ours, original in pairs.items():
            parameters[ours].copy_(tensors[original])
    report.used, report.fresh = list(pairs.values()), fresh
    others = set(report.backbone.left) - set(report.used)
    report.dropped = sorted(name for name in others if name in _QUEUE + _RANK or name.startswith(_ALWAYS_STORED))
    report.left = sorted(others - set(report.dropped))
    if _MATCHER[0] in report.used and all(name in tensors and not tensors[name].is_meta for name in _RANK + _MATCHER):
        report.rank_output_differs = any(
            not torch.equal(tensors[rank], tensors[matcher][1:]) for rank, matcher in zip(_RANK, _MATCHER, strict=True)
        )
    if report.rank_output_differs:
        warnings.warn(
            f"{origin}: rank_output differs from row 1 of itm_score.fc, which it should copy; itm_score.fc is used",
            stacklevel=3,
        )
    return report
