"""Parts of splits of questions, and answers that do not hang on which images are at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fiber_data import AnswerVocabulary
from fiber_train.config import load_config
from fiber_train.mixture import read_held_out, read_training
from fiber_train.tasks.answering.splits import split_parts
from fiber_train.tasks.base import make_task


def task_of(root: Path, *words: str):
    return make_task(load_config(["vqa", "small"], [f"data.root={root}", "out=o", "data.index=off", *words]))


def ids(samples) -> list:
    return [sample["id"] for sample in samples]


@pytest.fixture
def thinned(scenes: Path, tmp_path: Path) -> Path:
    """The scenes without a third of the held-out images."""
    root = shutil.copytree(scenes, tmp_path / "scenes")
    for path in sorted((root / "images" / "val").iterdir())[::3]:
        path.unlink()
    return root


def test_parts_of_splits_are_read_as_python_slices(scenes: Path) -> None:
    task = task_of(scenes)
    train, val = ids(task.read("train")), ids(task.read("val"))
    assert ids(task.read("train+val[:-10]")) == train + val[:-10]
    assert ids(task.read("val[-10:]")) == val[-10:]
    assert ids(task.read("val[3:5]")) == val[3:5]
    assert [str(part) for part in split_parts("train+val[:-1000]")] == ["train", "val[:-1000]"]
    for wrong in ("val[", "val[::2]", "val[1]", "+val"):
        with pytest.raises(ValueError, match=r"must be such as train, train\+val or train\+val\[:-1000\]"):
            split_parts(wrong)
    with pytest.raises(ValueError, match=r"val\[100000:\]: the split has .* questions, of which these are 0"):
        task.read("val[100000:]")


def test_what_is_held_back_is_counted_in_the_file(scenes: Path, thinned: Path) -> None:
    whole, part = task_of(scenes), task_of(thinned)
    held, learned = ids(whole.read("val[-40:]")), ids(whole.read("val[:-40]"))
    with pytest.warns(UserWarning, match="questions"):
        found, others = ids(part.read("val[-40:]")), ids(part.read("val[:-40]"))
    assert 0 < len(found) < len(held)
    assert set(found) <= set(held)
    assert set(others) <= set(learned)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_answers_are_counted_whatever_images_are_on_disk(scenes: Path, thinned: Path) -> None:
    given = ["data.train_split=train+val[:-40]", "data.eval_split=val[-40:]", "task.min_count=3"]
    vocabularies = []
    for root in (scenes, thinned):
        task = task_of(root, *given)
        vocabularies.append(vocabulary(task, read_training(task)))
        assert not set(ids(read_held_out(task))) & set(ids(read_training(task)))
    assert vocabularies[0] == vocabularies[1]
    both = task_of(scenes, "data.train_split=train+val", "task.min_count=3")
    assert vocabularies[0] == vocabulary(both, read_training(both)), "those held back count too"


def vocabulary(task, samples) -> list[str]:
    return list(AnswerVocabulary.from_annotations(task._counted(samples), min_count=task.settings.min_count))
