"""ODVG's lines and GLIP's tables: boxes and phrases as people hold them, and what is wrong with them."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from fiber_data import load_image
from fiber_data.check import check_folder_of
from fiber_data.formats import DetectionData, SplitNotFoundError
from fiber_data.formats.glip_tsv import read_glip_tsv
from fiber_data.formats.odvg import read_odvg
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:.*(lack an image|are held out|are refused|first of several)")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (80, 60), (number, 0, 0)).save(tmp_path / "images" / f"{number}.jpg")
    return tmp_path


def lines(path: Path, *records: Any) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def odvg(number: int, **content: Any) -> dict[str, Any]:
    return {"filename": f"{number}.jpg", "height": 60, "width": 80, **content}


def instance(label: int, *box: float) -> dict[str, Any]:
    return {"bbox": list(box), "label": label, "category": ("cat", "dog")[label % 2]}


def test_detection_takes_corners_and_the_names_of_the_map(root: Path) -> None:
    instances = [instance(0, 10, 20, 30, 50), instance(1, 0, 0, 80, 60)]
    lines(
        root / "coco_train_odvg.jsonl",
        odvg(0, detection={"instances": instances}),
        odvg(1, detection={"instances": []}),
    )
    (root / "coco2017_label_map.json").write_text(json.dumps({"1": "a dog", "0": "a cat"}))
    data = read_odvg(root, "train")
    assert isinstance(data, DetectionData) and data.categories == {0: "a cat", 1: "a dog"}
    first, second = data.samples
    assert first["boxes"] == [(10.0, 20.0, 30.0, 50.0), (0.0, 0.0, 80.0, 60.0)] and first["labels"] == [0, 1]
    assert first["size"] == (60, 80) and second["boxes"] == [] and first["image"] == root / "images" / "0.jpg"
    (root / "coco2017_label_map.json").unlink()
    assert read_odvg(root, "train").categories == {0: "cat", 1: "dog"}
    assert [(checked.format, checked.file.split) for checked in check_folder_of(root)] == [("odvg", "train")]


def test_grounding_has_phrases_with_and_without_their_place(root: Path) -> None:
    regions = [
        {"bbox": [1, 2, 10, 20], "phrase": "A cat"},
        {"bbox": [[1, 1, 5, 5], [5, 5, 9, 9]], "phrase": "dogs", "tokens_positive": [[10, 14]]},
    ]
    content = {"caption": "a cat and dogs", "regions": regions}
    lines(root / "grit.jsonl", odvg(0, grounding=content), odvg(0, grounding={"caption": "none", "regions": []}))
    first, second = read_odvg(root)
    assert first["spans"] == [[(0, 5)], [(10, 14)], [(10, 14)]] and len(first["boxes"]) == 3
    assert first["phrases"] == [[(0, 5)], [(10, 14)]] and second["boxes"] == [] and first["id"] != second["id"]
    assert first["original_id"] == second["original_id"] == "0.jpg"


def test_faults_of_lines(root: Path) -> None:
    good = odvg(0, detection={"instances": [instance(0, 1, 1, 9, 9)]})
    bad = [
        odvg(1, detection={"instances": [instance(7, 1, 1, 9, 9)]}),
        odvg(2, detection={"instances": [instance(0, 9, 9, 1, 1)]}),
    ]
    (root / "a_label_map.json").write_text('{"0": "cat"}')
    lines(root / "train.jsonl", good, *bad, good, odvg(9, detection={"instances": []}), {"filename": "3.jpg"})
    found = read_odvg(root, "train", bad_entries="count")
    assert [sample["id"] for sample in found.samples] == ["0.jpg"]
    assert sorted(fault.first for fault in found.faults if fault.refused) == [
        "line 2.instances[0]",
        "line 3.instances[0].boxes[0]",
        "line 4",
        "line 6",
    ]
    with pytest.raises(
        ValueError, match=r"train.jsonl: line 2.instances\[0\]: expected a label of the label map, found 7"
    ):
        read_odvg(root, "train")
    (root / "b_label_map.json").write_text("[]")
    with pytest.raises(ValueError, match=r"\(a_label_map.json, b_label_map.json\); say which with label_map"):
        read_odvg(root, "train")
    with pytest.raises(SplitNotFoundError, match=r"no ODVG lines of split .val.; there is train.jsonl"):
        read_odvg(root, "val")


def photo(value: int) -> str:
    file = io.BytesIO()
    Image.new("RGB", (80, 60), (value, 0, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def glip(root: Path, *, index: bool = True, hw: str = "60 80", ending: str = "\n", middle: str = "") -> None:
    objects = [[{"class": "dog", "rect": [1, 2, 30, 40], "conf": 1.0}], [], [{"class": "cat", "rect": [0, 0, 80, 60]}]]
    rows = [f"k{number}\t{middle}{photo(number)}{ending}" for number in range(3)]
    (root / "train.tsv").write_bytes("".join(rows).encode())
    labels = [json.dumps(each if number else {"objects": each}) for number, each in enumerate(objects)]
    (root / "train.label.tsv").write_text("".join(f"k{number}\t{label}\n" for number, label in enumerate(labels)))
    files = "img: train.tsv\nlabel: 'train.label.tsv'  # boxes\n"
    if hw:
        (root / "train.hw.tsv").write_text("".join(f"k{number}\t{hw}\n" for number in range(3)))
        files += "hw: train.hw.tsv\n"
    if index:
        starts = [sum(len(row.encode()) for row in rows[:number]) for number in range(3)]
        (root / "train.lineidx").write_text("".join(f"{start}\n" for start in starts))
    (root / "objects365_train.yaml").write_text(files)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"index": False},
        {"hw": ""},
        {"hw": '[{"height": 60, "width": 80}]'},
        {"ending": "\r\n", "index": False},
        {"middle": '{"a": 1}\t'},
    ],
)
def test_tables_of_glip_leave_images_where_they_are(options: dict[str, Any], tmp_path: Path) -> None:
    glip(tmp_path, **options)
    data = read_glip_tsv(tmp_path, "train")
    assert data.categories == {1: "cat", 2: "dog"} and [sample["id"] for sample in data.samples] == ["k0", "k1", "k2"]
    assert [sample["boxes"] for sample in data.samples] == [[(1.0, 2.0, 30.0, 40.0)], [], [(0.0, 0.0, 80.0, 60.0)]]
    assert [sample["labels"] for sample in data.samples] == [[2], [], [1]]
    images = [load_image(pickle.loads(pickle.dumps(sample["image"]))) for sample in data.samples]
    assert [int(image[0, 0, 0]) for image in images] == [0, 1, 2] and {tuple(image.shape) for image in images} == {
        (3, 60, 80)
    }
    assert len(pickle.dumps(data.samples[0]["image"])) < 400, "no bytes of the image"


def test_label_maps_and_lists_of_rows(tmp_path: Path) -> None:
    glip(tmp_path)
    (tmp_path / "map.json").write_text(json.dumps({"label_to_idx": {"cat": 9, "dog": 4, "__background__": 0}}))
    (tmp_path / "rows.tsv").write_text("0\n2\n")
    with (tmp_path / "objects365_train.yaml").open("a") as file:
        file.write("labelmap: map.json\nlinelist: rows.tsv\n")
    data = read_glip_tsv(tmp_path, "train")
    assert data.categories == {4: "dog", 9: "cat"} and [sample["labels"] for sample in data.samples] == [[4], [9]]


def test_faults_of_tables(tmp_path: Path) -> None:
    glip(tmp_path)
    label = tmp_path / "train.label.tsv"
    rows = label.read_text().splitlines()
    label.write_text("\n".join([rows[0], "other\t[]", 'k2\t[{"class": "cat", "rect": [5, 5, 1, 1]}]']))
    found = read_glip_tsv(tmp_path, "train", bad_entries="count")
    assert [sample["id"] for sample in found.samples] == ["k0"]
    assert [fault.first for fault in found.faults if fault.refused] == ["line 2", "line 3.objects[0].boxes[0]"]
    with pytest.raises(ValueError, match=r"line 2: expected the key 'k1' of train.tsv, found 'other'; they run apart"):
        read_glip_tsv(tmp_path, "train")
    label.write_text("\n".join(rows[:2]))
    with pytest.raises(ValueError, match=r"train.label.tsv: expected as many rows as .*train.tsv has, found fewer"):
        read_glip_tsv(tmp_path, "train")
    image = found.samples[0]["image"]
    (tmp_path / "train.tsv").write_bytes((tmp_path / "train.tsv").read_bytes()[: image.size // 2])
    with pytest.raises(ValueError, match=r"train.tsv ends inside of k0; copy it again"):
        load_image(image)
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"train.tsv: no such file, which objects365_train.yaml names"):
        read_glip_tsv(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.lineidx",
            "0\n5\n3\n",
            r"train.lineidx: line 3: expected where a row of train.tsv begins, found 3; delete",
        ),
        ("train.lineidx", "0\n1.5\n9\n", r"train.lineidx: line 2: expected a whole number from 0 on, found '1.5'"),
        ("train.hw.tsv", "k0\t60 80\nk2\t60 80\n", r"train.hw.tsv: expected the key 'k1' of train.tsv, found 'k2'"),
        ("train.hw.tsv", "k0\t" + "[" * 10**5, r"train.label.tsv: line 1: expected an object with 'height'"),
        ("train.label.tsv", "k0\t[]\nk1\t\xff\n", r"train.label.tsv: line 2: expected text in UTF-8, found byte 0xff"),
        ("objects365_train.yaml", f"img: {'a' * 300}\nlabel: a\n", r"no such file, which objects365_train.yaml names"),
    ],
)
def test_tables_that_run_apart_or_are_damaged_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    glip(tmp_path)
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_glip_tsv(tmp_path, "train")


def test_a_list_of_rows_that_are_not_there_is_said(tmp_path: Path) -> None:
    glip(tmp_path)
    with (tmp_path / "objects365_train.yaml").open("a") as file:
        file.write("linelist: lines.txt\n")
    (tmp_path / "lines.txt").write_text("1\n7\n")
    with pytest.warns(UserWarning, match=r"of the rows that lines.txt names 1 are none of the tables"):
        assert [sample["id"] for sample in read_glip_tsv(tmp_path, "train").samples] == ["k1"]


def test_a_caption_of_odvg_is_text(root: Path) -> None:
    lines(root / "train.jsonl", odvg(0, grounding={"caption": None, "regions": []}))
    with pytest.raises(ValueError, match=r"train.jsonl: line 1: expected a caption as text, found None"):
        read_odvg(root, "train")
