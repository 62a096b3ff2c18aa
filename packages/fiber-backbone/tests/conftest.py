"""Where the reference numbers are, and small models to test on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny
from safetensors.torch import load_file

REFERENCE = Path(os.environ.get("FIBER_REFERENCE", Path(__file__).resolve().parents[3].parent / "shared" / "reference"))
MARKER = {
    "coarse": "inputs.safetensors",
    "fine": "forward.safetensors",
}  # the file that makes a folder a case


def reference_folder(stage: str) -> Path:
    """A stage's folder of reference numbers; skips where there is none, fails where there must be one."""
    folder = REFERENCE / stage
    if not folder.is_dir():
        reason = f"no reference numbers at {folder}; set FIBER_REFERENCE to their folder"
        if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for stage, marker in MARKER.items():
        if f"{stage}_case" in metafunc.fixturenames:
            names = sorted(path.parent.name for path in REFERENCE.glob(f"{stage}/*/{marker}"))
            metafunc.parametrize(f"{stage}_case", names or ["absent"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def coarse_case(request: pytest.FixtureRequest) -> Path:
    return reference_folder("coarse") / request.param


@pytest.fixture(scope="session")
def fine_case(request: pytest.FixtureRequest) -> Path:
    return reference_folder("fine") / request.param


@pytest.fixture(scope="session")
def coarse_reference() -> Path:
    return reference_folder("coarse")


@pytest.fixture(scope="session")
def fine_reference() -> Path:
    return reference_folder("fine")


@pytest.fixture(scope="session")
def coarse_model(coarse_case: Path) -> FiberBackbone:
    """The case's model in float64, loaded through the loader of original checkpoints."""
    settings = json.loads((coarse_case / "config.json").read_text())
    swin, text, model = settings["swin"], settings["roberta_config"], settings["model_config"]
    backbone = FiberBackbone.from_config(
        FiberConfig(
            image_size=model["image_size"],
            patch_size=swin["patch_size"],
            embed_dim=swin["embed_dim"],
            depths=swin["depths"],
            image_num_heads=swin["num_heads"],
            window_size=model["image_size"] // 32,  # the original's rule, whatever its window option says
            num_fusion_blocks=model["num_fuse_block"],
            decoder_projections=True,
            **text_sizes(text),
        )
    )
    tensors = load_file(coarse_case / "backbone.state_dict.safetensors") | load_file(
        coarse_case / "caption.heads.state_dict.safetensors"
    )
    backbone.load_original_checkpoint(tensors)
    return backbone.double().eval()


@pytest.fixture(scope="session")
def fine_model(fine_case: Path) -> FiberBackbone:
    """The case's model in float32, loaded through the loader of original checkpoints."""
    settings = json.loads((fine_case / "meta.json").read_text())
    swin = settings["swin"]
    config = FiberConfig(
        patch_size=swin["patch_size"],
        embed_dim=swin["embed_dim"],
        depths=swin["depths"],
        image_num_heads=swin["num_heads"],
        window_size=swin["window_size"],
        image_mlp_ratio=swin["mlp_ratio"],
        **text_sizes(settings["text"]),
    )
    backbone = FiberBackbone.from_config(config.fine_stage(normalize_image_query=settings["version"] == "v3"))
    tensors = load_file(fine_case / "state_dict.safetensors")
    backbone.load_original_checkpoint(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    )
    return backbone.eval()


def text_sizes(settings: dict) -> dict:
    """RoBERTa's sizes in a reference file as fields of our configuration."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names += ("max_position_embeddings", "type_vocab_size", "pad_token_id", "layer_norm_eps")
    return {name: settings[name] for name in names}


@pytest.fixture
def tiny() -> FiberBackbone:
    """A small model whose every parameter is random, gates included."""
    torch.manual_seed(0)
    backbone = fiber_tiny(decoder_projections=True).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.1)
    return backbone


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three pictures with three captions of different length."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 500, (3, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    for row, length in enumerate((12, 7, 3)):
        input_ids[row, length:], attention_mask[row, length:] = 1, 0
    pixel_values = torch.randn(3, 3, 64, 64, generator=generator)
    return {"pixel_values": pixel_values, "input_ids": input_ids, "attention_mask": attention_mask}
