"""The index: the samples of every reader, exactly, from a table that is made once and known when it is stale."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fiber_data import (
    CaptionDataset,
    DetectionDataset,
    EpochSampler,
    GroundingDataset,
    QuestionDataset,
    build_detection_evaluation_transform,
    build_evaluation_transform,
    glance,
    make_prompt,
    open_samples,
    read_caption_folder,
    read_captions,
    read_coco_captions,
    read_detection,
    read_grounding,
    read_karpathy,
    read_nlvr2,
    read_tar_shards,
    read_vqav2,
)
from fiber_data.formats import (
    ShardImage,
    faults_of,
    hold_out,
    records,
    streams,
)
from fiber_data.pack import pack
from fiber_data.scenes import generate_scenes
from fiber_data.table import TableSamples, TableWriteError

READERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "coco": (read_coco_captions, {}),
    "captions": (read_captions, {"check_images": False}),
    "karpathy": (read_karpathy, {}),
    "folder": (read_caption_folder, {}),
    "shards": (read_tar_shards, {}),
    "vqav2": (read_vqav2, {}),
    "nlvr2": (read_nlvr2, {}),
    "detection": (read_detection, {}),
    "grounding": (read_grounding, {"name": "scenes"}),
    "expressions": (read_grounding, {"name": "refcoco"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All layouts in one folder; an image that each of them names is not there, and a caption is empty."""
    root = generate_scenes(tmp_path_factory.mktemp("scenes") / "set", {"train": 30, "val": 20}, seed=1)
    pack(read_captions(root, "train"), root / "shards", "train", images_per_shard=8)
    with (root / "captions.jsonl").open("w") as lines:
        for sample in read_captions(root, "train"):
            name = sample["image"].relative_to(root / "images").as_posix()
            for caption in [*sample["captions"], ""]:
                lines.write(json.dumps({"image": name, "caption": caption}) + "\n")
    next((root / "images" / "train").iterdir()).unlink()
    return root


def read_both(name: str, folder: Path, place: Path) -> tuple[Any, Any]:
    read, options = READERS[name]
    folder = folder / "shards" if name == "shards" else folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(folder, "train", **options), open_samples(read, folder, "train", index=place, **options)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", READERS)
def test_samples_are_those_of_the_reader(
    folder: Path, tmp_path: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, found = read_both(name, folder, tmp_path / "small")
    if large:
        monkeypatch.setattr(streams, "LARGE", 0)
        again, found = read_both(name, folder, tmp_path / "large")
        assert again == plain and faults_of(again) == faults_of(plain)
    assert faults_of(found) == faults_of(plain)
    if name == "detection":
        assert (found.categories, found.path) == (plain.categories, plain.path)
        plain, found = plain.samples, found.samples
    assert isinstance(found, TableSamples) and len(found) == len(plain) > 5
    assert [found[place] for place in range(len(plain))] == plain == list(found) == found[:]
    assert [repr(sample) for sample in found] == [
        repr({key: sample[key] for key in own}) for sample, own in zip(plain, found, strict=True)
    ]
    assert list(glance(found, "id")) == [{"id": sample["id"]} for sample in plain] and found.unique_ids
    with pytest.raises(IndexError):
        found[len(plain)]


def told(call: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = call()
    return found, [str(each.message) for each in said]


@pytest.mark.parametrize("name", READERS)
def test_warnings_come_again(folder: Path, tmp_path: Path, name: str) -> None:
    read, options = READERS[name]
    folder = folder / "shards" if name == "shards" else folder
    _, expected = told(lambda: read(folder, "train", **options))
    for _ in range(2):
        _, said = told(lambda: open_samples(read, folder, "train", index=tmp_path, **options))
        assert said == expected
    assert any("lack an image" in text for text in expected) == (name not in ("shards", "captions", "nlvr2"))


def small(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    for number in range(4):
        (root / "images" / f"{number}.png").write_bytes(b"")
    lines = [{"image": f"{number}.png", "captions": ["a cat", "two"][: 1 + number % 2]} for number in range(4)]
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def counted(reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = records.open_bytes
    monkeypatch.setattr(records, "open_bytes", lambda path: reads.append(1) or plain(path))


@pytest.mark.filterwarnings("ignore:.*of ")
def test_it_is_made_anew_when_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, reads = small(tmp_path / "data"), []
    counted(reads, monkeypatch)

    def opened(**options: Any) -> Any:
        found = open_samples(read_captions, root, "train", **options)
        number, reads[:] = len(reads), []
        return number, found

    assert opened(hold_out=0.0)[0] == 1
    assert opened(hold_out=0.0)[0] == 0  # nothing has changed
    assert opened(hold_out=0.5)[0] == 1 and opened(hold_out=0.5)[0] == 0  # another option is another table
    assert opened(hold_out=0.0)[0] == 0
    assert opened(check_images=False, hold_out=0.0)[0] == 1

    path = root / "captions.jsonl"
    kept = path.stat()
    path.write_text(path.read_text().replace("two", "2"))  # size
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    number, found = opened(hold_out=0.0)
    assert number == 1 and found[1]["captions"] == ["a cat", "2"] and opened(hold_out=0.0)[0] == 0
    os.utime(path)  # time
    assert opened(hold_out=0.0)[0] == 1 and opened(hold_out=0.0)[0] == 0
    (root / "images" / "2.png").unlink()  # images, where they are checked
    number, found = opened(hold_out=0.0)
    assert number == 1 and len(found) == 3 and opened(hold_out=0.0)[0] == 0

    (root / "annotations").mkdir()  # a layout that goes before
    images = [{"id": 7, "file_name": "0.png"}]
    content = {"images": images, "annotations": [{"image_id": 7, "caption": "new"}]}
    (root / "annotations" / "captions_train.json").write_text(json.dumps(content))
    assert opened(hold_out=0.0)[1][:] == read_captions(root, "train")
    assert not list((root / ".fiber_index").glob("*.partial"))


def test_shards_that_come_later_count(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "shards"
    pack(read_captions(folder, "val"), root, "train", images_per_shard=5)
    assert len(open_samples(read_tar_shards, root, "train")) == 20
    shutil.copy(sorted((folder / "shards").glob("*.tar"))[0], root / "train-00009.tar")
    assert len(open_samples(read_tar_shards, root, "train")) == 28
    (root / "train-00009.tar").unlink()
    assert len(open_samples(read_tar_shards, root, "train")) == 20


# Processes and folders


def _open(root: Path, start: float, answers: Any) -> None:
    time.sleep(max(0.0, start - time.time()))
    found = open_samples(slow, root, "train")
    answers.put((found.token, len(found)))


def slow(root: Path, split: str) -> Any:
    with Path(f"{root}-calls").open("a") as calls:
        calls.write("x")
    for sample in read_captions(root, split, hold_out=0.0):
        time.sleep(0.1)
        yield sample


def test_processes_that_start_together_read_once(tmp_path: Path) -> None:
    root, context = small(tmp_path / "data"), multiprocessing.get_context("fork")
    answers, start = context.Queue(), time.time() + 0.2
    processes = [context.Process(target=_open, args=(root, start, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1 and found.pop()[1] == 4
    assert Path(f"{root}-calls").read_text() == "x"


def test_a_killed_build_leaves_no_half_table(tmp_path: Path) -> None:
    root = small(tmp_path / "data")
    code = (
        "import time, sys; from fiber_data import open_samples, read_captions; import fiber_data.table as t\n"
        "old = t._columns\n"
        "def wait(*a):\n    print('writing', flush=True); time.sleep(60)\n"
        "t._columns = wait; open_samples(read_captions, sys.argv[1], 'train', hold_out=0.0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    place = root / ".fiber_index"
    assert list(place.glob("*.partial")) and not list(place.glob("*/table.json"))[1:]
    assert len(open_samples(read_captions, root, "train", hold_out=0.0)) == 4
    assert not list(place.glob("*.partial")) and len(list(place.glob("*/table.json"))) == 1


def test_a_damaged_table_is_made_again(tmp_path: Path) -> None:
    root = small(tmp_path / "data")
    (path,) = [open_samples(read_captions, root, "train", hold_out=0.0).folder]
    for name in ("table.json", *(each.name for each in path.glob("*.arrow"))):
        (table := next(path.glob(name))).write_bytes(table.read_bytes()[:50])
        assert len(open_samples(read_captions, root, "train", hold_out=0.0)) == 4
        (path,) = [each.parent for each in (root / ".fiber_index").glob("*/table.json")]
        break


@pytest.mark.skipif(os.name == "nt", reason="folders have no such permissions there")
def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with read_only(root, monkeypatch):
        found = open_samples(read_captions, root, "train", hold_out=0.0)
        assert tmp_path / "cache" in found.folder.parents and not (root / ".fiber_index").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with read_only(root, monkeypatch), pytest.warns(UserWarning, match="read anew at each start"):
        assert len(open_samples(read_captions, root, "train", hold_out=0.0)) == 4
    with pytest.raises(TableWriteError, match=r"file/\.fiber_index: cannot be written"):
        open_samples(read_captions, root, "train", index=tmp_path / "file", hold_out=0.0)


@contextlib.contextmanager
def read_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Also for root, who may write everywhere."""
    plain = Path.mkdir

    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        if root in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        plain(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        yield


def test_a_folder_of_somebody_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (root / ".fiber_index").mkdir()
    (root / ".fiber_index" / "notes.txt").write_text("mine")
    assert tmp_path / "cache" in open_samples(read_captions, root, "train", hold_out=0.0).folder.parents
    with pytest.raises(TableWriteError, match="holds other files, without our marker"):
        open_samples(read_captions, root, "train", index=root, hold_out=0.0)
    assert [path.name for path in (root / ".fiber_index").iterdir()] == ["notes.txt"]


# Data sets of it


def test_a_process_is_sent_the_path_alone(folder: Path, tmp_path: Path) -> None:
    _, found = read_both("coco", folder, tmp_path)
    dataset = CaptionDataset(found, build_evaluation_transform(16))
    assert len(pickle.dumps(found)) < 400 and len(pickle.dumps(dataset._image_of_text)) < 400
    again = pickle.loads(pickle.dumps(found))
    assert again[3] == found[3]
    boxes = read_both("detection", folder, tmp_path)[1]
    assert len(pickle.dumps(DetectionDataset(boxes, None, make_prompt(boxes.categories))._sizes)) < 400


@pytest.mark.parametrize("captions", ["each", "random", "all"])
def test_items_of_captions_are_the_same(folder: Path, tmp_path: Path, captions: Any) -> None:
    plain, found = read_both("coco", folder, tmp_path)
    for one, other in ((plain, found), (hold_out(plain, 0.4, held=True), hold_out(found, 0.4, held=True))):
        ours, theirs = (
            CaptionDataset(each, build_evaluation_transform(16), captions=captions) for each in (other, one)
        )
        assert len(ours) == len(theirs) and ours.image_ids.tolist() == theirs.image_ids.tolist()
        assert [repr(ours[place]) for place in range(len(ours))] == [
            repr(theirs[place]) for place in range(len(theirs))
        ]
        if captions == "each":
            places = np.array([5, 0, len(ours) - 1, 5])
            assert ours.image_ids[places].tolist() == np.array(theirs.image_ids.tolist())[places].tolist()
            batches = list(EpochSampler(len(ours), 5, unique_groups=ours.image_ids))
            assert batches == list(EpochSampler(len(theirs), 5, unique_groups=theirs.image_ids))


def test_items_of_questions_and_boxes_are_the_same(folder: Path, tmp_path: Path) -> None:
    plain, found = read_both("vqav2", folder, tmp_path)
    ours, theirs = (QuestionDataset(each, build_evaluation_transform(16)) for each in (found, plain))
    assert ours.image_ids.tolist() == theirs.image_ids.tolist() and repr(ours[7]) == repr(theirs[7])
    parts = (hold_out(each, 0.4, held=False) for each in (found, plain))
    ours, theirs = (QuestionDataset(each, build_evaluation_transform(16)) for each in parts)
    assert ours.image_ids.tolist() == theirs.image_ids.tolist()

    transform = build_detection_evaluation_transform(32, 64)
    plain, found = read_both("detection", folder, tmp_path)
    prompt = make_prompt(plain.categories)
    ours, theirs = (DetectionDataset(each, transform, prompt) for each in (found, plain))
    assert ours.aspect_groups.tolist() == theirs.aspect_groups.tolist() and repr(ours[3]) == repr(theirs[3])
    plain, found = read_both("grounding", folder, tmp_path)
    for captions in ("each", "random"):
        ours, theirs = (GroundingDataset(each, transform, captions=captions) for each in (found, plain))  # type: ignore[arg-type]
        assert ours.aspect_groups.tolist() == theirs.aspect_groups.tolist() and len(ours) == len(theirs)
        assert [repr(ours[place]) for place in range(9)] == [repr(theirs[place]) for place in range(9)]


def test_places_in_shards_are_kept(folder: Path, tmp_path: Path) -> None:
    plain, found = read_both("shards", folder, tmp_path)
    assert isinstance(found[2]["image"], ShardImage) and found[2]["image"].read() == plain[2]["image"].read()
