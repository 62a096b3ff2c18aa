"""SBU and Conceptual Captions as people hold them: both orders of columns, names that tools give, faults."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fiber_data.check import check_folder_of
from fiber_data.formats.web_captions import read_conceptual_captions, read_sbu
from PIL import Image

URLS = [f"https://images.example/p/photo%20{number}.jpg?size=l" for number in range(30)]
CAPTIONS = [f'a "photo" of thing {number}' for number in range(30)]
pytestmark = pytest.mark.filterwarnings("ignore:.*(lack an image|are held out|are refused)")


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, format="PNG")


def names(kind: Callable[[int], str], root: Path, present: list[int]) -> None:
    for number in present:
        photo(root / "images" / kind(number))


def table(root: Path, name: str, order: str = "caption") -> None:
    pairs = zip(CAPTIONS, URLS, strict=True) if order == "caption" else zip(URLS, CAPTIONS, strict=True)
    (root / name).write_text("".join(f"{first}\t{second}\n" for first, second in pairs), encoding="utf-8")


@pytest.mark.parametrize(
    "kind",
    [
        lambda number: f"photo {number}.jpg",
        lambda number: f"{number}.png",
        lambda number: f"{number:09}.webp",
        lambda number: f"00000/{number:09}.jpg",
        lambda number: f"{number}_{zlib.crc32(URLS[number].encode())}",
        lambda number: f"{hashlib.md5(URLS[number].encode()).hexdigest()}.jpg",
        lambda number: f"{hashlib.sha256(URLS[number].encode()).hexdigest()}.jpg",
    ],
)
@pytest.mark.parametrize("order", ["caption", "url"])
def test_images_are_found_by_what_tools_call_them(kind: Callable[[int], str], order: str, tmp_path: Path) -> None:
    table(tmp_path, "Train_GCC-training.tsv", order)
    present = [0, 3, 4, 17, 29]
    names(kind, tmp_path, present)
    samples = read_conceptual_captions(tmp_path, "train")
    assert [(sample["id"], sample["captions"]) for sample in samples] == [(n, [CAPTIONS[n]]) for n in present]
    assert [sample["image"] for sample in samples] == [tmp_path / "images" / kind(number) for number in present]
    assert samples.faults[0].count == 25


def test_rows_from_one_are_known_by_the_last_and_else_refused(tmp_path: Path) -> None:
    table(tmp_path, "cc12m.tsv", "url")
    names(lambda number: f"{number + 1}.jpg", tmp_path, [3, 4, 29])
    samples = read_conceptual_captions(tmp_path)
    assert [(sample["id"], sample["image"].name) for sample in samples] == [(3, "4.jpg"), (4, "5.jpg"), (29, "30.jpg")]
    (tmp_path / "images" / "30.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"neither the first nor the last tells whether from 0 or from 1; set first_row"
    ):
        read_conceptual_captions(tmp_path)
    assert [sample["id"] for sample in read_conceptual_captions(tmp_path, first_row=1)] == [3, 4]
    assert [sample["id"] for sample in read_conceptual_captions(tmp_path, first_row=0)] == [4, 5]


def test_a_pattern_says_what_images_are_called(tmp_path: Path) -> None:
    table(tmp_path, "cc12m.tsv", "url")
    names(lambda number: f"x{number:03}.png", tmp_path, [2, 5])
    found = read_conceptual_captions(tmp_path, image_name="x{row:03}.jpg", first_row=0)
    assert [sample["id"] for sample in found] == [2, 5]
    with pytest.raises(ValueError, match=r"image_name '\{number\}.jpg' is no pattern of the fields row, shard"):
        read_conceptual_captions(tmp_path, image_name="{number}.jpg")


def test_a_column_names_the_file(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "sub" / "b.png")
    rows = [f"{CAPTIONS[0]}\t{URLS[0]}\tsub/a.jpg", f"{CAPTIONS[1]}\t{URLS[1]}\tsub\\B.jpg"]
    (tmp_path / "cc3m.tsv").write_bytes("\r\n".join(rows).encode())
    (sample,) = read_conceptual_captions(tmp_path)
    assert (sample["id"], sample["image"]) == (1, tmp_path / "images" / "sub" / "b.png")
    (tmp_path / "cc3m.tsv").write_bytes(b'\xef\xbb\xbffilepath\ttitle\tid\r\nsub/b.png\t"one, ""two"""\tx7\r\n')
    (sample,) = read_conceptual_captions(tmp_path)
    assert (sample["id"], sample["captions"]) == ("x7", ['one, "two"'])


def test_splits_are_those_of_file_names(tmp_path: Path) -> None:
    table(tmp_path, "Train_GCC-training.tsv")
    table(tmp_path, "Validation_GCC-1.1.0-Validation.tsv")
    for split in ("train", "val"):
        photo(tmp_path / split / ("photo 1.jpg" if split == "train" else "photo 2.jpg"))
    assert [sample["id"] for sample in read_conceptual_captions(tmp_path, "train")] == [1]
    assert [sample["id"] for sample in read_conceptual_captions(tmp_path, "val")] == [2]
    assert [(checked.format, checked.file.split) for checked in check_folder_of(tmp_path)] == [
        ("conceptual_captions", "train"),
        ("conceptual_captions", "val"),
    ]


def sbu_pair(root: Path) -> None:
    (root / "SBU_captioned_photo_dataset_captions.txt").write_text("\n".join(CAPTIONS) + "\n")
    (root / "SBU_captioned_photo_dataset_urls.txt").write_text("\r\n".join(URLS) + "\r\n")


def sbu_lists(root: Path) -> None:
    content = {"image_urls": URLS, "user_ids": ["x"] * 30, "captions": CAPTIONS}
    (root / "sbu-captions-all.json").write_text(json.dumps(content))


def sbu_objects(root: Path) -> None:
    rows = [{"url": url, "caption": caption} for url, caption in zip(URLS, CAPTIONS, strict=True)]
    (root / "sbu.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))


def sbu_pairs_of_paths(root: Path) -> None:
    rows = [[f"photo {number}.jpg", caption] for number, caption in enumerate(CAPTIONS)]
    (root / "annot.json").write_text(json.dumps(rows))


def sbu_table(root: Path) -> None:
    table(root, "sbu.tsv", "url")


@pytest.mark.parametrize("make", [sbu_pair, sbu_lists, sbu_objects, sbu_pairs_of_paths, sbu_table])
def test_sbu_in_each_form(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    names(lambda number: f"photo {number}.jpg", tmp_path, list(range(20)))
    samples = read_sbu(tmp_path)
    assert [(sample["id"], sample["captions"]) for sample in samples] == [(n, [CAPTIONS[n]]) for n in range(20)]
    train, held = read_sbu(tmp_path, "train"), read_sbu(tmp_path, "val")
    assert len(train) + len(held) == 20 and len(read_sbu(tmp_path, "train", hold_out=0)) == 20


def test_texts_that_do_not_run_in_parallel_are_refused(tmp_path: Path) -> None:
    sbu_pair(tmp_path)
    (tmp_path / "SBU_captioned_photo_dataset_urls.txt").write_text("\n".join(URLS[:10]))
    names(lambda number: f"photo {number}.jpg", tmp_path, [0])
    with pytest.raises(ValueError, match=r"expected as many entries in both, but one ends after 10; copy both again"):
        read_sbu(tmp_path)


def test_an_empty_or_broken_line_moves_no_caption_to_another_image(tmp_path: Path) -> None:
    sbu_pair(tmp_path)
    captions = [caption.encode() for caption in CAPTIONS]
    captions[1], captions[2] = b"", b"caf\xe9"
    (tmp_path / "SBU_captioned_photo_dataset_captions.txt").write_bytes(b"\n".join(captions) + b"\n")
    names(lambda number: f"photo {number}.jpg", tmp_path, list(range(5)))
    samples = read_sbu(tmp_path, bad_entries="count")
    assert [(sample["id"], sample["captions"]) for sample in samples] == [(n, [CAPTIONS[n]]) for n in (0, 3, 4)]
    with pytest.raises(ValueError, match=r"captions.txt: line 3: expected text in UTF-8, found byte 0xe9"):
        read_sbu(tmp_path)


@pytest.mark.parametrize(
    "row", ["no address\tat all here", "https://a.example/1.jpg\thttps://a.example/2.jpg", "alone"]
)
def test_rows_without_one_caption_and_one_address_are_refused(row: str, tmp_path: Path) -> None:
    table(tmp_path, "cc12m.tsv", "url")
    with (tmp_path / "cc12m.tsv").open("a") as file:
        file.write(f"{row}\n")
    names(lambda number: f"{number}.jpg", tmp_path, [0, 1])
    with pytest.raises(ValueError, match=r"cc12m.tsv: line 31: expected a caption and (the|an) address"):
        read_conceptual_captions(tmp_path)
    found = read_conceptual_captions(tmp_path, bad_entries="count")
    assert len(found) == 2 and [fault.count for fault in found.faults if fault.refused] == [1]


def test_no_image_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no captions of split 'train'; expected Train_GCC-training.tsv"):
        read_conceptual_captions(tmp_path, "train")
    table(tmp_path, "cc12m.tsv", "url")
    with pytest.raises(FileNotFoundError, match=r"none of its 30 rows has its images on disk; one was sought at"):
        read_conceptual_captions(tmp_path)


def test_an_address_that_is_none_has_a_name_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_text("a cat\thttp://[x/0.jpg?size=l\na dog\thttp://x/1.jpg\n", encoding="utf-8")
    for number in range(2):
        photo(tmp_path / "images" / f"{number}.jpg")
    assert [sample["image"].name for sample in read_conceptual_captions(tmp_path)] == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize("content", ["[" * 10**5 + "]" * 10**5, '{"a":' * 10**5 + "1" + "}" * 10**5, '"text"', "[]"])
def test_json_that_is_too_deep_or_holds_no_rows_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "sbu.json").write_text(content if content[0] != "{" else f"[{content}]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"sbu.json: (not valid JSON \(nested too deeply\)|it holds no rows)"):
        read_sbu(tmp_path)
