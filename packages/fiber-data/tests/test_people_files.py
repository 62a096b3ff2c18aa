"""Files as people have them: optional fields, ids of any kind, encodings, names of Windows and macOS."""

import json
import sys
import unicodedata

import pytest
from fiber_data import (
    SplitNotFoundError,
    read_caption_folder,
    read_captions,
    read_coco_captions,
    read_detection,
    read_grounding,
    read_karpathy,
    read_nlvr2,
    read_vqav2,
)
from fiber_data.formats import hold_out
from PIL import Image

CATEGORIES = [{"id": 1, "name": "person"}]


def put(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    return path


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def image(number=1, name="a.jpg", **more):
    return {"id": number, "file_name": name, "width": 40, "height": 30, "caption": "a cat", **more}


def box(corners=(1, 2, 10, 20), number=1, **more):
    return {"image_id": number, "category_id": 1, "bbox": corners, "tokens_positive": [[0, 1]], **more}


def boxes(*annotations, images=None, categories=CATEGORIES):
    return {"images": [image()] if images is None else images, "annotations": annotations, "categories": categories}


def read_boxes(tmp_path, content, read=read_detection):
    touch(tmp_path / "a.jpg")
    return read(tmp_path, "val", annotation_file=put(tmp_path / "x_val.json", content))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"area": None, "iscrowd": None, "id": 1},
        {"iscrowd": False, "area": 200},
        {"iscrowd": 0.0, "image_id": 1.0, "category_id": 1.0},
    ],
)
def test_optional_fields_are_optional(tmp_path, more):
    (sample,) = read_boxes(tmp_path, boxes(box(**more), box(**more))).samples  # the id of an annotation may repeat
    assert sample["area"] == [200, 200] and sample["iscrowd"] == [False, False] and sample["labels"] == [1, 1]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (box([]), r"1 are left out, their annotation having no bbox \(the first: annotations\[0\]\)"),
        ({"image_id": 1, "category_id": 1, "segmentation": []}, "1 are left out, their annotation having no bbox"),
        (box([1e50, 1, 5, 5]), "1 are left out, being empty or wholly outside"),
        (box([10**400, 1, 5, 5]), "1 are left out, not being finite"),
        (box([1, 1, float("nan"), 5]), "1 are left out, not being finite"),
        (box([1, 1, -3, 5]), "1 are left out, being of negative size"),
    ],
)
@pytest.mark.parametrize("read", [read_detection, read_grounding])
def test_what_is_no_box_is_left_out_counted_and_kept(tmp_path, annotation, message, read):
    with pytest.warns(UserWarning, match=message):
        data = read_boxes(tmp_path, boxes(annotation, box()), read)
    (fault,) = data.faults
    assert fault.count == 1 and not fault.refused and fault.first == "annotations[0]"
    (sample,) = data.samples if read is read_detection else data
    assert sample["boxes"] == [(1, 2, 11, 22)]


@pytest.mark.parametrize("area", ["big", float("nan"), -5, 1e50, [1]])
def test_an_area_that_is_none_is_that_of_the_box(tmp_path, area):
    with pytest.warns(UserWarning, match="1 take their own area"):
        (sample,) = read_boxes(tmp_path, boxes(box(area=area))).samples
    assert sample["area"] == [200]


@pytest.mark.parametrize("bad", [None, True, [1], {}, 1.5, float("nan"), "", 2**70])
def test_what_is_no_id_is_refused_by_every_reader(tmp_path, bad):
    def reads(read, content, name="x_val.json"):
        with pytest.raises(
            ValueError, match=rf"{name}: \w+\W1?0?\]?.*expected .*id.* as a whole number or text, found"
        ):
            read(tmp_path, "val", **{"annotation_file": put(tmp_path / name, content)})

    reads(read_detection, boxes(images=[image(bad)]))
    reads(read_detection, boxes(box(number=bad)))
    reads(read_grounding, boxes(images=[image(bad)]))
    reads(read_coco_captions, boxes(images=[image(bad)]))
    reads(read_coco_captions, {"images": [image()], "annotations": [{"image_id": bad, "caption": "a"}]})
    question = {"question_id": 1, "image_id": bad, "question": "what?"}
    with pytest.raises(ValueError, match=r"questions\[0\]: expected image_id as a whole number or text"):
        read_vqav2(tmp_path, "val", questions_file=put(tmp_path / "q.json", {"questions": [question]}))
    if bad is not None:  # optional in these
        sentences = [{"raw": "a cat"}]
        reads(read_karpathy, {"images": [{"filename": "a.jpg", "split": "val", "cocoid": bad, "sentences": sentences}]})
        reads(read_caption_folder, {"image": "a.jpg", "caption": "a", "id": bad, "split": "val"})


@pytest.mark.filterwarnings("error")
def test_ids_may_be_text_and_floats_are_whole_numbers(tmp_path):
    content = boxes(box(number=397133.0), images=[image(397133.0), image("x", "a.jpg")])
    data = read_boxes(tmp_path, content)
    assert [sample["id"] for sample in data.samples] == [397133, "x"] and isinstance(data.samples[0]["id"], int)
    assert len(data.samples[0]["boxes"]) == 1


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_coco_captions, boxes(images=[image(), image(1, "b.jpg")])),
        (
            read_karpathy,
            {
                "images": [
                    {"filename": name, "split": "val", "cocoid": 7, "sentences": [{"raw": name}]}
                    for name in ("a.jpg", "b.jpg")
                ]
            },
        ),
        (
            read_caption_folder,
            "\n".join(
                json.dumps({"image": name, "caption": "a", "id": 7, "split": "val"}) for name in ("a.jpg", "b.jpg")
            ),
        ),
    ],
)
def test_two_images_of_one_id_are_refused(tmp_path, read, content):
    with pytest.raises(ValueError, match=r"x_val\.json: .*(images\[1\]|line 2): .*id [17] occurs more than once"):
        read(tmp_path, "val", annotation_file=put(tmp_path / "x_val.json", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": 5, "annotations": [], "categories": []}, "expected 'images' as a list, found int"),
        ("[" * 100_000, r"not valid JSON \(nested too deeply\)"),
        (boxes(images=[]), "it holds no images"),
        (boxes(images=[image(width=float("inf"))]), "expected height and width as positive whole numbers"),
        (boxes(images=[image(width="40")]), "expected height and width as positive whole numbers"),
        (boxes(images=[image(name=5)]), "file_name as text"),
    ],
)
@pytest.mark.parametrize("read", [read_detection, read_grounding])
def test_a_file_out_of_format_is_one_sentence(tmp_path, content, message, read):
    with pytest.raises(ValueError, match=rf"x_val\.json: .*{message}") as caught:
        read(tmp_path, "val", annotation_file=put(tmp_path / "x_val.json", content))
    assert len(str(caught.value)) < 400


def test_a_crowd_is_yes_or_no(tmp_path):
    with pytest.raises(ValueError, match=r"annotations\[0\]: expected iscrowd as 0 or 1, found 'no'"):
        read_boxes(tmp_path, boxes(box(iscrowd="no")))


@pytest.mark.filterwarnings("error")
def test_a_byte_order_mark_is_read(tmp_path):
    touch(tmp_path / "a.jpg")
    file = put(tmp_path / "x_val.json", boxes(box()), "utf-8-sig")
    assert len(read_detection(tmp_path, "val", annotation_file=file).samples) == 1
    put(tmp_path / "captions.jsonl", {"image": "a.jpg", "caption": "café", "split": "val"}, "utf-8-sig")
    assert read_captions(tmp_path, "val")[0]["captions"] == ["café"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_another_encoding_is_refused_with_the_files_name(tmp_path, encoding):
    put(tmp_path / "captions.jsonl", '{"image": "a.jpg", "caption": "a"}\n{"image": "b", "caption": "café"}', encoding)
    line = 2 if encoding == "cp1252" else 1
    with pytest.raises(ValueError, match=rf"captions\.jsonl: line {line}: expected text in UTF-8, found byte 0x"):
        read_captions(tmp_path, "train")


def test_half_a_character_does_not_reach_the_tokenizer(tmp_path):
    touch(tmp_path / "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "a \\ud83d cat", "split": "val"}')
    assert read_captions(tmp_path, "val")[0]["captions"] == ["a ? cat"]


NFC, NFD = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("written", "disk"),
    [
        ("sub\\a.jpg", "sub/a.jpg"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        (NFC, NFD),
        (NFD, NFC),
        ("a.JPG", "a.jpg"),
        ("a.jpg", "A.JPG"),
        ("sub/a.jpg", "Sub/a.jpg"),
        ("a.jpg", "a.png"),
    ],
)
def test_names_of_other_systems_are_found_on_disk(tmp_path, written, disk):
    path = tmp_path / "images" / disk
    touch(path, tmp_path / "images" / "other.jpg")
    file = put(tmp_path / "x_val.json", boxes(box(), images=[image(name=written)]))
    (sample,) = read_detection(tmp_path, "val", annotation_file=file).samples
    (grounded,) = read_grounding(tmp_path, "val", annotation_file=file)
    captions = {"images": [image(name=written)], "annotations": [{"image_id": 1, "caption": "a"}]}
    (coco,) = read_coco_captions(tmp_path, "val", annotation_file=put(tmp_path / "captions_val.json", captions))
    entry = {"filename": written, "split": "val", "sentences": [{"raw": "a"}]}
    (karpathy,) = read_karpathy(tmp_path, "val", annotation_file=put(tmp_path / "d.json", {"images": [entry]}))
    put(tmp_path / "captions.jsonl", {"image": written, "caption": "a", "split": "val"})
    (line,) = read_caption_folder(tmp_path, "val")
    assert {each["image"] for each in (sample, grounded, coco, karpathy, line)} == {path}


def test_of_several_names_that_are_alike_none_is_meant(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "a.webp")
    with pytest.raises(FileNotFoundError, match="none of its 1 images"):
        read_detection(tmp_path, "val", annotation_file=put(tmp_path / "x_val.json", boxes()))


@pytest.mark.filterwarnings("error")
def test_questions_and_sentences_are_about_images_of_any_suffix(tmp_path):
    touch(tmp_path / "val2014" / "COCO_val2014_000000000042.png", tmp_path / "dev" / "dev-1-0-img0.jpg")
    touch(tmp_path / "dev" / "dev-1-0-img1.JPG")
    asked = {"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 42, "question": "what?"}]}
    put(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", asked)
    assert read_vqav2(tmp_path, "val")[0]["image"].name == "COCO_val2014_000000000042.png"
    put(tmp_path / "dev.json", {"identifier": "dev-1-0-0", "sentence": "a cat.", "label": "True"})
    assert [path.name for path in read_nlvr2(tmp_path, "dev")[0]["images"]] == ["dev-1-0-img0.jpg", "dev-1-0-img1.JPG"]


@pytest.mark.parametrize(("supercategory", "names"), [("none", ["fish", "crab"]), ("fish", ["crab"])])
def test_roboflows_category_0_stands_for_the_data_only_where_others_name_it(tmp_path, supercategory, names):
    touch(tmp_path / "valid" / "a.jpg")
    categories = [
        {"id": 0, "name": "fish", "supercategory": "none"},
        {"id": 1, "name": "crab", "supercategory": supercategory},
    ]
    put(tmp_path / "valid" / "_annotations.coco.json", boxes(categories=categories))
    assert list(read_detection(tmp_path, "valid").categories.values()) == names


def test_lvis_gets_its_lists_whole(tmp_path):
    categories = [{**CATEGORIES[0], "frequency": "r"}, {"id": 2, "name": "cat", "frequency": "f"}]
    images = [image(1, neg_category_ids=[2.0, 9], not_exhaustive_category_ids=None), image(2)]
    with pytest.warns(UserWarning, match=r"1 are left out, not being in the file \(the first: image 1\)"):
        first, second = read_boxes(tmp_path, boxes(images=images, categories=categories)).samples
    assert first["neg_category_ids"] == [2] and first["not_exhaustive_category_ids"] == []
    assert second["neg_category_ids"] == second["not_exhaustive_category_ids"] == []
    del categories[0]["frequency"]
    with pytest.raises(ValueError, match="these have none: 1; give all one, or none"):
        read_boxes(tmp_path, boxes(images=images, categories=categories))


@pytest.mark.parametrize("name", ["a" * 5000 + ".jpg", "b/" * 1500 + "b.jpg", "a\nb.jpg", "a\0.jpg"])
def test_an_image_that_no_disk_holds_is_missing_and_told_in_one_short_line(tmp_path, name):
    content = boxes(box(), images=[image(), image(2, name)])
    touch(tmp_path / "a.jpg")
    with pytest.warns(UserWarning, match="of 2 images with boxes 1 lack an image on disk") as warned:
        read_boxes(tmp_path, content)
    assert len(str(warned[0].message)) < 600 and "\n" not in str(warned[0].message)
    file = put(tmp_path / "x_val.json", boxes(images=[image(2, name)]))
    with pytest.raises(FileNotFoundError, match="none of its 1 images") as caught:
        read_detection(tmp_path, "val", annotation_file=file)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def put_lines(root, count, **more):
    touch(*(root / "images" / f"{number}.jpg" for number in range(count)))
    lines = [json.dumps({"image": f"{number}.jpg", "caption": "a cat", **more}) for number in range(count)]
    return put(root / "captions.jsonl", "\n".join(lines))


def names(samples):
    return {sample["id"] for sample in samples}


def test_without_splits_a_share_is_held_out_by_ids_alone_and_said(tmp_path):
    put_lines(tmp_path, 200)
    with pytest.warns(UserWarning, match=r"of 200 images \d+ are held out as 'val', by a rule .*no line has a split"):
        train, val = (names(read_captions(tmp_path, split)) for split in ("train", "val"))
    assert train | val == {f"{number}.jpg" for number in range(200)} and not train & val
    assert 10 < len(val) < 35 and len(read_caption_folder(tmp_path)) == 200
    put_lines(tmp_path, 100)
    with pytest.warns(UserWarning, match="held out"):
        assert names(read_captions(tmp_path, "val")) == {name for name in val if int(name[:-4]) < 100}
        assert len(read_captions(tmp_path, "val", hold_out=0.5)) > 30
    assert len(read_captions(tmp_path, "train", hold_out=0)) == 100
    with pytest.raises(SplitNotFoundError, match=r"no line of split 'tset'; the file has \['train', 'val'\]"):
        read_captions(tmp_path, "tset")


def test_a_share_keeps_what_belongs_to_an_image_together(tmp_path):
    samples = [{"image_id": number // 3, "id": number} for number in range(90)]
    held, rest = (hold_out(samples, 0.3, held=held) for held in (True, False))
    assert sorted(each["id"] for each in [*held, *rest]) == list(range(90)) and held and rest
    assert not {each["image_id"] for each in held} & {each["image_id"] for each in rest}
    assert [len(hold_out(samples[:6], 0.001, held=held)) for held in (True, False)] == [3, 3]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("place", ["images/a.jpg", "a.jpg"])
def test_hugging_faces_metadata_is_read(tmp_path, place):
    touch(tmp_path / place)
    put(tmp_path / "metadata.jsonl", {"file_name": place, "text": "a cat"})
    (sample,) = read_captions(tmp_path, "train")
    assert sample["image"] == tmp_path / place and sample["captions"] == ["a cat"]


@pytest.mark.filterwarnings("error")
def test_hugging_faces_splits_are_folders(tmp_path):
    for split in ("train", "test"):
        touch(tmp_path / split / f"{split}.jpg")
        put(tmp_path / split / "metadata.jsonl", {"file_name": f"{split}.jpg", "text": "a cat"})
    assert read_captions(tmp_path, "test")[0]["image"] == tmp_path / "test" / "test.jpg"
    with pytest.raises(SplitNotFoundError, match=r"no captions of split 'val'.*metadata\.jsonl"):
        read_captions(tmp_path, "val")


def check(root, *words, capsys):
    from fiber_data.cli import main

    status = main(["check", str(root), *words])
    return status, capsys.readouterr().out


def test_check_lists_all_faults_of_all_files_at_once(tmp_path, capsys):
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg")
    good = boxes(box([]), box(), box([9, 9, -1, 1]))
    put(tmp_path / "annotations" / "instances_val2017.json", good)
    status, out = check(tmp_path, capsys=capsys)
    assert status == 0 and "files that a run refuses: 0; faults that it mends or leaves out: 2" in out
    bad = boxes(box(number=7), box(number=8), box([1, 2]), box([]), images=[image(), image(None), image(1, "b.jpg")])
    put(tmp_path / "annotations" / "instances_train2017.json", bad)
    put(tmp_path / "captions.jsonl", '{"image": "a.jpg", "caption": "caf\xe9"}', "cp1252")
    put(tmp_path / "dataset_x.json", "[" * sys.getrecursionlimit() * 100)
    put(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": []})
    status, out = check(tmp_path, capsys=capsys)
    assert status == 1 and "files that a run refuses: 4; " in out
    for line in (
        "instances_train2017.json: detection, split 'train', 1 samples",
        "refused  of entries 2 are refused: image_id 7 is not among the file's 1 images (the first: annotations[0])",
        "refused  of entries 1 are refused: expected bbox as four numbers [x, y, width, height], found [1, 2]",
        "refused  of entries 1 are refused: expected image id as a whole number or text, found None (the first: images",
        "refused  of entries 1 are refused: image id 1 occurs more than once; keep one of each (the first: images[2])",
        "noted    of the boxes 1 are left out, their annotation having no bbox (the first: annotations[3])",
        "refused  of entries 1 are refused: expected text in UTF-8, found byte 0xe9",
        "refused  not valid JSON (nested too deeply)",
        "refused  it holds no question",
    ):
        assert line in out


def test_check_opens_images_only_if_asked(tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    Image.new("RGB", (41, 30)).save(tmp_path / "b.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 40)).save(tmp_path / "c.jpg", exif=turned)
    touch(tmp_path / "d.jpg")
    images = [image(number, f"{name}.jpg") for number, name in enumerate("abcde")]
    put(tmp_path / "instances_val.json", boxes(box(), images=images))
    status, out = check(tmp_path, capsys=capsys)
    assert status == 0 and "cannot be read" not in out
    assert f"of 5 images with boxes 1 lack an image on disk (the first: {tmp_path / 'e.jpg'})" in out.replace(
        f"{tmp_path / 'images' / 'val'}", str(tmp_path)
    )
    status, out = check(tmp_path, "--images", capsys=capsys)
    assert status == 0
    assert "of the images 1 cannot be read, and are left out" in out and "d.jpg" in out
    size = "b.jpg: 30 x 41 pixels (height x width), annotated as 30 x 40"
    assert "of the images 1 are of another size than their annotation says" in out and size in out


def test_check_decodes_images_if_asked(tmp_path, capsys):
    Image.effect_noise((40, 30), 50).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    put(tmp_path / "instances_val.json", boxes(box(), images=[image(1, "a.jpg"), image(2, "b.jpg")]))
    assert "cannot be read" not in check(tmp_path, "--images", capsys=capsys)[1], "its head is whole"
    status, out = check(tmp_path, "--decode", capsys=capsys)
    assert status == 0 and "of the images 1 cannot be read, and are left out" in out and "b.jpg" in out


def test_check_of_a_folder_without_annotations_says_so(tmp_path, capsys):
    from fiber_data.cli import main

    assert main(["check", str(tmp_path)]) == 1
    assert (
        "no annotation file of a format that is known (arrow, caption_folder, coco_captions" in capsys.readouterr().err
    )
