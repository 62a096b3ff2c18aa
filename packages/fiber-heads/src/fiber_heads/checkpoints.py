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
    from fiber_heads.models import FiberForPretraining

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


@dataclass
class PretrainingLoadReport:
    """What became of an original checkpoint.

    Attributes:
        backbone: The backbone's report.
        used: Keys of heads whose values are now in the model.
        left: Keys of heads that this model does not have.
        dropped: Keys of training state (the queue), and the copy of the matcher's second row that retrieval used.
        rank_output_differs: Whether that copy disagrees with the matcher, whose values are the ones now used. The
            original could let the copy go stale, or overwrite the matcher by it on loading.
    """

    backbone: LoadReport
    used: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    rank_output_differs: bool = False

    def __str__(self) -> str:
        return (
            f"backbone: {self.backbone}; heads: {len(self.used)} tensors used, {len(self.left)} left, "
            f"{len(self.dropped)} of training state dropped"
        )


def original_head_map(model: FiberForPretraining) -> dict[str, str]:
    """Our name of each parameter of the heads to the original's."""
    pairs: dict[str, str] = {}
    if model.contrastive_head is not None:
        pairs["contrastive_head.temperature"] = "temp"
        for stream in ("text", "image"):
            for part in ("weight", "bias"):
                pairs[f"contrastive_head.{stream}_transform.{part}"] = f"cross_modal_{stream}_transform_itc.{part}"
                if model.config.itc_pooler:
                    original = f"cross_modal_{stream}_pooler_itc.dense.{part}"
                    pairs[f"contrastive_head.{stream}_pooler.{part}"] = original
    if model.matching_head is not None:
        for part in ("weight", "bias"):
            pairs[f"matching_head.classifier.{part}"] = f"itm_score.fc.{part}"
    if model.word_head is not None:
        for part in ("weight", "bias"):
            pairs[f"word_head.dense.{part}"] = f"mlm_score.transform.dense.{part}"
            pairs[f"word_head.norm.{part}"] = f"mlm_score.transform.LayerNorm.{part}"
        pairs["word_head.decoder.weight"] = "mlm_score.decoder.weight"
        pairs["word_head.decoder.bias"] = "mlm_score.bias"
    return pairs


def load_original_pretraining(
    model: FiberForPretraining, source: str | Path | Mapping[str, Tensor]
) -> PretrainingLoadReport:
    """See `FiberForPretraining.load_original_checkpoint`."""
    tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    pairs = original_head_map(model)
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
                f"{origin} {kind} {len(names)} tensors of the heads (first: {names[0]}); "
                "choose the objectives (PretrainingConfig) and sizes that the checkpoint was trained with"
            )
    report = PretrainingLoadReport(model.backbone.load_original_checkpoint(tensors))
    with torch.no_grad():
        for ours, original in pairs.items():
            parameters[ours].copy_(tensors[original])
    report.used = list(pairs.values())
    others = set(report.backbone.left) - set(report.used)
    report.dropped = sorted(others & {*_QUEUE, *_RANK})
    report.left = sorted(others - {*_QUEUE, *_RANK})
    if all(name in tensors and not tensors[name].is_meta for name in _RANK + _MATCHER):
        report.rank_output_differs = any(
            not torch.equal(tensors[rank], tensors[matcher][1:]) for rank, matcher in zip(_RANK, _MATCHER, strict=True)
        )
    if report.rank_output_differs:
        warnings.warn(
            f"{origin}: rank_output differs from row 1 of itm_score.fc, which it should copy; itm_score.fc is used",
            stacklevel=3,
        )
    return report
