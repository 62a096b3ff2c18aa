"""Files and images of a split are found in one place: which of several, in what order, and what is not there."""

import json
from pathlib import Path

import numpy as np
import pytest
from fiber_data import read_captions, read_detection, read_grounding, read_karpathy, read_nlvr2, read_vqav2
from fiber_data.formats.files import FolderListing, ImageFinder, find_annotation_file, find_missing, keep_on_disk


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def boxes(name):
    images = [{"id": 1, "file_name": name, "width": 4, "height": 3, "caption": "a cat"}]
    return {"images": images, "annotations": [], "categories": []}


QUESTIONS = {"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 7, "question": "what?"}]}
CAPTIONS = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
SENTENCE = json.dumps({"identifier": "dev-850-0-1", "sentence": "a cat.", "label": "True"})
QUESTIONS_FILE = "v2_OpenEnded_mscoco_val2014_questions.json"
NAMES = ("COCO_val2014_000000000007.jpg", "000000000007.jpg")

READERS = {
    "captions": (
        "annotations/captions_val2014.json",
        CAPTIONS,
        lambda root: read_captions(root, "val"),
        ["images/val2014/a.jpg", "val2014/a.jpg", "images/val/a.jpg", "val/a.jpg", "images/a.jpg", "a.jpg"],
    ),
    "vqav2": (
        f"questions/{QUESTIONS_FILE}",
        QUESTIONS,
        lambda root: read_vqav2(root, "val"),
        [f"{place}/{name}" for place in ("val2014", "images/val2014", "images", ".") for name in NAMES],
    ),
    "nlvr2": (
        "nlvr2/data/dev.json",
        SENTENCE,
        lambda root: [{"image": sample["images"][0]} for sample in read_nlvr2(root, "dev", check_images=False)],
        [f"{place}/dev-850-0-img0.png" for place in ("images/dev", "dev", "nlvr2/images/dev", "nlvr2/dev")],
    ),
    "detection": (
        "annotations/instances_val2014.json",
        boxes(f"x/y/{NAMES[0]}"),
        lambda root: read_detection(root, "val").samples,
        [
            f"{place}/{name}"
            for place in ("images/val2014", "val2014", "images/val", "val", "images", ".")
            for name in (f"x/y/{NAMES[0]}", f"y/{NAMES[0]}", *NAMES)
        ],
    ),
    "grounding": (
        "OpenSource/finetune_refcoco_val.json",
        boxes(NAMES[0]),
        lambda root: read_grounding(root, "val", name="refcoco"),
        [
            f"{place}/{name}"
            for place in ("images/val", "val", "images", ".", "train2014", "val2014", "train2017", "VG_100K")
            for name in NAMES
        ],
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_of_several_images_the_likeliest_is_taken(tmp_path, kind):
    """The order is part of the format: with every image there, then without the first, and so on."""
    file, content, read, places = READERS[kind]
    put(tmp_path / file, content)
    touch(*(tmp_path / place for place in places))
    for place in places:
        (sample,) = read(tmp_path)
        assert sample["image"] == tmp_path / place
        (tmp_path / place).unlink()
    if kind != "nlvr2":
        with pytest.raises(FileNotFoundError, match=r"none of its 1 .* has its images on disk; one was sought at"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("folder", "file", "content", "read", "image"),
    [
        ("annotations", QUESTIONS_FILE, QUESTIONS, lambda root: read_vqav2(root, "val"), f"val2014/{NAMES[0]}"),
        ("questions", QUESTIONS_FILE, QUESTIONS, lambda root: read_vqav2(root, "val"), f"val2014/{NAMES[0]}"),
        (
            "annotations",
            "instances_val.json",
            boxes("a.jpg"),
            lambda root: read_detection(root, "val").samples,
            "val/a.jpg",
        ),
        (
            "OpenSource",
            "final_x_val.json",
            boxes("a.jpg"),
            lambda root: read_grounding(root, "val"),
            "VG_100K_2/a.jpg",
        ),
    ],
)
def test_the_folder_of_files_may_be_named_itself(tmp_path, folder, file, content, read, image):
    put(tmp_path / folder / file, content)
    touch(tmp_path / image)
    (sample,) = read(tmp_path / folder)
    assert sample["image"] == tmp_path / image


def test_karpathys_images_lie_in_images_where_that_exists(tmp_path):
    image = {"filename": "a.jpg", "filepath": "val2014", "split": "val", "sentences": [{"raw": "a cat"}]}
    put(tmp_path / "dataset_coco.json", {"images": [image]})
    touch(tmp_path / "val2014" / "a.jpg")
    (sample,) = read_karpathy(tmp_path, "val")
    assert sample["image"] == tmp_path / "val2014" / "a.jpg"
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none of its 1 samples has its images on disk"):
        read_karpathy(tmp_path, "val")
    (sample,) = read_karpathy(tmp_path, "val", image_folder=tmp_path)
    assert sample["image"] == tmp_path / "val2014" / "a.jpg"


@pytest.mark.parametrize("split", ["val", "val.2", "[v]al", "v*"])
def test_a_split_is_a_name_and_no_pattern(tmp_path, split):
    image = {"images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}], "annotations": [], "categories": []}
    put(tmp_path / split / "_annotations.coco.json", image)
    touch(tmp_path / split / "a.jpg")
    assert len(read_detection(tmp_path, split).samples) == 1
    put(tmp_path / "instances_valX2.json", image)
    put(tmp_path / "valX2" / "_annotations.coco.json", image)
    assert len(read_detection(tmp_path, split).samples) == 1


def test_messages_of_files_name_what_there_is(tmp_path):
    def find():
        globs = ["*.json", "more/*.json"]
        return find_annotation_file(tmp_path, globs, r"(more/)?a_\d\.json", expected="no a_*.json", mend="keep one")

    with pytest.raises(ValueError, match=r"no a_\*\.json; there is no such file at all"):
        find()
    put(tmp_path / "b.json", {})
    with pytest.raises(ValueError, match=r"no a_\*\.json; there is b\.json"):
        find()
    put(tmp_path / "more" / "a_1.json", {})
    assert find() == tmp_path / "more" / "a_1.json"
    put(tmp_path / "a_2.json", {})
    with pytest.raises(ValueError, match=r"several files would fit \(a_2\.json, more.a_1\.json\); keep one"):
        find()


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    touch(*(tmp_path / "a" / f"{number}.jpg" for number in range(50)))
    listed = []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or iterdir(path))
    listing = FolderListing()
    finder = ImageFinder([tmp_path / "nowhere", tmp_path / "a", tmp_path / "a"], listing)
    paths = [finder.find([f"{number}.jpg"]) for number in range(51)]
    samples = [{"image": path} for path in paths]
    assert find_missing(samples, listing) == [tmp_path / "nowhere" / "50.jpg"]
    assert listed == [tmp_path / "a"]


def test_images_that_lie_together_are_not_mixed_from_several_folders(tmp_path):
    touch(tmp_path / "a" / "2.jpg", tmp_path / "b" / "1.jpg", tmp_path / "b" / "2.jpg")
    names = [["1.jpg"], ["2.jpg"]]
    finder = ImageFinder([tmp_path / "none", tmp_path / "a", tmp_path / "b"], FolderListing())
    assert finder.find_together(names) == [tmp_path / "a" / "1.jpg", tmp_path / "a" / "2.jpg"]
    assert [finder.find(each) for each in names] == [tmp_path / "b" / "1.jpg", tmp_path / "b" / "2.jpg"]
    assert finder.find_together([["3.jpg"]]) == [tmp_path / "none" / "3.jpg"] and finder.find_together([]) == []


def test_images_in_memory_are_on_disk_as_it_were(tmp_path):
    touch(tmp_path / "a.jpg")
    array = np.zeros((2, 2, 3), np.uint8)
    samples = [
        {"image": array, "captions": ["a"]},
        {"image": str(tmp_path / "a.jpg"), "captions": ["a"]},
        {"image": tmp_path / "b.jpg", "captions": ["a"]},
        {"images": (array, tmp_path / "c.jpg")},
    ]
    with pytest.warns(UserWarning, match=r"of 4 samples 2 lack an image on disk \(the first: .*b\.jpg\); these are"):
        kept = keep_on_disk(samples, "samples", tmp_path / "x.json", FolderListing())
    assert kept == samples[:2]
    assert find_missing(samples) == [tmp_path / "b.jpg", tmp_path / "c.jpg"]


def test_what_a_reader_of_ones_own_is_made_of(tmp_path):
    """Lines, keys that must be there, and samples without an image on disk: public, and without more to know."""
    from fiber_data.formats import keep_on_disk, read_json_lines, require

    touch(tmp_path / "a.png")
    (tmp_path / "x.jsonl").write_text('{"image": "a.png"}\n\n{"image": "b.png"}\n')
    rows = list(read_json_lines(tmp_path / "x.jsonl"))
    samples = [{"image": tmp_path / require(row, "image", where)} for where, row in rows]
    with pytest.warns(UserWarning, match="of 2 hypotheses 1 lack an image on disk"):
        assert keep_on_disk(samples, "hypotheses", tmp_path / "x.jsonl") == samples[:1]
    with pytest.raises(KeyError, match="line 3: no key 'id', only 'image'"):
        require(rows[1][1], "id", rows[1][0])
