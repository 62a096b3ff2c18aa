"""What an original checkpoint is, read off its tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberConfig
from fiber_heads import recognize_original
from torch import Tensor

from .golden import DTYPES, full_size_tensors, reference_sizes, reference_tensors

KINDS = {
    "pretrain": ("FiberForPretraining", 384, ("itc", "itm", "mlm"), 40),
    "irtr_itc_576": ("FiberForRetrieval", 576, ("itc",), 50),
    "irtr_itm_384": ("FiberForRetrieval", 384, ("itm",), 50),
    "vqa_576": ("FiberForQuestionAnswering", 576, None, 50),
    "nlvr2": ("FiberForVisualReasoning", 384, None, 50),
    "caption_576": ("FiberForCaptioning", 576, None, 50),
}


@pytest.mark.parametrize("name", KINDS)
def test_published_files_are_recognized_by_their_names_and_shapes(name: str, coarse_reference: Path) -> None:
    kind, size, objectives, length = KINDS[name]
    found = recognize_original(full_size_tensors(coarse_reference, name))
    assert (found.kind.__name__, found.backbone.image_size, found.max_length) == (kind, size, length)
    expected = FiberConfig(decoder_projections=name.startswith("caption")).grown(image_size=size)
    assert found.backbone == expected
    assert getattr(found.head, "objectives", None) == objectives
    assert found.num_answers == (3129 if name.startswith("vqa") else None)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_published_detectors_are_recognized(version: str, coarse_reference: Path) -> None:
    keys = json.loads((coarse_reference.parent / "fine" / f"keys_fiber_base_fine_{version}.json").read_text())
    tensors = {name: torch.empty(shape, dtype=DTYPES[kind], device="meta") for name, (shape, kind) in keys.items()}
    found = recognize_original(tensors)
    assert found.kind.__name__ == "FiberForGrounding" and found.max_length == 256
    assert found.backbone == FiberConfig().fine_stage(normalize_image_query=version == "v3")
    assert (found.head.channels, found.head.num_blocks, found.head.inclusive_boxes) == (256, 6, True)
    assert "expressions" in found.title if version == "v3" else "categories" in found.title


@pytest.mark.parametrize("task", ["pretrain", "vqa", "nlvr2", "caption"])
def test_small_checkpoints_are_built_and_hold_the_weights(task: str, coarse_case: Path) -> None:
    tensors = reference_tensors(coarse_case, task)
    sizes = reference_sizes(coarse_case)
    found = recognize_original(tensors, num_attention_heads=sizes.num_attention_heads)
    answers = None if found.num_answers is None else [f"answer {index}" for index in range(found.num_answers)]
    model = found.build(tensors, answers)
    assert found.backbone == FiberConfig(**{**vars(sizes), "decoder_projections": task == "caption"})
    values = dict(model.named_parameters())
    pairs = [(f"backbone.{ours}", names) for ours, names in model.backbone.original_map().pairs]
    for ours, names in [*pairs, *model.original_head_map().pairs]:
        assert torch.equal(values[ours].reshape(-1), torch.cat([tensors[name].reshape(-1) for name in names]).float())


def test_the_frozen_copy_tells_gold(coarse_case: Path) -> None:
    tensors = reference_tensors(coarse_case, "caption")
    copied = {f"copy_module.{name}": value for name, value in tensors.items()}
    assert recognize_original({**tensors, **copied}).head.objective == "gold"
    assert recognize_original({**tensors, **copied}).backbone == recognize_original(tensors).backbone
    found = recognize_original(tensors)
    assert found.head.objective == "mle"
    assert any("mle" in sentence for sentence in found.assumed)


def test_what_is_not_told_is_said_or_refused(coarse_case: Path) -> None:
    tensors: dict[str, Tensor] = reference_tensors(coarse_case, "vqa")
    found = recognize_original(tensors)
    assert any("attention heads" in sentence for sentence in found.assumed)
    with pytest.raises(ValueError, match=r"among 30 answers, whose texts its file does not hold; none were given"):
        found.build(tensors)
    with pytest.raises(ValueError, match="2 were given"):
        found.build(tensors, ["yes", "no"])
    bare = {name: value for name, value in tensors.items() if not name.startswith("vqa_classifier")}
    with pytest.raises(ValueError, match=r"x\.ckpt has the backbone of the original and no head that is known here"):
        recognize_original(bare, "x.ckpt")
    part = {name: value for name, value in tensors.items() if name.startswith("vit_model")}
    with pytest.raises(ValueError, match=r"x\.ckpt is a checkpoint of which a part is lacking"):
        recognize_original(part, "x.ckpt")
    with pytest.raises(ValueError, match="a checkpoint of another model"):
        recognize_original({"module.weight": torch.zeros(1)}, "x.ckpt")
