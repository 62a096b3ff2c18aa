"""What a run tells of itself before it begins, what a dry run leaves, and the list of recipes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fiber_data import train_tokenizer
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.coverage import judge_tokenizer
from fiber_train.run import dry_run, train
from fiber_train.summary import SUMMARY_FILE

from .conftest import FEW, SMALL


def test_a_run_says_what_it_is(small_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_run(
        "run", "trainer.accumulate=2", "optim.frozen=[backbone.image_stream.patch_embed]", "optim.learning_rate=0.002"
    )
    train(config)
    said = capsys.readouterr().err
    written = (Path(config.out) / SUMMARY_FILE).read_text()
    assert written in said
    lines = dict(line.split(": ", 1) for line in written.splitlines())
    assert lines["device"].startswith("cpu, 1 process of ")
    assert lines["device"].endswith("precision 32-true")
    total, trained, frozen = (int(each.replace(",", "")) for each in re.findall(r"[\d,]*\d", lines["model"])[1:])
    assert total == trained + frozen
    assert frozen == 3 * 4 * 4 * 8 + 3 * 8, "a convolution and a norm of 8 channels"
    assert lines["weights to start from"] == "none, all are random"
    assert lines["data to learn from"] == "60 samples of train"
    assert lines["data to measure on"] == "30 samples of val"
    assert lines["steps"] == "6, 0.857 epochs of 7; 8 samples a step: 1 process x 2 parts x 4"
    rates = dict(re.findall(r"(\w+) ([\d.]+) \(", lines["rates"]))
    assert (float(rates["base"]), float(rates["gate"])) == (0.002, 0.01)
    assert "cosine after 2 steps of warm-up" in lines["rates"]
    assert "warning" not in written


def test_weights_to_start_from_are_told_apart(coarse: Path, scenes: Path) -> None:
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", "out=o", *FEW]
    (line,) = [
        line
        for line in dry_run(load_config(["vqa", "small"], [*given, "task.min_count=2"])).lines
        if "weights to" in line
    ]
    assert line.startswith(f"weights to start from: {coarse}: ")
    assert "of answer_head" in line or "fresh are" in line
    fine = dry_run(load_config(["fine", "small", "quickstart_fine"], given))
    assert "data to learn from: 60 samples (detection), " in str(fine)
    assert "resized" in str(fine)


def test_a_dry_run_writes_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"data.root={scenes}", *SMALL, "trainer.devices=2", "trainer.accelerator=cpu"]
    assert main(["train", "quickstart", *given, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "2 processes" in printed
    assert "2 processes x 1 part x 4" in printed
    assert list(tmp_path.iterdir()) == []
    assert main(["train", "quickstart", f"data.root={tmp_path / 'nowhere'}", *SMALL, "--dry-run"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_probable_mistakes_are_told(scenes: Path) -> None:
    given = [f"data.root={scenes}", "out=o", *SMALL]
    coarse = dry_run(load_config("quickstart", [*given, "optim.warmup=2000", "data.max_length=5"]))
    assert len(coarse.warnings) == 2
    assert coarse.warnings[0].startswith("optim.warmup is 2,000 steps but the run has 6: the warm-up is cut to 0")
    assert re.fullmatch(
        r"\d+% of the first 300 texts are cut off at data.max_length=5 tokens; the longest has \d+", coarse.warnings[1]
    )
    fine = load_config(["fine", "small", "quickstart_fine"], [*given, "task.shorter_in_evaluation=800"])
    assert dry_run(fine).warnings[0].startswith("images of 800 px on a CPU: ")


def test_a_large_model_from_random_weights_is_told(small_run: Callable, coarse: Path, monkeypatch) -> None:
    monkeypatch.setattr("fiber_train.summary.LARGE_MODEL", 100_000)  # a real one would take a minute to make
    (warning,) = dry_run(small_run("run")).warnings
    assert warning.startswith("the model has 0 million parameters and starts from random weights, ")
    assert dry_run(small_run("run", f"model.checkpoint={coarse}")).warnings == []


def test_a_tokenizer_is_judged_by_what_it_does_to_texts() -> None:
    english = ["a dog runs over the green field", "two dogs and a man on the beach"] * 20
    tokenizer = train_tokenizer(english, 500)
    assert list(judge_tokenizer(tokenizer, english, 30)) == []
    assert list(judge_tokenizer(tokenizer, [], 30)) == []
    (pieces,) = judge_tokenizer(tokenizer, ["自行车和狗在草地上"] * 20, 60)
    assert re.match(r"the tokenizer cuts words into \d\.\d pieces, by a measure of the first 20 texts", pieces)
    (cut,) = judge_tokenizer(tokenizer, [english[0]] * 10 + ["a dog " * 30] * 2, 30)
    assert cut.startswith("17% of the first 12 texts are cut off at data.max_length=30 tokens")


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["vqa"] == "Visual question answering: VQAv2 at 576 px, 3,129 answers, from a coarse checkpoint"
    assert main(["recipes", "show", "vqa", "small", "trainer.devices=4"]) == 0
    shown = capsys.readouterr().out
    assert "max_steps: 800" in shown
    assert "devices: 4" in shown
    assert "out: ???" in shown
    assert main(["train", "vqa", "small", "trainer.devices=4", "--print-config"]) == 0
    assert capsys.readouterr().out == shown
    assert main(["recipes", "show", "vqaa"]) == 1
    assert "no such recipe or file" in capsys.readouterr().err
