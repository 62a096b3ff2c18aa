"""`fiber-data show` and `fiber-data stats`: pages and numbers of any format, in one file, from the shell."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from fiber_data.cli import main
from fiber_data.scenes import generate_scenes
from PIL import Image


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return generate_scenes(tmp_path_factory.mktemp("scenes") / "scenes", {"train": 20, "val": 20}, progress=False)


@pytest.fixture(scope="module")
def tokenizer_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and what is read."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def show(tmp_path, *words):
    assert main(["show", *map(str, words), "--out", str(tmp_path / "new" / "a.html")]) == 0
    return Page(tmp_path / "new" / "a.html")


def test_a_page_of_every_format_needs_no_other_file(scenes, tmp_path, tokenizer_folder):
    page = show(tmp_path, scenes, "--count", 2, "--size", 40, "--tokenizer", tokenizer_folder)
    for name in ("coco_captions", "karpathy", "detection", "grounding", "vqav2", "nlvr2"):
        assert f": {name}, " in page.text
    linked = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(linked) > 20 and all(link.startswith("data:image/") for link in linked)
    sizes = {Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))).size for link in linked}
    assert sizes == {(40, 40)}
    assert "answers: " in page.text and re.search("label: (True|False)", page.text)
    assert page.all("rect") and page.all("mark") and "<mask> (" in page.text


def test_boxes_are_drawn_where_the_transform_moves_them(tmp_path):
    """A red square on black: the rectangle of its box surrounds the red of the image, and its words are shown."""
    (tmp_path / "d" / "annotations").mkdir(parents=True)
    (tmp_path / "d" / "images").mkdir()
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:30, 50:70] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "d" / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [50, 10, 20, 20], "area": 400, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "red <square>"}, {"id": 4, "name": "dog"}],
    }
    (tmp_path / "d" / "annotations" / "instances_train.json").write_text(json.dumps(content))
    for seed in range(4):
        page = show(tmp_path, tmp_path / "d", "--size", 120, "--seed", seed)
        (image,), (rect,) = page.all("image"), page.all("rect")
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["href"].partition(",")[2]))).convert("RGB"))
        rows, columns = (seen[..., 0] > 128).any(1).nonzero()[0], (seen[..., 0] > 128).any(0).nonzero()[0]
        left, top, width, height = (float(rect[key]) for key in ("x", "y", "width", "height"))
        assert abs(left - columns[0]) <= 1 and abs(left + width - columns[-1] - 1) <= 1
        assert abs(top - rows[0]) <= 1 and abs(top + height - rows[-1] - 1) <= 1
        assert page.text.count("red <square>") == 2 and "dog" in page.text, "escaped; at the box and in the prompt"


def test_draws_are_those_of_seed_and_epoch_and_none_in_evaluation(scenes, tmp_path):
    def made(*words):
        show(tmp_path, scenes, "--format", "coco_captions", "--split", "val", "--count", 3, "--size", 32, *words)
        return (tmp_path / "new" / "a.html").read_text()

    assert made() == made() != made("--epoch", 1)
    assert made("--evaluation") != made()
    images = [re.findall(r"data:[^\"]+", made("--evaluation", "--epoch", epoch)) for epoch in (0, 1)]
    assert images[0] == images[1] and len(images[0]) == 3


def test_an_image_that_cannot_be_read_is_shown_as_such(scenes, tmp_path):
    folder = shutil.copytree(scenes, tmp_path / "copy")
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
    page = show(tmp_path, folder, "--format", "coco_captions", "--count", 1)
    assert "cannot be read as an image" in page.text and not page.all("image")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--split", "nowhere"],
            r"no annotation file of split 'nowhere' in a format that was looked for \(arrow, capt",
        ),
        (["--format", "nlvr3"], "the format 'nlvr3' does not say which splits a folder holds; give a split"),
        (["--count", "0"], "--count must be at least 1"),
        (["--out", "a.png"], r"a\.png: expected a name that ends in \.html"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(scenes, capsys, words, message):
    assert main(["show", str(scenes), *words]) == 1
    assert re.search(message, capsys.readouterr().err)


def stats(capsys, *words):
    assert main(["stats", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_numbers_of_a_folder(scenes, capsys):
    found = stats(capsys, scenes)
    of = {(each["format"], each["split"], each["file"].rpartition("/")[2]): each for each in found["files"]}
    captions = of["coco_captions", "train", "captions_train.json"]
    assert (captions["samples"], captions["images"], captions["texts"]) == (20, 20, 100)
    assert captions["width"] == captions["height"] == [64, 64, 64, 64]
    boxes = of["detection", "train", "instances_train.json"]
    raw = json.loads((scenes / "annotations" / "instances_train.json").read_text())
    assert boxes["boxes"] == sum(boxes["categories"].values()) == len(raw["annotations"])
    assert list(boxes["categories"].values()) == sorted(boxes["categories"].values(), reverse=True)
    assert {split for name, split, _ in of if name == "karpathy"} == {"train", "val"}, "one file, by its splits"
    assert main(["stats", str(scenes), "--split", "val", "--format", "detection", "--no-sizes"]) == 0
    table = capsys.readouterr().out
    assert "detection, split 'val'" in table and "samples            20" in table and "width" not in table


def test_boxes_of_the_plain_form_are_shown_and_counted(tmp_path, capsys):
    """One file with all splits, or with none."""
    (tmp_path / "d" / "images").mkdir(parents=True)
    lines = []
    for name, color, split in (("a", "red", "train"), ("b", "blue", "val")):
        Image.new("RGB", (40, 30), color).save(tmp_path / "d" / "images" / f"{name}.png")
        boxes = [{"bbox": [1, 2, 10, 20], "name": f"{color} thing"}]
        lines.append({"image": f"{name}.png", "boxes": boxes, "split": split})
    for splits in (True, False):
        file = [line if splits else {**line, "split": None} for line in lines]
        (tmp_path / "d" / "boxes.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in file))
        page = show(tmp_path, tmp_path / "d", "--size", 40)
        assert len(page.all("rect")) == 2 and "red thing" in page.text and "blue thing" in page.text
        capsys.readouterr()
        found = {each["split"]: each["boxes"] for each in stats(capsys, tmp_path / "d")["files"]}
        assert found == ({"train": 1, "val": 1} if splits else {None: 2})


def test_what_splits_share_is_found_by_id_path_and_content(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for number, color in enumerate(("red", "green", "blue", "red")):  # the last one is the first under another name
        Image.new("RGB", (8, 6), color).save(tmp_path / "images" / f"{number}.png")
    for split, images in {"train": {0: "0.png", 1: "1.png"}, "val": {1: "1.png", 3: "3.png"}}.items():
        content = {
            "images": [{"id": own, "file_name": name} for own, name in images.items()],
            "annotations": [{"id": own, "image_id": own, "caption": "a"} for own in images],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))

    def shared(*words):
        return {each["by"]: each["count"] for each in stats(capsys, tmp_path, *words)["duplicates"]}

    assert shared() == {"id": 1, "path": 1}
    assert shared("--content") == {"id": 1, "path": 1, "content": 2}
    assert main(["stats", str(tmp_path), "--content"]) == 0
    assert "coco_captions: train and val share 2 by content, such as " in capsys.readouterr().out
