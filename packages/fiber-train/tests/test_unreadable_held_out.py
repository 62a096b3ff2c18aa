"""A held-out photo that cannot be read costs itself, for every task: all numbers are those of the others."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_data import (
    MappedSamples,
    load_processor,
    read_captions,
    read_detection,
    read_grounding,
    read_nlvr2,
    read_vqav2,
)
from fiber_train.build import build_model
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.evaluation import Evaluation, read_evaluation
from fiber_train.run import train
from fiber_train.tasks.base import make_task
from fiber_train.tasks.find import write_task
from fiber_train.tasks.grounding.boxes import BoxData
from fiber_train.tracking import read_metrics
from lightning_fabric import Fabric

from .conftest import ANSWERS, CAPTIONS, FEW

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0"]
LITTLE += ["task.shorter_in_evaluation=64"]
METRIC = f"{__name__}:share"


def share(predictions: Any, samples: Any) -> dict[str, float]:
    """A metric that fails where samples have no prediction."""
    if isinstance(samples, BoxData):
        parts = {"detection": samples.detection.samples, **samples.captions, **samples.expressions}
        return {name: len([predictions[name][sample["id"]] for sample in part]) for name, part in parts.items()}
    return {"samples": len([predictions[sample["id"]] for sample in samples])}


def fail(predictions: Any, samples: Any) -> dict[str, float]:
    raise ValueError("this metric fails")


def some(samples: Any, images: set[str]) -> list[Any]:
    return [sample for sample in samples if paths(sample) & images]


def paths(sample: Any) -> set[str]:
    return set(map(str, sample.get("images") or [sample["image"]]))


def spoiled(samples: Any, bad: str, cut: Path) -> Any:
    """The same with another file for an image."""
    if isinstance(samples, BoxData):
        texts = (
            {name: spoiled(part, bad, cut) for name, part in d.items()} for d in (samples.captions, samples.expressions)
        )
        return BoxData(replace(samples.detection, samples=spoiled(samples.detection.samples, bad, cut)), *texts)
    return [
        {**sample, "images": tuple(cut if str(image) == bad else image for image in sample["images"])}
        if "images" in sample
        else {**sample, "image": cut if str(sample["image"]) == bad else sample["image"]}
        for sample in samples
    ]  # fmt: skip


def without(samples: Any, cut: Path) -> Any:
    if isinstance(samples, BoxData):
        texts = (
            {name: without(part, cut) for name, part in d.items()} for d in (samples.captions, samples.expressions)
        )
        return BoxData(replace(samples.detection, samples=without(samples.detection.samples, cut)), *texts)
    return [sample for sample in samples if str(cut) not in paths(sample)]


def read(recipe: str, scenes: Path) -> Any:
    """Held-out samples of the four first images, of NLVR2 of the four first pairs."""
    images = [str(sample["image"]) for sample in read_captions(scenes, "val")[:4]]
    if recipe == "fine":
        boxes = read_detection(scenes, "val")
        captions, expressions = (
            some(read_grounding(scenes, "val", name=name), set(images)) for name in ("scenes", "refcoco")
        )
        return BoxData(
            replace(boxes, samples=some(boxes.samples, set(images))), {"scenes": captions}, {"refcoco": expressions}
        )
    if recipe == "nlvr2":
        return read_nlvr2(scenes, "val")[:4]
    return some((read_vqav2 if recipe == "vqa" else read_captions)(scenes, "val"), set(images))  # fmt: skip


@pytest.fixture
def prepared(scenes: Path, coarse: Path, tmp_path: Path):
    """`prepared(recipe)`: task, small model, processor, samples of which one image is cut to a third, and that image."""

    def make(recipe: str, *overrides: str) -> tuple[Any, Any, Any, Any, Path]:
        own = {"vqa": ANSWERS, "caption_mle": CAPTIONS, "fine": [*LITTLE, "task.empty_expressions=true"]}.get(
            recipe, []
        )
        given = [f"data.root={scenes}", f"out={tmp_path / 'run'}", f"model.checkpoint={coarse}", *FEW, *own, *overrides]
        task = make_task(load_config([recipe, "small"], given))
        start = load_processor(coarse / "model")
        processor = task.make_processor(start.tokenizer, start)
        torch.manual_seed(0)
        model, _ = build_model(task, read_vqav2(scenes, "train") if recipe == "vqa" else None, processor)
        model.processor = processor
        samples = read(recipe, scenes)
        part = samples.detection.samples if recipe == "fine" else samples
        bad = sorted(paths(part[1]))[0]
        cut = tmp_path / "cut.png"
        content = Path(bad).read_bytes()
        cut.write_bytes(content[: len(content) // 3])
        return task, model, processor, spoiled(samples, bad, cut), cut

    return make


RECIPES = {
    "vqa": "questions",
    "nlvr2": "statements",
    "caption_mle": "images",
    "retrieval_itc": "images",
    "retrieval_itm": "images",
    "quickstart": "images",
    "fine": "images",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_numbers_are_those_of_what_could_be_measured(recipe: str, prepared) -> None:
    metrics = [] if recipe == "quickstart" else [f"task.metrics=[{METRIC}]"]
    task, model, processor, samples, cut = prepared(recipe, *metrics)
    fabric, kept = Fabric(accelerator="cpu"), {}
    found = task.measure(model, samples, processor, fabric, keep=kept.update)
    expected = task.measure(model, without(samples, cut), processor, fabric)
    drawn = ("itm_accuracy", "mlm_accuracy")  # other negatives, other masks
    assert [each for each in found if each.name not in drawn] == [each for each in expected if each.name not in drawn]
    assert [each.name for each in found] == [each.name for each in expected]
    assert found.counts == expected.counts
    assert found.predictions == expected.predictions == kept
    lost = {each.group: each for each in found.left_out if "cut.png" in each.reason}
    assert lost[""].name == RECIPES[recipe] and lost[""].total == (4 if recipe != "vqa" else len(samples))
    assert set(lost) == ({"", "scenes", "refcoco"} if recipe == "fine" else {""})
    assert [each for each in found.left_out if each not in lost.values()] == expected.left_out
    line = f"{lost[''].count} of {lost[''].total} {RECIPES[recipe]} not measured: {cut}: cannot be read as an image"
    assert line in task.summary(found)
    assert found.numbers()[f"left_out/{RECIPES[recipe]}"] == lost[""].count >= len(lost[""].ids) > 0
    with pytest.raises(ValueError, match=r"cut\.png: cannot be read .*; mend it, leave it out, or measure the others"):
        task.measure(model, samples, processor, fabric, strict=True)


def test_a_sample_in_anothers_place_counts_once(prepared) -> None:
    """Decisions too, which no id tells apart."""
    task, model, processor, samples, _ = prepared("quickstart", "task.model.objectives=[itm,mlm]")
    found = task.measure(model, samples, processor, Fabric(accelerator="cpu"))
    assert found.counts["num_images"] == 3 and found.left_out[0].count == 1
    itm = found.find("itm_accuracy")
    assert itm.baseline == pytest.approx(2 / 3)
    assert itm.value * 9 == pytest.approx(round(itm.value * 9)), "three decisions an image"


def test_where_no_photo_is_left_that_is_said(prepared) -> None:
    task, model, processor, samples, cut = prepared("caption_mle")
    samples = [{**sample, "image": cut} for sample in samples]
    with pytest.raises(ValueError, match=r"val: 4 of 4 images not measured: .*cut\.png: cannot be read as an image"):
        task.measure(model, samples, processor, Fabric(accelerator="cpu"))


def test_mapped_samples_are_not_made_to_be_left_out(prepared) -> None:
    task, model, processor, samples, _ = prepared("caption_mle")
    made: list[Any] = []
    columns = {key: [sample[key] for sample in samples] for key in ("id", "captions")}
    mapped = MappedSamples(samples, lambda row: made.append(row["id"]) or row, columns=columns)
    found = task.measure(model, mapped, processor, Fabric(accelerator="cpu"))
    assert found.counts == {"num_images": 3} and found.left_out[0].count == 1
    assert set(made) == set(columns["id"]) and len(made) <= 50 + 5, "once for each place in the batch"


def test_from_the_shell(prepared, scenes: Path, tmp_path: Path, capsys) -> None:
    task, model, _, _, _ = prepared("vqa")
    shutil.copytree(scenes, tmp_path / "data")
    photo = tmp_path / "data" / "images" / "val" / "000003.png"
    assert photo.is_file()
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 3])
    folder, numbers, file = tmp_path / "model", tmp_path / "numbers.json", tmp_path / "answers.json"
    model.save_pretrained(folder)
    write_task(task, folder)
    words = ["evaluate", "--checkpoint", str(folder), "--data", str(tmp_path / "data"), "data.num_workers=1"]
    words += ["--out", str(numbers), "--predictions", str(file)]
    assert main([*words, "--strict"]) == 1
    assert f"fiber: {photo}: cannot be read as an image" in capsys.readouterr().err
    assert not numbers.exists() and not file.exists()
    assert main(words) == 0
    printed, found = capsys.readouterr().out, Evaluation.from_json(json.loads(numbers.read_text()))
    (left,) = found.left_out
    assert f"{left.count} of {left.total} questions not measured: {photo}: cannot be read" in printed
    assert f"{left.total - left.count} questions\n" in printed
    assert len(json.loads(file.read_text())) == left.total - left.count == found.counts["num_questions"]
    file.unlink()
    failing = f"task.metrics=[{__name__}:fail]"
    assert main(["evaluate", failing, *words[1:5], *words[6:]]) == 1
    assert "this metric fails" in capsys.readouterr().err
    assert len(json.loads(file.read_text())) == left.total - left.count, "predictions are kept before they are scored"


@pytest.mark.parametrize("recipe", ["quickstart", "fine"])
def test_evaluations_of_both_stages_say_what_they_leave_out(
    recipe: str, prepared, scenes: Path, tmp_path: Path
) -> None:
    task, _, _, samples, cut = prepared(recipe, "trainer.max_steps=1", "trainer.eval_every=0")
    data = {"train": read_captions(scenes, "train") if recipe == "quickstart" else read_detection(scenes, "train")}
    found = train(task.config, task=task, samples={**data, "val": samples})
    out = tmp_path / "run"
    assert found.counts["num_images"] == 3
    assert ("eval/left_out/images", 1.0) in [(name, value) for _, name, value in read_metrics(out)]
    assert ("eval/num_images", 3.0) in [(name, value) for _, name, value in read_metrics(out)]
    assert str(cut) in read_evaluation(out).left_out[0].reason
    if recipe == "quickstart":
        assert found.find("image_to_text_recall@1").baseline == pytest.approx(1 / 3)
        assert "3 images" in task.summary(found) and "(chance 0.333)" in task.summary(found)
    else:
        kept = {path.name for path in (out / "predictions").iterdir()}
        assert kept == {"detections.json", "scenes.json", "refcoco.json", "fiber.json"}


@pytest.mark.parametrize("recipe", ["fine", "vqa", "nlvr2", "caption_mle", "quickstart"])
def test_images_that_are_not_there_lower_the_coverage(recipe: str, prepared, scenes: Path, tmp_path: Path) -> None:
    """Left out when annotations are read, they stand in the lines and numbers of every evaluation."""
    shutil.copytree(scenes, tmp_path / "data")
    task, model, processor, _, _ = prepared(recipe, f"data.root={tmp_path / 'data'}")
    first = read_nlvr2(scenes, "val")[0]["images"][0] if recipe == "nlvr2" else read_captions(scenes, "val")[0]["image"]
    (tmp_path / "data" / Path(first).relative_to(scenes)).unlink()
    whole, samples = make_task(replace_root(task, scenes)).samples("val"), task.samples("val")
    found = task.measure(model, samples, processor, Fabric(accelerator="cpu"))
    total, rest = size(whole), size(samples)
    lost = [each for each in found.left_out if "lack an image on disk" in each.reason]
    assert sum(each.total for each in lost) == total
    assert sum(each.count for each in lost) == total - rest > 0
    line = f"{lost[0].count} of {lost[0].total} {lost[0].name} not measured: they lack an image on disk"
    assert line in task.summary(found) and Path(first).name in task.summary(found)
    assert found.numbers()[f"left_out/{lost[0].name}"] > 0
    with pytest.raises(
        ValueError, match=r"not measured: they lack an image on disk .*; mend it, or measure the others"
    ):
        task.measure(model, samples, processor, Fabric(accelerator="cpu"), strict=True)


def replace_root(task: Any, root: Path) -> Any:
    return replace(task.config, data=replace(task.config.data, root=str(root)))


def size(samples: Any) -> int:
    return sum(map(len, samples.parts.values())) if isinstance(samples, BoxData) else len(samples)


def test_two_processes_leave_out_the_same(scenes: Path, coarse: Path, tmp_path: Path, train_by_two) -> None:
    """One of them alone meets the photo that cannot be read."""
    shutil.copytree(scenes, tmp_path / "data")
    photo = Path(read_captions(tmp_path / "data", "val")[5]["image"])
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 3])
    given = [f"data.root={tmp_path / 'data'}", f"model.checkpoint={coarse}", *FEW, *CAPTIONS, "trainer.max_steps=1"]
    given += ["trainer.eval_every=0", "trainer.accelerator=cpu"]
    one = train(load_config(["caption_mle", "small"], [*given, f"out={tmp_path / 'one'}"]))
    train_by_two(["caption_mle", "small"], [*given, f"out={tmp_path / 'two'}"])
    two = read_evaluation(tmp_path / "two")
    assert two.left_out == one.left_out and two.counts == one.counts == {"num_images": 29}
    assert str(photo) in two.left_out[0].reason
