"""SPICE: the official Java program where its jars are, and a native metric of the same design where they are not.

Anderson et al., "SPICE: semantic propositional image caption evaluation", ECCV 2016. The two are not the same number:
the official one hangs on the parser that it was published with, so `NativeSpice` has a name of its own. Both are
scorers that `score_captions`, `CaptionScores` and `score_files` take under `extra`, by the name that the value gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fiber_eval.captioning._ngrams import Floats, check_texts
from fiber_eval.captioning.spice._graph import ImageScore, score_tuples
from fiber_eval.captioning.spice._java import run_spice
from fiber_eval.captioning.spice._parser import CaptionParser


class _Spice:
    def images(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[ImageScore]:
        """The scores of each image, by category and with the tuples that they come from.

        Args:
            candidates: [N] tokenized captions, words between spaces; `ptb_tokenize` makes them.
            references: [N], the references of each image, one or more.

        Returns:
            [N] scores.

        Raises:
            ValueError: Candidates and references do not fit, or an image has no reference.
        """
        raise NotImplementedError

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, Floats]:
        """The mean F-score, and [N], that of each image; 0..1, NaN if no reference of an image says a thing.

        Takes and raises what `images` does.
        """
        values = np.array([image.f for image in self.images(candidates, references)], dtype=np.float64)
        return float(values.mean()), values


@dataclass(frozen=True, kw_only=True)
class OfficialSpice(_Spice):
    """SPICE through its Java program: `spice-1.0.jar`, Stanford CoreNLP 3.6.0 and a Java from 8 to 14.

    Nothing is downloaded; calling it raises FileNotFoundError for a missing jar or Java, saying where each comes from,
    and RuntimeError for a Java of another version or a failure of the program.

    Args:
        home: The folder of the jars; None takes FIBER_SPICE_HOME, else an installed `pycocoevalcap`.
        java: The `java` program; None takes FIBER_SPICE_JAVA, else JAVA_HOME's, else that on the PATH.
        memory: The most that Java may take.

    Example:
        >>> from fiber_eval.captioning import OfficialSpice
        >>> OfficialSpice(home="nowhere")(["a dog"], [["the dog"]])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: official SPICE needs spice-1.0.jar, lib/stanford-corenlp-3.6.0.jar, ...
    """

    home: Path | str | None = None
    java: Path | str | None = None
    memory: str = "8G"

    def images(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[ImageScore]:
        """As the program gives them; see the base class."""
        check_texts(candidates, references)
        return run_spice(candidates, references, self.home, self.java, self.memory)


@dataclass(frozen=True, kw_only=True)
class NativeSpice(_Spice):
    """SPICE's scene graphs and scores on a parse by spaCy; not the official number.

    After the parse the two agree (see `spice_graph`), the parses do not: on the 1000 captions of coco-caption's sample
    this gives 0.132 with spaCy's small English pipeline 3.8.0, the official program 0.133; but the rules were tuned
    with these captions in view, so elsewhere they may lie further apart. Compare its values only among themselves, of
    one parser: `parser_name` tells which. Needs `pip install fiber-eval[spice]`; nothing is downloaded.

    Args:
        model: A spaCy pipeline by its name or folder; None takes the first installed one of `spice_parser.MODELS`.

    Example:
        >>> from fiber_eval.captioning import score_captions
        >>> from fiber_eval.captioning.spice.metric import NativeSpice
        >>> captions, references = {7: "A red bus on the street"}, {7: ["A red double-decker bus is on a street."]}
        >>> result = score_captions(captions, references, metrics=[], extra={"NativeSPICE": NativeSpice()})
        >>> round(result["NativeSPICE"].item(), 4)
        0.8889
    """

    model: str | None = None

    @property
    def parser_name(self) -> str:
        """The pipeline's name and version, to be reported beside the value."""
        return CaptionParser.load(self.model).name

    def images(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[ImageScore]:
        """By the native parser; see the base class."""
        check_texts(candidates, references)
        parse = CaptionParser.load(self.model).parse
        tuples = parse([*candidates, *(text for texts in references for text in texts)])
        return [
            score_tuples(tuples[candidate], [tuples[text] for text in texts])
            for candidate, texts in zip(candidates, references, strict=True)
        ]
