"""Every recipe of the fine stage: from a coarse model to numbers, the best weights, files to submit, and boxes drawn."""

from __future__ import annotations

import csv
import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_data import load_image
from fiber_eval import detection, lvis, phrase_grounding, referring
from fiber_train.checkpoint import load_model, load_task_model
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.divergence import NonFiniteLossError
from fiber_train.evaluation import Evaluation
from fiber_train.report import write_report
from fiber_train.run import train
from fiber_train.tasks.base import make_task
from fiber_train.tasks.find import task_of_model
from fiber_train.tasks.grounding.boxes import worded_categories
from fiber_train.tasks.grounding.evaluation import describe
from fiber_train.tasks.grounding.task import usual_copies
from fiber_train.tracking import read_metrics
from lightning_fabric import Fabric
from PIL import Image
from pycocotools.coco import COCO

from .conftest import FEW
from .layouts import write_lvis, write_roboflow
from .test_run import asked_to_stop, assert_same, losses

LITTLE = ["task.model.num_blocks=1", "task.model.channels=16", "task.detection.score_threshold=0"]


def read(path: Path) -> Any:
    content = json.loads(path.read_text())
    return Evaluation.from_json(content) if path.name == "evaluation.json" else content


@pytest.fixture(scope="module")
def as_lvis(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lvis(scenes, tmp_path_factory.mktemp("lvis"))


@pytest.fixture(scope="module")
def as_roboflow(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_roboflow(scenes, tmp_path_factory.mktemp("odinw"))


@pytest.fixture(scope="module")
def entities(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captions of the held-out images as Flickr30k Entities writes them."""
    root = tmp_path_factory.mktemp("entities")
    (root / "Annotations").mkdir()
    (root / "Sentences").mkdir()
    content = read(scenes / "annotations" / "final_scenes_val.json")
    names = sorted({image["original_id"] for image in content["images"]})
    (root / "val.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        lines, objects, chain = [], [], 0
        for image in (image for image in content["images"] if image["original_id"] == name):
            caption, marked, done = image["caption"], "", 0
            own = [box for box in content["annotations"] if box["image_id"] == image["id"]]
            for start, end in sorted({tuple(span) for box in own for span in box["tokens_positive"]}):
                chain += 1
                for box in (box for box in own if [start, end] in box["tokens_positive"]):
                    x, y, width, height = box["bbox"]
                    corners = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
                    sides = "".join(f"<{side}>{round(value)}</{side}>" for side, value in corners.items())
                    objects.append(f"<object><name>{chain}</name><bndbox>{sides}</bndbox></object>")
                end += len(re.match(r"\S*", caption[end:])[0])  # a mark closes after a comma
                marked += f"{caption[done:start]}[/EN#{chain}/shape {caption[start:end]}]"
                done = end
            lines.append(marked + caption[done:])
        (root / "Sentences" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    return root


@pytest.fixture(scope="module")
def finetune(scenes: Path, coarse: Path, tmp_path_factory: pytest.TempPathFactory):
    """`finetune(recipe, *overrides)` gives the folder of a run of three steps."""
    folder = tmp_path_factory.mktemp("grounding")

    @cache
    def run(recipe: str, *overrides: str, name: str = "run") -> Path:
        out = folder / f"{recipe}-{name}"
        given = [f"data.root={scenes}", f"model.checkpoint={coarse}", f"out={out}", *FEW, *LITTLE, *overrides]
        train(load_config([recipe, "small"], given))
        return out

    return run


CAPTIONS = ["task.train.captions=[scenes]", "task.evaluate.captions=[scenes]"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "monitor"),
    [
        ("fine", ["task.train.captions=[scenes]"], "AP"),
        ("coco", [], "AP"),
        ("flickr", CAPTIONS, "scenes/recall@1"),
        ("refcoco", [], "refcoco/P@1"),
    ],
)
def test_a_recipe_leaves_numbers_and_the_best_weights(recipe: str, overrides, monitor: str, finetune, coarse) -> None:
    out = finetune(recipe, *overrides)
    best = read(out / "best" / "evaluation.json")
    seen = {step: value for step, name, value in read_metrics(out) if name == f"eval/{monitor}"}
    assert set(seen) == {2, 3}
    assert best[monitor] == max(seen.values())
    logged = {name for _, name, _ in read_metrics(out)}
    assert {"train/box_loss", "train/centerness_loss", "train/token_loss"} <= logged
    model, start = load_task_model(out), load_task_model(coarse)
    table, own = (m.backbone.text_stream.embeddings.word_embeddings.weight for m in (start, model))
    assert 0 < (table - own).abs().max() < 0.05, "it started from the coarse weights, and learned"


def test_the_recipes_are_the_published_ones() -> None:
    fine, coco, refer = (load_config(name, ["data.root=d", "out=o"]) for name in ("fine", "coco", "refcoco"))
    assert (fine.trainer.max_steps, fine.trainer.batch_size, fine.optim.learning_rate) == (800_000, 64, 1e-4)
    assert (fine.optim.language_multiplier, fine.optim.max_norm, fine.optim.warmup) == (0.1, 1, 2000)
    assert (coco.trainer.max_epochs, coco.trainer.batch_size, coco.optim.learning_rate) == (24, 32, 1e-5)
    assert (refer.trainer.max_epochs, refer.trainer.batch_size, refer.task.flip) == (20, 16, 0)
    assert coco.optim.weight_decay == refer.optim.weight_decay == 1e-4
    assert coco.task.shorter == [480, 560, 640, 720, 800]


def test_the_file_of_detections_scores_what_the_run_says(finetune, scenes: Path) -> None:
    best = finetune("coco") / "best"
    scored = detection.score_files(scenes / "annotations" / "instances_val.json", best / "detections.json")
    found = read(best / "evaluation.json")
    assert read(best / "detections.json"), "a threshold of 0 leaves boxes"
    assert scored == pytest.approx({name: found[name] for name in scored})


def test_lvis_is_measured_by_fixed_ap(finetune, as_lvis: Path) -> None:
    sizes = ["data.eval_split=val", "task.chunk_size=3", "task.detection.max_detections=5"]
    best = finetune("lvis", f"data.root={as_lvis}", *sizes) / "best"
    scored = lvis.score_files(as_lvis / "lvis_v1_val.json", best / "detections.json", fixed=True)
    found = read(best / "evaluation.json")
    assert scored == pytest.approx({name: found[name] for name in scored})
    rows = read(best / "detections.json")
    each = [sum(row["image_id"] == image for row in rows) for image in {row["image_id"] for row in rows}]
    assert 5 < max(each) <= 10, "five of each of two prompts"


def test_odinw_in_full_with_few_shots_and_in_other_words(finetune, as_roboflow: Path) -> None:
    root = [f"data.root={as_roboflow}", "data.eval_split=valid"]
    out = finetune("odinw", *root)
    assert {row["category_id"] for row in read(out / "best" / "detections.json")} <= {1, 2, 3, 4}
    few = finetune("odinw", *root, "task.shots=2", "trainer.batch_size=2", name="few")
    chosen = make_task(load_config(few / "config.yaml")).samples("train", training=True).detection.samples
    assert len({sample["id"] for sample in chosen}) <= 8
    assert [usual_copies(shots) for shots in (1, 3, 5, 10, 50)] == [8, 4, 2, 1, 1]
    assert len(chosen) == 4 * len({sample["id"] for sample in chosen})
    assert "AP" in read(few / "best" / "evaluation.json")

    given = [*root, "out=o", "task.wording={cross: 'two {crossed bars} of a color'}"]
    task = make_task(load_config("odinw", given))
    data = task.read_training().detection
    categories = worded_categories(data, task.settings.wording)
    assert (categories[1], categories[4]) == ("circle", ("crossed bars", "two ", " of a color"))
    for wrong, message in (("{dog: 'a {dog}'}", "'dog' is no category"), ("{cross: 'bars'}", "one name in braces")):
        other = make_task(load_config("odinw", [*root, "out=o", f"task.wording={wrong}"]))
        with pytest.raises(ValueError, match=message):
            worded_categories(data, other.settings.wording)


def test_settings_of_the_evaluation_travel_with_the_weights(finetune, as_lvis: Path) -> None:
    sizes = ["data.eval_split=val", "task.chunk_size=3", "task.detection.max_detections=5"]
    for folder in ("best", "model", "checkpoints/step-000003"):
        path = finetune("lvis", f"data.root={as_lvis}", *sizes) / folder
        settings = task_of_model(path, load_task_model(path), [f"data.root={as_lvis}"]).settings
        assert (settings.chunk_size, settings.detection.max_detections) == (3, 5)
    published = load_config("lvis", ["data.root=d", "out=o"]).task
    assert (published.chunk_size, published.detection.max_detections) == (40, 300)


@pytest.mark.parametrize(
    ("recipe", "learns"),
    [
        ("linear_probe", {"box", "centerness", "alignment"}),
        ("prompt_v2", {"prompt"}),
        ("prompt_v4", {"prompt", "box", "centerness", "alignment"}),
    ],
)
def test_only_the_last_layers_or_prompt_vectors_learn(
    recipe: str, learns: set[str], finetune, as_roboflow: Path
) -> None:
    start = finetune("odinw", f"data.root={as_roboflow}", "data.eval_split=valid")
    out = start.with_name(recipe)
    given = [f"data.root={as_roboflow}", f"model.checkpoint={start}", f"out={out}", *FEW, *LITTLE]
    train(load_config(["odinw", "small", recipe], [*given, "data.eval_split=valid", "optim.schedule=constant"]))
    before, after = (load_task_model(run).state_dict() for run in (start / "model", out))
    changed = {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in changed} == learns
    assert all(name.startswith("grounding_head.") for name in changed)


def test_the_file_of_phrases_scores_what_the_run_says(finetune, entities: Path) -> None:
    best = finetune("flickr", *CAPTIONS, f"task.entities={entities}", name="entities") / "best"
    scored = phrase_grounding.score_files(entities, best / "scenes.json", split="val")
    found = read(best / "evaluation.json")
    assert scored == pytest.approx({name: found[f"scenes/{name}"] for name in scored})
    assert "scenes/shape_recall@1" in found


def test_the_file_of_expressions_scores_what_the_run_says(finetune, scenes: Path) -> None:
    best = finetune("refcoco", "task.empty_expressions=true", name="empty") / "best"
    scored = referring.score_files(scenes / "annotations" / "finetune_refcoco_val.json", best / "refcoco.json")
    found = read(best / "evaluation.json")
    (precisions,) = scored.values()
    assert {f"refcoco/{name}": value for name, value in precisions.items()} == pytest.approx(
        {f"refcoco/P@{k}": found[f"refcoco/P@{k}"] for k in (1, 5, 10)}
    )
    assert f"(empty expression {found.find('refcoco/P@1').baseline:.3f})" in describe(found)


def test_resumed_equals_uninterrupted(scenes: Path, coarse: Path, tmp_path: Path) -> None:
    """With dropped blocks and paths, an average of the weights, prompts drawn anew and images of several sizes."""
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", *FEW, *LITTLE, "trainer.max_steps=4"]
    given += ["task.train.captions=[scenes]", "task.shorter=[48,64,80]", "task.model.drop_block=0.3"]
    given += ["model.overrides.drop_path_rate=0.2", "optim.ema_decay=0.9", "trainer.eval_every=0"]
    straight, stopped = (load_config(["fine", "small"], [*given, f"out={tmp_path / name}"]) for name in "ab")
    train(straight)
    with asked_to_stop(after=2):
        assert train(stopped) is None
    assert train(stopped) is not None
    assert_same(Path(straight.out), Path(stopped.out))


@pytest.mark.parametrize("max_norm", ["null", "1"])
def test_a_run_that_diverges_says_so_and_saves_nothing(
    max_norm: str, scenes: Path, coarse: Path, tmp_path: Path
) -> None:
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", f"out={tmp_path / 'run'}", *FEW, *LITTLE]
    given += ["optim.learning_rate=100", f"optim.max_norm={max_norm}", "trainer.max_steps=30", "trainer.eval_every=0"]
    with pytest.raises(NonFiniteLossError, match=r"nothing was saved before; try a smaller optim\.learning_rate"):
        train(load_config(["coco", "small"], given))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_two_processes_equal_one(scenes: Path, coarse: Path, tmp_path: Path, train_by_two) -> None:
    """The losses are over the boxes of all processes, the evaluation over all their images."""
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", *FEW, *LITTLE, "trainer.eval_every=0"]
    given += ["model.overrides.hidden_dropout=0", "model.overrides.drop_path_rate=0", "trainer.accelerator=cpu"]
    one, two = tmp_path / "one", tmp_path / "two"
    expected = train(load_config(["coco", "small"], [*given, f"out={one}"]))
    train_by_two(["coco", "small"], [*given, f"out={two}"])
    for (step, name, value), (other_step, other_name, other) in zip(losses(one), losses(two), strict=True):
        assert (step, name) == (other_step, other_name)
        assert value == pytest.approx(other, rel=1e-3), (step, name)
    found = read(two / "evaluation.json")
    assert found.counts["num_images"] == 30
    assert found.numbers() == pytest.approx(expected.numbers(), abs=0.02)


def test_a_run_without_files_says_which_settings_name_them() -> None:
    task = make_task(load_config("refcoco", ["data.root=d", "out=o", "task.evaluate.expressions=[]"]))
    with pytest.raises(ValueError, match=r"task.evaluate names no file; set task.evaluate.detection=true"):
        task.read("val")


def test_boxes_from_the_shell_on_a_real_photo(finetune, real_photos: Path, tmp_path: Path, capsys) -> None:
    run, photo = str(finetune("coco")), next((real_photos / "val2017").glob("*.jpg"))
    commands = {
        "detect": ["--categories", "person, dog", "--threshold", "0.02"],
        "ground": ["a person with a dog", "--threshold", "0.02"],
        "refer": ["the dog on the left"],
    }
    capsys.readouterr()  # a run that goes on says so
    for command, words in commands.items():
        folder = tmp_path / command
        assert main([command, str(photo), *words, "--checkpoint", run, "--draw", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["score", "label", "x1", "y1", "x2", "y2"]
        if command == "refer":
            assert len(lines) == 2
        height, width = load_image(photo).shape[1:]
        for line in lines[1:]:
            x1, y1, x2, y2 = map(float, line.split()[-4:])
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
        assert Image.open(folder / f"{photo.stem}.boxes.png").size == (width, height)
    captioner, out = str(finetune("coco")), tmp_path / "found.txt"
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for words, message in (
        (["detect", str(photo), "--categories", " , "], "categories must be names, at least one and none empty"),
        (["detect", str(tmp_path / "broken.jpg"), "--categories", "dog"], "cannot be read as a"),
        (["ground", str(photo), "running"], "'running' names no phrase to look for; give spans, or use refer"),
        (["refer", str(photo), " "], "sentence 0 is empty"),
    ):
        assert main([*words, "--checkpoint", captioner, "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.parametrize("text", ["circle, square", "circle . square .", "circle; square", "circle\nsquare"])
def test_categories_from_the_shell_are_split(text: str, finetune, scenes: Path, capsys) -> None:
    run, image = str(finetune("coco")), str(next((scenes / "images" / "val").glob("*.png")))
    words = ["--categories", text, "--threshold", "0", "--checkpoint", run]
    capsys.readouterr()
    assert main(["detect", image, *words]) == 0
    found = {line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert found == {"circle", "square"}


def test_categories_called_alike_keep_their_own_names(finetune, scenes: Path) -> None:
    model, _ = load_model(finetune("coco"))
    names = ["circle_(flat)", "circle_(round)", "Square", "square"]
    (found,) = model.detect(next((scenes / "images" / "val").glob("*.png")), names, threshold=0.0)
    assert set(found.text_labels) == set(names)
    scores = [found.scores[found.labels == label] for label in range(4)]
    assert torch.equal(scores[2], scores[3]), "the same words"
    assert not torch.equal(scores[0][:5], scores[1][:5]), "words of their own"


def test_what_max_length_cuts_off_is_told(finetune, scenes: Path, tmp_path: Path) -> None:
    """Phrases that are cut off count as not found, of expressions the remaining tokens are asked."""
    model, processor = load_model(finetune("coco"))
    given = [f"data.root={scenes}", "out=o", "data.max_length=6", "data.num_workers=0", *LITTLE]
    processor.max_length = 6
    task = make_task(load_config("refcoco", [*given, "task.evaluate.captions=[scenes]"]))
    samples = task.samples("val")
    for each in samples.expressions["refcoco"]:  # what it speaks of comes last
        each["phrases"] = [[(len(each["caption"]) - 1, len(each["caption"]))]]
    with pytest.warns(UserWarning, match="texts longer than max_length"):
        found = task.measure(model, samples, processor, Fabric(accelerator="cpu"))
    num_phrases = sum(len(sample["phrases"]) for sample in samples.captions["scenes"])
    assert 0 < found.counts["scenes/num_cut_phrases"] < num_phrases
    assert "phrases (scenes) beyond data.max_length count as not found" in task.describe(found)
    assert "refcoco/num_cut_phrases" not in found.counts
    assert all(boxes for boxes, _ in found.outputs["refcoco"].values())


def test_a_coarse_model_finds_no_boxes(coarse: Path, scenes: Path, capsys) -> None:
    image = str(next((scenes / "images" / "val").glob("*.png")))
    assert main(["detect", image, "--categories", "circle", "--checkpoint", str(coarse)]) == 1
    said = capsys.readouterr().err
    assert 'holds a FiberForPretraining (model.retrieve(["a.jpg"' in said
    assert 'but a FiberForGrounding (model.detect("photo.jpg", ["dog", "cat"])) is needed' in said


def test_boxes_of_a_folder_are_read_by_others(finetune, scenes: Path, tmp_path: Path) -> None:
    """The same boxes in every form; COCO's by pycocotools; what cannot be read costs itself."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((scenes / "images" / "val").glob("*.png"))[:3]:
        shutil.copy(path, photos)
    (photos / "broken.png").write_bytes(b"no image")
    words = ["detect", str(photos), "--categories", "circle, square", "--threshold", "0.01"]
    found = {}
    for form in ("json", "jsonl", "csv", "coco"):
        found[form] = tmp_path / f"found.{form}"
        options = ["--checkpoint", str(finetune("coco")), "--batch-size", "2", "--format", form]
        assert main([*words, *options, "--out", str(found[form])]) == 0
    records = read(found["json"])
    assert len(records) == 3
    assert [json.loads(line) for line in found["jsonl"].read_text().splitlines()] == records
    expected = [(record["image"], box["score"], *box["box"]) for record in records for box in record["boxes"]]
    assert expected
    with found["csv"].open() as file:
        rows = [
            (row["image"], *(float(row[name]) for name in ("score", "x1", "y1", "x2", "y2")))
            for row in csv.DictReader(file)
        ]
    assert rows == expected
    coco = COCO(found["coco"])
    names = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    boxes = [(names[each["image_id"]], each["score"], *each["bbox"]) for each in coco.loadAnns(coco.getAnnIds())]
    assert boxes == [
        (name, score, x1, y1, pytest.approx(x2 - x1), pytest.approx(y2 - y1))
        for name, score, x1, y1, x2, y2 in expected
    ]


def test_a_report_of_categories(finetune, tmp_path: Path) -> None:
    html = write_report(finetune("coco"), tmp_path / "report.html", num_examples=2).read_text()
    assert html.count('<div class="card">') == 2
    assert 'class="mark-true"' in html


def test_the_model_answers_as_its_evaluation_does(finetune, scenes: Path) -> None:
    """`detect` on one image gives the boxes of the file of detections."""
    out = finetune("coco")
    model, _ = load_model(out)
    content = read(scenes / "annotations" / "instances_val.json")
    image = content["images"][3]
    names = [category["name"] for category in content["categories"]]
    found = model.detect(scenes / "images" / "val" / image["file_name"], names, threshold=0.0)[0]
    rows = [row for row in read(out / "best" / "detections.json") if row["image_id"] == image["id"]]
    assert len(rows) == len(found["scores"])
    assert [row["score"] for row in rows] == pytest.approx(found["scores"].tolist(), abs=1e-4)
