"""The plain form of every task: files as people write them, splits, boxes of one meaning, and faults."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fiber_data.check import check_folder_of
from fiber_data.formats import SplitNotFoundError, hold_out
from fiber_data.formats.caption_folder import read_caption_folder
from fiber_data.formats.held_out import HeldOutRule, held_out_ids
from fiber_data.formats.layout import read_boxes, read_captions, read_questions, read_statements
from fiber_data.formats.plain_boxes import read_plain_boxes, read_plain_expressions, read_plain_phrases
from fiber_data.formats.plain_form import read_plain_questions, read_plain_statements
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:.*(are held out as 'val'|are refused)")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (80, 60), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def write(path: Path, *records: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def test_questions_have_answers_types_and_ids(root: Path) -> None:
    write(
        root / "questions.jsonl",
        {"image": "0.png", "question": "What  color is it?", "answer": "red"},
        {"image": "0.png", "question": "How many?", "answers": ["2", "2", "3"]},
        {"image": "1.png", "question": "Is it red?", "answers": [{"answer": "yes"}] * 10, "id": 7},
        {"image": "2.png", "question": "Why?", "answer": 3},
    )
    first, second, third, fourth = read_plain_questions(root)
    assert first["question"] == "What color is it?" and first["answers"] == ["red"] * 10
    assert (first["question_type"], first["answer_type"]) == ("what color", "other")
    assert second["answers"] == ["2", "2", "3"] * 3 + ["2"] and second["answer_type"] == "number"
    assert (third["id"], third["answer_type"], third["answers"]) == (7, "yes/no", ["yes"] * 10)
    assert [first["id"], second["id"]] == ["0.png-1", "0.png-2"] and first["image_id"] == second["image_id"] == "0.png"
    assert fourth["answers"][0] == "3" and first["image"] == root / "images" / "0.png"


@pytest.mark.parametrize("blank", [{"answer": ""}, {"answer": " "}, {"answers": ["", ""]}, {}])
def test_a_question_without_an_answer_is_left_out_among_answered_ones(root: Path, blank: dict[str, Any]) -> None:
    asked = {"image": "0.png", "question": "What?"}
    test = {"image": "1.png", "question": "Why?", "split": "test"}
    write(root / "questions.jsonl", {**asked, **blank}, {**asked, "answer": "a"}, {**test, **blank})
    with pytest.warns(UserWarning, match="of the questions 1 have no answer"):
        samples = read_plain_questions(root)
    assert [sample.get("answers") for sample in samples] == [["a"] * 10, None], "a test split has no answers"
    (fault,) = samples.faults
    assert str(fault) == "1 have no answer (the first: line 1); these are left out"


def test_tables_say_the_same_as_lines(root: Path) -> None:
    write(
        root / "boxes.jsonl",
        {"image": "0.png", "boxes": [{"box": [1, 2, 11, 22], "name": "cat"}, {"bbox": [1, 2, 3, 4], "name": "dog"}]},
        {"image": "1.png", "boxes": []},
    )
    expected = read_plain_boxes(root)
    (root / "boxes.jsonl").unlink()
    table = "\ufeffimage;name;x1;y1;x2;y2;bbox\r\n0.png;cat;1;2;11;22;\r\n0.png;dog;;;;;[1, 2, 3, 4]\r\n1.png;;;;;;\r\n"
    (root / "boxes.csv").write_bytes(table.encode())
    found = read_plain_boxes(root)
    assert list(found.samples) == list(expected.samples) and found.categories == expected.categories == {
        1: "cat",
        2: "dog",
    }
    assert [sample["boxes"] for sample in found.samples] == [[(1.0, 2.0, 11.0, 22.0), (1.0, 2.0, 4.0, 6.0)], []]
    assert [sample["size"] for sample in found.samples] == [(60, 80)] * 2


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({"box": [50, 40, 10, 10]}, r"line 1.boxes\[0\]: expected box as \[x1, y1, x2, y2\], found \[50, 40, 10, 10\]"),
        ({"box": [1, 2, 3, 4], "bbox": [1, 2, 3, 4]}, "has both box and bbox; keep one"),
        ({"box": [0.1, 0.2, 0.5, 0.9]}, "expected pixels, found shares of the image"),
        ({"box": [1, 2, 3]}, r"expected four numbers, found \[1, 2, 3\]; box is \[x1, y1, x2, y2\]"),
        ({"box": "1 2 3 4"}, "expected four numbers"),
        ({}, "no key 'bbox'"),
        ([1, 2, 3, 4], "expected boxes as a list of objects"),
    ],
)
def test_boxes_that_could_be_of_either_form_are_refused(root: Path, box: Any, message: str) -> None:
    entry = {**box, "name": "cat"} if isinstance(box, dict) else box
    write(root / "boxes.jsonl", {"image": "0.png", "boxes": [entry]}, {"image": "1.png", "boxes": []})
    with pytest.raises((KeyError, ValueError), match=message):
        read_plain_boxes(root)
    counted = read_plain_boxes(root, bad_entries="count")
    assert counted.faults[0].refused and [sample["boxes"] for sample in counted.samples] == [[], []]


def test_phrases_have_spans_or_words(root: Path) -> None:
    caption = "a red cat and a dog, red as the cat"
    write(
        root / "phrases.jsonl",
        {"image": "0.png", "caption": caption, "boxes": [{"box": [0, 0, 9, 9], "span": [0, 9]}]},
        {"image": "0.png", "caption": caption, "boxes": [{"box": [5, 5, 9, 9], "phrase": "A  Dog"}]},
        {"image": "0.png", "caption": caption, "box": [1, 1, 9, 9], "phrase": "red"},
        {"image": "1.png", "caption": "nothing here", "boxes": []},
    )
    with pytest.warns(UserWarning, match=r"of the phrases 1 take the first of several places"):
        first, second = read_plain_phrases(root)
    assert first["caption"] == caption and first["spans"] == [[(0, 9)], [(14, 19)], [(2, 5)]]
    assert first["phrases"] == first["spans"] and second["boxes"] == [] and first["original_id"] == "0.png"
    write(root / "phrases.jsonl", {"image": "0.png", "caption": "a cat", "box": [0, 0, 9, 9], "phrase": "a dog"})
    with pytest.raises(ValueError, match=r"line 1: expected a phrase of the caption 'a cat', found 'a dog'"):
        read_plain_phrases(root)
    write(root / "phrases.jsonl", {"image": "0.png", "caption": "a cat", "box": [0, 0, 9, 9], "span": [0, 6]})
    with pytest.raises(ValueError, match=r"expected spans as pairs \[start, end\] within the 5 characters"):
        read_plain_phrases(root)


def test_expressions_name_their_box_by_all_words(root: Path) -> None:
    (root / "expressions.csv").write_text('image,expression,bbox\n0.png,"the cat, left","[1, 2, 3, 4]"\n')
    (sample,) = read_plain_expressions(root)
    assert sample["boxes"] == [(1.0, 2.0, 4.0, 6.0)] and sample["spans"] == [[(0, 13)]] == sample["phrases"]


def test_statements_keep_pairs_together(root: Path) -> None:
    records = [
        {"left": f"{pair}.png", "right": f"{pair + 1}.png", "sentence": f"there are {k}", "label": label}
        for pair in range(7)
        for k, label in enumerate(("True", False, 1))
    ]
    write(root / "statements.jsonl", *records)
    train, held = (read_statements(root, split) for split in ("train", "dev"))
    assert len(train) + len(held) == 21 and len(held) % 3 == 0 and held
    assert {sample["image_id"] for sample in train}.isdisjoint(sample["image_id"] for sample in held)
    assert [sample["label"] for sample in read_plain_statements(root)][:3] == [True, False, True]
    assert hold_out(read_plain_statements(root), 0.1, held=True) == [
        {**sample, "split": None} for sample in held
    ]  # the rule of the task
    write(root / "statements.jsonl", {"images": ["0.png", "1.png"], "sentence": "so", "label": "perhaps"})
    with pytest.raises(ValueError, match="expected the label true or false, 1 or 0, found 'perhaps'"):
        read_plain_statements(root)


def test_rule_of_ids_one_by_one_is_that_of_all_ids() -> None:
    for count in (0, 1, 2, 3, 10, 300):
        for share in (0.001, 0.1, 0.5, 0.999, 1.0):
            ids = [f"image {number}" for number in range(count)]
            rule = HeldOutRule(share)
            for name in [*ids, *ids]:
                rule.add(name)
            assert {name for name in ids if name in rule} == held_out_ids(ids, share)


def test_splits_are_those_of_lines_or_a_share(root: Path) -> None:
    lines = [{"image": f"{number}.png", "question": "What?", "answer": "a"} for number in range(8)]
    write(root / "questions.jsonl", *lines)
    with pytest.warns(UserWarning, match="of 8 questions 1 are held out as 'val', by a rule that depends on ids alone"):
        held = read_questions(root, "valid")
    assert len(held) == 1 and len(read_questions(root, "train")) == 7
    assert len(read_questions(root, "train", hold_out=0.0)) == 8
    with pytest.raises(SplitNotFoundError, match=r"no questions of split 'test'; the file has \['train'\]"):
        read_questions(root, "test")
    write(root / "questions.jsonl", *lines[:6], *({**line, "split": "validation"} for line in lines[6:]))
    assert len(read_questions(root, "train")) == 6 and len(read_questions(root, "val")) == 2


def test_folders_of_splits_have_files_of_their_own(root: Path) -> None:
    for split, number in (("train", 0), ("val", 1)):
        write(root / split / "boxes.jsonl", {"image": f"{number}.png", "box": [0, 0, 9, 9], "name": split})
        assert read_boxes(root, split).samples[0]["image"] == root / "images" / f"{number}.png"
    assert sorted(checked.file.split for checked in check_folder_of(root)) == ["train", "val"]


def test_faults_are_counted_and_named(root: Path) -> None:
    good = {"image": "0.png", "question": "What?", "answer": "a"}
    content = [json.dumps(good), "{", json.dumps({**good, "question": " "}), json.dumps({"image": "0.png"}), ""]
    content += [
        json.dumps({**good, "image": "missing.png"}),
        json.dumps({**good, "id": 1}),
        json.dumps({**good, "id": 1}),
    ]
    (root / "questions.jsonl").write_bytes("\r\n".join(content).encode() + b'\r\n{"image": "caf\xe9.png"}\r\n')
    samples = read_plain_questions(root, bad_entries="count")
    assert [sample["id"] for sample in samples] == ["0.png-1", 1]
    assert {(fault.first, fault.count) for fault in samples.faults if fault.refused} == {
        ("line 2", 1),
        ("line 3", 1),
        ("line 4", 1),
        ("line 8", 1),
        ("line 9", 1),
    }
    (noted,) = (fault for fault in samples.faults if not fault.refused)
    assert str(noted).startswith("1 lack an image on disk") and "missing.png" in noted.first
    with pytest.raises(ValueError, match=r"questions.jsonl: line 2: not valid JSON"):
        read_plain_questions(root)


@pytest.mark.parametrize(
    ("name", "read"),
    [("questions", read_plain_questions), ("boxes", read_plain_boxes), ("captions", read_caption_folder)],
)
def test_gzip_and_what_is_cut_off(root: Path, name: str, read: Callable[..., Any]) -> None:
    record = {"question": "What?", "caption": "a cat", "box": [0, 0, 9, 9], "name": "cat"}
    lines = "".join(json.dumps({**record, "image": f"{number % 8}.png"}) + "\n" for number in range(8))
    packed = gzip.compress(lines.encode())
    path = root / f"{name}.jsonl.gz"
    path.write_bytes(packed)
    whole = read(root)
    assert len(getattr(whole, "samples", whole)) == 8
    path.write_bytes(packed[:-20])
    with pytest.raises(ValueError, match=r"jsonl.gz: cut off or damaged"):
        read(root)


def test_tables_with_too_many_cells_or_bad_numbers(root: Path) -> None:
    (root / "captions.csv").write_text("image,caption\n0.png,a cat, black\n1.png,a dog\n")
    with pytest.raises(ValueError, match=r"captions.csv: line 2: expected 2 cells, found 3; put texts that hold"):
        read_captions(root, "train")
    (root / "captions.csv").write_text('image,caption\n0.png,"a cat,\nblack"\n1.png,"a ""dog"""\n0.png,one cat\n')
    assert [sample["captions"] for sample in read_caption_folder(root)] == [["a cat, black", "one cat"], ['a "dog"']]
    (root / "boxes.csv").write_text("image,name,x1,y1,x2,y2\n0.png,cat,1,two,3,4\n")
    with pytest.raises(ValueError, match=r"line 2: expected y1 in JSON|line 2: expected y1 as a number"):
        read_plain_boxes(root)


def test_two_files_of_one_form_are_refused(root: Path) -> None:
    write(root / "questions.jsonl", {"image": "0.png", "question": "What?"})
    (root / "questions.csv").write_text("image,question\n0.png,What?\n")
    with pytest.raises(ValueError, match=r"several files would fit \(questions.jsonl, questions.csv\); keep one"):
        read_plain_questions(root)


def test_metadata_of_hugging_face_is_what_its_keys_say(root: Path) -> None:
    objects = {"bbox": [[1, 2, 30, 40]], "categories": ["cat"]}
    write(root / "metadata.jsonl", {"file_name": "images/0.png", "objects": objects})
    assert read_boxes(root, "train", hold_out=0.0).samples[0]["boxes"] == [(1.0, 2.0, 31.0, 42.0)]
    assert [checked.format for checked in check_folder_of(root)] == ["plain_boxes"]
    (root / "metadata.jsonl").unlink()
    (root / "metadata.csv").write_text("file_name,text\nimages/0.png,a cat\n")
    assert read_captions(root, "train")[0]["captions"] == ["a cat"]


def test_missing_images_of_boxes_are_left_out_though_nothing_says_their_size(root: Path) -> None:
    boxes = [{"image": name, "box": [0, 0, 9, 9], "name": "cat"} for name in ("0.png", "gone.png")]
    write(root / "boxes.jsonl", *boxes)
    with pytest.warns(UserWarning, match="of 2 boxes 1 lack an image on disk"):
        assert [sample["id"] for sample in read_plain_boxes(root).samples] == ["0.png"]
    write(root / "boxes.jsonl", boxes[1])
    with pytest.raises(FileNotFoundError, match=r"none of its 1 boxes has its images on disk"):
        read_plain_boxes(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'image,question\n0.png,"why?\n1.png,how?\n',
            r"questions.csv: line 3: not a row of a table .*; close the quotes",
        ),
        ('image,question\n0.png,"why" not?\n', r"questions.csv: line 2: not a row of a table .*; close the quotes"),
        ("image,question,question\n0.png,a,b\n", r"line 1: expected each name of a column once, found 'question'"),
        ("image,question" + "x" * 200_000 + "\n0.png,a\n", r"questions.csv: line 1: not a row of a table"),
        ("", r"questions.csv: it holds no questions; is it the right file\?"),
    ],
)
def test_tables_that_are_none_lose_no_row_silently(root: Path, text: str, message: str) -> None:
    (root / "questions.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_plain_questions(root)


def test_rows_after_a_broken_one_are_read(root: Path) -> None:
    (root / "questions.csv").write_text('image,question\n0.png,"why" not?\n1.png,how?\n', encoding="utf-8")
    found = read_plain_questions(root, bad_entries="count")
    assert [sample["question"] for sample in found] == ["how?"] and found.faults[0].count == 1
