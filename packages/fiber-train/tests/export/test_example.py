"""What `fiber export` writes, used where torch cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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


def test_the_example_searches_without_torch(search_model: Path, tmp_path: Path) -> None:
    out, photo = tmp_path / "exported", tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # of the model's size
    Image.fromarray(pixels).save(photo)
    command = ["export", "--checkpoint", str(search_model), "--out", str(out), "--part", "image", "--part", "text"]
    assert main([*command, "--int8"]) == 0
    described = json.loads((out / "export.json").read_text())
    assert described["parts"]["text"]["ranges"] == ["1 <= length <= 64", "batch >= 1"]
    assert described["parts"]["image"]["inputs"]["pixel_values"]["shape"] == ["batch", 3, "height", "width"]
    assert (out / "image.int8.onnx").stat().st_size < (out / "image.onnx").stat().st_size
    arguments = [sys.executable, "-c", WITHOUT_TORCH, str(SCRIPT), str(out), str(photo), *TEXTS]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    model = FiberForRetrieval.from_pretrained(search_model)
    cosines = model.encode_texts(TEXTS) @ model.encode_images(str(photo))[0]
    found = [float(line.split()[0]) for line in ran.stdout.splitlines()]
    assert found == pytest.approx(cosines.tolist(), abs=1e-4)
