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
from fiber_data import FiberProcessor, GroundingProcessor, train_tokenizer
from fiber_heads import (
    CaptioningConfig,
    FiberForCaptioning,
    FiberForGrounding,
    FiberForRetrieval,
    GenerationConfig,
    GroundingConfig,
    TaskModel,
)
from fiber_train.cli import main
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = ["a red circle", "two blue squares beside a green cross", "a cross"]
NAMES = ["red circle", "blue squares", "cross"]
SIZES = {
    "image_size": 64,
    "depths": (1, 1, 2),
    "image_num_heads": (1, 1, 2),
    "embed_dim": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_fusion_blocks": 1,
}
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


def photo(folder: Path, height: int, width: int) -> Path:
    """An image of a size that no processor of these tests changes."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder / "photo.png"


def run_without_torch(script: str, *arguments: object) -> list[str]:
    """The lines that an example prints."""
    command = [sys.executable, "-c", WITHOUT_TORCH, str(EXAMPLES / script), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def saved(model: TaskModel, processor: object, folder: Path) -> Path:
    """The folder of a model of random weights."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.2)
    model.eval().processor = processor
    model.save_pretrained(folder / "model")
    return folder / "model"


def test_a_search_without_torch(search_model: Path, tmp_path: Path) -> None:
    out, image = tmp_path / "exported", photo(tmp_path, 32, 32)
    command = ["export", "--checkpoint", str(search_model), "--out", str(out), "--part", "image", "--part", "text"]
    assert main([*command, "--int8"]) == 0
    described = json.loads((out / "export.json").read_text())
    assert described["parts"]["text"]["ranges"] == ["1 <= length <= 64", "batch >= 1"]
    assert described["parts"]["image"]["inputs"]["pixel_values"]["shape"] == ["batch", 3, "height", "width"]
    assert (out / "image.int8.onnx").stat().st_size < (out / "image.onnx").stat().st_size
    lines = run_without_torch("search_onnx.py", out, image, *TEXTS)
    model = FiberForRetrieval.from_pretrained(search_model)
    cosines = model.encode_texts(TEXTS) @ model.encode_images(str(image))[0]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(cosines.tolist(), abs=1e-4)


def test_a_caption_without_torch(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    config = FiberConfig.from_preset("fiber_tiny", **SIZES, decoder_projections=True, vocab_size=len(tokenizer))
    processor = FiberProcessor(tokenizer, 64, 16)
    words = CaptioningConfig(generation=GenerationConfig(min_length=8, max_length=12))
    folder = saved(FiberForCaptioning(FiberBackbone.from_config(config), words), processor, tmp_path)
    out, image = tmp_path / "exported", photo(tmp_path, 64, 64)
    assert main(["export", "--checkpoint", str(folder), "--out", str(out)]) == 0
    (best,) = FiberForCaptioning.from_pretrained(folder).caption(str(image), num_beams=1)[0]
    assert best.text
    assert run_without_torch("caption_onnx.py", out, image) == best.text.strip().splitlines()


def test_a_detection_without_torch(tmp_path: Path) -> None:
    config = FiberConfig.from_preset("fiber_tiny", **SIZES).fine_stage()
    head = GroundingConfig(channels=8, norm_groups=2, num_blocks=1, strides=(4, 8, 16, 32, 64))
    processor = GroundingProcessor(train_tokenizer(TEXTS, 300), 64, 128, 32, size_divisor=16)
    folder = saved(FiberForGrounding(FiberBackbone.from_config(config), head), processor, tmp_path)
    out, image = tmp_path / "exported", photo(tmp_path, 64, 90)  # the width has to be padded
    assert main(["export", "--checkpoint", str(folder), "--out", str(out)]) == 0
    expected = FiberForGrounding.from_pretrained(folder).detect(str(image), NAMES)[0]
    assert len(expected.scores) > 2
    lines = [line.split("  ") for line in run_without_torch("detect_onnx.py", out, image, *NAMES)]
    lines = sorted(lines, key=lambda line: -float(line[0]))[: len(expected.scores)]
    assert [float(score) for score, _, _ in lines] == pytest.approx(expected.scores.tolist(), abs=2e-4)
    for (_, name, box), text, found in zip(lines, expected.text_labels, expected.boxes.tolist(), strict=True):
        assert name == text
        assert [float(each) for each in box.split()] == pytest.approx(found, abs=0.05)
