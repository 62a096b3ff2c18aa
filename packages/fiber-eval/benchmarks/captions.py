"""Captions a second of each caption metric, against pycocoevalcap on the same captions, turn by turn.

    pip install pycocoevalcap
    python benchmarks/captions.py                       # made-up captions, 5,000 images with 5 references each
    python benchmarks/captions.py --captions mine.json  # a list of {"test": caption, "refs": [captions]}, .gz or not

Both sides get the same texts; every value is compared before a time counts. Ratios are official to ours, in wall time
and in CPU seconds, Java's included; above 1 ours is faster, and on a busy machine the second is the steadier one.

The suite is tokenization, BLEU, ROUGE-L, CIDEr-D and METEOR; not SPICE, whose official program needs a parser that no
package index has. The official tokenizer and METEOR start Java; without it both are left out, the suite with them, and
the official metrics get our tokens. No package index has plain CIDEr: its baseline is the official scorer of CIDEr-D
with the clipping and the penalty of length taken out, which gives the same values as ruotianluo/cider.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import shutil
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fiber_eval.captioning import bleu_score, meteor_score, ptb_tokenize, rouge_l, score_captions
from fiber_eval.captioning.cider import cider_d, cider_plain
from fiber_eval.captioning.metric import DEFAULT_METRICS

Texts = dict[int, list[str]]


def main() -> None:
    """Print the table and, as its last line, the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, help="captions to use in place of made-up ones")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    entries = read(options.captions)[: options.images] if options.captions else invent(options.images)
    candidates: Texts = {image: [entry["test"]] for image, entry in enumerate(entries)}
    references: Texts = {image: entry["refs"] for image, entry in enumerate(entries)}
    num_captions = len(candidates) + sum(map(len, references.values()))
    print(f"{len(candidates)} images, {num_captions} captions, {options.rounds} rounds, medians")
    print(f"{'':16}{'captions/s':>12}{'official':>12}{'ratio':>9}{'CPU ratio':>11}")
    results = {}
    for name, ours, official in contests(candidates, references):
        times = race(name, ours, official, options.rounds)  # [rounds, ours and official, wall and CPU]
        own, other = num_captions / np.median(times[..., 0], axis=0)
        wall, cpu = np.median(times[:, 1] / times[:, 0], axis=0)
        results[name] = {"ours": own, "official": other, "ratio": wall, "cpu_ratio": cpu}
        print(f"{name:16}{own:12.0f}{other:12.0f}{wall:8.2f}x{cpu:10.2f}x", flush=True)
    print(json.dumps(results))


def contests(candidates: Texts, references: Texts) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """Name, our way and the official way of everything that can be compared here."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    tokens = [ptb_tokenize(texts[0]) for texts in candidates.values()]
    reference_tokens = [[ptb_tokenize(text) for text in texts] for texts in references.values()]
    res: Texts = {image: [text] for image, text in enumerate(tokens)}
    gts: Texts = dict(enumerate(reference_tokens))
    rows: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        ("BLEU", lambda: bleu_score(tokens, reference_tokens)[0], lambda: Bleu(4).compute_score(gts, res)[0]),
        ("ROUGE-L", lambda: rouge_l(tokens, reference_tokens)[0], lambda: Rouge().compute_score(gts, res)[0]),
        ("CIDEr-D", lambda: cider_d(tokens, reference_tokens)[0], lambda: Cider().compute_score(gts, res)[0]),
        ("CIDEr (plain)", lambda: cider_plain(tokens, reference_tokens)[0], lambda: official_plain_cider(gts, res)),
    ]
    if shutil.which("java") is None:
        return rows

    def tokenize_both() -> tuple[Texts, Texts]:
        return tokenize_officially(references), tokenize_officially(candidates)

    def suite() -> list[float]:
        by_image = {image: texts[0] for image, texts in candidates.items()}
        scores = score_captions(by_image, references, metrics=[*DEFAULT_METRICS, "meteor"])
        return [value.item() for value in scores.values()]

    def official_suite() -> list[float]:
        truth, found = tokenize_both()
        return [
            *Bleu(4).compute_score(truth, found)[0],
            Rouge().compute_score(truth, found)[0],
            Cider().compute_score(truth, found)[0],
            official_meteor(truth, found),
        ]

    def tokenize() -> list[str]:
        return [ptb_tokenize(text) for texts in (*references.values(), *candidates.values()) for text in texts]

    def official_tokenize() -> list[str]:
        return [text for side in tokenize_both() for texts in side.values() for text in texts]

    return [
        ("suite", suite, official_suite),
        ("tokenization", tokenize, official_tokenize),
        *rows,
        ("METEOR", lambda: meteor_score(tokens, reference_tokens)[0], lambda: official_meteor(gts, res)),
    ]


def tokenize_officially(texts: Texts) -> Texts:
    """The tokens of the Java program."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    return PTBTokenizer().tokenize({image: [{"caption": text} for text in each] for image, each in texts.items()})


def official_plain_cider(gts: Texts, res: Texts) -> float:
    """The value of the official code of CIDEr-D without what makes it the D."""
    from pycocoevalcap.cider.cider import Cider

    with unittest.mock.patch("pycocoevalcap.cider.cider_scorer.min", lambda own, _: own, create=True):  # no clipping
        return Cider(sigma=np.inf).compute_score(gts, res)[0]


def official_meteor(gts: Texts, res: Texts) -> float:
    """The value of the official wrapper, its start included, as ours includes reading the tables."""
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor().compute_score(gts, res)[0]


def race(name: str, ours: Callable[[], Any], official: Callable[[], Any], rounds: int) -> np.ndarray:
    """[rounds, 2, 2] seconds: our side and the official one, alternating; wall and CPU. Raises if they disagree."""
    seconds = np.zeros((rounds, 2, 2))
    for times in seconds:
        values = []
        for side, run in enumerate((ours, official)):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                wall, cpu = time.perf_counter(), sum(os.times()[:4])
                values.append(run())
                times[side] = time.perf_counter() - wall, sum(os.times()[:4]) - cpu  # of finished children, too
        if name == "tokenization":
            same = sum(a == b for a, b in zip(*values, strict=True)) / len(values[0])
            assert same > 0.999, f"only {same:.4%} of the captions have the same tokens"
        else:
            np.testing.assert_allclose(values[0], values[1], rtol=0, atol=1e-4 if name == "suite" else 1e-9)
    return seconds


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a file."""
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def invent(num_images: int, num_references: int = 5) -> list[dict[str, Any]]:
    """Captions of 6 to 17 words out of 8,000, common ones far more often, some with an apostrophe or a comma."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(random.choice(letters, random.integers(2, 9))) for _ in range(8000)]
    words[100:8000:150] = [f"{word}'s" for word in words[100:8000:150]]
    share = 1 / np.arange(1, 8001) ** 1.05
    share /= share.sum()

    def caption(topic: np.ndarray) -> str:
        size = random.integers(6, 18)
        of_topic = random.random(size) < 0.5
        numbers = np.where(of_topic, random.choice(topic, size), random.choice(8000, size, p=share))
        text = " ".join(
            words[number] + ("," if comma < 0.03 else "")
            for number, comma in zip(numbers, random.random(size), strict=True)
        )
        return f"{text.capitalize()}."

    topics = (random.choice(8000, 8, p=share) for _ in range(num_images))
    return [{"test": caption(topic), "refs": [caption(topic) for _ in range(num_references)]} for topic in topics]


if __name__ == "__main__":
    main()
