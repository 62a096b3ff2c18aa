"""Tasks learn from tar shards as from the files that were packed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fiber_data import read_captions
from fiber_data.pack import pack
from fiber_data.remote import num_requests
from fiber_train.config import load_config
from fiber_train.mixture import _options
from fiber_train.run import train
from fiber_train.tasks.base import make_task


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIBER_DATA_CACHE", str(tmp_path / "cache"))


def without_images(samples: Any) -> list[Any]:
    rows = [{key: value for key, value in sample.items() if key not in ("image", "images")} for sample in samples]
    return sorted(rows, key=lambda row: str(row["id"]))


@pytest.mark.parametrize("recipe", ["vqa", "nlvr2", "coco", "flickr"])
def test_every_task_reads_shards(recipe: str, scenes: Path, tmp_path: Path) -> None:
    files = {"flickr": ["task.train.captions=[scenes]"], "nlvr2": ["data.train_split=train"]}.get(recipe, [])
    task = make_task(load_config(recipe, [f"data.root={scenes}", "out=o", "data.train_split=train", *files]))
    given = task.samples("train", training=True)
    packed = given
    if recipe in ("coco", "flickr"):
        packed = given.detection if recipe == "coco" else given.captions["scenes"]
    pack(packed, tmp_path, "train", images_per_shard=20, progress=False)
    words = [f"data.root={tmp_path}", "data.format=tar_shards", "out=o", "data.train_split=train", *files]
    found = make_task(load_config(recipe, words)).samples("train", training=True)
    if recipe in ("coco", "flickr"):
        given, found = (next(iter(each.parts.values())) for each in (given, found))
    assert without_images(found) == without_images(given)


def test_a_run_on_shards_is_that_on_files(small_run: Any, scenes: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        pack(read_captions(scenes, split), tmp_path / "shards", split, images_per_shard=20, progress=False)
    loaded = ["data.num_workers=2", "trainer.max_steps=3"]
    files, shards = small_run("files", *loaded), small_run("shards", *loaded, f"data.root={tmp_path / 'shards'}")
    assert train(files).numbers() == train(shards).numbers()
    weights = [Path(each.out, "model/model.safetensors").read_bytes() for each in (files, shards)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("captions", ["each", "random"])
def test_shards_behind_urls_are_read_a_few_at_a_time(
    captions: str, small_run: Any, scenes: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        pack(read_captions(scenes, split), tmp_path / "shards", split, images_per_shard=2, progress=False)
    memory, root = fsspec.filesystem("memory"), f"memory://{tmp_path.name}-{captions}"
    memory.put(f"{tmp_path}/shards/", f"{root}/", recursive=True)
    given = ["data.num_workers=0", "trainer.max_steps=3", f"data.captions={captions}", f"data.root={root}"]
    config = small_run("remote", *given)
    task = make_task(config)
    samples, before = task.samples("train", training=True), num_requests()
    assert samples.is_remote and samples.blocks == [2] * 30
    dataset = task.make_dataset(samples, task.make_transform(SimpleNamespace(image_size=32), True), True, None)
    order = _options(task, samples, dataset)["order"]
    assert order.lengths.tolist() == [10 if captions == "each" else 2] * 30
    assert train(config).numbers()["num_images"] == 30
    assert num_requests() > before
