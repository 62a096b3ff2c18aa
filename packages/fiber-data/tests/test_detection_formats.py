"""Detection files in their layouts: images found, boxes in half-open pixels, faults counted or named."""

import json
import warnings

import numpy as np
import pytest
from fiber_data import SplitNotFoundError, read_detection
from PIL import Image

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]


def write_image(path, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def image(number, name, **more):
    return {"id": number, "file_name": name, "width": 40, "height": 30, **more}


def box(image_id, corners, category=1, **more):
    return {"id": 1, "image_id": image_id, "bbox": corners, "category_id": category, **more}


def write(path, images, annotations=(), categories=CATEGORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": list(images), "annotations": list(annotations), "categories": categories}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def coco(tmp_path):
    write_image(tmp_path / "val2017" / "a.jpg")
    write_image(tmp_path / "val2017" / "b.jpg")
    boxes = [box(1, [5, 6, 10, 20], 3, area=150.5, iscrowd=0), box(1, [0, 0, 40.5, 30], iscrowd=1)]
    write(tmp_path / "annotations" / "instances_val2017.json", [image(1, "a.jpg"), image(2, "b.jpg")], boxes)
    return tmp_path


@pytest.mark.filterwarnings("error")
def test_coco_gives_half_open_corners_labels_areas_and_crowds(coco):
    data = read_detection(coco, split="val")
    assert data.categories == {1: "person", 3: "car"} and list(data.categories) == [1, 3]
    assert data.frequencies == {}
    first, second = data.samples
    assert first == {
        "image": coco / "val2017" / "a.jpg",
        "id": 1,
        "size": (30, 40),
        "boxes": [(5, 6, 15, 26), (0, 0, 40, 30)],  # half a pixel outside is no fault
        "labels": [3, 1],
        "area": [150.5, 1200.0],
        "iscrowd": [False, True],
    }
    assert second["boxes"] == second["labels"] == []


def test_a_file_and_its_images_may_be_named(coco, tmp_path):
    file = tmp_path / "annotations" / "instances_val2017.json"
    assert (
        read_detection(tmp_path / "nowhere", "val2017", annotation_file=file, image_folder=coco / "val2017").samples
        == read_detection(coco, split="val2017").samples
    )


def test_lvis_finds_images_by_their_address_and_keeps_its_lists(tmp_path):
    write_image(tmp_path / "train2017" / "000000000007.jpg")
    write_image(tmp_path / "val2017" / "000000000008.jpg")
    images = []
    for number, folder in ((7, "train2017"), (8, "val2017")):
        entry = image(number, "", neg_category_ids=[3], not_exhaustive_category_ids=[1])
        del entry["file_name"]
        images.append({**entry, "coco_url": f"http://images.cocodataset.org/{folder}/{number:012}.jpg"})
    categories = [{**CATEGORIES[0], "frequency": "r"}, {**CATEGORIES[1], "frequency": "f"}]
    write(tmp_path / "lvis_v1_val.json", images, categories=categories)
    data = read_detection(tmp_path, split="val")
    found = [sample["image"].relative_to(tmp_path).as_posix() for sample in data.samples]
    assert found == ["train2017/000000000007.jpg", "val2017/000000000008.jpg"]
    assert data.samples[0]["neg_category_ids"] == [3] and data.samples[0]["not_exhaustive_category_ids"] == [1]
    assert data.frequencies == {1: "f", 3: "r"}


def test_lvis_of_2019_names_files_of_2014_that_lie_in_folders_of_2017(tmp_path):
    write_image(tmp_path / "train2017" / "000000000007.jpg")
    file = write(tmp_path / "lvis_v0.5_train.json", [image(7, "COCO_val2014_000000000007.jpg")])
    (sample,) = read_detection(tmp_path, "train", annotation_file=file, image_folder=tmp_path / "train2017").samples
    assert sample["image"] == tmp_path / "train2017" / "000000000007.jpg"


@pytest.mark.parametrize("folder", ["images/train/patch8", "train/patch8", "images/v1/patch8", "train"])
def test_objects365_lies_in_patches_or_not(tmp_path, folder):
    write_image(tmp_path / folder / "objects365_v1_1.jpg")
    name = "images/v1/patch8/objects365_v1_1.jpg"
    write(tmp_path / "annotations" / "zhiyuan_objv2_train.json", [image(1, name)])
    (sample,) = read_detection(tmp_path, split="train").samples
    assert sample["image"] == tmp_path / folder / "objects365_v1_1.jpg"


def test_roboflows_placeholder_category_is_left_out(tmp_path):
    write_image(tmp_path / "valid" / "a.jpg")
    categories = [
        {"id": 0, "name": "fish", "supercategory": "none"},
        {"id": 1, "name": "crab", "supercategory": "fish"},
    ]
    write(tmp_path / "valid" / "_annotations.coco.json", [image(0, "a.jpg")], [box(0, [1, 1, 2, 2])], categories)
    data = read_detection(tmp_path, split="valid")
    assert data.categories == {1: "crab"}
    assert data.samples[0]["image"] == tmp_path / "valid" / "a.jpg"


def test_faults_of_boxes_are_counted_in_one_warning(coco):
    bad = [[1, 1, -2, 5], [float("nan"), 0, 3, 3], [50, 2, 5, 5], [3, 3, 0, 4], [-5, 0, 20, 10], [30, 20, 30, 5]]
    write(coco / "annotations" / "instances_val2017.json", [image(1, "a.jpg")], [box(1, each) for each in bad])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (sample,) = read_detection(coco, split="val").samples
    assert sample["boxes"] == [(0, 0, 15, 10), (30, 20, 40, 25)]
    assert sample["labels"] == [1, 1]
    (message,) = [str(warning.message) for warning in caught]
    for part in (
        "1 are left out, being of negative size (the first: annotations[0])",
        "1 are left out, not being finite",
        "2 are left out, being empty",
        "2 are cut, for they reach out of their image (the first: annotations[4])",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("images", "annotations", "categories", "error", "message"),
    [
        ([image(1, "a.jpg")], [box(9, [1, 1, 1, 1])], CATEGORIES, ValueError, r"annotations\[0\]: image_id 9 is not"),
        ([image(1, "a.jpg")], [box(1, [1, 1, 1, 1], 2)], CATEGORIES, ValueError, r"annotations\[0\]: category_id 2"),
        ([image(1, "a.jpg")], [box(1, [1, 1, 1])], CATEGORIES, ValueError, r"annotations\[0\]: expected bbox as four"),
        ([image(1, "a.jpg")], [box(1, [1, "1", 1, 1])], CATEGORIES, ValueError, "expected bbox as four numbers"),
        ([image(1, "a.jpg")], [{"image_id": 1}], CATEGORIES, KeyError, r"annotations\[0\]: no key 'category_id'"),
        ([image(1, "a.jpg")] * 2, [], CATEGORIES, ValueError, r"images\[1\]: image id 1 occurs more than once"),
        ([image(1, "a.jpg", width=0)], [], CATEGORIES, ValueError, r"images\[0\]: expected height and width"),
        ([{"id": 1, "height": 3, "width": 3}], [], CATEGORIES, KeyError, r"images\[0\] .*coco_url"),
        ([], [], CATEGORIES * 2, ValueError, r"categories\[2\]: category id 3 occurs more than once"),
        ([], [], {"a": 1}, ValueError, "expected 'categories' as a list, found dict"),
    ],
)
def test_malformed_files_are_answered_with_file_and_entry(tmp_path, images, annotations, categories, error, message):
    file = write(tmp_path / "instances_val.json", images, annotations, categories)
    with pytest.raises(error, match=message) as caught:
        read_detection(tmp_path, "val", annotation_file=file)
    assert "instances_val.json" in str(caught.value)


def test_folders_without_the_split_or_with_several_files_say_so(coco):
    with pytest.raises(SplitNotFoundError, match=r"no boxes of split 'train'.*instances_val2017\.json"):
        read_detection(coco, split="train")
    write(coco / "lvis_v1_val.json", [])
    with pytest.raises(ValueError, match=r"several files would fit \(lvis_v1_val\.json, annotations/instances"):
        read_detection(coco, split="val")


def test_images_that_are_not_on_disk_are_left_out_with_a_warning(coco):
    (coco / "val2017" / "b.jpg").unlink()
    with pytest.warns(UserWarning, match=r"of 2 images with boxes 1 lack an image on disk"):
        assert [sample["id"] for sample in read_detection(coco, split="val").samples] == [1]
    assert len(read_detection(coco, split="val", check_images=False).samples) == 2
    (coco / "val2017" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="none of its 2 images"):
        read_detection(coco, split="val")


def test_the_originals_boxes_are_ours_in_its_inclusive_convention(tmp_path, fine_goldens):
    golden = fine_goldens["convert_coco"]
    width, height = golden["image_size_wh"]
    categories = [{"id": number, "name": str(number)} for number in range(1, 5)]
    boxes = [box(1, row["bbox"], row["category_id"], iscrowd=row["iscrowd"]) for row in golden["annotations"]]
    file = write(tmp_path / "a.json", [image(1, "a.jpg", width=width, height=height)], boxes, categories)
    with pytest.warns(UserWarning, match="1 are cut"):
        (sample,) = read_detection(tmp_path, "val", annotation_file=file, check_images=False).samples
    inclusive = [[x1, y1, x2 - 1, y2 - 1] for x1, y1, x2, y2 in sample["boxes"]]
    assert inclusive[:2] == golden["boxes"] and sample["labels"][:2] == golden["labels"]
    assert sample["boxes"][2] == (5, 5, 6, 35)  # a pixel wide: the original drops it
    assert sample["iscrowd"] == [False, False, False, True]
