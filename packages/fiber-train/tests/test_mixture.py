"""Learning from several data sets at once: exact shares, the same bits after a stop, and the loss of each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fiber_data import EpochSampler, read_captions
from fiber_train import Callback
from fiber_train.config import load_config
from fiber_train.mixture import count_samples, make_training_set, read_training
from fiber_train.run import train
from fiber_train.sources import SourceConfig
from fiber_train.tasks.base import make_task
from fiber_train.tracking import read_metrics

from .conftest import FEW, SMALL
from .test_grounding_task import LITTLE
from .test_run import asked_to_stop, assert_same, losses

# The scenes to train on, once, and half of those held out: 60 + 15 images, five batches of 15.
HALF = "data.sources=[{name: one, root: scenes}, {name: two, root: scenes, split: val, epochs: 0.5}]"
BATCH = ["trainer.batch_size=15", "data.held_out={root: scenes}"]


class Ids(Callback):
    """Remembers the ids of every step."""

    def __init__(self) -> None:
        self.ids: list[Any] = []

    def on_step_end(self, *, ids: list[Any], **_: Any) -> None:
        self.ids += ids


def configure(scenes: Path, out: Path, *overrides: str) -> Any:
    return load_config("quickstart", [f"data.root={scenes.parent}", f"out={out}", *SMALL, HALF, *BATCH, *overrides])


def test_epochs_draw_exact_counts_and_losses_come_by_source(scenes: Path, tmp_path: Path) -> None:
    config = configure(scenes, tmp_path / "run", "trainer.max_epochs=2", "task.model.objectives=[itc]")
    seen = Ids()
    results = train(config, callbacks=[seen])
    assert results.counts["num_images"] == 30
    one, two = ([sample["id"] for sample in read_captions(scenes, split)] for split in ("train", "val"))
    assert len(seen.ids) == 150
    for epoch in (seen.ids[:75], seen.ids[75:]):
        assert sorted(set(epoch) - set(two)) == sorted(one) and sum(name in two for name in epoch) == 15
    assert Counter(name for name in seen.ids if name in two) == Counter(two), "the other half in the other epoch"
    rows = {(step, name): value for step, name, value in read_metrics(config.out)}
    for step in range(1, 11):
        ids = seen.ids[15 * step - 15 : 15 * step]
        share = sum(name in two for name in ids) / 15
        parts = [(1 - share, "loss/one"), (share, "loss/two")]
        mean = sum(part * rows[step, f"train/{name}"] for part, name in parts if part)
        assert mean == pytest.approx(rows[step, "train/loss"], rel=1e-5)
        assert share or (step, "train/loss/two") not in rows


def test_resumed_equals_uninterrupted(scenes: Path, tmp_path: Path) -> None:
    """Stopped between two lines of the log, in the middle of the second epoch."""
    options = ("trainer.max_steps=9", "trainer.log_every=2", "trainer.checkpoint_every=100")
    straight, stopped = (configure(scenes, tmp_path / name, *options) for name in "ab")
    train(straight)
    with asked_to_stop(after=7):
        assert train(stopped) is None
    assert train(stopped) is not None
    assert any("loss/two" in name for _, name, _ in read_metrics(straight.out))
    assert_same(Path(straight.out), Path(stopped.out))


def test_two_processes_equal_one(scenes: Path, tmp_path: Path, train_by_two) -> None:
    options = [
        "task.model.objectives=[itc]",
        "task.model.queue_size=12",
        "trainer.max_steps=4",
        "trainer.batch_size=10",
    ]
    options += ["model.overrides.hidden_dropout=0", "model.overrides.drop_path_rate=0", "trainer.log_every=2"]
    one, out = configure(scenes, tmp_path / "one", *options), tmp_path / "two"
    train(one)
    given = [f"data.root={scenes.parent}", f"out={out}", *SMALL, HALF, *BATCH, *options]
    train_by_two(["quickstart"], given)
    assert any(name == "train/loss/two" for _, name, _ in losses(out))
    for (step, name, value), (other_step, other_name, other) in zip(losses(Path(one.out)), losses(out), strict=True):
        assert (step, name) == (other_step, other_name)
        assert value == pytest.approx(other, rel=1e-3), (step, name)


def test_the_fine_stage_learns_from_boxes_and_captions(scenes: Path, coarse: Path, tmp_path: Path) -> None:
    sources = (
        "data.sources=[{name: boxes, format: detection, weight: 1}, {name: again, format: detection, weight: 1}, "
        "{name: phrases, format: grounding, format_options: {name: scenes}, weight: 2}]"
    )
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", f"out={tmp_path / 'run'}", *FEW, *LITTLE, sources]
    config = load_config(["fine", "small"], [*given, "data.held_out={format: detection}", "trainer.log_every=3"])
    found = train(config)
    assert found is not None and "AP" in found
    logged = {name: value for _, name, value in read_metrics(config.out)}
    parts = [logged[f"train/{name}_loss/phrases"] for name in ("box", "centerness", "token")]
    assert logged["train/loss/phrases"] == pytest.approx(sum(parts))
    assert {"train/loss/boxes", "train/loss/again"} <= logged.keys()


def test_captions_of_an_image_stay_apart_and_so_do_images_of_sources(scenes: Path, tmp_path: Path) -> None:
    config = configure(scenes, tmp_path, "data.captions=each")
    task = make_task(config)
    dataset, options = make_training_set(task, read_training(task), processor_of_size(64), None)
    groups = options["unique_groups"]
    assert len(dataset) == 450 and len(groups.unique()) == 90
    items = [dataset[index] for index in (0, 299, 300, 449)]
    assert [int(item["source"]) for item in items] == [0, 0, 1, 1]
    assert len({item["image_id"] for item in items}) == 4
    for batch in EpochSampler(450, 25, **options):
        assert len(set(groups[batch].tolist())) == len(batch)


class Size:
    def __init__(self, size: int) -> None:
        self.image_size = size


def processor_of_size(size: int) -> Any:
    """All that the training set of captions asks of a processor."""
    return Size(size)


def test_samples_from_python_come_by_the_names_of_sources(scenes: Path, tmp_path: Path) -> None:
    own = {"one": read_captions(scenes, "train")[:20], "two": read_captions(scenes, "val")[:10]}
    task = make_task(configure(scenes, tmp_path), samples=own)
    samples = read_training(task)
    assert list(samples.parts) == ["one", "two"] and len(samples) == 30
    assert samples[20]["id"] == own["two"][0]["id"] == samples[-10]["id"]


def test_counts_follow_from_epochs_or_weights() -> None:
    def of(**settings: float) -> SourceConfig:
        return SourceConfig(name="a", **settings)

    assert count_samples([of(), of(epochs=0.5), of(epochs=2)], [10, 11, 3]) == [10, 6, 6]
    assert count_samples([of(weight=3), of(weight=1)], [10, 90]) == [75, 25]
    with pytest.raises(ValueError, match=r"data.sources: a: 0.01 epochs of 5 samples are none; raise epochs"):
        count_samples([of(), of(epochs=0.01)], [10, 5])


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[{nme: a}]", r"no setting is called 'data.sources\[0\].nme'; did you mean 'data.sources\[0\].name'\?"),
        ("[{name: a}, {name: a}]", "'a' is the name of two sources"),
        ("[{root: a}]", r"data.sources\[0\].name must be of letters"),
        ("[{name: a/b}]", r"data.sources\[0\].name must be of letters"),
        ("[{name: a, epochs: 0}]", r"data.sources\[0\].epochs must be above 0"),
        ("[{name: a, weight: -1}]", r"data.sources\[0\].weight must be above 0"),
        ("[{name: a, weight: 1}, {name: b}]", "give each source a weight and none epochs"),
        ("[{name: a, weight: 1, epochs: 1}]", "give each source a weight and none epochs"),
        ("[{name: a, format_options: {x: 1}}]", r"data.sources\[0\].format_options are those of"),
        ("[a]", r"data.sources\[0\] must be written \{NAME: VALUE\}, is 'a'"),
        ("{name: a}", "data.sources must be a list"),
    ],
)
def test_sources_that_make_no_sense_are_refused(sources: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("coarse", ["data.root=d", "out=o", f"data.sources={sources}"])


def test_a_share_cannot_be_held_out_of_sources() -> None:
    given = ["data.root=d", "out=o", "data.sources=[{name: a}]", "data.eval_split=0.1"]
    with pytest.raises(ValueError, match=r"data.eval_split: 0.1 is a share of data.train_split"):
        load_config("coarse", given)
    assert load_config("coarse", [*given, "data.held_out={split: val}"]).data.held_out.split == "val"


def test_a_source_without_anything_to_learn_is_named(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    sample = {**read_captions(scenes, "train")[0], "captions": ["a circle"]}
    config = configure(scenes, tmp_path / "run")
    with pytest.raises(ValueError, match=r"data.sources: two: .*1 images with the same captions"):
        train(config, samples={"one": read_captions(scenes, "train"), "two": [sample], "val": []})


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ("coarse", ["coco", "visual_genome", "sbu", "conceptual_captions"]),
        ("fine", ["objects365", "flickr30k", "mixed"]),
    ],
)
def test_the_published_mixtures_have_recipes(recipe: str, names: list[str]) -> None:
    config = load_config([recipe, f"{recipe}_mixture"], ["data.root=d", "out=o"])
    assert [source.name for source in config.data.sources] == names
    assert config.data.held_out is not None
    assert not load_config(recipe, ["data.root=d", "out=o"]).data.sources, "one data set needs no other recipe"
