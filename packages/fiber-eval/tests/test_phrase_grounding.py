"""Recall of phrases' boxes equals MDETR's evaluator on files in Flickr30k Entities' own layout."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fiber_eval.flickr30k_entities import Phrase, Sentence, read_flickr30k_entities
from fiber_eval.phrase_grounding import PhraseGroundingRecall, phrase_grounding_recall, score_files

MAN, DOG = (10, 10, 50, 90), (60, 60, 90, 90)
MEN = ((0, 0, 10, 10), (20, 20, 30, 30))


def sentences() -> list[Sentence]:
    man = Phrase("A man", 0, ("people",), (MAN,))
    dog = Phrase("his dog", 3, ("animals", "other"), (DOG,))
    men = Phrase("Two men", 0, ("people",), MEN)
    return [
        Sentence("7", 0, "Nothing to see", ()),
        Sentence("7", 1, "A man and his dog", (man, dog)),
        Sentence("8", 0, "Two men", (men,)),
    ]


def predictions() -> dict[tuple[str, int], list]:
    return {("7", 1): [[MAN], [MAN, DOG]], ("8", 0): [[(0, 0, 30, 30)]]}


@pytest.fixture(scope="module")
def flickr(eval_reference: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """The data set's folder, the result file, the official numbers."""
    folder = eval_reference / "flickr30k"
    out = tmp_path_factory.mktemp("flickr")
    with tarfile.open(folder / "synth60_entities.tar.gz") as archive:
        archive.extractall(out, filter="data")
    results = out / "results.json"
    results.write_bytes(gzip.decompress((folder / "synth60_predictions.json.gz").read_bytes()))
    return out / "flickr30k_synth", results, json.loads((folder / "golden.json").read_text())


# Equal to the official evaluator


@pytest.mark.parametrize(("protocol", "name"), [("separate", "any"), ("merged", "merged")])
def test_equals_mdetr(flickr: tuple[Path, Path, dict], protocol: str, name: str):
    root, results, golden = flickr
    expected = {}
    for measure, by_type in golden[name].items():
        for kind, value in by_type.items():
            prefix = "" if kind == "all" else f"{kind}_"
            expected[prefix + measure.replace("R@", "recall@")] = value
    assert score_files(root, results, protocol=protocol) == pytest.approx(expected, rel=0, abs=1e-9)


def test_reads_the_phrases_that_have_boxes(flickr: tuple[Path, Path, dict]):
    root, _, golden = flickr
    read = read_flickr30k_entities(root)
    assert sum(len(sentence.phrases) for sentence in read) == golden["n_phrases"]
    assert sum(bool(sentence.phrases) for sentence in read) == golden["n_sentences"]


# What counts


def test_types_ks_and_upper_bound():
    result = phrase_grounding_recall(predictions(), sentences(), ks=(1, 2))
    assert result == {
        "recall@1": pytest.approx(1 / 3),
        "recall@2": pytest.approx(2 / 3),
        "upper_bound": pytest.approx(2 / 3),
        "people_recall@1": 0.5,
        "people_recall@2": 0.5,
        "people_upper_bound": 0.5,
        "animals_recall@1": 0,
        "animals_recall@2": 1,
        "animals_upper_bound": 1,
        "other_recall@1": 0,
        "other_recall@2": 1,
        "other_upper_bound": 1,
    }


def test_merged_wants_the_box_around_all():
    only = sentences()[2:]
    around, single = {("8", 0): [[(0, 0, 30, 30)]]}, {("8", 0): [[MEN[1]]]}
    found = {
        (protocol, name): phrase_grounding_recall(boxes, only, protocol=protocol)["recall@1"].item()
        for protocol in ("separate", "merged")
        for name, boxes in (("around", around), ("single", single))
    }
    assert found == {
        ("separate", "around"): 0,
        ("separate", "single"): 1,
        ("merged", "around"): 1,
        ("merged", "single"): 0,
    }


def test_overlap_of_exactly_the_threshold_is_right():
    half = {("8", 0): [[(20, 20, 30, 25)]]}
    assert phrase_grounding_recall(half, sentences()[2:])["recall@1"] == 1
    assert phrase_grounding_recall(half, sentences()[2:], iou_threshold=0.51)["recall@1"] == 0


def test_phrase_without_predicted_boxes_is_missed():
    boxes = predictions() | {("7", 1): [[], torch.tensor([DOG])]}
    result = phrase_grounding_recall(boxes, sentences())
    assert result["people_upper_bound"] == 0
    assert result["animals_recall@1"] == 1


def test_batches_order_and_repeats_change_nothing():
    metric = PhraseGroundingRecall(sentences())
    metric.update([predictions()["8", 0], []], ids=[("8", 0), ("7", 0)])
    metric.update([predictions()["7", 1], predictions()["8", 0]], ids=[("7", 1), ("8", 0)])
    with pytest.raises(ValueError, match="'phrase 0 of sentence 0 of image 8' came twice with different predictions"):
        metric.update([[[MEN[0]]]], ids=[("8", 0)])
    assert metric.compute() == phrase_grounding_recall(predictions(), sentences())
    metric.reset()
    metric.update([[[MEN[0]]], predictions()["7", 1]], ids=[("8", 0), ("7", 1)])
    assert metric.compute()["people_recall@1"] == 1


# Errors


def test_sentences_that_never_came():
    metric = PhraseGroundingRecall(sentences())
    metric.update([predictions()["7", 1]], ids=[("7", 1)])
    with pytest.raises(ValueError, match=r"1 of 3 phrases have no prediction: 'phrase 0 of sentence 0 of image 8';"):
        metric.compute()
    assert (
        PhraseGroundingRecall(sentences())([predictions()["7", 1]], ids=[("7", 1)])["people_recall@1"] == 1
    )  # of a batch


@pytest.mark.parametrize(
    ("key", "boxes", "message"),
    [
        (("9", 0), [], "sentence 0 of image '9' is not among the 3 annotated sentences"),
        (("7", 1), [[MAN]], "sentence 1 of image 7 has 2 phrases with boxes, but predictions of 1 came"),
        (("7", 0), [[MAN]], "sentence 0 of image 7 has 0 phrases"),
        (("7", 1), [[MAN], [MAN, (5, 5, 4, 9)]], r"box 1 of phrase 1 of sentence 1 of image 7 must .* \[5.0, 5.0, 4.0"),
        (("7", 1), [[MAN], [(0, 0, float("nan"), 9)]], "box 0 of phrase 1"),
        (("7", 1), [[MAN], [(1, 2, 3)]], r"phrase 1 of sentence 1 of image 7 must have shape \[N, 4\], .* \[1, 3\]"),
        (
            ("7", 1),
            [[MAN], [(0, 0, True, 9)]],
            r"phrase 1 of sentence 1 of image 7 must be numbers \[N, 4\], but are .*True",
        ),
        (("7", 1), [[MAN], "left"], r"phrase 1 of sentence 1 of image 7 must be numbers \[N, 4\], but are 'left'"),
    ],
)
def test_update_refuses(key: tuple[str, int], boxes: list, message: str):
    metric = PhraseGroundingRecall(sentences())
    good = predictions()
    with pytest.raises(ValueError, match=message):
        metric.update([[[MEN[0]]], boxes], ids=[("8", 0), key])
    metric.update(list(good.values()), ids=list(good))
    assert metric.compute() == phrase_grounding_recall(good, sentences())  # nothing of the refused batch stayed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": (0,)}, r"ks must be whole numbers from 1 on, but is \(0,\)"),
        ({"protocol": "any"}, "protocol must be one of separate, merged, but is 'any'"),
        ({"iou_threshold": 0}, "iou_threshold must be above 0 and at most 1, but is 0"),
    ],
)
def test_options_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        PhraseGroundingRecall(sentences(), **options)


def test_annotations_refused():
    with pytest.raises(ValueError, match="sentence 1 of image 7 is annotated twice"):
        PhraseGroundingRecall([*sentences(), sentences()[1]])
    with pytest.raises(ValueError, match="the annotations hold no phrase"):
        PhraseGroundingRecall(sentences()[:1])


# Files


def write_dataset(root: Path, *, xml: str | None = None, line: str | None = None) -> Path:
    box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>50</xmax><ymax>90</ymax></bndbox>"
    scene = "<object><name>2</name><scene>1</scene><nobndbox>0</nobndbox></object>"
    (root / "Annotations").mkdir()
    (root / "Sentences").mkdir()
    (root / "test.txt").write_text("7\n")
    xml = xml or f"<annotation><object><name>1</name><name>3</name>{box}</object>{scene}</annotation>"
    (root / "Annotations" / "7.xml").write_text(xml)
    line = (
        line
        or "[/EN#1/people/other A tall man] in [/EN#2/scene a street] sees [/EN#0/notvisual it] [/EN#3/people again]"
    )
    (root / "Sentences" / "7.txt").write_text(f"A street .\n{line}\n")
    return root


def test_reads_boxes_and_phrases(tmp_path: Path):
    first, second = read_flickr30k_entities(write_dataset(tmp_path))
    assert first == Sentence("7", 0, "A street .", ())
    assert second.key == ("7", 1)
    assert second.text == "A tall man in a street sees it again"
    assert second.phrases == (
        Phrase("A tall man", 0, ("people", "other"), (MAN,)),
        Phrase("again", 8, ("people",), (MAN,)),
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"xml": "<annotation>"}, r"7.xml is not XML"),
        (
            {"xml": "<annotation><object><name>1</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"},
            r"7.xml, object 0: xmin, ymin, xmax, ymax must be whole numbers of pixels, but are \['1', '', '', ''\]",
        ),
        (
            {"line": "[/EN#1/people A man"},
            r"7.txt, line 2: the phrase that opens with '\[/EN#1/people' is never closed",
        ),
        ({"line": "[people A man]"}, r"7.txt, line 2: a phrase must open like .*, but opens with '\[people"),
    ],
)
def test_broken_dataset(tmp_path: Path, files: dict, message: str):
    with pytest.raises(ValueError, match=message):
        read_flickr30k_entities(write_dataset(tmp_path, **files))


def test_split_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"val.txt"):
        read_flickr30k_entities(write_dataset(tmp_path), split="val")


GOOD = {"image_id": 7, "sentence_id": "1", "boxes": [[MAN], [DOG]]}


def test_scores_a_file(tmp_path: Path):
    (tmp_path / "results.json").write_text(json.dumps([{"image_id": "7", "sentence_id": 0, "boxes": []}, GOOD]))
    result = score_files(write_dataset(tmp_path), tmp_path / "results.json", ks=[1])
    assert result["recall@1"] == 0.5
    assert result["other_recall@1"] == 1


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "results.json is no JSON file"),
        ("{}", "results.json must hold a list of predictions, but holds a dict"),
        (json.dumps([GOOD, 3]), "results.json, entry 1 must be an object .* but is a int"),
        (json.dumps([{"image_id": 7, "boxes": []}]), "entry 0 must be an object .* the keys image_id, boxes"),
        (json.dumps([GOOD | {"sentence_id": -1}]), "entry 0: sentence_id must be a whole number from 0 on, but is -1"),
        (json.dumps([GOOD | {"boxes": None}]), "entry 0: boxes must be a list"),
        (json.dumps([GOOD, GOOD]), "entry 1: sentence 1 of image 7 has a prediction already, entry 0"),
        (json.dumps([GOOD, GOOD | {"image_id": 8}]), "entry 1: sentence 1 of image '8' is not among"),
        (json.dumps([GOOD | {"boxes": [[MAN], [[0, 0, -1, 5]]]}]), "entry 0: box 0 of phrase 1 of sentence 1"),
        (json.dumps([GOOD | {"boxes": [[MAN], [[0, 0, float("nan"), 5]]]}]), "entry 0: box 0 of phrase 1"),
        ("[]", "results.json: 2 of 2 phrases have no prediction"),
    ],
)
def test_broken_results(tmp_path: Path, text: str, message: str):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        score_files(write_dataset(tmp_path), tmp_path / "results.json")


# Several processes


def work(rank: int, folder: str) -> None:
    """Process 0 saw image 8, process 1 saw image 7, and image 8 again with another box; then process 1 saw nothing."""
    metric, idle = PhraseGroundingRecall(sentences()), PhraseGroundingRecall(sentences())
    if rank == 0:
        phrase_grounding_recall(predictions(), sentences())  # waits for no other process
        metric.update([predictions()["8", 0]], ids=[("8", 0)])
        idle.update(list(predictions().values()), ids=list(predictions()))
    else:
        metric.update([predictions()["7", 1], [[MEN[0]]]], ids=[("7", 1), ("8", 0)])
    torch.save([metric.compute(), idle.compute()], f"{folder}/{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_equal_one(tmp_path: Path, two_processes: Callable[..., None]):
    two_processes(work)
    expected = phrase_grounding_recall(predictions(), sentences())
    assert torch.load(tmp_path / "0.pt") == torch.load(tmp_path / "1.pt") == [expected, expected]
