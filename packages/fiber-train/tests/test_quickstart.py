"""The quickstart: both stages on generated scenes, beside the fine stage alone, and a page that shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fiber_train.checkpoint import load_task_model
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.evaluation import read_evaluation
from fiber_train.quickstart import FINE, SCRATCH, quickstart

from .conftest import SMALL

LITTLE = ["task.model.channels=16", "trainer.max_steps=2", "task.detection.score_threshold=0"]


def test_both_stages_and_a_page(tmp_path: Path, capsys, monkeypatch) -> None:
    given = [*SMALL, *LITTLE]
    monkeypatch.setattr("fiber_train.quickstart.SPLITS", {"train": 40, "val": 20})  # the real size takes minutes
    assert main(["quickstart", "--out", str(tmp_path), *given]) == 0
    printed = capsys.readouterr().out
    weights = tmp_path / "fine" / "checkpoints" / "step-000002" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    reached = quickstart(tmp_path, given, {"train": 40, "val": 20})
    assert reached is not None
    assert weights.stat().st_mtime_ns == written, "the same call trains nothing again"
    assert "report.html" in printed
    assert all(text in printed for text in reached.values())
    coarse, fine, scratch = reached.values()
    assert "20 images, 100 captions" in coarse
    numbers = [read_evaluation(tmp_path / name) for name in ("fine", "fine_from_scratch")]
    for text, found in zip((fine, scratch), numbers, strict=True):
        assert f"AP50 {found['AP50']:.3f}" in text
        assert f"(empty expression {found.find('refcoco+/P@1').baseline:.3f})" in text

    starts = [load_config(tmp_path / name / "config.yaml").model.checkpoint for name in ("fine", "fine_from_scratch")]
    assert starts == [str(tmp_path / "coarse"), None]
    sizes = {load_task_model(tmp_path / name).backbone.config.vocab_size for name in ("coarse", "fine_from_scratch")}
    assert len(sizes) == 1, "one tokenizer serves all"

    html = (tmp_path / "report.html").read_text()
    assert html.count('<div class="card">') == 24, "twelve samples of each stage"
    assert all(title in html for title in (FINE, SCRATCH))
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html), "nothing is fetched from elsewhere"
    assert html.count('class="mark-true"') >= 12, "every caption speaks of something"


def test_several_devices_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the quickstart runs on one device"):
        quickstart(tmp_path / "new", ["trainer.devices=2"])
    assert not (tmp_path / "new").exists()
