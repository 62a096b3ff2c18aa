"""`fiber train captions|vqa|detect DIR`: what a folder of one's own stands for, and what it says at the end."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_backbone.seams import available
from fiber_data import load_processor, train_tokenizer
from fiber_data.formats import read_captions, read_detection, read_questions
from fiber_heads import CaptioningConfig, FiberForCaptioning
from fiber_train.cli import build_parser, main
from fiber_train.config import load_config
from fiber_train.coverage import covers
from fiber_train.own_data import is_own, resolve_own
from fiber_train.vocabulary import take_vocabulary

from .conftest import CAPTIONS, SMALL
from .layouts import write_roboflow
from .originals import make, save

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0"]
ONE = ["trainer.max_steps=1", "trainer.eval_every=0", "optim.warmup=0", "model.image_size=64"]
MORE = {"captions": CAPTIONS, "detect": LITTLE}


@pytest.fixture
def photos(scenes: Path, tmp_path: Path) -> Path:
    """A folder as somebody would make it: images, and a plain file for each kind."""
    root = tmp_path / "my photos"
    (root).mkdir()
    (root / "images").symlink_to(scenes / "images" / "train")
    lines: dict[str, list[dict[str, Any]]] = {
        "captions": [
            {"image": Path(sample["image"]).name, "caption": text}
            for sample in read_captions(scenes, "train")
            for text in sample["captions"]
        ],
        "questions": [
            {"image": Path(each["image"]).name, "question": each["question"], "answer": each["multiple_choice_answer"]}
            for each in read_questions(scenes, "train")
        ],
    }
    data = read_detection(scenes, "train")
    lines["boxes"] = [
        {"image": Path(each["image"]).name, "boxes": [{"box": box, "name": data.categories[label]}]}
        for each in data.samples
        for box, label in zip(each["boxes"], each["labels"], strict=True)
    ]
    for name, records in lines.items():
        (root / f"{name}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return root


@pytest.mark.parametrize("kind", ["captions", "vqa", "detect"])
def test_a_folder_is_enough_and_what_comes_next_works_as_pasted(
    kind: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", kind, photos.name, *SMALL, *ONE, *MORE.get(kind, [])]) == 0
    said = capsys.readouterr()
    assert "data to measure on: " in said.err and "warning: the tokenizer" not in said.err
    run = tmp_path / "runs" / f"{kind}-my photos"
    assert load_config(run / "config.yaml").data.eval_split == "0.1", "an ordinary run, that can be gone on with"
    commands = [shlex.split(line) for line in said.out.partition("\nnext:\n")[2].splitlines()]
    assert [words[1] for words in commands] == [
        {"captions": "caption", "vqa": "answer"}.get(kind, kind),
        "report",
        "evaluate",
    ]
    assert main(commands[0][1:]) == 0
    assert capsys.readouterr().out.strip()


def test_what_to_type_next_has_verbs_and_options_that_there_are() -> None:
    """Words that a verb does not know would be left over, or end the program."""
    tasks = [entry.load() for entry in available("fiber.tasks").values()]
    commands = [command for task in tasks for command in task.commands]
    assert len(commands) > 8
    for command in commands:
        program, verb, *words = shlex.split(command.replace("{images}", "a.png b.png"))
        options, rest = build_parser(verb).parse_known_args([verb, *words])
        assert program == "fiber" and callable(options.run)
        assert rest == [], command


def test_what_is_to_be_told_apart_is_said_beside_what_looks_alike(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (photos / "boxes.jsonl").read_text().splitlines()]
    name = lines[0]["boxes"][0]["name"]
    lines[0]["boxes"] = [{**lines[0]["boxes"][0], "name": other} for other in (name.upper(), f"{name}s")]
    (photos / "boxes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["train", "detect", str(photos), "--dry-run", *SMALL, *ONE, *LITTLE]) == 0
    said = capsys.readouterr()
    assert re.search(r"^data to measure on: \d+ samples \(detection\) held out of train, by ids alone", said.out, re.M)
    (categories,) = (line for line in said.out.splitlines() if line.startswith("categories: "))
    counts = Counter(box["name"] for line in lines for box in line["boxes"])
    assert f"categories: {len(counts)}, with boxes: " in categories and "2 of them with fewer than 3" in categories
    (warning,) = (line for line in said.out.splitlines() if "differ only in case or number" in line)
    assert all(repr(each) in warning for each in (name, name.upper(), f"{name}s"))


def test_a_split_of_the_folder_is_held_out_or_a_share(scenes: Path, photos: Path, tmp_path: Path) -> None:
    def held_out(kind: str, root: Path) -> str:
        layers, words = resolve_own(kind, [str(root)], None)
        return load_config(layers, words).data.eval_split

    assert [held_out(kind, scenes) for kind in ("captions", "vqa", "detect")] == ["val"] * 3
    assert [held_out(kind, photos) for kind in ("captions", "vqa", "detect")] == ["0.1"] * 3
    assert held_out("detect", write_roboflow(scenes, tmp_path / "wild")) == "valid"


def test_a_single_file_of_coco_may_have_any_name(scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "exported"
    root.mkdir()
    (root / "images").symlink_to(scenes / "images")
    (root / "result.json").write_bytes((scenes / "annotations" / "instances_train.json").read_bytes())
    layers, words = resolve_own("detect", [str(root)], None)
    config = load_config(layers, words)
    assert config.data.format == "detection"
    assert Path(config.data.format_options["annotation_file"]) == root / "result.json"


def test_large_weights_are_trained_with_care(coarse: Path, photos: Path) -> None:
    for words, checkpoint, rate, size in [
        ([], str(coarse), 5e-4, "fiber_tiny"),
        (["gpu_12gb"], None, 2e-5, "fiber_small"),
        (["gpu_12gb", "optim.learning_rate=0.001"], None, 1e-3, "fiber_small"),
    ]:
        config = load_config(*resolve_own("vqa", [str(photos), *words], checkpoint))
        assert (config.optim.learning_rate, config.model.preset) == (rate, size)
        assert config.model.checkpoint == checkpoint


def test_a_detector_goes_on_as_it_was_trained(photos: Path, tmp_path: Path) -> None:
    """All of its weights are of use: the head has their sizes, and computes as theirs did."""
    file = save(make("fine"), tmp_path / "fine.pth")
    config = load_config(*resolve_own("detect", [str(photos)], str(file)))
    head = config.task.model
    assert (head.channels, head.num_blocks, head.flat_offsets, head.inclusive_boxes) == (32, 2, True, True)
    assert config.model.overrides["normalize_image_query"] is False


def test_what_is_no_folder_of_the_kind_is_one_sentence(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bare := tmp_path / "bare").mkdir()
    (bare / "labels").mkdir()
    (bare / "a.jpg").write_bytes(b"")
    for words, reason in [
        (["detect", str(bare)], "bare: expected boxes.jsonl beside images/, .*YOLO's .* found a.jpg, labels/"),
        (["vqa", str(tmp_path / "no")], "no: no such folder; expected one with questions.jsonl beside images/"),
        (["captions"], "fiber train captions DIR: give the folder of your data, with captions.jsonl"),
        (["captions", str(photos), "--checkpoint", str(bare)], "bare holds no model"),
    ]:
        assert main(["train", *words]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(reason, line), line


def test_the_published_recipe_is_meant_where_no_folder_follows(photos: Path) -> None:
    assert not is_own("vqa", ["data.root=VQA"])
    assert not is_own("vqa", ["small", "data.root=VQA"])
    assert not is_own("vqa", ["mine.yaml"])
    assert not is_own("coco", [str(photos)])
    assert is_own("vqa", [str(photos)])


def test_a_tokenizer_that_cuts_the_texts_gives_way(coarse: Path, photos: Path, tmp_path: Path) -> None:
    words = ["elderly bicyclists crossing cobblestone", "zookeepers photographing hippopotamuses"]
    lines = [{"image": f"{number:06}.png", "caption": words[number % 2]} for number in range(30)]
    (photos / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    before = load_processor(coarse / "model").tokenizer
    assert not covers(before, words)
    out = tmp_path / "run"
    given = [str(photos), "--checkpoint", str(coarse), "--out", str(out), "data.num_workers=0", *ONE, *CAPTIONS]
    assert main(["train", "captions", *given]) == 0
    after = load_processor(out / "model").tokenizer
    assert covers(after, words)
    assert after.decode(after(words[0], add_special_tokens=False)["input_ids"]) == words[0]


def test_another_vocabulary_keeps_what_is_known_of_words() -> None:
    old, new = train_tokenizer(["a red dog"] * 3, 280), train_tokenizer(["a red bicycle", "redder"] * 3, 300)
    sizes = {"vocab_size": len(old), "pad_token_id": old.pad_token_id}
    model = FiberForCaptioning(
        FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny", decoder_projections=True, **sizes)),
        CaptioningConfig(),
    )
    table, head = model.backbone.text_stream.embeddings.word_embeddings.weight.detach().clone(), model.word_head.decoder
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    take_vocabulary(model, old, new)
    grown = model.backbone.text_stream.embeddings.word_embeddings.weight
    assert model.backbone.vocab_size == model.backbone.config.vocab_size == len(new) == len(grown)
    for piece in set(old.get_vocab()) & set(new.get_vocab()):
        theirs, ours = old.get_vocab()[piece], new.get_vocab()[piece]
        torch.testing.assert_close(grown[ours], table[theirs])
        torch.testing.assert_close(model.word_head.decoder.weight[ours], weight[theirs])
    (whole,) = new(" bicycle", add_special_tokens=False)["input_ids"]
    parts = old(" bicycle", add_special_tokens=False)["input_ids"]
    assert len(parts) > 1
    torch.testing.assert_close(grown[whole], table[parts].mean(dim=0))
    torch.testing.assert_close(model.word_head.decoder.bias[whole], bias[parts].mean())
    ids = torch.tensor([new("a red bicycle")["input_ids"]])
    assert model.word_head(model.backbone(torch.zeros(1, 3, 64, 64), ids).text_hidden_state).shape[-1] == len(new)
