"""Where the reference numbers are, and a small model to test on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny
from fiber_heads import FiberForPretraining, PretrainingConfig
from safetensors.torch import load_file
from torch import Tensor

REFERENCE = Path(os.environ.get("FIBER_REFERENCE", Path(__file__).resolve().parents[3].parent / "shared" / "reference"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What takes long or other libraries runs only if it is asked for, see `nox -s clients` and `nox -s export`."""
    name = collection_path.name
    return True if name in {"clients", "export"} and not any(f"/{name}" in str(arg) for arg in config.args) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "coarse_case" in metafunc.fixturenames:
        names = sorted(path.parent.name for path in REFERENCE.glob("coarse/*/inputs.safetensors"))
        metafunc.parametrize("coarse_case", names or ["absent"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def coarse_reference() -> Path:
    """The folder of reference numbers; skips where there is none, fails where there must be one."""
    folder = REFERENCE / "coarse"
    if not folder.is_dir():
        reason = f"no reference numbers at {folder}; set FIBER_REFERENCE to the folder that holds coarse/"
        (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
    return folder


@pytest.fixture(scope="session")
def coarse_case(request: pytest.FixtureRequest, coarse_reference: Path) -> Path:
    return coarse_reference / request.param


@pytest.fixture(scope="session")
def original_tensors(coarse_case: Path) -> dict[str, Tensor]:
    """The case's checkpoint as the original saved it."""
    parts = ("backbone", "pretrain.heads")
    return {
        name: value
        for part in parts
        for name, value in load_file(coarse_case / f"{part}.state_dict.safetensors").items()
    }


@pytest.fixture
def original_model(coarse_case: Path, original_tensors: dict[str, Tensor]) -> FiberForPretraining:
    """The case's model with the original's settings, in float64, its queue as the case stored it."""
    settings = json.loads((coarse_case / "config.json").read_text())
    swin, text, sizes = settings["swin"], settings["roberta_config"], settings["model_config"]
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("max_position_embeddings", "type_vocab_size", "pad_token_id", "layer_norm_eps")
    backbone = FiberBackbone.from_config(
        FiberConfig(
            image_size=sizes["image_size"],
            patch_size=swin["patch_size"],
            embed_dim=swin["embed_dim"],
            depths=swin["depths"],
            image_num_heads=swin["num_heads"],
            window_size=sizes["image_size"] // 32,
            num_fusion_blocks=sizes["num_fuse_block"],
            **{name: text[name] for name in names},
        )
    )
    config = PretrainingConfig.as_original(queue_size=sizes["queue_size"], itc_pooler=sizes["itc_pooler"])
    model = FiberForPretraining(backbone, config)
    model.load_original_checkpoint(original_tensors)
    model.double().eval()
    model.load_training_state(
        {
            "image": original_tensors["image_queue"].T,
            "text": original_tensors["text_queue"].T,
            "image_ids": torch.full((sizes["queue_size"],), -1),
            "pixels": original_tensors["image_input_queue"],
            "input_ids": original_tensors["text_input_queue"],
            "attention_mask": original_tensors["text_input_mask_queue"],
            "filled": original_tensors["queue_total"].clamp(max=sizes["queue_size"]),
            "pointer": original_tensors["queue_ptr"],
        }
    )
    return model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four pictures with four captions, the first two of the same picture."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 500, (4, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    for row, length in enumerate((12, 7, 3, 9)):
        input_ids[row, length:], attention_mask[row, length:] = 1, 0
    labels = torch.full_like(input_ids, -100)
    labels[:, 1] = input_ids[:, 1]
    masked = input_ids.clone()
    masked[:, 1] = 4
    pixels = torch.randn(4, 3, 64, 64, generator=generator)
    return {
        "pixel_values": pixels[[0, 0, 1, 2]],
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mlm_input_ids": masked,
        "mlm_labels": labels,
        "image_ids": torch.tensor([7, 7, 8, 9]),
    }


def make_model(**config) -> FiberForPretraining:
    """A small model whose every parameter is random, gates included."""
    torch.manual_seed(0)
    model = FiberForPretraining(fiber_tiny(), PretrainingConfig(**{"queue_size": 0, **config}))
    for name, parameter in model.named_parameters():
        if "temperature" not in name:
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.1)
    return model.eval()
