"""Images and texts inside of Arrow and parquet files: the original's, Hugging Face's, an object in memory."""

from __future__ import annotations

import io
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fiber_data import load_image, soft_scores
from fiber_data.check import check_folder_of
from fiber_data.formats import SplitNotFoundError
from fiber_data.formats.arrow import read_arrow
from fiber_data.formats.huggingface import read_huggingface, samples_of
from fiber_data.formats.tables import StoredImage, TableImage
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:.*(lack an image|are held out|are refused|being empty)")


def photo(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def value_of(image: Any) -> int:
    return int(load_image(pickle.loads(pickle.dumps(image)))[0, 0, 0])


def write(path: Path, columns: dict[str, Any], compression: str | None = None, rows: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.RecordBatchFileWriter(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)


def captions(first: int, count: int, split: str = "train") -> dict[str, Any]:
    return {
        "image": [photo(number) for number in range(first, first + count)],
        "caption": [[f"photo {number}", "a photo"] for number in range(first, first + count)],
        "image_id": [f"{number}.jpg" for number in range(first, first + count)],
        "split": [split] * count,
    }


@pytest.mark.parametrize(("compression", "kind"), [(None, StoredImage), ("lz4", TableImage)])
def test_captions_of_the_original_are_read_from_their_place(
    compression: str | None, kind: type, tmp_path: Path
) -> None:
    write(tmp_path / "coco_caption_karpathy_train.arrow", captions(0, 5), compression, rows=2)
    write(tmp_path / "coco_caption_karpathy_restval.arrow", captions(5, 2, "restval"), compression)
    write(tmp_path / "coco_caption_karpathy_val.arrow", captions(7, 2, "val"), compression)
    train = read_arrow(tmp_path, "train")
    assert [sample["id"] for sample in train] == [f"{n}.jpg" for n in (5, 6, 0, 1, 2, 3, 4)]
    assert train[0]["captions"] == ["photo 5", "a photo"] and isinstance(train[0]["image"], kind)
    assert [value_of(sample["image"]) for sample in train] == [5, 6, 0, 1, 2, 3, 4]
    assert [sample["id"] for sample in read_arrow(tmp_path, "val")] == ["7.jpg", "8.jpg"]


def test_several_data_sets_and_those_without_splits(tmp_path: Path) -> None:
    for part in range(2):
        content = captions(10 * part, 10)
        write(tmp_path / f"sbu_{part}.arrow", {key: content[key] for key in ("image", "caption")})
    write(tmp_path / "vg.arrow", {**captions(0, 3), "width": [[1, 2]] * 3})
    with pytest.raises(ValueError, match=r"several data sets would fit \(sbu, vg\); say which with name"):
        read_arrow(tmp_path, "train")
    train, held = (read_arrow(tmp_path, split, name="sbu") for split in ("train", "val"))
    assert len(train) + len(held) == 20 and held and train[0]["id"].startswith("sbu_0-")
    assert len(read_arrow(tmp_path, "train", name="vg", hold_out=0)) == 3
    with pytest.raises(SplitNotFoundError, match="no Arrow files of split 'train'; there are none with images"):
        read_arrow(tmp_path, "train", name="coco")
    assert [checked.num_samples for checked in check_folder_of(tmp_path)] == [20, 3]


def test_questions_have_answers_that_score_as_the_file_says(tmp_path: Path) -> None:
    scores = [[1.0, 0.3], [0.9, 0.6, 0.3], [0.3]]
    answers = [["yes", "no"], ["a", "b", "c"], ["two"]]
    columns = {
        "image": [photo(3), photo(4)],
        "questions": [["is it?", "what is it?"], ["how many?"]],
        "answers": [answers[:2], answers[2:]],
        "answer_labels": [[[0, 1], [2, 3, 4]], [[5]]],
        "answer_scores": [scores[:2], scores[2:]],
        "image_id": [42, 43],
        "question_id": [[420, 421], [430]],
        "split": ["train"] * 2,
    }
    write(tmp_path / "vqav2_trainable_val.arrow", columns)
    samples = read_arrow(tmp_path, "trainable_val")
    assert [(sample["id"], sample["image_id"]) for sample in samples] == [(420, 42), (421, 42), (430, 43)]
    for sample, names, own in zip(samples, answers, scores, strict=True):
        found = soft_scores(sample["answers"], normalize=False)
        assert len(sample["answers"]) == 10 and [found[name] for name in names] == own
        assert sample["multiple_choice_answer"] == names[0]
    assert Counter(samples[0]["answers"]) == {"yes": 9, "no": 1} and samples[0]["answer_type"] == "yes/no"
    write(
        tmp_path / "vqav2_test.arrow",
        {**columns, "answers": [[], []], "answer_labels": [[], []], "answer_scores": [[], []]},
    )
    assert all("answers" not in sample for sample in read_arrow(tmp_path, "test"))


def test_pairs_are_statements(tmp_path: Path) -> None:
    columns = {
        "image_0": [photo(1)],
        "image_1": [photo(2)],
        "questions": [["one is red", "both are"]],
        "answers": [["True", "False"]],
        "identifier": ["dev-850-0"],
    }
    write(tmp_path / "nlvr2_dev.arrow", columns)
    first, second = read_arrow(tmp_path, "dev")
    assert (first["id"], first["label"], second["id"], second["label"]) == ("dev-850-0-0", True, "dev-850-0-1", False)
    assert [value_of(image) for image in first["images"]] == [1, 2]


def test_faults_of_tables_are_counted_and_named(tmp_path: Path) -> None:
    content = captions(0, 4)
    content["caption"][1] = ["  "]
    content["image"][2] = None
    content["image_id"][3] = "0.jpg"
    path = tmp_path / "f30k_caption_karpathy_train.arrow"
    write(path, content)
    found = read_arrow(tmp_path, "train", bad_entries="count")
    assert [sample["id"] for sample in found] == ["0.jpg"]
    assert [(fault.count, fault.first) for fault in found.faults if fault.refused] == [(1, "row[3]")]
    assert any(fault.count == 2 and "lack an image or a caption" in fault.what for fault in found.faults)
    with pytest.raises(ValueError, match=r"train.arrow: row\[3\]: image_id '0.jpg' occurs|row\[3\]: id '0.jpg' occurs"):
        read_arrow(tmp_path, "train")
    whole = path.read_bytes()
    image = found[0]["image"]
    path.write_bytes(whole[: image.offset + 4])
    with pytest.raises(SplitNotFoundError, match="no Arrow files"):
        read_arrow(tmp_path, "train")
    with pytest.raises(ValueError, match=r"ends inside of image, row 0 of group 0; copy it again"):
        load_image(image)


@pytest.fixture
def dataset() -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "id": datasets.Value("int64")}
    )
    rows = [{"image": {"bytes": photo(n), "path": None}, "text": f"photo  {n}", "id": 100 + n} for n in range(12)]
    return datasets.Dataset.from_list(rows, features=features)


def test_a_saved_data_set_of_hugging_face(dataset: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": dataset.select(range(9)), "validation": dataset.select(range(9, 12))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "both")
    train, held = (read_huggingface(tmp_path / "both", split) for split in ("train", "val"))
    assert [sample["id"] for sample in held] == [109, 110, 111] and len(train) == 9
    assert [value_of(sample["image"]) for sample in held] == [9, 10, 11] and held[0]["captions"] == ["photo 9"]
    assert isinstance(held[0]["image"], StoredImage)
    dataset.save_to_disk(tmp_path / "one", num_shards=3)
    assert len(read_huggingface(tmp_path / "one", "train")) + len(read_huggingface(tmp_path / "one", "val")) == 12
    assert [(checked.file.split, checked.num_samples) for checked in check_folder_of(tmp_path / "both")] == [
        ("train", 9),
        ("validation", 3),
    ]


def test_parquet_as_the_hub_has_it(dataset: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    dataset.select(range(8)).to_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", batch_size=3)
    dataset.select(range(8, 10)).to_parquet(tmp_path / "data" / "train-00001-of-00002.parquet")
    dataset.select(range(10, 12)).to_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet")
    train = read_huggingface(tmp_path, "train")
    assert [value_of(sample["image"]) for sample in train] == list(range(10))
    assert [sample["id"] for sample in read_huggingface(tmp_path, "valid")] == [110, 111]
    path = tmp_path / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        ValueError, match=r"train-00001-of-00002.parquet: row\[0\]: cannot be read \(.*\); copy the file again"
    ):
        read_huggingface(tmp_path, "train")


def test_questions_and_columns_of_other_names(tmp_path: Path) -> None:
    answers = [{"answer": "red", "answer_confidence": "yes", "answer_id": 1}] * 10
    rows = {"photo": [photo(1)], "question": ["what color?"], "answers": [answers], "question_id": [7], "image_id": [3]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    (sample,) = read_huggingface(tmp_path, "train", image_column="photo")
    assert (sample["id"], sample["image_id"], sample["answers"]) == (7, 3, ["red"] * 10)
    pq.write_table(pa.table({"image": [photo(1)], "alt": ["a cat"]}), tmp_path / "train.parquet")
    assert read_huggingface(tmp_path, "train", caption_column="alt")[0]["captions"] == ["a cat"]
    with pytest.raises(KeyError, match=r"row\[0\]: expected one of the keys 'captions', 'caption'"):
        read_huggingface(tmp_path, "train")


def test_an_object_in_memory_gives_samples_as_they_are_asked_for(dataset: Any) -> None:
    samples = samples_of(dataset)
    assert len(samples) == 12 and samples[3]["captions"] == ["photo 3"] and value_of(samples[3]["image"]) == 3
    assert samples.columns["captions"][11] == ["photo 11"] and samples[3]["id"] == 103


def test_damaged_places_of_a_table_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "coco_train.arrow"
    write(path, {"image": [photo(1)] * 3, "caption": [["one"], ["two"], ["three"]]})
    content = path.read_bytes()
    ends = np.array([0, 3, 6, 11], np.int32).tobytes()  # of the texts
    assert content.count(ends) == 1
    path.write_bytes(content.replace(ends, np.array([0, 3, 2**30, 2**31 - 1], np.int32).tobytes()))
    with pytest.raises(ValueError, match=r"coco_train.arrow: row\[0\]: cannot be read .*; copy the file again"):
        read_arrow(tmp_path, "train")


def test_images_that_a_table_only_names_are_sought_beside_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(photo(7))
    write(tmp_path / "coco_train.arrow", {"image": ["0.png", "gone.png"], "caption": ["a", "b"], "image_id": [1, 2]})
    (found,) = read_arrow(tmp_path, "train")
    assert value_of(found["image"]) == 7
    pq.write_table(pa.table({"image": ["0.png", "gone.png"], "text": ["a", "b"]}), tmp_path / "train.parquet")
    (found,) = read_huggingface(tmp_path, "train")
    assert value_of(found["image"]) == 7
    pq.write_table(pa.table({"image": [[1, 2]], "text": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match=r"train.parquet: row\[0\]: expected an image, as bytes or as the name of a file"
    ):
        read_huggingface(tmp_path, "train")


def test_a_table_that_is_replaced_gives_its_own_images(tmp_path: Path) -> None:
    for number in (1, 2):
        pq.write_table(pa.table({"image": [photo(number)], "text": ["a" * number]}), tmp_path / "train.parquet")
        os.utime(tmp_path / "train.parquet", ns=(number, number))
        assert value_of(read_huggingface(tmp_path, "train")[0]["image"]) == number
