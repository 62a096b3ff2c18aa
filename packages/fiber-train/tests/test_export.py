"""`fiber export`; all parts at all sizes are under test in `export/` (`nox -s export`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_heads import FiberForRetrieval
from fiber_train.cli import main
from onnxruntime import InferenceSession

TEXTS = ["a red circle", "two blue squares beside a green cross", "a cross"]


def test_a_text_tower_gives_its_vectors_in_onnx(search_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    assert main(["export", "--checkpoint", str(search_model), "--out", str(out), "--part", "text"]) == 0
    described = json.loads((out / "export.json").read_text())
    assert described["parts"]["text"]["ranges"] == ["1 <= length <= 64", "batch >= 1"]
    model = FiberForRetrieval.from_pretrained(search_model)
    session = InferenceSession(out / "text.onnx")
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:] * 5):
        given = {name: value.numpy() for name, value in model.prepare(text=texts).items()}
        (found,) = session.run(["unit_vectors"], given)
        torch.testing.assert_close(torch.from_numpy(found), model.encode_texts(texts), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported_is_told(
    search_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--checkpoint", str(search_model), "--out", str(tmp_path / "out")]
    assert main([*command, "--part", "detector"]) == 1
    assert "no part 'detector'; choose from image, text, fused" in capsys.readouterr().err
    assert main([*command, "--format", "torch", "--int8"]) == 1
    assert "leave out --format torch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
