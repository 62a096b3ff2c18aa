"""What `fiber export` writes, used where torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import FiberProcessor, train_tokenizer
from fiber_heads import FiberForRetrieval
from fiber_train.cli import main
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples" / "search_onnx.py"
TEXTS = ["a red circle", "two blue squares beside a green cross", "a cross"]
WITHOUT_TORCH = """
import runpy, sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "transformers", "timm"} or name.startswith("fiber_"):
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Forbidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its processor."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "depths": (1, 1), "image_num_heads": (1, 1), "embed_dim": 8, "num_fusion_blocks": 1}
    sizes |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = FiberForRetrieval(FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny", **sizes)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.processor = FiberProcessor(train_tokenizer(TEXTS, 300), 32, 16)
    target = tmp_path_factory.mktemp("model") / "model"
    model.save_pretrained(target)
    return target


def test_the_example_searches_without_torch(folder: Path, tmp_path: Path) -> None:
    out, photo = tmp_path / "exported", tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # of the model's size
    Image.fromarray(pixels).save(photo)
    command = ["export", "--checkpoint", str(folder), "--out", str(out), "--part", "image", "--part", "text"]
    assert main([*command, "--int8"]) == 0
    described = json.loads((out / "export.json").read_text())
    assert described["parts"]["text"]["ranges"] == ["1 <= length <= 64", "batch >= 1"]
    assert described["parts"]["image"]["inputs"]["pixel_values"]["shape"] == ["batch", 3, "height", "width"]
    assert (out / "image.int8.onnx").stat().st_size < (out / "image.onnx").stat().st_size
    arguments = [sys.executable, "-c", WITHOUT_TORCH, str(SCRIPT), str(out), str(photo), *TEXTS]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    model = FiberForRetrieval.from_pretrained(folder)
    cosines = model.encode_texts(TEXTS) @ model.encode_images(str(photo))[0]
    found = [float(line.split()[0]) for line in ran.stdout.splitlines()]
    assert found == pytest.approx(cosines.tolist(), abs=1e-4)
