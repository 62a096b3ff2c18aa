"""`fiber export`; all parts at all sizes are under test in `export/` (`nox -s export`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import FiberProcessor, train_tokenizer
from fiber_heads import FiberForRetrieval
from fiber_train.cli import main
from onnxruntime import InferenceSession

TEXTS = ["a red circle", "two blue squares beside a green cross", "a cross"]


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


def test_a_text_tower_gives_its_vectors_in_onnx(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    assert main(["export", "--checkpoint", str(folder), "--out", str(out), "--part", "text"]) == 0
    described = json.loads((out / "export.json").read_text())
    assert described["parts"]["text"]["ranges"] == ["1 <= length <= 64", "batch >= 1"]
    model = FiberForRetrieval.from_pretrained(folder)
    session = InferenceSession(out / "text.onnx")
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:] * 5):
        given = {name: value.numpy() for name, value in model.prepare(text=texts).items()}
        (found,) = session.run(["unit_vectors"], given)
        torch.testing.assert_close(torch.from_numpy(found), model.encode_texts(texts), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "--checkpoint", str(folder), "--out", str(tmp_path / "out")]
    assert main([*command, "--part", "detector"]) == 1
    assert "no part 'detector'; choose from image, text, fused" in capsys.readouterr().err
    assert main([*command, "--format", "torch", "--int8"]) == 1
    assert "leave out --format torch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
