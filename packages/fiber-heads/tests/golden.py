"""The reference cases: their checkpoints, sizes and gradients, for models of any task."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from fiber_backbone import FiberConfig, original_backbone_map
from fiber_heads import TaskModel
from safetensors.torch import load_file
from torch import Tensor

RELATIVE = 1e-9  # of the largest magnitude of a tensor, in float64
DTYPES = {"float32": torch.float32, "int64": torch.int64}


def assert_equal(ours: Tensor, reference: Tensor, name: str, relative: float = RELATIVE) -> None:
    assert ours.shape == reference.shape, name
    error = (ours - reference).abs().max().item() / max(reference.abs().max().item(), 1e-300)
    assert error < relative, f"{name}: {error:.1e}"


def reference_sizes(case: Path) -> FiberConfig:
    """The case's sizes."""
    settings = json.loads((case / "config.json").read_text())
    swin, text, sizes = settings["swin"], settings["roberta_config"], settings["model_config"]
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("max_position_embeddings", "type_vocab_size", "pad_token_id", "layer_norm_eps")
    return FiberConfig(
        image_size=sizes["image_size"],
        patch_size=swin["patch_size"],
        embed_dim=swin["embed_dim"],
        depths=swin["depths"],
        image_num_heads=swin["num_heads"],
        window_size=sizes["image_size"] // 32,
        num_fusion_blocks=sizes["num_fuse_block"],
        **{name: text[name] for name in names},
    )


def reference_tensors(case: Path, task: str) -> dict[str, Tensor]:
    """The case's checkpoint of a task as the original saved it."""
    files = (case / f"{part}.state_dict.safetensors" for part in ("backbone", f"{task}.heads"))
    return {name: value for file in files for name, value in load_file(file).items()}


def reference_inputs(case: Path, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    tensors = load_file(case / "inputs.safetensors")
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def full_size_tensors(folder: Path, task: str) -> dict[str, Tensor]:
    """The keys of a full-size checkpoint with tensors that have shapes and no values."""
    keys = json.loads((folder / f"keys_fiber_base_{task}.json").read_text())
    return {name: torch.empty(shape, dtype=DTYPES[dtype], device="meta") for name, (shape, dtype) in keys.items()}


def assert_gradients(model: TaskModel, case: Path, task: str) -> None:
    """The gradients that `model` has equal the original's, in norm, sum and a sum weighted by place."""
    expected = json.loads((case / f"{task}.grads.json").read_text())
    largest = max(value[0] for value in expected.values() if value is not None)
    parameters, originals = dict(model.named_parameters()), reference_tensors(case, task)
    pairs = [(f"backbone.{ours}", names) for ours, names in original_backbone_map(model.backbone.config).pairs]
    pairs += [(ours, names) for ours, names in model.original_head_map().pairs]
    assert {ours for ours, _ in pairs} == set(parameters)
    compared = set()
    for ours, names in pairs:
        gradient = parameters[ours].grad
        if gradient is None:
            assert all(expected[name] is None for name in names), ours
            continue
        parts = [gradient] if len(names) == 1 else gradient.split([len(originals[name]) for name in names])
        for name, part in zip(names, parts, strict=True):
            flat = part.flatten()
            measured = torch.stack([flat.norm(), flat.sum(), (flat * torch.arange(len(flat)).double().cos()).sum()])
            error = (measured - torch.tensor(expected[name], dtype=torch.float64)).abs().max().item()
            assert error < 10 * RELATIVE * max(expected[name][0], largest), f"{name}: {error:.1e}"
            compared.add(name)
    assert compared == {name for name, value in expected.items() if value is not None}
