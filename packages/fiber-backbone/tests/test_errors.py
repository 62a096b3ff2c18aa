"""Wrong input is answered by one sentence: what was expected, what came, how to mend it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, ImageState, KeyMap, convert, fiber_tiny, read_original_state_dict
from safetensors.torch import load, save_file

IDS = torch.full((2, 6), 7)


def begin(*shape: int) -> ImageState:
    return fiber_tiny().begin_image(torch.zeros(shape))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: begin(1, 3, 60, 64), "multiples of 16, got (60, 64); pad with zeros at the right and bottom to (64, 64) or resize"),
        (lambda: begin(3, 64, 64), "pixel_values must have the shape (batch, 3, height, width), got (3, 64, 64)"),
        (lambda: fiber_tiny().begin_text(torch.zeros(1, 65, dtype=torch.long)), "the text has 65 tokens but the model has positions for 64; truncate it"),
        (lambda: fiber_tiny().begin_text(IDS[0]), "input_ids must have the shape (batch, length), got (6,)"),
        (lambda: fiber_tiny().begin_text(IDS, IDS[:, :5]), "attention_mask must have the shape of input_ids, (2, 6), got (2, 5)"),
        (lambda: fiber_tiny()(torch.zeros(3, 3, 64, 64), IDS), "got 3 images and 2 texts; index or repeat_interleave one of the states"),
        (lambda: begin(2, 3, 64, 64)[0], "write [[0]]"),
        (lambda: ImageState.cat([begin(1, 3, 64, 64), begin(1, 3, 64, 96)]), "got maps of shapes [(8, 8, 96), (8, 12, 96)]; pad the images alike"),
        (lambda: fiber_tiny().decode_text(IDS), "build it with FiberConfig(decoder_projections=True)"),
        (lambda: fiber_tiny(decoder_projections=True).decode_text(IDS), "decode_text needs image_features"),
        (lambda: fiber_tiny(decoder_projections=True).decode_text(IDS[:1], torch.zeros(2, 4, 192)), "1 texts cannot read 2 images"),
        (lambda: fiber_tiny().resize(100), "do not become whole windows at 100 px; pass window_size"),
        (lambda: FiberConfig.from_preset("fiber_huge"), "unknown preset 'fiber_huge'; the presets are fiber_base, fiber_small, fiber_tiny"),
        (lambda: fiber_tiny(hiden_size=3), "FiberConfig has no field 'hiden_size'; did you mean 'hidden_size'?"),
        (lambda: fiber_tiny(num_fusion_blocks=5), "num_fusion_blocks must be between 1 and 4"),
        (lambda: fiber_tiny(num_attention_heads=3), "hidden_size (128) must be divisible by num_attention_heads (3)"),
        (lambda: fiber_tiny(image_num_heads=(2, 4)), "must name the same number of stages"),
        (lambda: fiber_tiny(image_num_heads=(5, 5, 5)), "an image stage of 48 channels cannot be split into 5 heads"),
        (lambda: fiber_tiny(window_policy="crop"), "window_policy must be 'shrink' or 'pad', is 'crop'"),
    ],
)  # fmt: skip
def test_sentences(call, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        call()


def test_original_checkpoints(tmp_path: Path) -> None:
    model = fiber_tiny()
    with pytest.raises(FileNotFoundError, match=re.escape(f"checkpoint {tmp_path / 'no.ckpt'} does not exist")):
        model.load_original_checkpoint(tmp_path / "no.ckpt")
    save_file({"layer1.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError,
        match=r"other.safetensors is a checkpoint of another model: .* its first is 'layer1.weight'",
    ):
        model.load_original_checkpoint(tmp_path / "other.safetensors")
    (tmp_path / "noise.pth").write_bytes(b"this is not a checkpoint")
    with pytest.raises(ValueError, match=r"noise.pth is not a checkpoint that can be read safely"):
        read_original_state_dict(tmp_path / "noise.pth")
    torch.save({"state_dict": {"vit_model.norm.weight": torch.full((192,), torch.nan)}}, tmp_path / "other.pth")
    shapes = {"norm.weight": torch.Size([192])}
    with pytest.raises(ValueError, match=r"other.pth holds 1 tensors .* not finite.* .first: vit_model.norm.weight."):
        convert(
            read_original_state_dict(tmp_path / "other.pth"),
            KeyMap([("norm.weight", ["vit_model.norm.weight"])]),
            shapes,
            "other.pth",
        )
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"empty.pth holds no tensors .* but the keys \['epoch'\]"):
        read_original_state_dict(tmp_path / "empty.pth")
    with pytest.raises(FileNotFoundError, match=r"is a folder; pass the path of a .ckpt"):
        read_original_state_dict(tmp_path)


class Commands:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_what_is_wrong_with_a_file_is_told_and_nothing_in_it_is_run(tmp_path: Path) -> None:
    path, made = tmp_path / "file.ckpt", tmp_path / "executed"
    torch.save({"state_dict": {"vit_model.norm.weight": torch.zeros(500)}}, path)
    whole = path.read_bytes()
    for content, fault in (
        (whole[: len(whole) // 2], r"its end is missing after [\d,]+ bytes; copy or download it again"),
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", r"it begins with b'<!DOCTYPE html><html>'"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"file.ckpt is not a checkpoint that can be read safely \({fault}\)"):
            read_original_state_dict(path)
    torch.save({"state_dict": {"vit_model.norm.weight": torch.zeros(2)}, "callback": Commands(made)}, path)
    with pytest.raises(ValueError, match=r"it names \w+\.system, which could run anything"):
        read_original_state_dict(path)
    assert not made.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_shapes_of_a_checkpoint_are_read_without_its_values(name: str, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(3, 2), "b": torch.zeros(4)}
    save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(tensors, tmp_path / name)
    found = read_original_state_dict(tmp_path / name, only_shapes=True)
    assert {key: (value.shape, value.is_meta) for key, value in found.items()} == {
        key: (value.shape, True) for key, value in tensors.items()
    }


def test_saved_models(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"is not a folder; pass a folder written by save_pretrained or a hub name"
    ):
        FiberBackbone.from_pretrained(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"has no config.json; expected a folder written by save_pretrained"):
        FiberBackbone.from_pretrained(tmp_path)
    fiber_tiny().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("FiberBackbone", "FiberForPretraining"))
    with pytest.raises(
        ValueError,
        match=r"holds a FiberForPretraining, not a FiberBackbone; load it with FiberForPretraining.from_pretrained",
    ):
        FiberBackbone.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"hidden_size": 128', '"hidden_size": 64'))
    with pytest.raises(ValueError, match=r"does not fit the config.json beside it: \d+ shapes that differ"):
        FiberBackbone.from_pretrained(tmp_path)
    for field, value, message in (
        ("fused_text_norm", '"false"', r"describes no FiberBackbone: FiberConfig.fused_text_norm must be of type bool"),
        ("layer_norm_eps", "1e999", r"FiberConfig.layer_norm_eps must be of type float, is inf"),
        ("pad_token_id", "-1", r"pad_token_id must be at least 0"),
        ("vocab_size", "1000000000", r"does not fit the config.json beside it: 1 shapes that differ"),
        ("hidden_act", '"glue"', r"describes no FiberBackbone: KeyError: 'glue'"),
        ("hidden_sizes", "3", r"FiberConfig has no field 'hidden_sizes'; did you mean 'hidden_size'"),
    ):
        described = json.loads(config) | {field: json.loads(value)}
        (tmp_path / "config.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match=message):
            FiberBackbone.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        FiberBackbone.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors is not a whole safetensors file"):
        FiberBackbone.from_pretrained(tmp_path)
    tensors = load(weights)
    name = "text_stream.embeddings.word_embeddings.weight"
    for changed, message in (
        (tensors[name].where(tensors[name] != tensors[name][5, 5], torch.nan), f"not finite .first: {name}.; save the"),
        (tensors[name].view(torch.int32), f"1 types that differ .first: {name} torch.int32 for torch.float32"),
    ):
        save_file(tensors | {name: changed}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            FiberBackbone.from_pretrained(tmp_path)
