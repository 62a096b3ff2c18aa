"""METEOR equals its Java program: the aligned words, not the value alone."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fiber_eval.captioning import meteor_score, ptb_tokenize, score_captions
from fiber_eval.captioning.meteor._data import find_meteor, read_paraphrases
from fiber_eval.captioning.meteor._java import java_statistics
from fiber_eval.captioning.meteor._stemmer import stem
from fiber_eval.captioning.meteor._text import words_of
from fiber_eval.captioning.meteor.metric import meteor_statistics

PREFIXES = {"Mr": False, "no": True}


@pytest.fixture(scope="module")
def goldens(eval_reference: Path) -> Path:
    return eval_reference / "caption"


@pytest.fixture(scope="module")
def jar() -> Path:
    try:
        return find_meteor()
    except FileNotFoundError:
        return pytest.skip("METEOR needs its jar; set FIBER_METEOR_JAR or install pycocoevalcap")


@pytest.fixture
def java_jar(jar: Path) -> Path:
    """The official program, where it runs."""
    return jar if shutil.which("java") else pytest.skip("the official METEOR needs Java")


def read(path: Path) -> Any:
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


# Equal to the official program


def test_statistics_equal_those_of_java(goldens: Path, jar: Path):
    entries = read(goldens / "fakecap1000_tokens.json.gz")
    expected = read(goldens / "fakecap1000_meteor_stats.json.gz")["stats"]
    ours = meteor_statistics([entry["test"] for entry in entries], [entry["refs"] for entry in entries], jar)
    theirs = [expected[str(entry["image_id"])] for entry in entries]
    np.testing.assert_array_equal(
        ours, [np.array(row.split() if isinstance(row, str) else row, float) for row in theirs]
    )


def test_suite_equals_coco_caption(goldens: Path, jar: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FIBER_METEOR_JAR", str(jar))
    monkeypatch.setenv("PATH", "")  # no Java
    entries = read(goldens / "fakecap1000_raw.json.gz")
    captions = {entry["image_id"]: entry["test"] for entry in entries}
    references = {entry["image_id"]: entry["refs"] for entry in entries}
    result = score_captions(captions, references, metrics=["meteor"], per_image=True)
    assert result["METEOR"] == pytest.approx(read(goldens / "fakecap1000_golden.json")["corpus"]["METEOR"], abs=1e-9)
    each = read(goldens / "fakecap1000_per_image.json.gz")
    values = [result["perImage"][image]["METEOR"] for image in each["image_ids"]]
    np.testing.assert_allclose(values, each["METEOR"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("java", [False, True])
def test_odd_captions_equal_coco_caption(goldens: Path, jar: Path, java: bool):
    if java and not shutil.which("java"):
        pytest.skip("the official METEOR needs Java")
    case = read(goldens / "edge_cases.json")["corpus_all"]
    candidates, references = ([case[key][name] for name in case["ids"]] for key in ("test", "refs"))
    corpus, per_image = meteor_score(candidates, references, jar=jar, java=java)
    assert corpus == pytest.approx(case["corpus"]["METEOR"], abs=1e-9)
    np.testing.assert_allclose(per_image, [case["per_image"]["METEOR"][row] for row in case["ids"]], rtol=0, atol=1e-9)


def invented(num_images: int) -> tuple[list[str], list[list[str]]]:
    """Captions of few words, which match in many ways, some written oddly, some empty, some very long."""
    source = random.Random(0)
    words = [
        "a",
        "the",
        "on",
        "of",
        "in",
        "with",
        "is",
        "are",
        "cat",
        "cats",
        "kitten",
        "dog",
        "dogs",
        "riding",
        "rides",
    ]
    words += ["man", "woman", "person", "people", "street", "road", "sitting", "sat", "bike", "bicycle", "motorcycle"]
    words += [
        "big",
        "large",
        "small",
        "front",
        "next",
        "to",
        "two",
        "2",
        "image",
        "picture",
        "no.",
        "st.",
        "an.",
        "all",
    ]
    odd = ["Mr. Smith's", "t-shirt", "don't", "3.5", "1,000", "é", "ñandú", "U.S.", "...", "“hi”", "--", "😀", "|", "İ"]
    odd += ["100%", "\u00a0", "a\u2003b", "?!", "'s", "5's", "x,y", "", " "]

    def caption() -> str:
        kind = source.random()
        size = source.choice([0, 1, 2, 70]) if kind < 0.1 else source.randint(3, 16)
        return " ".join(source.choice(odd if kind > 0.7 and source.random() < 0.3 else words) for _ in range(size))

    references = [[caption() for _ in range(source.randint(1, 4))] for _ in range(num_images)]
    candidates = [source.choice(texts) if source.random() < 0.1 else caption() for texts in references]
    return candidates, references


def test_invented_captions_equal_java(java_jar: Path):
    candidates, references = invented(400)
    ours = meteor_statistics(candidates, references, java_jar)
    np.testing.assert_array_equal(ours, java_statistics(candidates, references, java_jar))


# Without Java


def test_matched_words(jar: Path):
    cases = [
        ("cats", "cat", 0),  # stem, synonym and paraphrase compete, and each alone counts for nothing in the search
        ("glorbs", "glorb", 1),
        ("x cats dogs", "x cat dog", 3),  # here they lengthen a chunk
        ("", "a dog", 0),
        ("a dog", "", 0),
        ("", "", 0),
    ]
    statistics = meteor_statistics([case[0] for case in cases], [[case[1]] for case in cases], jar)
    assert statistics[:, 21].tolist() == statistics[:, 22].tolist() == [case[2] for case in cases]


def test_equal_captions(jar: Path):
    text = ptb_tokenize("A man is riding a horse, and a dog runs beside a man.")
    corpus, per_image = meteor_score([text, text], [[text], ["nothing of it", text]], jar=jar)
    assert corpus == pytest.approx(1) and per_image == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's T-shirt", "a man 's t shirt"),
        ("Mr. Bean, no. 5. No. x", "mr. bean , no. 5 . no. x"),
        ("the U.S. flag... (old)", "the us flag ... ( old )"),
        ("“so” it's 1,000 -- or 3.5", '" so " it \'s 1,000 - or 3.5'),
        ("a\u00a0b  c\t", "a b c"),
    ],
)
def test_words(text: str, words: str):
    assert " ".join(words_of(text, PREFIXES)) == words


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("by", "by"),
        ("'cause", "caus"),
        ("ties", "tie"),
        ("flies", "fli"),
        ("gas", "gas"),
        ("agreed", "agre"),
        ("hopping", "hop"),
        ("hoping", "hope"),
        ("playing", "play"),
        ("yellowish", "yellowish"),
        ("communication", "communic"),
        ("nationality", "nation"),
        ("geologist", "geologist"),  # here later versions cut
        ("hopefulness", "hope"),
        ("demonstrative", "demonstr"),
        ("controllable", "control"),
        ("skies", "sky"),
        ("exceeding", "exceed"),
        ("organization", "organ"),
    ],
)
def test_stems(word: str, expected: str):
    assert stem(word) == expected


# What is missing


def test_half_a_table_is_refused(tmp_path: Path):
    whole = gzip.compress(b"0.5\na cat\na kitten\n0.25\nroad\nstreet\n0.1\nbus\nroad\n")
    wanted = {b"a cat", b"a kitten", b"road", b"street"}
    (tmp_path / "table.gz").write_bytes(whole)
    assert read_paraphrases(tmp_path / "table.gz", wanted) == [(b"a cat", b"a kitten"), (b"road", b"street")]
    (tmp_path / "table.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"table\.gz: the file ends too early"):
        read_paraphrases(tmp_path / "table.gz", wanted)


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho Error: no memory >&2; exit 3\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("FIBER_METEOR_JAR", str(tmp_path))
    where = r"meteor-1\.5\.jar.* variable FIBER_METEOR_JAR.*`pip install pycocoevalcap`"
    with pytest.raises(FileNotFoundError, match=where):
        meteor_score(["a"], [["a"]])
    (tmp_path / "meteor-1.5.jar").touch()
    with pytest.raises(FileNotFoundError, match=r"METEOR needs paraphrase-en\.gz"):
        meteor_score(["a"], [["a"]])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "paraphrase-en.gz").touch()
    with pytest.raises(ValueError, match=r"meteor-1\.5\.jar: .*pycocoevalcap"):
        meteor_score(["a"], [["a"]])
    with pytest.raises(RuntimeError, match=r"stopped after 0 of 1 answers \(exit code 3\): Error: no memory"):
        meteor_score(["a"], [["a"]], java=True)


def test_missing_java_is_named(jar: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="METEOR needs Java, but no java is in JAVA_HOME or on the PATH"):
        meteor_score(["a"], [["a"]], jar=jar, java=True)
