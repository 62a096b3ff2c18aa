"""The two stages on their published data sets, in miniature: trained, stopped, resumed, measured."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fiber_data.check import check_folder_of
from fiber_train.config import load_config
from fiber_train.evaluation import Evaluation
from fiber_train.run import train
from fiber_train.tracking import read_metrics

from .conftest import FEW, SMALL
from .published import write_published
from .test_grounding_task import LITTLE
from .test_mixture import Ids
from .test_run import WITHOUT_DROPOUT, asked_to_stop, assert_equal_runs

COARSE = {"coco": 50, "visual_genome": 36, "sbu": 9, "conceptual_captions": 9}  # captions
EPOCH = ["trainer.batch_size=13", "trainer.max_steps=8"]
FINE = {"objects365": 7, "flickr30k": 8, "mixed": 6}  # 3 batches of 7
FRESH = ["data.tokenizer=null", "model.image_weights=null", "model.text_weights=null"]
LOW = ["task.shorter=[32]", "task.shorter_in_evaluation=32", "task.longest=64"]  # pixels
ONCE = ["trainer.eval_every=0", "trainer.checkpoint_every=100"]  # at the end


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


def configure(stage: str, published: Path, out: Path, *options: str) -> Any:
    return load_config([stage, f"{stage}_mixture", "small"], [f"data.root={published}", f"out={out}", *options])


def run_twice(stage: str, published: Path, tmp_path: Path, after: int, *options: str) -> tuple[Evaluation, list[Any]]:
    """Trains uninterrupted, and again with a stop; asserts the same bits, gives results and ids of the first."""
    straight = configure(stage, published, tmp_path / "straight", *options, "data.index=off")
    stopped = configure(stage, published, tmp_path / "stopped", *options)
    seen = Ids()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*lack an image on disk")
        results = train(straight, callbacks=[seen])
        with asked_to_stop(after):
            assert train(stopped) is None
        again = train(stopped)
    assert results is not None and again is not None and again.numbers() == results.numbers()
    one, other = (written(Path(config.out)) for config in (straight, stopped))
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    return results, seen.ids


def written(run: Path) -> dict[str, Any]:
    """The files of the finished model, and the rows of numbers but for times."""
    rows = [row for row in (run / "metrics.csv").read_text().splitlines() if ",time/" not in row]
    return {path.name: path.read_bytes() for path in (run / "model").iterdir()} | {"metrics.csv": rows}


def logged_sources(run: Path, name: str) -> set[str]:
    return {row[1].rpartition("/")[2] for row in read_metrics(run) if row[1].startswith(f"train/{name}/")}


def test_the_coarse_stage(published: Path, tmp_path: Path) -> None:
    results, ids = run_twice("coarse", published, tmp_path, 3, *SMALL, *FRESH, *ONCE, *EPOCH)
    coco, genome = (dict.fromkeys(range(10), 5), {2315000 + number: 6 for number in range(6)})
    web = [number for number in range(10) if number != 9] + [number for number in range(10) if number != 4]
    assert Counter(ids) == Counter(coco) + Counter(genome) + Counter(web), "each caption once"
    assert results.counts == {"num_images": 4, "num_texts": 20}
    assert {"image_to_text_recall@1", "itm_accuracy", "mlm_accuracy"} <= results.numbers().keys()
    for name in ("loss", "itc_loss", "itm_loss", "mlm_loss"):
        assert logged_sources(tmp_path / "straight", name) == COARSE.keys()


def test_the_fine_stage(published: Path, coarse: Path, tmp_path: Path) -> None:
    options = [f"model.checkpoint={coarse}", *FEW, *LITTLE, *LOW, "trainer.batch_size=7", "trainer.max_steps=4"]
    results, ids = run_twice("fine", published, tmp_path, 2, *options, *ONCE)
    assert len(ids) == 28
    boxes = [f"objects365_v1_{number:08}.jpg" for number in range(1, 8)]
    assert Counter(ids[:21]) == Counter(boxes) + Counter(range(8)) + Counter(range(6)), "each image or caption once"
    assert 0 <= results["AP"] <= 1 and results.counts["num_images"] == 3
    for name in ("loss", "box_loss", "centerness_loss", "token_loss"):
        assert logged_sources(tmp_path / "straight", name) == FINE.keys()
    assert all(math.isfinite(value) for _, _, value in read_metrics(tmp_path / "straight"))


def test_the_coarse_stage_in_parts_on_two_processes_equals_one(published: Path, tmp_path: Path, train_by_two) -> None:
    options = [*SMALL, *FRESH, *ONCE, *WITHOUT_DROPOUT]
    one, out = configure("coarse", published, tmp_path / "one", *options), tmp_path / "two"
    with pytest.warns(UserWarning, match="lack an image on disk"):
        train(one)
    given = [f"data.root={published}", f"out={out}", *options, "trainer.accumulate=2"]
    train_by_two(["coarse", "coarse_mixture", "small"], given)
    assert_equal_runs(Path(one.out), out, 1e-3)
    assert logged_sources(out, "loss") <= COARSE.keys()


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_what_recipes_read_a_check_finds(published: Path, stage: str) -> None:
    data = load_config([stage, f"{stage}_mixture"], ["data.root=d", "out=o"]).data
    assert data.held_out is not None
    for source in [*data.sources, data.held_out]:
        found = list(check_folder_of(published / source.root, images=True))
        assert source.format in {each.format for each in found}
        assert not any(each.is_refused for each in found)
        splits = {each.file.split for each in found if each.format == source.format}
        assert None in splits or (source.split or data.train_split) in splits
        assert source.root != "mixed" or "train_no_coco" in splits, "which the recipe speaks of"
