"""Files of the original: converted, and taken by every command as they are; models on the hub."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from fiber_data import train_tokenizer
from fiber_heads import AutoFiber
from fiber_train import checkpoint
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.data import build_processor
from fiber_train.evaluation import Evaluation
from fiber_train.original import read_answers
from lightning_fabric import Fabric
from PIL import Image

from .originals import ANSWERS, make, save

NAMES = ("pretrain", "itc", "itm", "vqa", "nlvr2", "caption", "fine")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["a red circle above a blue square"] * 3, 300).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("answers") / "answers.json"
    path.write_text(json.dumps(ANSWERS))
    return str(path)


@pytest.fixture
def options(tokenizer: str, answers: str) -> list[str]:
    return ["--tokenizer", tokenizer, "--answers", answers]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_becomes_a_folder_that_loads_without_more(name: str, options, tmp_path: Path, capsys) -> None:
    model = make(name)
    file, out = save(model, tmp_path / f"{name}.ckpt"), tmp_path / "out"
    assert main(["convert", str(file), str(out), *options]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: {type(model).__name__}, ")
    assert f"{file}: " in printed.err
    found: Any = AutoFiber.from_pretrained(out)
    assert type(found) is type(model)
    assert found.state_dict().keys() == model.state_dict().keys()
    for each, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[each], value), each
    assert found.backbone.config == model.backbone.config
    assert found.processor is not None
    card = (out / "README.md").read_text()
    assert f"converted from `{name}.ckpt`" in card and str(tmp_path) not in card
    assert f"print({type(model).example})" in card


def test_a_card_s_three_lines_run(options, scenes: Path, tmp_path: Path, capsys) -> None:
    file, out = save(make("vqa"), tmp_path / "vqa.ckpt"), tmp_path / "out"
    main(["convert", str(file), str(out), *options])
    capsys.readouterr()
    code = (out / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    photo = next((scenes / "images" / "val").glob("*.png"))
    exec(code.replace("FOLDER", str(out)).replace("photo.jpg", str(photo)), {})
    printed = capsys.readouterr().out
    assert any(answer in printed for answer in ANSWERS)


def test_what_the_tensors_do_not_tell_is_given(options, tmp_path: Path, capsys) -> None:
    file = save(make("itc"), tmp_path / "itc.ckpt")
    words = [
        "convert",
        str(file),
        str(tmp_path / "large"),
        *options,
        "--set",
        "image_size=128",
        "--set",
        "num_attention_heads=4",
    ]
    assert main(words) == 0
    config = AutoFiber.from_pretrained(tmp_path / "large").backbone.config
    assert (config.image_size, config.window_size, config.num_attention_heads) == (128, 8, 4)
    assert main([*words[:-1], "heads=4"]) == 1
    assert "FiberConfig has no field 'heads'" in capsys.readouterr().err
    assert main([*words[:-1], "heads"]) == 1
    assert "'heads' is no FIELD=VALUE" in capsys.readouterr().err


def evaluate_in(rank: int, port: int, words: list[str]) -> None:
    """One of two processes that a launcher has started, as torchrun does."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    assert main([*words, "trainer.accelerator=cpu", "trainer.devices=2"]) == 0


@pytest.mark.parametrize("name", ["itc", "itm", "vqa", "nlvr2", "caption", "fine"])
def test_evaluation_takes_the_file_as_it_is(name: str, options, scenes: Path, tmp_path: Path) -> None:
    """From the file, in one process and in two, the same numbers as from the folder made of it."""
    file, out = save(make(name), tmp_path / f"{name}.pth"), tmp_path / "out"
    assert main(["convert", str(file), str(out), *options]) == 0
    more = ["--split", "0.02", "task.evaluate.detection=true"] if name == "fine" else ["--split", "0.1"]
    more += ["task.model.generation.num_beams=1", "task.model.generation.max_length=4"] if name == "caption" else []
    numbers: dict[str, Any] = {}
    for place, source in {"file": file, "folder": out, "two": file}.items():
        target = tmp_path / f"{place}.json"
        words = ["evaluate", "--checkpoint", str(source), "--data", str(scenes), "--out", str(target)]
        words += [*options, *more, "data.num_workers=0"]
        if place == "two":
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            mp.start_processes(evaluate_in, (port, words), nprocs=2, start_method="fork")
        else:
            assert main(words) == 0
        numbers[place] = json.loads(target.read_text())
    assert numbers["file"] == numbers["folder"]
    one, two = (Evaluation.from_json(numbers[place]).numbers() for place in ("file", "two"))
    assert one == pytest.approx(two, abs=1e-6)
    assert numbers["file"]["measures"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vqa", ["answer", "PHOTO", "what color is it?"]),
        ("caption", ["caption", "PHOTO"]),
        ("pretrain", ["retrieve", "--images", "FOLDER", "--query", "a red circle"]),
    ],
)
def test_commands_take_the_file_as_it_is(name: str, words, options, scenes: Path, tmp_path: Path, capsys) -> None:
    file, folder = save(make(name), tmp_path / f"{name}.pt"), scenes / "images" / "val"
    places = {"PHOTO": str(next(folder.glob("*.png"))), "FOLDER": str(folder)}
    assert main([places.get(word, word) for word in words] + ["--checkpoint", str(file), *options]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() and f"{file}: " in printed.err


def test_what_cannot_be_loaded_is_one_sentence(
    tokenizer: str, answers: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    file, text, out = save(make("vqa"), tmp_path / "vqa.ckpt"), tmp_path / "notes.txt", tmp_path / "out"
    text.write_text("no checkpoint")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    few = tmp_path / "few.json"
    few.write_text('["yes"]')
    given = ["--tokenizer", tokenizer]
    cases = [
        ([str(text), *given], r"notes.txt is not a checkpoint that can be read safely"),
        ([str(tmp_path / "no.ckpt")], r"no.ckpt does not exist"),
        ([str(file), *given], r"6 answers, whose texts its file does not hold; none were given; fiber convert"),
        ([str(file), *given, "--answers", str(few)], r"1 were given"),
        ([str(file), "--answers", answers, "--tokenizer", str(tmp_path / "none")], r"no tokenizer at"),
    ]
    for words, message in cases:
        assert main(["convert", words[0], str(out), *words[1:]]) == 1
        assert message in capsys.readouterr().err
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64)).save(photo)
    assert main(["detect", str(photo), "--categories", "dog", "--checkpoint", str(file)]) == 1  # neither is asked for
    assert "vqa.ckpt holds a FiberForQuestionAnswering (model.answer(" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "photo.jpg").write_text("mine")
    assert main(["convert", str(file), str(out), *given, "--answers", answers]) == 1
    assert "holds other files" in capsys.readouterr().err and (out / "photo.jpg").read_text() == "mine"


def test_without_network_the_tokenizer_can_be_given(answers: str, tmp_path: Path, monkeypatch, capsys) -> None:
    file = save(make("vqa"), tmp_path / "vqa.ckpt")
    monkeypatch.setattr("fiber_train.original.ORIGINAL_TOKENIZER", str(tmp_path / "not-here"))
    assert main(["convert", str(file), str(tmp_path / "out"), "--answers", answers]) == 1
    assert "the hub cannot be reached; give a folder with its files: --tokenizer FOLDER" in capsys.readouterr().err


def test_a_run_without_its_tokenizer_says_which_setting_names_another(tmp_path: Path) -> None:
    config = load_config("vqa", ["data.root=.", f"data.tokenizer={tmp_path / 'none'}", f"out={tmp_path / 'run'}"])
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at '.*none'.*; data.tokenizer=SOURCE names another"):
        build_processor(config, lambda *_: None, (), Fabric(accelerator="cpu", devices=1))


def test_answers_may_be_numbered(tmp_path: Path) -> None:
    path = tmp_path / "ans2label.json"
    path.write_text('{"no": 1, "yes": 0, "red": 2}')
    assert read_answers(path) == ("yes", "no", "red")
    path.write_text('{"no": 1, "yes": 3}')
    with pytest.raises(ValueError, match=r"ans2label\.json: expected an object from each answer to its class"):
        read_answers(path)


def test_answers_of_vqav2_are_numbered_as_they_first_appear(tmp_path: Path) -> None:
    given = {"train2014": ["net"] * 9 + ["pitcher"] * 5 + ["rare"] * 8, "val2014": ["yes"] * 12 + ["pitcher"] * 4}
    kinds = {"question_type": "what", "answer_type": "other"}
    for split, answers in given.items():
        rows = [{"question_id": i, "image_id": i} for i in range(len(answers))]
        asked = {"questions": [{**row, "question": "what?"} for row in rows]}
        said = [
            {**row, **kinds, "multiple_choice_answer": one, "answers": [{"answer": one}]}
            for row, one in zip(rows, answers, strict=True)
        ]
        (tmp_path / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps(asked))
        (tmp_path / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps({"annotations": said}))
    assert read_answers(tmp_path) == ("net", "pitcher", "yes")


def test_a_name_on_the_hub_is_loaded_if_no_such_path_is_here(options, tmp_path: Path, monkeypatch) -> None:
    file, out = save(make("itc"), tmp_path / "itc.ckpt"), tmp_path / "out"
    main(["convert", str(file), str(out), *options])
    asked: list[tuple[str, Any]] = []

    def download(name: str, **more: Any) -> str:
        asked.append((name, more["ignore_patterns"]))
        return str(out)

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    model, _ = checkpoint.load_model(Path("somebody/fiber"))
    assert asked == [("somebody/fiber", ["training.pt"])]
    assert type(model).__name__ == "FiberForRetrieval"
    (tmp_path / "somebody" / "fiber").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"somebody/fiber holds no model; expected the folder of a run"):
        checkpoint.find_model("somebody/fiber")
    for path in ("somebody", "/somebody/fiber", "a/b/c", "./b"):
        with pytest.raises(FileNotFoundError, match="holds no model; expected"):
            checkpoint.find_model(path)
    assert len(asked) == 1


def test_a_hub_that_is_out_of_reach_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    def download(name: str, **more: Any) -> str:
        raise OSError("We couldn't connect\nmore")

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"runs/mine holds no model: there is no such .* \(We couldn't connect\)$"
    ):
        checkpoint.find_model("runs/mine")


def test_weights_of_a_model_folder_stand_for_it(options, tmp_path: Path) -> None:
    file, out = save(make("itc"), tmp_path / "itc.ckpt"), tmp_path / "out"
    main(["convert", str(file), str(out), *options])
    assert checkpoint.find_model(out / "model.safetensors") == out
