"""The heads of original checkpoints: which of their tensors are which of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from fiber_backbone import KeyMap
from torch import Tensor

BACKBONE = "backbone."

# Our name of each part of the coarse stage's heads, without `.weight` and `.bias`, and the original's.
PARTS = {
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
SINGLE = {"contrastive_head.temperature": "temp", "word_head.decoder.bias": "mlm_score.bias"}

# What the original stores in every checkpoint whether the task uses it or not: training state (the queue, the frozen
# copy of one captioning objective), the contrast's projections, and a copy of the matcher's second row.
DEAD = re.compile(
    r"^(queue_ptr$|queue_total$|(image|text)_queue$|(image|text)_input_queue$|text_input_mask_queue$|"
    r"rank_output\.(weight|bias)$|cross_modal_(text|image)_(transform|pooler)_itc\.|copy_module\.)"
)
RANK, MATCHER = ("rank_output.weight", "rank_output.bias"), ("itm_score.fc.weight", "itm_score.fc.bias")


def original_parts_map(names: Iterable[str]) -> KeyMap:
    """The map of the coarse stage's heads.

    Args:
        names: Our names of the parameters of the heads. Those that are no part of the original's get no pair: the
            checkpoint lacks them.
    """
    pairs = []
    for name in names:
        part, _, kind = name.rpartition(".")
        original = SINGLE.get(name) or (f"{PARTS[part]}.{kind}" if part in PARTS else None)
        if original is not None:
            pairs.append((name, [original]))
    return KeyMap(pairs, dead=DEAD, left=re.compile(""))


def join_key_maps(backbone: KeyMap, heads: KeyMap, optional: tuple[str, ...] = ()) -> KeyMap:
    """One map of a task model from those of its two parts.

    Args:
        backbone: By the backbone's own names; here they begin with `backbone.`.
        heads: By the model's names. It is asked for the names that `backbone.rename` gives.
        optional: Beginnings of further names that the foreign weights need not have.

    Returns:
        What one part claims or calls dead is settled; left is what is left by both.
    """

    def rename(key: str) -> str:
        return heads.rename(backbone.rename(key))

    def resize(name: str, value: Tensor, shape: torch.Size) -> Tensor:
        own = name.startswith(BACKBONE)
        change = backbone.resize if own else heads.resize
        return value if change is None else change(name.removeprefix(BACKBONE) if own else name, value, shape)

    dead = [f"({part.dead.pattern})" for part in (backbone, heads) if part.dead is not None]
    return KeyMap(
        pairs=[*((f"{BACKBONE}{name}", foreign) for name, foreign in backbone.pairs), *heads.pairs],
        rename=rename,
        change={**backbone.change, **heads.change},
        optional=(*(f"{BACKBONE}{name}" for name in backbone.optional), *heads.optional, *optional),
        dead=re.compile("|".join(dead)) if dead else None,
        left=_left_by_both(backbone, heads),
        hints={**backbone.hints, **heads.hints},
        resize=resize,
    )


def _left_by_both(backbone: KeyMap, heads: KeyMap) -> re.Pattern[str] | None:
    """What both leave and the heads do not call dead."""
    if backbone.left is None or heads.left is None:
        return None
    dead = "" if heads.dead is None else f"(?!.*(?:{heads.dead.pattern}))"
    return re.compile(f"^{dead}(?=.*(?:{backbone.left.pattern}))(?=.*(?:{heads.left.pattern}))")


def describe_rank_output(tensors: Mapping[str, Tensor]) -> list[str]:
    """A sentence if the ranking vector that retrieval used disagrees with the matcher, whose second row it should be.

    The original could let the copy go stale, or overwrite the matcher by it on loading; here the matcher is used.
    """
    if any(name not in tensors or tensors[name].is_meta for name in RANK + MATCHER):
        return []
    if all(torch.equal(tensors[rank], tensors[matcher][1:]) for rank, matcher in zip(RANK, MATCHER, strict=True)):
        return []
    return ["rank_output differs from row 1 of itm_score.fc, which it should copy; itm_score.fc is used"]
