"""What cannot be read costs itself: a training sample is replaced and counted, too many end the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fiber_data import read_captions
from fiber_train.checkpoint import find_checkpoints
from fiber_train.config import load_config
from fiber_train.run import train
from fiber_train.tracking import read_metrics
from safetensors.torch import load_file

from .conftest import CAPTIONS, FEW

ALONE = ["caption_mle", "small"]


def cut(path: Path) -> None:
    """To a third."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


@pytest.fixture
def images(scenes: Path, tmp_path: Path) -> list[dict]:
    """Ten training samples whose images may be damaged."""
    found = read_captions(scenes, "train")[:10]
    (tmp_path / "images").mkdir()
    for sample in found:
        sample["image"] = shutil.copy(sample["image"], tmp_path / "images")
    return found


@pytest.fixture
def go(scenes: Path, coarse: Path, tmp_path: Path, images: list[dict]):
    """`go("name", *overrides)`: a run of captioning, one image a step."""

    def run(name: str, *overrides: str):
        given = [f"out={tmp_path / name}", "data.root=unused", f"model.checkpoint={coarse}", *FEW, *CAPTIONS]
        own = ["trainer.batch_size=1", "trainer.max_steps=12", "trainer.eval_every=0", "data.captions=random"]
        samples = {"train": images, "val": read_captions(scenes, "val")[:2]}
        return train(load_config(ALONE, [*given, *own, *overrides]), samples=samples)

    return run


def rows(out: Path) -> list[tuple[int, str, float]]:
    return [row for row in read_metrics(out) if row[1].startswith("train/")]


def replaced(out: Path) -> list[tuple[int, float]]:
    return [(step, value) for step, name, value in read_metrics(out) if name == "train/unreadable"]


def test_a_run_of_single_images_goes_on_with_another_and_counts_it(go, images, tmp_path: Path, capsys) -> None:
    """And so to the same bits when it is stopped on the way."""
    cut(Path(images[3]["image"]))
    assert go("straight", "trainer.max_steps=20") is not None
    said = capsys.readouterr().err
    name = Path(images[3]["image"]).name
    assert said.count(name) == 1, "twice met, once told"
    assert f"{images[3]['image']}: cannot be read as an image" in said and "; another sample is taken in its" in said
    counted = replaced(tmp_path / "straight")
    assert [value for _, value in counted] == sorted(value for _, value in counted)
    assert counted[-1] == (20, 2) and "unreadable 2" in said
    go("stopped", "trainer.max_steps=20", "trainer.checkpoint_every=8")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "step-000020")
    assert go("stopped", "trainer.max_steps=20", "trainer.checkpoint_every=8") is not None
    assert find_checkpoints(tmp_path / "stopped")[-1].name == "step-000020"
    assert rows(tmp_path / "straight") == rows(tmp_path / "stopped")
    first, second = (load_file(tmp_path / each / "model" / "model.safetensors") for each in ("straight", "stopped"))
    assert all((first[key] == second[key]).all() for key in first)


def test_too_many_end_the_run_which_goes_on_once_they_are_mended(go, images, tmp_path: Path) -> None:
    whole = {name: Path(images[name]["image"]).read_bytes() for name in (2, 5)}
    for name in whole:
        cut(Path(images[name]["image"]))
    options = ["trainer.batch_size=10", "trainer.max_steps=14", "data.max_unreadable=0.15", "trainer.log_every=3"]
    with pytest.raises(ValueError, match=r"of 1\d\d training samples could not be read, more than data.max_un") as told:
        go("run", *options)
    for name in whole:
        assert f"{images[name]['image']}: cannot be read as an image" in str(told.value)
    assert "(15.00%) allows" in str(told.value) and "mend these files or leave them out" in str(told.value)
    assert [path.name for path in find_checkpoints(tmp_path / "run")] == ["step-000009"], "judged after 100 samples"
    for name, content in whole.items():
        Path(images[name]["image"]).write_bytes(content)
    assert go("run", *options) is not None
    assert [value for _, value in replaced(tmp_path / "run")] == [7, 14, 21, 21, 21], "the count goes on where it was"


def test_how_many_may_be_is_a_setting(go, images) -> None:
    for name in (2, 5):
        cut(Path(images[name]["image"]))
    options = ["trainer.batch_size=10", "trainer.max_steps=11"]
    assert go("more", *options, "data.max_unreadable=0.3") is not None
    shutil.copy(images[3]["image"], images[2]["image"])
    assert go("one", *options) is not None, "a single image is no share"
    with pytest.raises(ValueError, match=r"more than data.max_unreadable \(0.00%\) allows"):
        go("none", *options, "data.max_unreadable=0")
    with pytest.raises(ValueError, match=r"data\.max_unreadable must be at least 0 and at most 1, is 2"):
        go("bad", "data.max_unreadable=2")


def test_where_nothing_can_be_read_that_is_said(go, images, tmp_path: Path) -> None:
    for sample in images:
        cut(Path(sample["image"]))
    with pytest.raises(ValueError, match=r"10 training samples were tried in vain: .*; and 5 more; mend these files"):
        go("run")
