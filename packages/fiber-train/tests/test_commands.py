"""What people type at the three commands: taken as it stands, refused in a sentence, and never at somebody's cost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from fiber_data import console as data_console
from fiber_data.cli import main as fiber_data
from fiber_data.scenes import generate_scenes
from fiber_eval import console as eval_console
from fiber_eval.cli import main as fiber_eval
from fiber_train import console as train_console
from fiber_train.cli import main
from fiber_train.config import load_config, to_yaml
from fiber_train.ownership import mark
from fiber_train.quickstart import read_steps
from fiber_train.run_folder import _check_settings, _resolved, flat
from fiber_train.steps import TrainStep
from fiber_train.writing import replace_folder
from PIL import Image

from .conftest import SMALL

GIVEN = ["data.root=d", "out=o"]
ODD = ["a #2", "1e5", "yes", "{a}", "[a", "null", "a: b", "'a'", "${oc.env:HOME}", "~"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_what_was_typed(name: str, tmp_path: Path) -> None:
    config = load_config("quickstart", [f"data.root={name}", f"out={name}", "task.name=pretraining"])
    assert (config.out, config.data.root) == (name, name)
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config, "and the saved configuration says the same"
    runs = [step.config for step in read_steps(Path(name)) if isinstance(step, TrainStep)]
    assert {run.data.root for run in runs} == {f"{name}/scenes"}


def test_none_is_null_or_nothing_where_it_may_be() -> None:
    for typed in ("null", ""):
        assert load_config("quickstart", [*GIVEN, f"data.tokenizer={typed}"]).data.tokenizer is None
    assert load_config("quickstart", [*GIVEN, "task.monitor=none"]).task.monitor == "none"
    with pytest.raises(ValueError, match="out is empty"):
        load_config("quickstart", ["data.root=d", "out="])


def test_a_recipe_does_not_read_the_environment(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("out: ${oc.env:HOME}\ndata:\n  root: ${out}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.out, config.data.root) == ("${oc.env:HOME}", "${out}")


@pytest.mark.parametrize(("override", "message"), [
    ("optim.learning_rate=-1", "optim.learning_rate must be at least 0 and at most 1,000, is -1.0"),
    ("optim.learning_rate=1e39", "optim.learning_rate must be at least 0"),
    ("optim.learning_rate=nan", "is nan"),
    ("model.image_size=0", "model.image_size must be at least 1"),
    ("data.max_length=0", "data.max_length must be at least 3"),
    ("trainer.devices=0", "trainer.devices must be at least 1, is 0"),
    ("trainer.batch_size=-8", "trainer.batch_size must be at least 1"),
    ("trainer.precision=half", "trainer.precision must be one of 32-true"),
    ("optim.betas=[a, b]", r"optim.betas\[0\] must be a number, is 'a'"),
    ("optim.betas=[0.9]", "optim.betas must be 2 values, are 1"),
    ("optim.betas=[0.9, 1]", r"optim.betas\[1\] must be at least 0 and below 1, is 1.0"),
    ("optim.milestones=[2]", r"optim.milestones\[0\] must be between 0 and 1"),
    ("optim.frozen={a: 1}", "optim.frozen must be a list"),
    ("optim.options=[1]", "optim.options must be written {NAME: VALUE}"),
    ("task.model.temperature=0", "task.model.temperature must be above 0"),
    ("task.model.image_mean=[a, b, c]", r"task.model.image_mean\[0\] must be a number"),
    ("trainer.threads=[0", "the command line is not YAML: the value of trainer.threads"),
])  # fmt: skip
def test_settings_have_ranges_and_types(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("quickstart", [*GIVEN, override])


@pytest.mark.parametrize(
    "content", ["optim:\n\tlr: 1\n", "a: 1\n---\nb: 2\n", "out: !foo x\n", "out: !!python/name:os.system\n"]
)
def test_a_recipe_that_is_no_yaml_is_one_sentence(content: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    assert main(["train", str(tmp_path / "bad.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"fiber: {tmp_path / 'bad.yaml'} is not YAML: ")
    assert said.count("\n") == 1


def test_names_too_long_and_paths_below_files(tmp_path: Path, capsys) -> None:
    long, below = "x" * 300, tmp_path / "file" / "below"
    (tmp_path / "file").touch()
    for run, words in (
        (main, ["train", long]),
        (main, ["train", str(below)]),
        (fiber_data, ["scenes", "--out", long]),
        (fiber_data, ["scenes", "--out", str(below)]),
        (fiber_data, ["inspect", long]),
        (fiber_data, ["check", str(below)]),
        (fiber_data, ["scenes", "--out", str(tmp_path / "new"), "--image-size", "0"]),
        (fiber_eval, ["vqa", "--annotations", long, "--results", long]),
        (fiber_eval, ["vqa", "--annotations", str(tmp_path), "--results", str(tmp_path)]),
    ):
        assert run(words) == 1, words
        said = capsys.readouterr().err
        assert said.startswith(("fiber: ", "fiber-data: ", "fiber-eval: "))
        assert said.count("\n") == 1
        assert "Errno" not in said


def test_scenes_leave_a_strangers_folder_alone(tmp_path: Path) -> None:
    for name in ("manifest.json", "images/train/photo.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        generate_scenes(tmp_path, {"train": 20})
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["manifest.json", "photo.png"]


def test_scenes_are_drawn_again_without_what_somebody_added(tmp_path: Path) -> None:
    generate_scenes(tmp_path / "s", {"train": 24}, progress=False)
    (tmp_path / "s" / "images" / "train" / "mine.png").write_text("mine")
    generate_scenes(tmp_path / "s", {"train": 20}, progress=False)
    names = {path.name for path in (tmp_path / "s" / "images" / "train").iterdir()}
    assert names == {"mine.png", *(f"{number:06}.png" for number in range(20))}


def test_a_run_leaves_a_strangers_folder_alone(scenes: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.yaml", "model/weights"):
        (tmp_path / name).write_text("mine")
    assert main(["train", "quickstart", f"data.root={scenes}", f"out={tmp_path}", *SMALL]) == 1
    assert "which would be overwritten; choose another folder" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {
        "config.yaml": "mine",
        "weights": "mine",
    }


def test_what_somebody_put_into_a_folder_of_ours_outlives_its_replacement(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "weights").write_text("ours")

    replace_folder(tmp_path / "best", write)
    (tmp_path / "best" / "notes.txt").write_text("mine")
    replace_folder(tmp_path / "best", write)
    assert (tmp_path / "best" / "notes.txt").read_text() == "mine"


def test_a_run_is_the_same_however_its_paths_are_spelt(tmp_path: Path, monkeypatch) -> None:
    for name in ("ck", "other", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ck")
    monkeypatch.chdir(tmp_path)

    def config(checkpoint: str):
        return load_config("vqa", [*GIVEN, f"model.checkpoint={checkpoint}"])

    run, first = tmp_path / "run", config("ck")
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(first))
    mark(run, "run", paths=_resolved(flat({"model": {"checkpoint": "ck"}})))
    for same in ("ck", "./ck", "ck/../ck", "link", str(tmp_path / "ck")):
        _check_settings(run, config(same))
    with pytest.raises(ValueError, match=r"model\.checkpoint"):
        _check_settings(run, config("other"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    _check_settings(run, config("../ck"))


def test_evaluations_start_from_the_run_and_obey_or_refuse(coarse: Path, scenes: Path, tmp_path: Path, capsys) -> None:
    words = ["evaluate", "--checkpoint", str(coarse), "--data", str(scenes)]
    for override, message in (
        ("captioning.num_beams=1", "no setting is called 'captioning'"),
        ("optim.learning_rate=1", "optim.learning_rate cannot be changed in an evaluation"),
        ("task.model.queue_size=1", "task.model.queue_size cannot be changed in an evaluation"),
        ("model.preset=fiber_base", "model.preset cannot be changed in an evaluation"),
    ):
        assert main([*words, override]) == 1
        assert message in capsys.readouterr().err
    out = tmp_path / "deep" / "numbers.json"
    assert main([*words, "data.mlm_probability=0.5", "trainer.precision=bf16-mixed", "--out", str(out)]) == 0
    assert out.is_file()
    for precision in ("bf16-true", "16-true"):
        assert main([*words, "data.num_workers=0", f"trainer.precision={precision}"]) == 0
    taken = tmp_path / "photo.jpg"
    taken.write_text("mine")
    for option in (["--out", str(taken)], ["--predictions", str(taken)], ["--out", str(tmp_path)]):
        assert main([*words, *option]) == 1
        assert "--" in capsys.readouterr().err
    assert taken.read_text() == "mine"


def test_options_are_checked_before_a_model_is_loaded(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.jpg")
    before = Path("a.jpg").read_bytes()
    common = ["--checkpoint", "nowhere"]
    detect = ["detect", "a.jpg", "--categories", "x", *common]
    for words, message in (
        ([*detect, "--out", "a.jpg"], "a.jpg exists already and is not replaced"),
        ([*detect, "--draw", "a.jpg"], "a.jpg is a file; several are to be written, give a folder"),
        (["embed", "a.jpg", "--out", "b.txt", *common], "b.txt must end in .npy"),
        (["classify", "a.jpg", *common], "name the classes, or give one folder with a subfolder for each"),
        (["classify", "a.jpg", "--classes", "x", "--template", "a photo", *common], "'a photo' has no {}"),
        (["caption", "b*.jpg", *common], "b*.jpg: no file is called so"),
        (["judge", "a.jpg", "a cat", *common], "about two images, but there are 1"),
        ([*detect, "--threshold", "nan"], "--threshold must be at least 0 and at most 1, is nan"),
        (["answer", "a.jpg", "what?", "--top", "0", *common], "--top must be at least 1, is 0"),
        (["caption", "a.jpg", "--top", "0", *common], "--top must be at least 1, is 0"),
        (["retrieve", "--images", ".", "--query", "x", "--top", "0", *common], "--top must be at least 1, is 0"),
    ):
        assert main(words) == 1
        assert message in capsys.readouterr().err
    assert Path("a.jpg").read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"])
def test_a_model_that_was_cut_off_is_one_sentence(
    name: str, coarse: Path, scenes: Path, tmp_path: Path, capsys
) -> None:
    folder = shutil.copytree(coarse / "model", tmp_path / "m")
    (folder / "fiber.json").unlink()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    words = ["retrieve", "--images", str(scenes / "images" / "val"), "--query", "x", "--checkpoint", str(folder)]
    assert main(words) == 1
    assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize("module", ["fiber_data.cli", "fiber_eval.cli", "fiber_train.cli"])
def test_nobody_reads_the_output(module: str) -> None:
    words = [sys.executable, "-m", module, "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    closed = subprocess.run(
        f"{sys.executable} -m {module} --help >&-", shell=True, capture_output=True, text=True, check=False
    )
    assert closed.stderr == ""


@pytest.mark.parametrize("console", [data_console, eval_console, train_console])
def test_a_warning_is_a_sentence_that_is_said_once(console: ModuleType, capsys) -> None:
    def run() -> int:
        for kind in (UserWarning, UserWarning, FutureWarning):
            sys.stderr.write(warnings.formatwarning("a.jsonl: 1 is left out", kind, "unwritten.py", 7))
        return 0

    before = warnings.formatwarning
    assert console.run_command("fiber", run) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: a.jsonl: 1 is left out"
    assert second == "unwritten.py:7: FutureWarning: a.jsonl: 1 is left out", "what is for programmers keeps its place"
    assert warnings.formatwarning is before
