"""Weights in and out: the original's files of both stages, our own folders, other resolutions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_backbone import (
    FiberBackbone,
    FiberConfig,
    fiber_base,
    fiber_tiny,
    original_backbone_map,
    read_original_state_dict,
)
from fiber_backbone.original import DEAD, HEADS
from fiber_backbone.windows import resize_relative_position_bias
from safetensors.torch import load_file
from torch import Tensor

DTYPES = {"float32": torch.float32, "int64": torch.int64}


def test_every_original_key_has_a_place(coarse_reference: Path, fine_reference: Path) -> None:
    files = sorted([*coarse_reference.glob("keys_fiber_base_*.json"), *fine_reference.glob("keys_fiber_base_*.json")])
    files = [path for path in files if path.stem != "keys_fiber_base_summary"]
    assert len(files) >= 9
    for path in files:
        keys = json.loads(path.read_text())
        stage = path.stem.removeprefix("keys_fiber_base_")
        config = FiberConfig(decoder_projections=stage.startswith("caption"))
        if stage.endswith("576"):
            config = FiberConfig(**{**vars(config), "image_size": 576, "window_size": 18})
        if stage.startswith("fine"):
            config = config.fine_stage(normalize_image_query=stage == "fine_v3")
        with torch.device("meta"):
            model = FiberBackbone.from_config(config)
            report = model.load_original_checkpoint(
                {name: torch.empty(shape, dtype=DTYPES[dtype]) for name, (shape, dtype) in keys.items()}
            )
        filled = {ours for ours, _ in original_backbone_map(config).pairs}
        assert filled == {name for name, _ in model.named_parameters()}, path.name
        assert not report.fresh, path.name
        assert not report.resized, path.name
        assert sorted(report.taken + report.dead + report.left) == sorted(keys), path.name
        assert len(report.taken) == len(set(report.taken)), path.name
        assert all(HEADS.match(name) for name in report.left), path.name
        assert all(DEAD.search(name) or "alpha_t2i" in name for name in report.dead), path.name


def original_tensors(model: FiberBackbone) -> dict[str, Tensor]:
    """What the original would have saved of a model of ours."""
    parameters, made = dict(model.named_parameters()), {}
    for ours, originals in original_backbone_map(model.config).pairs:
        made |= dict(zip(originals, parameters[ours].detach().chunk(len(originals)), strict=True))
    return made


def test_a_training_checkpoint_is_read_without_running_it(tmp_path: Path, tiny: FiberBackbone) -> None:
    """Lightning's files name classes of libraries that nobody should need, and could name worse."""
    torch.save(original_tensors(tiny), tmp_path / "tensors.pt")
    script = f"""
import pathlib, sys, types, torch
module = types.ModuleType("old_library.callbacks")
class Checkpoint:
    def __init__(self): self.best = 1
    def __reduce__(self): return (open, ({str(tmp_path / "executed")!r}, "w"))
class Plain:
    pass
for kind in (Checkpoint, Plain):
    kind.__module__, kind.__qualname__ = "old_library.callbacks", kind.__name__
    setattr(module, kind.__name__, kind)
sys.modules["old_library"] = types.ModuleType("old_library")
sys.modules["old_library.callbacks"] = module
weights = {{"module." + name: value for name, value in torch.load({str(tmp_path / "tensors.pt")!r}).items()}}
torch.save({{"state_dict": weights, "callbacks": {{Plain: {{"x": Plain()}}, "evil": Checkpoint()}}}}, {str(tmp_path / "old.ckpt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    model = fiber_tiny(decoder_projections=True)
    report = model.load_original_checkpoint(tmp_path / "old.ckpt")
    assert len(report.taken) > len(dict(model.named_parameters()))
    assert not (tmp_path / "executed").exists()
    for name, value in tiny.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model", "state_dict"), ("model_state_dict",)])
def test_wrapped_weights_are_found_under_the_original_s_names(
    prefix: str, keys: tuple[str, ...], tmp_path: Path
) -> None:
    names = ["vit_model.norm.weight", "temp", "copy_module.vit_model.norm.weight", "text_transformer.model.x"]
    content: Any = {prefix + name: torch.zeros(1) for name in names}
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "x.ckpt")
    assert list(read_original_state_dict(tmp_path / "x.ckpt")) == names


def test_a_coarse_checkpoint_starts_the_fine_stage(tiny: FiberBackbone) -> None:
    tensors = original_tensors(tiny)
    for normalize in (False, True):
        fine = FiberBackbone.from_config(tiny.config.fine_stage(normalize_image_query=normalize))
        report = fine.load_original_checkpoint(tensors)
        assert sorted(report.fresh) == [
            f"image_stream.pyramid_norms.{i}.{part}" for i in (0, 1) for part in ("bias", "weight")
        ]
        dropped = [name for name in report.dead if ".norm_i2t_i." in name]
        assert len(dropped) == (0 if normalize else 2 * tiny.config.num_fusion_blocks)
        assert "vit_model.norm.weight" in report.dead


def test_what_does_not_fit_is_named(tiny: FiberBackbone) -> None:
    tensors = original_tensors(tiny)
    cases = [
        ({**tensors, "vit_model.absolute_pos_embed": torch.zeros(3)}, r"1 keys unknown \(first: vit_model.absolute_pos_embed\)"),
        ({name: value for name, value in tensors.items() if "layer.2." not in name}, r"\d+ keys missing \(first: text_transformer.encoder.layer.2"),
        ({name: value for name, value in tensors.items() if "norm_i2t_i" not in name}, r"build the model with FiberConfig\(normalize_image_query=False\)"),
        ({**tensors, "vit_model.patch_embed.proj.bias": torch.zeros(96)}, r"vit_model.patch_embed.proj.bias \(96,\) where image_stream.patch_embed.proj.bias has \(48,\)"),
    ]  # fmt: skip
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    for state, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            tiny.load_original_checkpoint(state)
    for name, value in tiny.state_dict().items():
        assert torch.equal(before[name], value), name  # a refused checkpoint leaves the model as it was


def test_bias_tables_resize_as_the_original(coarse_reference: Path) -> None:
    folder = coarse_reference / "swin_adapt"
    for path in folder.glob("single_384_to_*.safetensors"):
        tensors = load_file(path)
        size = int(path.stem.rpartition("_")[2])
        resized = resize_relative_position_bias(tensors["in_384"], size // 32)
        torch.testing.assert_close(resized, tensors[f"out_{size}"], rtol=0, atol=1e-5)
    before, after = load_file(folder / "in_96.safetensors"), load_file(folder / "out_96_to_192.safetensors")
    for name in after:
        ours = resize_relative_position_bias(before[name], 6) if "table" in name else before[name]
        torch.testing.assert_close(ours, after[name], rtol=0, atol=1e-5)


def test_a_checkpoint_loads_at_another_resolution(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    larger = fiber_tiny(decoder_projections=True, image_size=96, window_size=6).eval()
    report = larger.load_original_checkpoint(original_tensors(tiny))
    assert len(report.resized) == sum(tiny.config.depths)
    resized = tiny.resize(96)
    assert (resized.config.image_size, resized.config.window_size) == (96, 6)
    pixel_values = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        ours = resized(pixel_values, batch["input_ids"], batch["attention_mask"]).pooled
        theirs = larger(pixel_values, batch["input_ids"], batch["attention_mask"]).pooled
    assert torch.equal(ours, theirs)


def test_saving_and_loading(tmp_path: Path, tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    tiny.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = FiberBackbone.from_pretrained(tmp_path / "model")
    assert loaded.config == tiny.config
    assert not loaded.training
    assert torch.equal(loaded(**batch).pooled, tiny(**batch).pooled)


def test_weights_keep_the_type_they_were_saved_in(tmp_path: Path, tiny: FiberBackbone) -> None:
    tiny.bfloat16().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"holds weights in torch.bfloat16, which stay so; give dtype=torch.float32"):
        loaded = FiberBackbone.from_pretrained(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    wide = FiberBackbone.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(torch.equal(value, own.float()) for value, own in zip(wide.parameters(), tiny.parameters(), strict=True))


def test_weights_stored_in_another_type_load_in_the_models_own(
    tiny: FiberBackbone, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    rounded = {name: value.bfloat16() for name, value in tiny.state_dict().items()}
    tiny.save_pretrained(tmp_path, state_dict=rounded)
    loaded = FiberBackbone.from_pretrained(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, rounded[name].float()), name
    assert not recwarn.list
    kept = FiberBackbone.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {value.dtype for value in kept.parameters()} == {torch.bfloat16}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "int8"}))
    with pytest.raises(
        ValueError, match=r"config\.json: dtype: expected bfloat16, float16, float32, float64, found 'int8'"
    ):
        FiberBackbone.from_pretrained(tmp_path)


def test_tensors_of_a_plain_file(tmp_path: Path) -> None:
    torch.save({"model": {"module.a": torch.ones(2), "epoch": 3}, "optimizer": {"lr": 1}}, tmp_path / "fine.pth")
    assert list(read_original_state_dict(tmp_path / "fine.pth")) == ["a"]


def test_published_sizes(coarse_reference: Path) -> None:
    """The published counts, less the tensors that have no effect."""
    with torch.device("meta"):
        model = fiber_base()
    keys = json.loads((coarse_reference / "keys_fiber_base_vqa.json").read_text())
    dead = sum(
        torch.Size(shape).numel()
        for name, (shape, dtype) in keys.items()
        if DEAD.search(name) and dtype == "float32" and "attn_mask" not in name
    )
    gates = model.config.num_hidden_layers - model.config.num_fusion_blocks
    heads = sum(torch.Size(shape).numel() for name, (shape, _) in keys.items() if HEADS.match(name))
    assert sum(parameter.numel() for parameter in model.parameters()) + dead + gates + heads == pytest.approx(
        249.8e6, abs=0.05e6
    )


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_are_as_readable_as_the_files_beside_them(
    tmp_path: Path, tiny: FiberBackbone, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        tiny.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "config.json"} <= modes.keys()
    assert set(modes.values()) == {mode}
