"""Visual Genome's regions and questions, without what COCO is measured by."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from fiber_data.check import check_folder_of
from fiber_data.formats.visual_genome import read_visual_genome, read_visual_genome_questions
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:.*(are held out|are refused)")


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def region(number: int, phrase: Any) -> dict[str, Any]:
    return {"region_id": number, "image_id": 1, "phrase": phrase, "x": 1, "y": 2, "width": 3, "height": 4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images in two folders, two of them COCO's."""
    for number in range(1, 7):
        path = tmp_path / ("VG_100K" if number % 2 else "VG_100K_2") / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    regions = [{"id": n, "regions": [region(n, f"thing {n}"), region(n, " other\n thing ")]} for n in range(1, 7)]
    write(tmp_path / "region_descriptions.json", regions)
    coco = {2: 391895, 5: 522418}
    write(tmp_path / "image_data.json", [{"image_id": n, "coco_id": coco.get(n), "url": ""} for n in range(1, 7)])
    splits = [(391895, "test"), (522418, "train"), (7, "restval"), (8, "val")]
    write(tmp_path / "dataset_coco.json", {"images": [{"cocoid": n, "split": s, "filename": ""} for n, s in splits]})
    asked = [{"qa_id": 10 * n, "image_id": n, "question": "What color?", "answer": "Red."} for n in range(1, 7)]
    write(tmp_path / "question_answers.json", [{"id": n, "qas": [asked[n - 1]]} for n in range(1, 7)])
    return tmp_path


def test_regions_are_captions_of_images_in_both_folders(root: Path) -> None:
    samples = read_visual_genome(root)
    assert [sample["id"] for sample in samples] == [1, 2, 3, 4, 5, 6]
    assert samples[1]["captions"] == ["thing 2", "other thing"]
    assert [sample["image"] for sample in samples[:2]] == [root / "VG_100K" / "1.jpg", root / "VG_100K_2" / "2.jpg"]
    assert len(read_visual_genome(root, "train")) + len(read_visual_genome(root, "val")) == 6
    assert len(read_visual_genome(root, "train", hold_out=0)) == 6


def test_images_that_coco_is_measured_by_are_left_out(root: Path) -> None:
    with pytest.warns(UserWarning, match=r"of the images 1 are left out, being among those that COCO is measured by"):
        samples = read_visual_genome(root, without_coco=root / "dataset_coco.json")
    assert [sample["id"] for sample in samples] == [1, 3, 4, 5, 6]
    (root / "image_data.json").unlink()
    with pytest.raises(ValueError, match=r"no image_data.json, here or in annotations"):
        read_visual_genome(root, without_coco=root / "dataset_coco.json")


def test_questions_have_ids_of_their_own(root: Path) -> None:
    with pytest.warns(UserWarning, match="are left out"):
        samples = read_visual_genome_questions(root, without_coco=root / "dataset_coco.json")
    assert [sample["id"] for sample in samples] == ["vg-10", "vg-30", "vg-40", "vg-50", "vg-60"]
    assert samples[0]["image_id"] == "vg-1" and samples[0]["answers"] == ["Red."] * 10
    assert (samples[0]["question_type"], samples[0]["answer_type"]) == ("what color", "other")


def test_faults_and_a_missing_image_are_counted(root: Path) -> None:
    entries = [{"id": 1, "regions": [region(1, "one"), region(2, "  ")]}, {"id": 1, "regions": []}, {"regions": []}]
    entries += [
        {"id": 2, "regions": [region(1, None)]},
        {"id": 3, "regions": 5},
        {"id": 99, "regions": [region(1, "x")]},
    ]
    write(root / "region_descriptions.json", entries)
    samples = read_visual_genome(root, bad_entries="count")
    assert [(sample["id"], sample["captions"]) for sample in samples] == [(1, ["one"])]
    assert sorted((fault.count, fault.first) for fault in samples.faults if fault.refused) == [
        (1, "entry[1]"),
        (1, "entry[2]"),
        (1, "entry[3].regions[0]"),
        (1, "entry[4]"),
    ]
    assert any("99.jpg" in fault.first for fault in samples.faults) and any("empty" in f.what for f in samples.faults)
    with pytest.raises(ValueError, match=r"region_descriptions.json: entry\[1\]: image id 1 occurs more than once"):
        read_visual_genome(root)


def test_a_file_that_is_cut_off_is_said_after_what_it_holds(root: Path) -> None:
    path = root / "region_descriptions.json"
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=r"region_descriptions.json: not valid JSON \(.*\); is the download complete\?"
    ):
        read_visual_genome(root)
    assert [sample["id"] for sample in read_visual_genome(root, bad_entries="count")] == [1, 2, 3]
    path.unlink()
    packed = gzip.compress(content, mtime=0)
    (root / "region_descriptions.json.gz").write_bytes(packed)
    assert len(read_visual_genome(root)) == 6
    (root / "region_descriptions.json.gz").write_bytes(packed[:-12])
    with pytest.raises(ValueError, match=r"json.gz: not valid JSON"):
        read_visual_genome(root)


def test_the_wrong_file_is_named(root: Path) -> None:
    write(root / "region_descriptions.json", {"images": []})
    with pytest.raises(ValueError, match=r"it holds no list of images; is it the right file\?"):
        read_visual_genome(root)


def test_check_reads_both_files(root: Path) -> None:
    (root / "dataset_coco.json").unlink()
    found = {checked.format: checked.num_samples for checked in check_folder_of(root)}
    assert found == {"visual_genome": 6, "visual_genome_questions": 6}
