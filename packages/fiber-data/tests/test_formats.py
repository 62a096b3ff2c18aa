"""Each format gives the same samples, its layout is recognized, and what is wrong in a file is said."""

import json

import pytest
from fiber_data import (
    SplitNotFoundError,
    find_missing,
    read_caption_folder,
    read_captions,
    read_coco_captions,
    read_karpathy,
)
from PIL import Image

COCO = {
    "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
    "annotations": [
        {"image_id": 3, "caption": "a  cat\n on a mat "},
        {"image_id": 7, "caption": "a dog"},
        {"image_id": 3, "caption": "the cat"},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "filepath": "val2014", "cocoid": 3, "split": "restval", "sentences": [{"raw": "a cat"}]},
        {"filename": "b.jpg", "filepath": "train2014", "cocoid": 7, "split": "train", "sentences": [{"raw": "a dog"}]},
        {"filename": "c.jpg", "imgid": 9, "split": "test", "sentences": [{"raw": "a bird\n"}, {"raw": "it flies"}]},
        {"filename": "d.jpg", "split": "val", "sentences": [{"raw": "a fish"}]},
    ]
}


def put_images(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def put_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def put_lines(root, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (root / "captions.jsonl").write_text(text, encoding="utf-8")
    return root


def test_coco_captions_are_joined_to_their_images_and_cleaned(tmp_path):
    put_images(tmp_path / "a.jpg", tmp_path / "b.jpg")
    file = put_json(tmp_path / "captions.json", COCO)
    assert read_coco_captions(tmp_path, "val", annotation_file=file, image_folder=tmp_path) == [
        {"image": tmp_path / "b.jpg", "captions": ["a dog"], "id": 7, "split": "val"},
        {"image": tmp_path / "a.jpg", "captions": ["a cat on a mat", "the cat"], "id": 3, "split": "val"},
    ]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"annotations": []}, KeyError, r"captions\.json: no key 'images', only 'annotations'"),
        ({"images": [{"id": 1}], "annotations": []}, KeyError, r"images\[0\]: no key 'file_name', only 'id'"),
        ({"images": [{"file_name": "a"}], "annotations": []}, KeyError, r"images\[0\]: no key 'id'"),
        ({"images": []}, KeyError, "no key 'annotations'"),
        ({"images": [], "annotations": [{}]}, KeyError, r"annotations\[0\]: no key 'image_id', only an empty object"),
        (
            {**COCO, "annotations": [{"image_id": 8, "caption": "x"}]},
            ValueError,
            r"annotations\[0\]: image_id 8 is not among the file's 2 images",
        ),
        ({**COCO, "annotations": [{"image_id": 3}]}, KeyError, r"annotations\[0\]: no key 'caption'"),
        (
            {**COCO, "annotations": [{"image_id": 3, "caption": None}]},
            ValueError,
            "expected a caption as text, found NoneType",
        ),
        ([1], ValueError, r"captions\.json: expected an object with 'images', found list"),
    ],
)
def test_a_coco_file_out_of_format_names_the_place(tmp_path, content, error, message):
    with pytest.raises(error, match=message):
        read_coco_captions(tmp_path, "val", annotation_file=put_json(tmp_path / "captions.json", content))


def test_a_file_that_is_absent_or_cut_off_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: no such annotation file"):
        read_coco_captions(tmp_path, "val", annotation_file=tmp_path / "nowhere.json")
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"cut\.json: not valid JSON .*is the download complete"):
        read_coco_captions(tmp_path, "val", annotation_file=tmp_path / "cut.json")


def test_karpathy_train_takes_in_restval_and_ids_fall_back(tmp_path):
    put_json(tmp_path / "dataset_coco.json", KARPATHY)
    train = read_karpathy(tmp_path, "train", check_images=False)
    assert [(sample["image"].relative_to(tmp_path).as_posix(), sample["id"]) for sample in train] == [
        ("val2014/a.jpg", 3),
        ("train2014/b.jpg", 7),
    ]
    assert {sample["split"] for sample in train} == {"train"}
    (test,) = read_karpathy(tmp_path, "test", check_images=False)
    assert test == {"image": tmp_path / "c.jpg", "captions": ["a bird", "it flies"], "id": 9, "split": "test"}
    (val,) = read_karpathy(tmp_path, "val", check_images=False)
    assert val["id"] == "d.jpg"


def test_karpathy_errors(tmp_path):
    file = put_json(tmp_path / "dataset.json", {"images": KARPATHY["images"][:1]})
    with pytest.raises(ValueError, match="one of train, val, test, not 'restval'"):
        read_karpathy(tmp_path, "restval", annotation_file=file)
    with pytest.raises(
        SplitNotFoundError, match=r"dataset\.json: no image of split 'test'; the file has \['restval'\]"
    ):
        read_karpathy(tmp_path, "test", annotation_file=file)
    file = put_json(tmp_path / "dataset.json", {"images": [{"split": "val", "filename": "a", "sentences": [{}]}]})
    with pytest.raises(KeyError, match=r"images\[0\]\.sentences\[0\]: no key 'raw'"):
        read_karpathy(tmp_path, "val", annotation_file=file)


def test_a_caption_folder_joins_lines_and_knows_both_namings(tmp_path):
    put_images(tmp_path / "images" / "a.jpg", tmp_path / "images" / "deep" / "b.jpg")
    put_lines(
        tmp_path,
        {"image": "a.jpg", "caption": "a cat"},
        "",
        {"file_name": "deep/b.jpg", "text": "a dog", "id": 5, "split": "val"},
        {"image": "a.jpg", "captions": ["the  cat", ""]},
    )
    cat = {"image": tmp_path / "images" / "a.jpg", "captions": ["a cat", "the cat"], "id": "a.jpg", "split": "train"}
    dog = {"image": tmp_path / "images" / "deep" / "b.jpg", "captions": ["a dog"], "id": 5, "split": "val"}
    assert read_caption_folder(tmp_path) == [cat, dog]
    assert read_caption_folder(tmp_path, "train") == [cat]
    assert read_caption_folder(tmp_path, "val") == [dog]


def test_a_caption_folder_without_images_folder_holds_the_images_itself(tmp_path):
    put_images(tmp_path / "a.jpg")
    (sample,) = read_caption_folder(put_lines(tmp_path, {"image": "a.jpg", "caption": "a cat"}))
    assert sample["image"] == tmp_path / "a.jpg"


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ({"caption": "x"}, KeyError, "line 2: expected one of the keys 'image', 'file_name', found 'caption'"),
        ({"image": "a"}, KeyError, "line 2: expected one of the keys 'captions', 'caption', 'text', found 'image'"),
        ({"image": "a", "caption": 3}, ValueError, "line 2: expected a caption as text, found int"),
        ({"image": "a", "captions": [3]}, ValueError, "line 2: expected a caption as text, found int"),
        ({"image": 3, "caption": "x"}, ValueError, "line 2: expected the image's name as text, found int"),
        ("{", ValueError, "line 2: not valid JSON"),
        ("[1]", ValueError, "line 2: expected an object, found list"),
    ],
)
def test_a_line_out_of_format_is_named(tmp_path, line, error, message):
    put_lines(tmp_path, {"image": "a.jpg", "caption": "a cat"}, line)
    with pytest.raises(error, match=rf"captions\.jsonl: {message}"):
        read_caption_folder(tmp_path)


def test_a_caption_folder_without_file_or_split(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"captions\.jsonl: no such file; .* holds images/ and captions\.jsonl"):
        read_caption_folder(tmp_path)
    put_lines(tmp_path, {"image": "a.jpg", "caption": "a cat"})
    with pytest.raises(SplitNotFoundError, match=r"no line of split 'val'; the file has \['train'\]"):
        read_caption_folder(tmp_path, "val")
    put_lines(tmp_path)
    with pytest.raises(SplitNotFoundError, match="the file has no lines"):
        read_caption_folder(tmp_path, "val")


def test_images_that_are_missing_or_bare_are_left_out_with_one_warning(tmp_path):
    put_images(tmp_path / "a.jpg", tmp_path / "c.jpg")
    content = {**COCO, "images": [*COCO["images"], {"id": 4, "file_name": "c.jpg"}]}
    file = put_json(tmp_path / "captions.json", content)
    with pytest.warns(UserWarning) as warned:
        samples = read_coco_captions(tmp_path, "val", annotation_file=file)
    assert [sample["id"] for sample in samples] == [3]
    (message,) = (str(warning.message) for warning in warned)
    assert (
        f"{file}: of 3 samples 1 lack an image on disk (the first: {tmp_path / 'b.jpg'}) and 1 have no caption"
        in message
    )
    unchecked = read_coco_captions(tmp_path, "val", annotation_file=file, check_images=False)
    assert [sample["id"] for sample in unchecked] == [7, 3, 4]
    assert find_missing(unchecked) == [tmp_path / "b.jpg"]


def test_a_wrong_image_root_is_an_error(tmp_path):
    file = put_json(tmp_path / "captions.json", COCO)
    with pytest.raises(
        FileNotFoundError, match=r"none of its 2 samples has its images on disk; .*elsewhere.b\.jpg: check the image"
    ):
        read_coco_captions(tmp_path, "val", annotation_file=file, image_folder=tmp_path / "elsewhere")


@pytest.mark.parametrize("year", ["", "2017"])
@pytest.mark.parametrize("place", ["images/val{year}", "val{year}", "images/val", "val", "images", "."])
def test_coco_layouts_are_found(tmp_path, year, place):
    folder = tmp_path / place.format(year=year)
    put_images(folder / "a.jpg", folder / "b.jpg")
    put_json(tmp_path / "annotations" / f"captions_val{year}.json", COCO)
    put_json(tmp_path / "annotations" / "captions_val_small.json", {})  # another file's name that begins alike
    samples = read_captions(tmp_path, "val")
    assert [sample["image"] for sample in samples] == [folder / "b.jpg", folder / "a.jpg"]
    assert {sample["split"] for sample in samples} == {"val"}


@pytest.mark.parametrize("where", [".", "annotations"])
@pytest.mark.parametrize("images", [".", "images"])
def test_karpathy_layouts_are_found(tmp_path, where, images):
    put_json(tmp_path / where / "dataset_flickr30k.json", KARPATHY)
    put_images(tmp_path / images / "c.jpg")
    (sample,) = read_captions(tmp_path, "test")
    assert sample["image"] == tmp_path / images / "c.jpg"


def test_a_caption_folder_is_found(tmp_path):
    put_images(tmp_path / "images" / "a.jpg")
    put_lines(tmp_path, {"image": "a.jpg", "caption": "a cat"})
    (sample,) = read_captions(tmp_path, "train")
    assert sample["captions"] == ["a cat"]


def test_folders_that_are_unclear_or_hold_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_captions(tmp_path / "nowhere", "train")
    with pytest.raises(SplitNotFoundError, match=r"no captions of split 'train'; expected .*captions_train\*\.json"):
        read_captions(tmp_path, "train")
    for year in (2014, 2017):
        put_json(tmp_path / "annotations" / f"captions_train{year}.json", COCO)
    with pytest.raises(ValueError, match=r"several files would fit \(.*train2014\.json, .*train2017\.json\); keep one"):
        read_captions(tmp_path, "train")


def test_captions_that_are_empty_are_left_out_and_counted_by_every_reader(tmp_path):
    put_images(tmp_path / "a.jpg")
    texts = ["a cat", " ", ""]
    captions = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "caption": text} for text in texts],
    }
    entry = {"filename": "a.jpg", "split": "val", "sentences": [{"raw": text} for text in texts]}
    for read, content, place in (
        (read_coco_captions, captions, r"annotations\[1\]"),
        (read_karpathy, {"images": [entry]}, r"images\[0\]\.sentences\[1\]"),
        (read_caption_folder, {"image": "a.jpg", "captions": texts, "split": "val"}, "line 1"),
    ):
        message = rf"of the captions 2 are left out, being empty \(the first: {place}\)"
        with pytest.warns(UserWarning, match=message):
            (sample,) = read(tmp_path, "val", annotation_file=put_json(tmp_path / "x_val.json", content))
        assert sample["captions"] == ["a cat"]
