"""No number vanishes or lies: what cannot be measured is named or refused before the work, like a run without lessons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fiber_data import MappedSamples, read_captions, read_detection, read_grounding, read_nlvr2, read_vqav2
from fiber_data.formats.detection import DetectionData
from fiber_train import Evaluation
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.run import train
from fiber_train.tasks.base import make_task
from fiber_train.tasks.grounding.boxes import BoxData
from fiber_train.tracking import read_metrics

from .conftest import FEW

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0"]


@pytest.fixture
def changed(scenes: Path, tmp_path: Path):
    """`changed(file, change)`: a data set whose annotation file `change` changed."""

    def make(name: str, change: Any) -> Path:
        root = tmp_path / "data"
        if not root.is_dir():
            root.mkdir()
            (root / "images").symlink_to(scenes / "images")
            shutil.copytree(scenes / "annotations", root / "annotations")
        path = root / "annotations" / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return root

    return make


def boxes(recipe: str, *overrides: str) -> list[str]:
    return [recipe, "small", *FEW, *LITTLE, *overrides]


def without_box(content: dict[str, Any]) -> None:
    content["annotations"][3]["bbox"][2] = 0


def test_an_expression_without_a_box_is_left_out_and_named(changed, coarse: Path, tmp_path: Path, capsys) -> None:
    root, out = changed("finetune_refcoco_val.json", without_box), tmp_path / "run"
    given = [f"data.root={root}", f"model.checkpoint={coarse}", f"out={out}", *FEW, *LITTLE]
    with pytest.warns(UserWarning, match="being empty"):
        found = train(load_config(["refcoco", "small"], given))
    (left,) = found.left_out
    total = found.counts["refcoco/num_expressions"] + 1
    assert (left.name, left.count, left.total, left.reason, left.group) == (
        "expressions",
        1,
        total,
        "no box",
        "refcoco",
    )
    assert (out / "best" / "evaluation.json").is_file()
    assert ("eval/left_out/refcoco/expressions", 1) in {(name, value) for _, name, value in read_metrics(out)}
    target = tmp_path / "x.json"
    with pytest.warns(UserWarning, match="being empty"):
        assert main(["evaluate", "--checkpoint", str(out), "--data", str(root), "--out", str(target)]) == 0
    printed = capsys.readouterr().out
    assert f"{total - 1} expressions (refcoco)   accuracy" in printed
    assert f"1 of {total} expressions (refcoco) not measured: no box ({left.ids[0]})" in printed
    assert json.loads(target.read_text())["left_out"][0]["ids"] == list(left.ids)
    assert Evaluation.from_json(json.loads(target.read_text())).left_out == found.left_out


def task_of(recipe: str, *overrides: str, root: Path | str = "unused") -> Any:
    return make_task(load_config([recipe, "small"], [f"data.root={root}", "out=o", *overrides]))


def off_by_one(content: dict[str, Any]) -> None:
    first = content["images"][0]
    first["tokens_positive_eval"] = [
        [[start, end + 1] for start, end in box["tokens_positive"]]
        for box in content["annotations"]
        if box["image_id"] == first["id"]
    ]


def test_a_phrase_whose_words_no_box_has_is_left_out_and_named(changed) -> None:
    root = changed("final_scenes_val.json", off_by_one)
    task = task_of("flickr", "task.evaluate.captions=[scenes]", root=root)
    samples = task.samples("val")
    entry, phrases = samples.captions["scenes"][0]["id"], samples.captions["scenes"][0]["phrases"]
    found = task.check(samples)
    captions, spans = found.left_out
    assert (captions.name, captions.count, captions.ids, captions.reason) == (
        "captions",
        1,
        (entry,),
        "no phrase with a box",
    )
    assert (spans.name, spans.count, spans.ids) == ("phrases", len(phrases), (entry,))
    assert found.counts["scenes/num_sentences"] == captions.total - 1
    assert "scenes/recall@1" in found
    assert f"1 of {captions.total} captions (scenes) not measured: no phrase with a box ({entry})" in task.summary(
        found
    )


def test_expressions_are_of_one_box(scenes: Path) -> None:
    samples = read_grounding(scenes, "val", name="refcoco")[:4]
    box = samples[0]["boxes"][0]
    given = [[box], [box, box], [(5.0, 5.0, 5.0, 9.0)], [(0.0, 0.0, float("nan"), 9.0)]]
    changed = [{**sample, "boxes": boxes} for sample, boxes in zip(samples, given, strict=True)]
    found = task_of("refcoco").check(BoxData(expressions={"refcoco": changed}))
    assert found.counts == {"refcoco/num_expressions": 1}
    assert [(each.reason, each.count, each.total) for each in found.left_out] == [
        ("no box", 2, 4),
        ("several boxes", 1, 4),
    ]


def without_boxes(data: DetectionData) -> DetectionData:
    bare = [{**sample, "boxes": [], "labels": [], "area": [], "iscrowd": []} for sample in data.samples]
    return DetectionData(bare, data.categories)


def crowds_only(data: DetectionData) -> DetectionData:
    return DetectionData([{**s, "iscrowd": [True] * len(s["boxes"])} for s in data.samples], data.categories)


def spanless(samples: list[Any]) -> list[Any]:
    return [{**sample, "spans": [[] for _ in sample["boxes"]], "phrases": []} for sample in samples]


def unlabeled(samples: list[Any]) -> list[Any]:
    return [{**sample, "label": None} for sample in samples]


def unanswered(samples: list[Any]) -> list[Any]:
    return [{key: value for key, value in sample.items() if key != "answers"} for sample in samples]


def captioned(*captions: str):
    return lambda samples: [{**sample, "captions": list(captions)} for sample in samples]


DETECTION, NLVR2, VQA, IMAGES = read_detection, read_nlvr2, read_vqav2, read_captions
ITM = "task.model.objectives=[itm]"


@pytest.mark.parametrize(
    ("recipe", "read", "change", "options", "message"),
    [
        ("coco", DETECTION, without_boxes, [], "train: not one box to learn from in detection; boxes count that hold"),
        ("coco", DETECTION, crowds_only, [], "train: not one box to learn from in detection"),
        ("flickr", read_grounding, spanless, [], "train: not one box to learn from in captions 'captions'"),
        ("vqa", VQA, unanswered, [], "train: not one of .* questions has answers to learn from"),
        ("nlvr2", NLVR2, unlabeled, [], "train: not one of .* statements has a label to learn from"),
        ("caption_mle", IMAGES, captioned("", " "), [], "train: the captions of 60 images hold no word to learn from"),
        ("caption_cider", IMAGES, lambda samples: samples[:1], [], "the reward, CIDEr-D, is 0 for any caption of a single"),
        ("quickstart", IMAGES, captioned(""), [], "train: the captions of 60 images hold no word"),
        ("quickstart", IMAGES, captioned("a photo"), [], "60 images with the same captions leave nothing to tell apart"),
        ("retrieval_itm", IMAGES, lambda samples: samples[:1], [], "train: 1 images with the same captions"),
        ("retrieval_itc", IMAGES, list, ["trainer.batch_size=1"], "trainer.batch_size: with one pair in a batch itc has"),
        ("quickstart", IMAGES, list, [ITM, "trainer.batch_size=2", "trainer.accumulate=2", "task.model.original=true"], "in a batch itm has"),
        ("quickstart", IMAGES, list, ["data.mlm_probability=0"], "data.mlm_probability is 0.0, which leaves no masked"),
    ],
)  # fmt: skip
def test_a_run_without_lessons_is_refused(recipe, read, change, options, message, scenes: Path, tmp_path: Path) -> None:
    samples = {"train": change(read(scenes, "train")), "val": read(scenes, "val")}
    config = load_config([recipe, "small"], ["data.root=unused", f"out={tmp_path / 'run'}", *FEW, *options])
    with pytest.raises(ValueError, match=message):
        train(config, samples=samples)
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_a_file_without_lessons_among_others_is_told(scenes: Path) -> None:
    task = task_of("fine")
    data = BoxData(read_detection(scenes, "train"), {"mixed": spanless(read_grounding(scenes, "train"))})
    with pytest.warns(UserWarning, match="train: not one box to learn from in captions 'mixed'"):
        task.check_training(data)


@pytest.mark.parametrize(
    ("recipe", "read", "change", "options", "message"),
    [
        ("coco", DETECTION, without_boxes, [], r"no measure 'AP' .*only none \(30 of 30 images not measured: no annotations\)"),
        ("coco", DETECTION, crowds_only, [], "no measure 'AP'"),
        ("coco", DETECTION, lambda data: data, ["task.monitor=AP5"], "no measure 'AP5' .*only AP, AP50, AP75"),
        ("coco", DETECTION, lambda data: data, ["task.monitor=APl"], "no measure 'APl'"),  # there is no large object
        ("flickr", read_grounding, spanless, ["task.monitor=captions/recall@1"], "no measure 'captions/recall@1' .* not measured: no phrase with a box"),
        ("vqa", VQA, unanswered, [], r"no measure 'overall' .* questions not measured: no annotations\); set data.eval_split"),
        ("vqa", VQA, list, ["task.monitor=colour"], "no measure 'colour' to keep the best by, only overall, yes/no"),
        ("vqa", VQA, lambda samples: unanswered(samples[:2]) + samples[2:], [], "val: 2 of .* questions have no answers"),
        ("nlvr2", NLVR2, unlabeled, [], "no measure 'accuracy' .* statements not measured: no annotations"),
        ("nlvr2", NLVR2, lambda samples: unlabeled(samples[:1]) + samples[1:], [], "val: 1 of .* statements have no label"),
        ("caption_mle", IMAGES, lambda samples: captioned()(samples[:1]) + samples[1:], [], "val: 1 of 30 images have no caption"),
        ("retrieval_itc", IMAGES, captioned(" "), [], "val: 30 of 30 images have no caption to measure by"),
        ("retrieval_itc", IMAGES, list, ["task.monitor=recall"], "no measure 'recall' .*only image_to_text_recall@1"),
        ("quickstart", IMAGES, lambda samples: samples[:1], [ITM], "no measure 'itm_accuracy'"),
        ("quickstart", IMAGES, lambda samples: [], [], "val: there is no sample to measure"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_told_before_the_work(
    recipe, read, change, options, message, scenes: Path, tmp_path: Path
) -> None:
    samples = {"train": read(scenes, "train"), "val": change(read(scenes, "val"))}
    config = load_config([recipe, "small"], ["data.root=unused", f"out={tmp_path / 'run'}", *FEW, *options])
    with pytest.raises(ValueError, match=message):
        train(config, samples=samples)
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("own", [None, True, 4.0, float("nan"), " ", ["4"]])
@pytest.mark.parametrize("lazy", [False, True])
def test_an_id_that_is_none_is_refused(own, lazy: bool, scenes: Path) -> None:
    samples: Any = read_captions(scenes, "val")
    samples[2]["id"] = own
    if lazy:
        samples = MappedSamples(samples, dict, columns={"id": [sample["id"] for sample in samples]})
    with pytest.raises(
        ValueError, match=r"val: sample\[2\]: expected an id, a whole number or text, found .*; give each"
    ):
        task_of("caption_mle").check(samples)


@pytest.mark.parametrize(
    ("recipe", "read"),
    [("caption_mle", IMAGES), ("retrieval_itc", IMAGES), ("quickstart", IMAGES), ("vqa", VQA), ("nlvr2", NLVR2)],
)
def test_ids_that_repeat_are_refused_by_every_task(recipe: str, read, scenes: Path) -> None:
    samples = read(scenes, "val")
    samples[3]["id"] = samples[1]["id"]
    with pytest.raises(ValueError, match=r"val: sample\[3\]: id .* is that of sample\[1\] too; give each sample an id"):
        task_of(recipe).check(samples)


def test_ids_of_boxes_repeat_over_files_but_not_in_one(scenes: Path) -> None:
    expressions, captions = read_grounding(scenes, "val", name="refcoco"), read_grounding(scenes, "val")
    data = BoxData(read_detection(scenes, "val"), {"scenes": captions}, {"a": expressions, "b": expressions})
    found = task_of("fine").check(data)
    assert {"AP", "scenes/recall@1", "a/P@1", "b/P@1"} <= {measure.name for measure in found}
    for name, samples in (("expressions 'a'", expressions), ("detection", data.detection.samples)):
        first, samples[1]["id"] = samples[1]["id"], str(samples[0]["id"])  # in a file of JSON they read alike
        with pytest.raises(ValueError, match=rf"val, {name}: sample\[1\]: id '\d+' is that of sample\[0\] too"):
            task_of("fine").check(data)
        samples[1]["id"] = first
    captions[1] |= {key: captions[0].get(key, 0) for key in ("original_id", "sentence_id")}
    captions[0]["sentence_id"] = captions[1]["sentence_id"]
    with pytest.raises(
        ValueError, match=r"scenes: captions .* are both number \d+ of image .*; give each a sentence_id"
    ):
        task_of("fine").check(data)


def test_a_split_without_annotations_gives_predictions_and_says_so(scenes: Path, coarse: Path, tmp_path: Path) -> None:
    samples = {"train": read_nlvr2(scenes, "train"), "val": unlabeled(read_nlvr2(scenes, "val"))}
    given = ["data.root=unused", f"model.checkpoint={coarse}", f"out={tmp_path}", *FEW, "task.monitor=none"]
    config = load_config(["nlvr2", "small"], given)
    found = train(config, samples=samples)
    count = len(samples["val"])
    assert make_task(config).summary(found) == (
        f"{count} of {count} statements not measured: no annotations\nnothing was measured: predictions only"
    )
    assert (found.counts, found.measures) == ({}, [])
    assert len(found.predictions["predictions.csv"].splitlines()) == count
    assert not (tmp_path / "best").exists()
