"""`fiber-data inspect`: what a folder holds, what is wrong with it, and images that two splits share."""

import json

import pytest
from fiber_data import find_shared, inspect_samples
from fiber_data.cli import main
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Two training images, one of them cut off, one missing; one validation image, also in training."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "cut.png").write_bytes((tmp_path / "images" / "a.png").read_bytes()[:40])
    lines = [
        {"image": "a.png", "captions": ["a red cat", "a cat on the mat sees two dogs"]},
        {"image": "cut.png", "caption": "a dog"},
        {"image": "gone.png", "captions": []},
        {"image": "a.png", "caption": "the cat", "split": "val"},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_inspect_counts_each_split_and_names_the_leak(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    train, val, leak = printed.strip().split("\n\n")
    assert train.splitlines() == [
        "train",
        "images                3   on disk 2 (66.7%)",
        "captions              3   1.00 an image, 1 images without",
        "words                 3   median; from 2 to 8, 95 % at most 8",
        f"  {folder / 'images' / 'gone.png'}: not on disk",
    ]
    assert val.splitlines()[:2] == ["val", "images                1   on disk 1 (100.0%)"]
    assert leak == "train and val share 1 images, such as a.png"


def test_inspect_decodes_and_counts_tokens_when_asked(folder, tokenizer, capsys):
    tokenizer.save_pretrained(folder / "tokenizer")
    options = ["--split", "train", "--decode", "--tokenizer", str(folder / "tokenizer"), "--max-length", "8"]
    assert main(["inspect", str(folder), *options]) == 0
    printed = capsys.readouterr().out
    assert "unreadable            1" in printed and "cut.png: cannot be read as an image" in printed
    lengths = sorted(
        len(tokenizer(text)["input_ids"]) for text in ("a red cat", "a cat on the mat sees two dogs", "a dog")
    )
    assert f"tokens        {lengths[1]:>9}   median; from {lengths[0]} to {lengths[2]}" in printed
    assert "1 captions would be cut" in printed
    assert "val" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{root}/nowhere"], "fiber-data: {root}/nowhere: no such folder"),
        (["{root}", "--split", "tset"], "no line of split 'tset'; the file has ['train', 'val']"),
        (["{root}/images"], "no captions of split 'train'; expected annotations/captions_train"),
        (["{root}", "--tokenizer", "{root}/images"], "no tokenizer at"),
    ],
)
def test_a_fault_of_the_input_is_one_sentence_and_status_1(folder, capsys, words, message):
    assert main(["inspect", *(word.format(root=folder) for word in words)]) == 1
    error = capsys.readouterr().err
    assert message.format(root=folder) in error and error.count("\n") == 1


def test_a_key_error_is_printed_as_a_sentence_too(folder, capsys):
    (folder / "captions.jsonl").write_text('{"image": "a.png"}')
    assert main(["inspect", str(folder)]) == 1
    assert capsys.readouterr().err.startswith(
        f"fiber-data: {folder / 'captions.jsonl'}: line 1: expected one of the keys"
    )


def test_long_lists_of_problems_are_shortened(samples, tmp_path):
    gone = [{**sample, "image": tmp_path / f"{number}.jpg"} for number, sample in enumerate(samples)]
    findings = inspect_samples(gone)
    assert len(findings.missing) == 12 and findings.broken is None and findings.tokens is None
    assert str(findings).splitlines()[-1] == "  ... and 2 more"
    assert "not on disk" in str(findings).splitlines()[-2]


def test_an_empty_split_is_inspected_without_fault():
    findings = inspect_samples([], decode=True)
    assert (findings.num_images, findings.num_captions, findings.words) == (0, 0, (0, 0, 0, 0))
    assert "images                0" in str(findings)


def test_shared_images_are_found_for_each_pair_of_splits(samples):
    splits = {"train": samples[:6], "val": samples[4:8], "test": samples[8:]}
    assert find_shared(splits) == {("train", "val"): ["004.png", "005.png"]}


def test_check_decodes_images_if_asked(tmp_path, capsys):
    Image.effect_noise((40, 30), 50).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    images = [
        {"id": number, "file_name": name, "height": 30, "width": 40} for number, name in ((1, "a.jpg"), (2, "b.jpg"))
    ]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    found = {"images": images, "categories": [{"id": 1, "name": "dog"}], "annotations": boxes}
    (tmp_path / "instances_val.json").write_text(json.dumps(found))
    assert main(["check", str(tmp_path), "--images"]) == 0
    assert "cannot be read" not in capsys.readouterr().out, "its head is whole"
    assert main(["check", str(tmp_path), "--decode"]) == 0
    out = capsys.readouterr().out
    assert "of the images 1 cannot be read, and are left out" in out and "b.jpg" in out
