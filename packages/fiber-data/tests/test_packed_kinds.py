"""Samples of every kind in tar shards: what a reader gave is what comes back, and what webdataset reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from fiber_data import (
    DetectionData,
    DetectionDataset,
    GroundingDataset,
    QuestionDataset,
    ReasoningDataset,
    build_detection_evaluation_transform,
    build_evaluation_transform,
    load_image,
    make_prompt,
    read_captions,
    read_detection,
    read_grounding,
    read_nlvr2,
    read_tar_shards,
    read_vqav2,
)
from fiber_data.cli import main
from fiber_data.formats import shard_blocks
from fiber_data.pack import pack, verify
from fiber_data.scenes import generate_scenes
from PIL import Image

READERS = {
    "captions": read_captions,
    "questions": read_vqav2,
    "statements": read_nlvr2,
    "phrases": read_grounding,
    "expressions": lambda root, split: read_grounding(root, split, name="refcoco+"),
    "boxes": read_detection,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return generate_scenes(tmp_path_factory.mktemp("scenes") / "s", {"train": 24})


def without_images(samples):
    return [{key: value for key, value in sample.items() if key not in ("image", "images")} for sample in samples]


def contents(sample):
    """The bytes of a sample's images."""
    images = sample.get("images") or (sample["image"],)
    return [image.read_bytes() if isinstance(image, Path) else image.read() for image in images]


def by_image(samples):
    """The order of packed samples: those of an image together, images in the order in which they first come."""
    keys = [str(sample.get("images") or sample["image"]) for sample in samples]
    first = {key: keys.index(key) for key in dict.fromkeys(keys)}
    return [sample for _, sample in sorted(zip(keys, samples, strict=True), key=lambda pair: first[pair[0]])]


@pytest.mark.parametrize("kind", READERS)
def test_what_is_packed_comes_back(kind, scenes, tmp_path):
    read = READERS[kind](scenes, "train")
    shards = pack(read, tmp_path, "train", images_per_shard=9, num_workers=2)
    again = read_tar_shards(tmp_path, "train")
    assert type(again).__name__ == ("DetectionData" if kind == "boxes" else "ShardSamples")
    if kind == "boxes":
        assert (again.categories, again.frequencies) == (read.categories, read.frequencies)
        read, again = read.samples, again.samples
    expected = by_image(read)
    assert without_images(again) == without_images(expected)
    assert list(map(contents, again)) == list(map(contents, expected))
    assert again.blocks == [shard.num_samples for shard in shards] == shard_blocks(again)
    assert verify(tmp_path, "train") == []
    for path in tmp_path.glob("*.jsonl"):  # the tars alone say the same
        path.unlink()
    alone = read_tar_shards(tmp_path, "train")
    assert getattr(alone, "samples", alone) == again


def test_an_image_is_packed_once(scenes, tmp_path):
    questions = read_vqav2(scenes, "train")
    shards = pack(questions, tmp_path, "train")
    assert sum(shard.num_images for shard in shards) == len({sample["image"] for sample in questions}) < len(questions)


@pytest.mark.parametrize(("kind", "names"), [("phrases", ("png", "json")), ("statements", ("0.png", "1.png", "json"))])
def test_webdataset_reads_them(kind, names, scenes, tmp_path):
    read = READERS[kind](scenes, "train")
    pack(read, tmp_path, "train", images_per_shard=100)
    [url] = map(str, tmp_path.glob("*.tar"))
    found = list(webdataset.WebDataset([url], shardshuffle=False).decode("rgb8").to_tuple(*names))
    given = [sample["id"] for *_, record in found for sample in record["samples"]]
    assert given == [sample["id"] for sample in by_image(read)]
    first = by_image(read)[0]
    for pixels, image in zip(found[0], first.get("images") or (first["image"],), strict=False):
        assert torch.from_numpy(pixels.copy()).permute(2, 0, 1).equal(load_image(image))


def test_data_sets_take_them(scenes, tmp_path):
    again = {}
    for kind, read in READERS.items():
        pack(read(scenes, "train"), tmp_path / kind, "train", progress=False)
        again[kind] = read_tar_shards(tmp_path / kind, "train")
    detection = build_detection_evaluation_transform(64, 100)
    prompt = make_prompt(again["boxes"].categories)
    made = [
        (QuestionDataset(again["questions"], build_evaluation_transform(32)), read_vqav2(scenes, "train")),
        (ReasoningDataset(again["statements"], build_evaluation_transform(32)), read_nlvr2(scenes, "train")),
        (GroundingDataset(again["phrases"], detection), read_grounding(scenes, "train")),
        (DetectionDataset(again["boxes"], detection, prompt), read_detection(scenes, "train").samples),
    ]
    for dataset, read in made:
        item = dataset[len(dataset) - 1]
        assert item["id"] == by_image(read)[-1]["id"]
        assert item["pixel_values"].dtype == torch.float32


def test_boxes_follow_their_image(tmp_path):
    """A box is drawn in red; after resizing it is still where the red is, also in an image that EXIF turns."""
    pixels = np.full((200, 400, 3), 255, np.uint8)
    pixels[40:120, 300:400] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed turned right: of 400 x 200, with the box at the bottom
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    shared = {"labels": [1], "area": [4000.0], "iscrowd": [False]}
    plain = {"image": tmp_path / "plain.png", "id": 1, "size": (200, 400), "boxes": [(300.0, 40.0, 400.0, 120.0)]}
    turned = {"image": tmp_path / "turned.png", "id": 2, "size": (400, 200), "boxes": [(80.0, 300.0, 160.0, 400.0)]}
    wrong = {"image": tmp_path / "plain.png", "id": 3, "size": (200, 200), "boxes": [(0.0, 0.0, 9.0, 9.0)]}
    samples = [{**each, **shared} for each in (plain, turned, wrong)]
    [shard] = pack(DetectionData(samples, {1: "red"}), tmp_path / "out", "train", max_side=150)
    assert "the image is 200 x 400 pixels" in shard.left_out[0]
    data = read_tar_shards(tmp_path / "out", "train")
    assert [sample["size"] for sample in data.samples] == [(75, 150), (150, 75)]
    for sample in data.samples:
        image = load_image(sample["image"], size=sample["size"])
        assert image.shape[1:] == sample["size"]
        red = (image[0] > 128) & (image[1] < 128)
        rows, columns = (np.flatnonzero(red.any(dim)) for dim in (1, 0))
        [(x1, y1, x2, y2)] = sample["boxes"]
        assert np.allclose([x1, y1, x2, y2], [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1)
        assert sample["area"] == [pytest.approx(4000 * (150 / 400) ** 2)]


def test_boxes_that_cannot_follow_are_refused(scenes, tmp_path):
    samples = read_grounding(scenes, "train")
    posed = [{**sample, "keypoints": [[1, 2]]} for sample in samples]
    with pytest.raises(ValueError, match=r"sample 1: has 'keypoints', which may count pixels too; pack it without"):
        pack(posed, tmp_path / "a", "train", max_side=32)
    bare = [{"image": sample["image"], "id": sample["id"], "boxes": sample["boxes"]} for sample in samples]
    with pytest.raises(ValueError, match=r"has no 'size' \(height, width\).*only 'image', 'id', 'boxes'; pack it with"):
        pack(bare, tmp_path / "b", "train", max_side=32)
    pack(posed, tmp_path / "a", "train")
    assert without_images(read_tar_shards(tmp_path / "a", "train")) == without_images(by_image(posed))


def test_samples_of_other_peoples_readers(scenes, tmp_path):
    images = [sample["image"] for sample in read_captions(scenes, "train")][:3]
    given = [
        {"image": image, "id": f"e{number}", "hypothesis": "it rains", "label": number, "scores": [0.5, None]}
        for number, image in enumerate([*images, images[0]])
    ]
    given += [{"image": Image.new("RGB", (8, 6), "blue"), "id": "memory", "hypothesis": "it is blue"}]
    pack(given, tmp_path / "out", "train")
    again = read_tar_shards(tmp_path / "out", "train")
    assert without_images(again) == without_images([given[0], given[3], *given[1:3], given[4]])
    assert load_image(again[-1]["image"]).shape == (3, 6, 8)
    for value, shown in (({1, 2}, r"\{1, 2\}"), ((1, 2), r"\(1, 2\)"), (float("nan"), "nan"), ({1: 2}, r"\{1: 2\}")):
        with pytest.raises(ValueError, match=rf"sample 'e0': 'extra' is {shown}, which JSON does not give back"):
            pack([{**given[0], "extra": value}], tmp_path / "no", "train")
    with pytest.raises(ValueError, match="sample 0: expected 'id' and 'image'"):
        pack([{"captions": ["a"]}], tmp_path / "no", "train")


def test_categories_come_from_the_manifest(scenes, tmp_path):
    pack(read_detection(scenes, "train"), tmp_path, "train")
    manifest = tmp_path / "train.manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "settings": {**content["settings"], "categories": {"1": "a"}}}))
    with pytest.raises(ValueError, match=r"names no category 2, which boxes have; pack again"):
        read_tar_shards(tmp_path, "train")
    manifest.unlink()
    with pytest.raises(ValueError, match=r"train.manifest.json: expected the names of the categories of the boxes"):
        read_tar_shards(tmp_path, "train")


def test_records_of_other_types_are_refused(scenes, tmp_path):
    pack(read_grounding(scenes, "train"), tmp_path, "train")
    [path] = tmp_path.glob("*.tar")
    whole = path.read_bytes()
    for old, new, message in (
        (b'"iscrowd": [false', b'"iscrowd": [12345', r"samples\[0\].iscrowd: expected bool, found 12345"),
        (b'"size": [64, 64]', b'"size": [64, -4]', r"samples\[0\]: expected .* a size above 0"),
        (b'"iscrowd": [false', b'"iscrowd": {false', "not valid JSON"),
        (b'"id": 1,', b'"id":[],', r"id: expected .*found \[\]"),
    ):
        assert old in whole
        path.write_bytes(whole.replace(old, new, 1))
        (tmp_path / "train-00000.index.jsonl").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=rf"train-00000.tar: 00000000000: .*{message}"):
            read_tar_shards(tmp_path, "train")


def test_the_command_packs_any_format(scenes, tmp_path, capsys):
    shards = tmp_path / "shards"
    words = ["pack", str(scenes), "--out", str(shards), "--verify", "--format"]
    assert main([*words, "grounding", "--option", "name=refcoco", "--max-side", "32"]) == 0
    number = len(read_grounding(scenes, "train", name="refcoco"))
    assert f"{number} samples in 1 shards" in capsys.readouterr().out
    assert main([*words, "grounding", "--option", "refcoco"]) == 1
    assert "--option: expected KEY=VALUE" in capsys.readouterr().err
    assert main(["pack", str(shards), "--format", "tar_shards", "--out", str(tmp_path / "again")]) == 0
    again, first = (read_tar_shards(tmp_path / name, "train") for name in ("again", "shards"))
    assert without_images(again) == without_images(first)
