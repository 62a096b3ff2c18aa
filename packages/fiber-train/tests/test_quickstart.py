"""The quickstart: both stages on generated scenes, beside the fine stage alone, a page, and what to type next."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from fiber_train.checkpoint import load_task_model
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.evaluation import read_evaluation
from fiber_train.quickstart import quickstart, read_steps

from .conftest import SMALL

LITTLE = ["task.model.channels=16", "trainer.max_steps=2", "task.detection.score_threshold=0"]
GIVEN = [*SMALL, *LITTLE, "trainer.eval_every=0", "trainer.threads=1"]
COARSE, FINE, SCRATCH = "coarse stage", "fine stage after the coarse stage", "fine stage from scratch"
TASKS = {"vqa": "questions", "captions": "captions", "nlvr2": "statements about two images"}
OF_TASKS = ["task.min_count=1", "task.model.generation.max_length=8"]
SPLITS = {"train": 40, "val": 20}  # the real size takes minutes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished quickstart with all further tasks, made in two calls, and what the second one printed."""
    root = tmp_path_factory.mktemp("quickstart") / "a folder"
    pages = []

    def seen(runs, out: Path, **options):
        pages.append(list(runs))
        return write(runs, out, **options)

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        import fiber_train.quickstart as module

        write = module.write_report
        patch.setattr(module, "SPLITS", SPLITS)
        patch.setattr(module, "write_report", seen)
        assert main(["quickstart", "--out", str(root), *GIVEN]) == 0
        assert pages == [[COARSE], [COARSE, FINE, SCRATCH]], "there is something to look at after the coarse stage"
        weights = _weights(root)
        written = weights.stat().st_mtime_ns
        (more,) = (line for line in printed.getvalue().splitlines() if line.startswith("fiber quickstart"))
        printed.seek(0)
        printed.truncate()
        assert main([*shlex.split(more)[1:], *OF_TASKS]) == 0
        assert weights.stat().st_mtime_ns == written, "what is done is not done again"
        assert pages[2:] == [[COARSE, FINE, *TASKS.values(), SCRATCH]]
    return root, printed.getvalue()


def _weights(root: Path) -> Path:
    return root / "fine" / "checkpoints" / "step-000002" / "model.safetensors"


def test_both_stages_and_a_page(made: tuple[Path, str]) -> None:
    root, printed = made
    assert "20 images, 100 captions" in printed
    numbers = [read_evaluation(root / name) for name in ("fine", "fine_from_scratch")]
    for found in numbers:
        assert f"AP50 {found['AP50']:.3f}" in printed
        assert f"(empty expression {found.find('refcoco+/P@1').baseline:.3f})" in printed

    names = ("fine", "fine_from_scratch", *TASKS)
    starts = [load_config(root / name / "config.yaml").model.checkpoint for name in names]
    assert starts == [str(root / "coarse"), None, *[str(root / "coarse")] * 3]
    sizes = {load_task_model(root / name).backbone.config.vocab_size for name in ("coarse", "fine_from_scratch")}
    assert len(sizes) == 1, "one tokenizer serves all"

    html = (root / "report.html").read_text()
    assert html.count('<div class="card">') >= 24, "twelve samples of each stage, and of the tasks"
    assert all(title in html for title in (FINE, SCRATCH, *TASKS.values()))
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html), "nothing is fetched from elsewhere"
    assert html.count('class="mark-true"') >= 12, "every caption speaks of something"


def test_the_commands_that_it_ends_with_work(made: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = made[1]
    typed = [shlex.split(line) for line in printed.splitlines() if line.startswith("fiber ")]
    assert [words[1] for words in typed] == ["retrieve", "detect", "ground", "refer", "answer", "caption", "judge"]
    for words in typed:
        assert main(words[1:]) == 0, words
        printed = capsys.readouterr().out
        assert printed.strip() or words[1] in {"detect", "ground", "refer"}, f"{words}: untrained, it may see no box"


def test_several_devices_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the quickstart runs on one device"):
        quickstart(tmp_path / "new", ["trainer.devices=2"])
    assert not (tmp_path / "new").exists()


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no optional step is called 'vqq'; there are vqa, captions, nlvr2"):
        read_steps(tmp_path, tasks=["vqq"])
