"""Every recipe of the understanding tasks: from a coarse model to numbers, the best weights and a file to submit."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fiber_data import AnswerVocabulary
from fiber_eval import captioning, question_answering, reasoning, retrieval_files
from fiber_eval.captioning import DocumentFrequencies, cider_d_reward
from fiber_train.checkpoint import load_model, load_task_model
from fiber_train.cli import main
from fiber_train.config import load_config
from fiber_train.evaluation import Evaluation, read_evaluation
from fiber_train.report import write_report
from fiber_train.run import train
from fiber_train.tasks.captioning.task import CiderReward
from fiber_train.tracking import read_metrics

from .conftest import FEW, OWN
from .test_run import asked_to_stop, assert_same

RECIPES = ("vqa", "nlvr2", "retrieval_itc", "retrieval_itm", "caption_mle", "caption_gold", "caption_cider")


@pytest.fixture(scope="module")
def finetune(scenes: Path, coarse: Path, tmp_path_factory: pytest.TempPathFactory):
    """`finetune(recipe, *overrides)` gives the folder of a run of three steps."""
    folder = tmp_path_factory.mktemp("tasks")

    @cache
    def run(recipe: str, *overrides: str, name: str = "run") -> Path:
        out = folder / f"{recipe}-{name}"
        given = [f"data.root={scenes}", f"model.checkpoint={coarse}", f"out={out}", *FEW, *OWN.get(recipe, ())]
        given += overrides
        train(load_config([recipe, "small"], given))
        return out

    return run


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_leaves_numbers_and_the_best_weights(recipe: str, finetune, coarse: Path) -> None:
    out = finetune(recipe)
    best = json.loads((out / "best" / "evaluation.json").read_text())
    found = Evaluation.from_json(best)
    monitor = {"vqa": "overall", "nlvr2": "accuracy", "caption": "CIDEr"}.get(recipe.partition("_")[0], "mean_recall")
    seen = {step: value for step, name, value in read_metrics(out) if name == f"eval/{monitor}"}
    assert set(seen) == {2, 3}
    assert found[monitor] == max(seen.values())
    assert best["step"] == min(step for step, value in seen.items() if value == found[monitor])
    model, start = load_task_model(out), load_task_model(coarse)
    table, own = (m.backbone.text_stream.embeddings.word_embeddings.weight for m in (start, model))
    assert 0 < (table - own).abs().max() < 0.05, "it started from the coarse weights, and learned"


def test_the_file_of_answers_scores_what_the_run_says(finetune, scenes: Path) -> None:
    out = finetune("vqa")
    annotations = next((scenes).rglob("v2_*val*annotations.json"))
    scored = question_answering.score_files(annotations, out / "best" / "predictions.json")
    assert scored["overall"] == read_evaluation(out / "best")["overall"]


def test_the_file_of_judgements_scores_what_the_run_says(finetune, scenes: Path) -> None:
    out = finetune("nlvr2")
    scored = reasoning.score_files(next(scenes.rglob("nlvr2/**/val.json")), out / "best" / "predictions.csv")
    found = read_evaluation(out / "best")
    assert (scored["accuracy"], scored["consistency"]) == (found["accuracy"], found["consistency"])


def test_the_file_of_captions_scores_what_the_run_says(finetune, scenes: Path) -> None:
    out = finetune("caption_mle")
    scored = captioning.score_files(next(scenes.rglob("captions_val.json")), out / "best" / "predictions.json")
    found = read_evaluation(out / "best")
    assert scored["CIDEr"] == pytest.approx(found["CIDEr"])
    assert len(json.loads((out / "best" / "predictions.json").read_text())) == 30


@pytest.mark.parametrize("recipe", ["retrieval_itc", "retrieval_itm"])
def test_the_file_of_scores_scores_what_the_run_says(recipe: str, finetune) -> None:
    out = finetune(recipe)
    path = out / "best" / "predictions.npz"
    found = read_evaluation(out / "best")
    scored = retrieval_files.score_files(path, path)
    assert scored == pytest.approx({name: found[name] for name in scored})
    assert np.load(path)["scores"].shape == (30, 150)


def test_reranking_all_equals_looking_at_every_pair(finetune, scenes: Path, tmp_path: Path) -> None:
    out = finetune("retrieval_itm", "task.model.objectives=[itc,itm]", "task.rerank=2", name="both")
    numbers = {}
    for rerank in (0, 150):
        target = tmp_path / f"{rerank}.json"
        words = ["--data", str(scenes), "--out", str(target), f"task.rerank={rerank}", "data.num_workers=0"]
        assert main(["evaluate", "--checkpoint", str(out), *words]) == 0
        numbers[rerank] = Evaluation.from_json(json.loads(target.read_text())).numbers()
    assert numbers[0] == pytest.approx(numbers[150])


@pytest.mark.parametrize("recipe", ["vqa", "caption_gold", "caption_cider"])
def test_resumed_equals_uninterrupted(recipe: str, scenes: Path, coarse: Path, tmp_path: Path) -> None:
    """With dropout, and what these objectives keep or draw: the frozen copy, samples."""
    given = [f"data.root={scenes}", f"model.checkpoint={coarse}", *FEW, *OWN[recipe], "trainer.max_steps=4"]
    given += ["trainer.eval_every=0", "model.overrides.hidden_dropout=0.1"]
    given += ["task.model.refresh_every=3"] if recipe == "caption_gold" else []
    straight, stopped = (load_config([recipe, "small"], [*given, f"out={tmp_path / name}"]) for name in "ab")
    train(straight)
    with asked_to_stop(after=2):
        assert train(stopped) is None
    assert train(stopped) is not None
    assert_same(Path(straight.out), Path(stopped.out))


def test_a_resumed_run_keeps_the_best_of_before(finetune, scenes: Path) -> None:
    out = finetune("nlvr2", name="kept")
    path = out / "best" / "evaluation.json"
    unbeatable = json.loads(path.read_text())
    unbeatable["measures"][0] |= {"name": "accuracy", "value": 1.5}
    path.write_text(json.dumps(unbeatable))
    finetune.__wrapped__("nlvr2", name="kept")
    assert json.loads(path.read_text()) == unbeatable


def test_images_may_grow_and_answers_come_from_a_file(finetune, scenes: Path, tmp_path: Path) -> None:
    AnswerVocabulary(("yes", "no", "red", "2")).save(tmp_path / "answers.json")
    options = ("model.image_size=96", f"task.answers={tmp_path / 'answers.json'}")
    model, processor = load_model(finetune("vqa", *options, name="grown"))
    assert (model.backbone.config.image_size, processor.image_size) == (96, 96)
    assert model.backbone.config.window_size == 6  # of 4 at 64 px
    assert model.config.answers == ("yes", "no", "red", "2")


def test_a_blind_run_sees_nothing(finetune, scenes: Path) -> None:
    out = finetune("vqa", "data.blind=true", name="blind")
    given = json.loads((out / "best" / "predictions.json").read_text())
    questions = {entry["question_id"]: entry["question"] for entry in json.loads(next(scenes.rglob("v2_*val*questions.json")).read_text())["questions"]}  # fmt: skip
    by_question: dict[str, set[str]] = {}
    for entry in given:
        by_question.setdefault(questions[entry["question_id"]], set()).add(entry["answer"])
    assert max(map(len, by_question.values())) == 1, "the same question has the same answer, whatever the image"


def test_the_reward_is_cider_d_of_what_was_written(coarse: Path) -> None:
    _, processor = load_model(coarse)
    references = [["A large red circle.", "a circle"], ["A small blue square."]]
    written = ["a large red circle", "a circle", "a small red square", "square square"]
    plain = [["a large red circle <eos>", "a circle <eos>"], ["a small blue square <eos>"]]
    frequencies = DocumentFrequencies.count(plain)
    reward = CiderReward(processor.tokenizer, frequencies)(processor(text=written)["input_ids"], references)
    expected = cider_d_reward([f"{text} <eos>" for text in written], [plain[0]] * 2 + [plain[1]] * 2, frequencies)
    assert reward.tolist() == pytest.approx(expected.tolist())
    assert reward[0] > reward[3]


def test_ask_and_caption_from_the_shell(finetune, scenes: Path, tmp_path: Path, capsys) -> None:
    image = str(next((scenes / "images" / "val").glob("*.png")))
    assert main(["answer", image, "Is there a red circle?", "--checkpoint", str(finetune("vqa")), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert float(lines[0].split()[0]) >= float(lines[1].split()[0])
    words = ["answer", image, "Is there a red circle?", "--checkpoint", str(finetune("vqa")), "--format", "csv"]
    capsys.readouterr()  # a run that goes on says so
    assert main(words) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [float(row["probability"]) for row in rows[:2]] == pytest.approx(
        [float(line.split()[0]) for line in lines], abs=1e-3
    )
    other = str(next((scenes / "images" / "train").glob("*.png")))
    captioner, judge = str(finetune("caption_mle")), str(finetune("nlvr2"))
    capsys.readouterr()
    assert main(["caption", image, other, image, "--checkpoint", captioner]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [printed[0], printed[3]] == [image, other], "each image once"
    assert main(["judge", image, other, "There is a circle.", "--checkpoint", judge]) == 0
    said, chance = capsys.readouterr().out.removesuffix(" that it is true)\n").split("  (")
    assert said == ("true" if float(chance) > 0.5 else "false")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"cut")
    words = ["There is a circle.", "--checkpoint", judge, "--format", "jsonl"]
    assert main(["judge", image, str(broken), image, other, *words]) == 0, "the pair that can be judged is"
    printed = capsys.readouterr()
    (record,) = map(json.loads, printed.out.splitlines())
    assert (record["left"], record["right"]) == (image, other)
    assert record["probability"] == pytest.approx(float(chance), abs=1e-3)
    assert "broken.png: cannot be read as an image" in printed.err
    assert "left out with its pair" in printed.err
    assert main(["judge", image, str(broken), *words]) == 1
    assert "broken.png: cannot be read as an image" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["vqa", "nlvr2", "caption_mle", "retrieval_itm"])
def test_a_report_of_any_task(recipe: str, finetune, scenes: Path, tmp_path: Path) -> None:
    html = write_report(finetune(recipe), tmp_path / "report.html", num_examples=3).read_text()
    cards = html.split('<div class="card">')[1:]
    assert len(cards) == 3
    assert all("data:image/" in card and "<li" in card for card in cards)
    assert ("calibration: " in html) == (recipe != "caption_mle")


def test_messages(finetune, scenes: Path, tmp_path: Path, capsys) -> None:
    captioner, image = finetune("caption_mle"), str(next((scenes / "images" / "val").glob("*.png")))
    answerer = finetune("vqa")
    (tmp_path / "broken.png").write_bytes(b"no image")
    for words, message in (
        (["answer", image, "what?", "--checkpoint", str(captioner)], "but a FiberForQuestionAnswering (model.answer("),
        (["answer", image, "  ", "--checkpoint", str(answerer)], "is empty"),
        (["answer", str(tmp_path / "broken.png"), "what?", "--checkpoint", str(answerer)], "cannot be read as a"),
        (["train", "vqa", "small", f"data.root={scenes}", f"out={tmp_path}", "task.min_count=100000"], "100000"),
        (
            ["train", "vqa", f"data.root={scenes}", "task.name=chess", "out=x"],
            "fiber.tasks has no 'chess', only answering, captioning",
        ),
        (
            ["train", "vqa", f"data.root={scenes}", "task=chess", "out=x"],
            "task is a group of settings, not one; write task.NAME=",
        ),
    ):
        assert main(words) == 1, words
        assert message in capsys.readouterr().err


def test_saved_models_have_a_card_with_their_numbers(finetune, scenes: Path) -> None:
    out = finetune("nlvr2")
    for folder, found in (("best", read_evaluation(out / "best")), ("model", read_evaluation(out))):
        card = (out / folder / "README.md").read_text()
        measure = found.find("accuracy")
        assert card.startswith("---\n") and "library_name: fiber" in card
        assert f"{measure.value:.4g}" in card and measure.baseline_name in card
        assert f"`{scenes.name}`" in card and str(scenes.parent) not in card
        assert "AutoFiber.from_pretrained" in card and "model.judge(" in card
        assert "started from | `run`" in card and "## Limits" in card
