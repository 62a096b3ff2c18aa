"""MDETR's files: captions with spans and boxes, in the folders that people have, and those of the scenes."""

import json

import numpy as np
import pytest
from fiber_data import SplitNotFoundError, read_detection, read_grounding
from fiber_data.scenes import generate_scenes
from fiber_data.scenes.draw import RGB
from PIL import Image

CAPTION = "A man in a red coat"


def write_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(path)


def entry(number, name="a.jpg", **more):
    return {"id": number, "file_name": name, "width": 40, "height": 30, "caption": CAPTION, **more}


def box(image_id, corners, spans):
    return {"id": 1, "image_id": image_id, "category_id": 1, "bbox": corners, "tokens_positive": spans}


def write(path, images, annotations=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": list(images), "annotations": list(annotations), "categories": []}))
    return path


@pytest.fixture
def flickr(tmp_path):
    write_image(tmp_path / "flickr30k_images" / "a.jpg")
    evaluated = {"tokens_positive_eval": [[[0, 5]], [[9, 19]]], "sentence_id": 3, "original_img_id": 77}
    boxes = [box(5, [1, 2, 10, 20], [[0, 5]]), box(5, [3, 4, 5, 6], [[0, 5], [9, 19]]), box(5, [0, 0, 9, 9], [[0, 5]])]
    write(
        tmp_path / "OpenSource" / "final_flickr_separateGT_val.json",
        [entry(5, dataset_name="flickr", **evaluated), entry(6)],
        boxes,
    )
    return tmp_path


@pytest.mark.filterwarnings("error")
def test_flickr_gives_boxes_with_spans_and_what_to_evaluate(flickr):
    first, second = read_grounding(flickr, split="val")
    assert first == {
        "image": flickr / "flickr30k_images" / "a.jpg",
        "id": 5,
        "original_id": 77,
        "size": (30, 40),
        "caption": CAPTION,
        "boxes": [(1, 2, 11, 22), (3, 4, 8, 10), (0, 0, 9, 9)],
        "spans": [[(0, 5)], [(0, 5), (9, 19)], [(0, 5)]],
        "area": [200, 30, 81],
        "iscrowd": [False] * 3,
        "phrases": [[(0, 5)], [(9, 19)]],
        "dataset_name": "flickr",
        "sentence_id": 3,
    }
    assert second["original_id"] == 6 and second["boxes"] == second["phrases"] == []


def test_without_evaluation_spans_the_phrases_are_those_of_the_boxes_each_once(flickr):
    file = flickr / "OpenSource" / "final_flickr_separateGT_val.json"
    content = json.loads(file.read_text())
    del content["images"][0]["tokens_positive_eval"]
    file.write_text(json.dumps(content))
    assert read_grounding(flickr, split="val")[0]["phrases"] == [[(0, 5)], [(0, 5), (9, 19)]]


def test_the_mixed_set_has_a_folder_for_each_source(tmp_path):
    for folder in ("coco/train2014", "vg/VG_100K_2"):
        write_image(tmp_path / folder / "a.jpg")
    file = write(tmp_path / "final_mixed_train.json", [entry(1, data_source="coco"), entry(2, data_source="vg")])
    found = read_grounding(
        tmp_path, "train", annotation_file=file, image_folder={"coco": tmp_path / "coco", "vg": tmp_path / "vg"}
    )
    assert [sample["image"].relative_to(tmp_path).as_posix() for sample in found] == [
        "coco/train2014/a.jpg",
        "vg/VG_100K_2/a.jpg",
    ]
    with pytest.raises(ValueError, match=r"images\[1\]: data_source 'vg' has no image folder, only 'coco'"):
        read_grounding(tmp_path, "train", annotation_file=file, image_folder={"coco": tmp_path / "coco"})


def test_refcoco_finds_cocos_images_under_either_name(tmp_path):
    write(tmp_path / "finetune_refcoco+_testA.json", [entry(1, "COCO_train2014_000000000042.jpg")])
    write_image(tmp_path / "train2014" / "000000000042.jpg")
    (sample,) = read_grounding(tmp_path, split="testA", name="refcoco+")
    assert sample["image"].name == "000000000042.jpg"
    write_image(tmp_path / "train2014" / "COCO_train2014_000000000042.jpg")
    (sample,) = read_grounding(tmp_path, split="testA", name="refcoco+")
    assert sample["image"].name == "COCO_train2014_000000000042.jpg"


def test_spans_outside_the_caption_are_left_out_and_counted(flickr):
    file = flickr / "OpenSource" / "final_flickr_separateGT_val.json"
    write(file, [entry(5)], [box(5, [1, 1, 5, 5], [[0, 5], [15, 40], [7, 7]])])
    with pytest.warns(UserWarning, match=r"1 are without some of their character spans.*annotations\[0\]"):
        (sample,) = read_grounding(flickr, split="val")
    assert sample["spans"] == [[(0, 5)]]


@pytest.mark.parametrize(
    ("images", "annotations", "error", "message"),
    [
        ([entry(1)], [box(2, [1, 1, 1, 1], [])], ValueError, r"annotations\[0\]: image_id 2 is not among"),
        ([entry(1)], [box(1, [1, 1, 1, 1], [[0]])], ValueError, r"annotations\[0\]: expected spans as pairs"),
        ([entry(1)], [box(1, [1, 1, 1, 1], [[0, 1.5]])], ValueError, "expected spans as pairs"),
        ([entry(1)], [box(1, "box", [])], ValueError, "expected bbox as four numbers"),
        ([entry(1), entry(1)], [], ValueError, r"images\[1\]: image id 1 occurs more than once"),
        ([entry(1, caption=None)], [], ValueError, r"images\[0\]: expected caption and file_name as text"),
        ([{"id": 1, "file_name": "a.jpg"}], [], KeyError, r"images\[0\]: no key 'caption'"),
    ],
)
def test_malformed_files_are_answered_with_file_and_entry(tmp_path, images, annotations, error, message):
    file = write(tmp_path / "final_x_val.json", images, annotations)
    with pytest.raises(error, match=message) as caught:
        read_grounding(tmp_path, "val", annotation_file=file)
    assert "final_x_val.json" in str(caught.value)


def test_folders_without_the_file_or_with_several_say_so(flickr):
    with pytest.raises(SplitNotFoundError, match=r"there is final_flickr_separateGT_val\.json"):
        read_grounding(flickr, split="test")
    write(flickr / "final_mixed_val.json", [entry(1)])
    with pytest.raises(ValueError, match=r"several files would fit \(final_mixed_val.*say which with name"):
        read_grounding(flickr, split="val")
    assert len(read_grounding(flickr, split="val", name="flickr_separateGT")) == 2


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return generate_scenes(
        tmp_path_factory.mktemp("scenes"), {"train": 20, "val": 30}, seed=3, image_size=96, progress=False
    )


def colors_at(path, box):
    """The share of a box's pixels that are near each color, and the same for the whole image."""
    pixels = np.asarray(Image.open(path), dtype=np.int64)
    x1, y1, x2, y2 = (round(value) for value in box)
    return {
        name: tuple((np.abs(area - rgb).sum(-1) < 60).mean() for area in (pixels[y1:y2, x1:x2], pixels))
        for name, rgb in RGB.items()
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("split", ["train", "val"])
def test_scenes_captions_point_at_pixels_of_the_color_they_name(scenes, split):
    checked = 0
    for sample in read_grounding(scenes, split=split):
        for box, spans in zip(sample["boxes"], sample["spans"], strict=True):
            words = " ".join(sample["caption"][start:end] for start, end in spans)
            (color,) = (name for name in RGB if name in words)
            inside, anywhere = colors_at(sample["image"], box)[color]
            assert inside > 0.3 and inside > anywhere
            checked += 1
    assert checked > 100


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_scenes_expressions_point_at_one_of_the_images_objects(scenes, name):
    objects = {sample["id"]: sample for sample in read_detection(scenes, split="val").samples}
    names = read_detection(scenes, split="val").categories
    words = {"circle": {"circle", "disc"}, "cross": {"cross", "plus sign"}}
    expressions = read_grounding(scenes, split="val", name=name)
    assert len(expressions) > 20
    for sample in expressions:
        image = objects[sample["original_id"]]
        assert sample["image"] == image["image"]
        (box,), (((start, end),),) = sample["boxes"], sample["spans"]
        label = names[image["labels"][image["boxes"].index(box)]]
        noun = sample["caption"][start:end]
        assert any(word in noun for word in words.get(label, {label}) | {"thing", "shape", "object", "one"})


@pytest.mark.filterwarnings("error")
def test_scenes_boxes_are_tight_around_something_that_stands_out(scenes):
    for sample in read_detection(scenes, split="val").samples:
        assert len(sample["boxes"]) >= 1
        for box in sample["boxes"]:
            assert max(inside for inside, _ in colors_at(sample["image"], box).values()) > 0.3
