"""SPICE: after the parse against the official program, the program's adapter, the native parser."""

from __future__ import annotations

import doctest
import gzip
import importlib.util
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from fiber_eval.captioning import ptb_tokenize, score_captions
from fiber_eval.captioning._wordnet import WordNet
from fiber_eval.captioning.spice._graph import ImageScore, SceneTuple, score_tuples
from fiber_eval.captioning.spice._parser import MODELS
from fiber_eval.captioning.spice.metric import NativeSpice, OfficialSpice

JVM_DECIDES = 191381  # an image of which the official program gives one of two results, by memory addresses


@pytest.fixture(scope="session")
def reference(eval_reference: Path) -> Path:
    return eval_reference / "spice"


def unpack(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


# After the parse


def spoken(words: list[str]) -> SceneTuple:
    """The files' (subject, object, relation) in the order that one says."""
    return (words[0], words[2], words[1]) if len(words) == 3 else tuple(words)


@pytest.fixture(scope="session")
def scored(reference: Path) -> list[tuple[ImageScore, dict]]:
    given, official = (unpack(reference / f"stage2_{name}.json.gz") for name in ("tuples_in", "official_out"))
    assert [entry["image_id"] for entry in given] == [entry["image_id"] for entry in official]
    return [
        (score_tuples(map(spoken, entry["test"]), [map(spoken, caption) for caption in entry["refs"]]), expected)
        for entry, expected in zip(given, official, strict=True)
    ]


def test_synonyms_are_the_official_ones(reference: Path):
    lookup = WordNet.load().lookup
    for word, *expected in unpack(reference / "synonym_lookup.json.gz"):
        assert [sorted(numbers) for numbers in lookup(word)] == expected, word


def test_scores_are_the_official_ones(scored: list):
    for ours, official in scored:
        if official["image_id"] == JVM_DECIDES:
            continue
        for category, expected in official["scores"].items():
            expected = {name: math.nan if value is None else value for name, value in expected.items()}
            expected.pop("numImages")
            where = official["image_id"], category
            assert ours.scores[category] == pytest.approx(expected, abs=1e-12, nan_ok=True), where


def test_merged_tuples_are_the_official_ones(scored: list):
    def sorted_words(words: tuple[str, ...] | list[str]) -> tuple[str, ...]:
        return tuple("/".join(sorted(word.split("/"))) for word in words)

    for ours, official in scored:
        if official["image_id"] == JVM_DECIDES:
            continue
        test = {(sorted_words(entry["tuple"]), entry["truth_value"]) for entry in official["test_tuples"]}
        assert {(sorted_words(words), is_true) for words, is_true in ours.test_tuples} == test
        references = {sorted_words(entry["tuple"]) for entry in official["ref_tuples"]}
        assert set(map(sorted_words, ours.ref_tuples)) == references


def test_mean_is_the_official_one(scored: list, reference: Path):
    expected = json.loads((reference / "golden.json").read_text())["stage2"]
    totals = {name: sum(ours.scores["All"][name] for ours, _ in scored) for name in ("tp", "fp", "fn")}
    assert (totals["tp"], totals["fp"]) == (expected["totals"]["tp"], expected["totals"]["fp"])
    assert totals["fn"] - expected["totals"]["fn"] in (-1, 0, 1)
    mean = sum(ours.f for ours, _ in scored) / len(scored)
    assert mean == pytest.approx(expected["SPICE_mean_f"], abs=1e-5)


def test_an_object_takes_in_its_synonyms_and_a_relation_loses_its_be():
    references = [[("man",), ("man", "be on", "motorcycle")], [("bike", "red"), ("bike",), ("bike", "red")]]
    result = score_tuples([("man", "on", "bike"), ("bike", "crimson")], references)
    bike = "motorcycle/bike"
    assert result.ref_tuples == [("man",), (bike,), (bike, "red"), ("man", "on", bike)]
    assert [is_true for _, is_true in result.test_tuples] == [True, True, True, True]
    assert result.scores["Relation"]["f"] == result.f == 1
    assert math.isnan(result.scores["Cardinality"]["f"])


def test_spellings_merge():
    result = score_tuples([("building", "grey")], [[("building", "gray")]])
    assert result.f == result.scores["Color"]["f"] == 1


def test_tuple_of_a_wrong_length():
    with pytest.raises(ValueError, match=r"1, 2 or 3 parts, but \('a', 'b', 'c', 'd'\) has 4"):
        score_tuples([("a", "b", "c", "d")], [])


# The official program's adapter; a script stands for the program, which no registry has


TEXTS = ["a red bus", "a dog"], [["a bus", "the red bus"], ["a cat"]]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "1.8.0_292", script: str = "") -> None:
    """A Java and the jars by name; `script` is run with the output file as $out and the input as $given."""
    (folder / "lib").mkdir()
    for name in ("spice-1.0.jar", "lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar"):
        (folder / name).touch()
    java = folder / "java"
    java.write_text(
        f'#!/bin/sh\nif [ "$1" = -version ]; then echo \'openjdk version "{version}"\' >&2; exit 0; fi\n'
        f'while [ "$1" != -jar ]; do shift; done; given=$3; out=$5\n{script}\n'
    )
    java.chmod(0o755)
    monkeypatch.setenv("FIBER_SPICE_HOME", str(folder))
    monkeypatch.setenv("FIBER_SPICE_JAVA", str(java))


def entry(row: int, f: float | None) -> dict:
    scores = {"All": {"pr": 0.5, "re": 0.25, "f": f, "fn": 3, "numImages": 1, "fp": 1, "tp": 1}}
    return {
        "image_id": row,
        "scores": scores,
        "test_tuples": [{"tuple": ["bus"], "truth_value": True}, {"tuple": ["bus", "red"], "truth_value": False}],
        "ref_tuples": [{"tuple": ["bus"], "truth_value": True}],
    }


def test_official_scores_come_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "answer").write_text(json.dumps([entry(1, None), entry(0, 1 / 3)]))
    install(tmp_path, monkeypatch, script=f"cp {tmp_path}/answer $out; cp $given {tmp_path}/asked")
    first, second = OfficialSpice().images(*TEXTS)
    assert first.scores == {"All": {"pr": 0.5, "re": 0.25, "f": 1 / 3, "fn": 3, "fp": 1, "tp": 1}}
    assert first.test_tuples == [(("bus",), True), (("bus", "red"), False)]
    assert first.ref_tuples == [("bus",)]
    assert math.isnan(second.f)
    assert json.loads((tmp_path / "asked").read_text()) == [
        {"image_id": 0, "test": "a red bus", "refs": ["a bus", "the red bus"]},
        {"image_id": 1, "test": "a dog", "refs": ["a cat"]},
    ]


def test_official_is_a_scorer_of_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "answer").write_text(json.dumps([entry(0, 0.25), entry(1, 0.75)]))
    install(tmp_path, monkeypatch, script=f"cp {tmp_path}/answer $out")
    captions, references = ({7: text[0], 9: text[1]} for text in TEXTS)
    result = score_captions(captions, references, metrics=[], extra={"SPICE": OfficialSpice()}, per_image=True)
    assert result == {"SPICE": 0.5, "perImage": {7: {"SPICE": 0.25}, 9: {"SPICE": 0.75}}}


@pytest.mark.parametrize("version", ["15.0.1", "17.0.15", "21", "1.7.0_80"])
def test_java_that_breaks_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str):
    install(tmp_path, monkeypatch, version)
    with pytest.raises(RuntimeError, match=r"of version \d+; install a Java from 8 to 14 and set FIBER_SPICE_JAVA"):
        OfficialSpice()(*TEXTS)


def test_missing_jars_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, monkeypatch)
    for jar in (tmp_path / "lib").iterdir():
        jar.unlink()
    with pytest.raises(FileNotFoundError) as error:
        OfficialSpice()(*TEXTS)
    for part in (
        "3.6.0.jar",
        "3.6.0-models.jar",
        str(tmp_path),
        "variable FIBER_SPICE_HOME",
        "corenlp-full-2015-12-09",
    ):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"needs spice-1\.0\.jar.*looked in the argument home"):
        OfficialSpice(home=tmp_path / "lib")(*TEXTS)


def test_missing_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, monkeypatch)
    monkeypatch.setenv("FIBER_SPICE_JAVA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"needs Java, but .*nothing is none; install a Java from 8 to 14"):
        OfficialSpice()(*TEXTS)


def test_failure_of_the_program_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, monkeypatch, script="echo OutOfMemoryError >&2; exit 3")
    with pytest.raises(RuntimeError, match=r"failed \(exit code 3\): OutOfMemoryError"):
        OfficialSpice()(*TEXTS)


# The native parser


@pytest.fixture(scope="session")
def native() -> NativeSpice:
    pytest.importorskip("spacy")
    if not any(importlib.util.find_spec(name) for name in MODELS):
        pytest.skip("no English pipeline of spaCy is installed")
    return NativeSpice()


BUS = {("bus",), ("street",), ("bus", "red"), ("bus", "double-decker"), ("bus", "on", "street")}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red double-decker bus is on the street", BUS),
        ("a red double-decker bus on a street", BUS),
        ("a man holding an umbrella", {("man",), ("umbrella",), ("man", "hold", "umbrella")}),
        ("a dog sits on top of a car", {("dog",), ("car",), ("dog", "sit on top of", "car")}),
        ("a woman is smiling", {("woman",), ("woman", "smile")}),
        ("a cake is cut by a woman", {("cake",), ("woman",), ("woman", "cut", "cake")}),
        ("two dogs", {("dog",), ("dog", "two")}),
        ("a couple of dogs", {("dog",), ("dog", "a")}),
        ("a group of dogs", {("dog",), ("group",), ("group", "of", "dog")}),
        ("a tennis racket", {("racket",), ("racket", "tennis")}),
        ("the woman 's cat", {("woman",), ("cat",), ("woman", "have", "cat")}),
        ("a man rides his horse", {("man",), ("horse",), ("man", "ride", "horse"), ("man", "have", "horse")}),
        ("there is a cat next to a dog", {("cat",), ("dog",), ("cat", "next to", "dog")}),
        ("", set()),
    ],
)
def test_tuples_of_a_caption(native: NativeSpice, caption: str, expected: set):
    graph = native.images([caption], [["a"]])[0]
    assert {words for words, _ in graph.test_tuples} == expected


def test_native_is_a_metric_by_name(native: NativeSpice):
    captions, references = {7: "A red bus on the street"}, {7: ["A red double-decker bus is on a street."]}
    found = score_captions(captions, references, metrics=["spice_native", "rouge_l"])
    assert found["SPICE_native"] == native.images([ptb_tokenize(captions[7])], [[ptb_tokenize(references[7][0])]])[0].f
    assert list(found) == ["SPICE_native", "ROUGE_L"]


def test_native_says_who_it_is(native: NativeSpice):
    assert re.fullmatch(r"en_core_web_\w+ \d+\.\d+\.\d+", native.parser_name)


def test_native_is_near_the_published_value(native: NativeSpice, reference: Path):
    images = unpack(reference.parent / "caption" / "fakecap1000_tokens.json.gz")
    candidates, references = [image["test"] for image in images], [image["refs"] for image in images]
    value, per_image = native(candidates, references)
    assert len(per_image) == 1000
    assert value == pytest.approx(per_image.mean())
    human, _ = native([texts[0] for texts in references], [texts[1:] for texts in references])
    shuffled, _ = native(candidates[1:] + candidates[:1], references)
    assert shuffled + 0.05 < value < human - 0.05
    assert 0.125 < value < 0.140  # published: 0.133


def test_missing_parser_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"spaCy, which is not installed; run `pip install fiber-eval\[spice\]"
    ):
        NativeSpice(model="no_such_pipeline")(*TEXTS)


def test_unknown_parser_is_named(native: NativeSpice):
    with pytest.raises(ModuleNotFoundError, match="the spaCy pipeline 'en_none', which is not installed"):
        NativeSpice(model="en_none")(*TEXTS)


@pytest.mark.parametrize("scorer", [NativeSpice(), OfficialSpice()])
def test_texts_refused(scorer: NativeSpice | OfficialSpice):
    with pytest.raises(ValueError, match="image 1 has no reference"):
        scorer(["a", "b"], [["a"], []])


@pytest.mark.parametrize("module", ["spice.metric", "spice._graph", "_wordnet"])
def test_docstring_examples(module: str, native: NativeSpice):
    outcome = doctest.testmod(importlib.import_module(f"fiber_eval.captioning.{module}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
