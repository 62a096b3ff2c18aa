"""What is asked of each model on the page, and what is shown of its answer: functions without a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import exp

from fiber_data import noun_phrases
from fiber_heads import look
from torch import Tensor

from fiber_train.demo.asked import AskedModel
from fiber_train.demo.folder import Folder
from fiber_train.demo.shown import Boxes, bars, card, cards, heat_over, thumbnails

LEAST_SCORE = 0.02  # of a box that is kept for the slider
BOXES = {"phrases of a sentence": "ground", "categories": "detect", "one thing": "refer"}
_SMALL = {"a", "an", "the", "and", "or", "of", "in", "on", "is", "are", "to", "with"}


def find_boxes(models: Sequence[AskedModel], image: Tensor, text: str, kind: str) -> list[Boxes]:
    """What each model finds; the page shows what is above its threshold."""
    found = []
    for each in models:
        with each.alone() as model:
            if BOXES[kind] == "detect":
                from fiber_heads.grounding.asking import category_names

                names = category_names(text)
                result = model.detect(image, names, threshold=LEAST_SCORE)[0]
                found.append(Boxes.of(each.name, image, result, names))
            elif BOXES[kind] == "refer":
                result = model.refer(image, text)[0]
                found.append(Boxes.of(each.name, image, result, [text], text, whole=True))
            else:
                phrases = [text[start:end] for start, end in noun_phrases(text)]
                result = model.ground(image, text, threshold=LEAST_SCORE)[0]
                found.append(Boxes.of(each.name, image, result, phrases, text))
    return found


def boxes_html(found: Sequence[Boxes], threshold: float) -> str:
    """The cards of boxes above a threshold, without a model."""
    return cards([each.html(threshold) for each in found])


def answers(models: Sequence[AskedModel], image: Tensor, question: str) -> tuple[str, list[str]]:
    """The five best answers of each model, and all of them by name."""
    parts: list[str] = []
    named: dict[str, None] = {}
    for each in models:
        with each.alone() as model:
            best = model.answer(image, question, top_k=5)[0]
        named |= dict.fromkeys(answer.text for answer in best)
        rows = [(answer.text, answer.probability, f"{100 * answer.probability:.1f} %") for answer in best]
        parts.append(card(each.name, bars(rows, "each by itself: they do not sum to one")))
    return cards(parts), list(named)


def captions(models: Sequence[AskedModel], image: Tensor, number: int) -> tuple[str, list[str]]:
    """So many captions of each model, and all of them."""
    parts: list[str] = []
    texts: dict[str, None] = {}
    for each in models:
        with each.alone() as model:
            best = model.caption(image, num_captions=number, num_beams=max(5, number))[0]
        written = [str(caption.text) for caption in best]
        texts |= dict.fromkeys(written)
        rows = [(text, exp(caption.score), f"{caption.score:.2f}") for text, caption in zip(written, best, strict=True)]
        parts.append(card(each.name, bars(rows, "mean log-probability of a token; the bar is its exponential")))
    return cards(parts), list(texts)


def match(models: Sequence[AskedModel], image: Tensor, text: str) -> str:
    """How well a text fits an image."""
    parts = []
    for each in models:
        with each.alone() as model:
            begun, words = model.begin_images(image), model.begin_texts([text])
            rows = []
            if model.matching_head is not None:
                chance = model.match(begun, words).softmax(dim=1)[0, 1].item()
                rows.append(("match", chance, f"{100 * chance:.1f} %"))
            if model.contrastive_head is not None:
                cosine = (model.image_features(begun) @ model.text_features(words).T).item()
                rows.append(("cosine", cosine, f"{cosine:.3f}"))
        parts.append(card(each.name, bars(rows)))
    return cards(parts)


def search(models: Sequence[AskedModel], folder: Folder, query: str) -> str:
    """The images of the folder that fit a text best."""
    parts = []
    for each in models:
        with each.alone() as model:
            found = folder.search(model, query)
        parts.append(card(each.name, f"{thumbnails(found)}<p class='fiber-note'>of {len(folder.paths)} images</p>"))
    return cards(parts)


def judge(models: Sequence[AskedModel], first: Tensor, second: Tensor, statement: str) -> str:
    """How likely a statement about two images is true."""
    parts = []
    for each in models:
        with each.alone() as model:
            found = model.judge(first, second, statement)[0]
        rows = [("true", found.probability, f"{100 * found.probability:.1f} %")]
        parts.append(card(each.name, bars(rows)))
    return cards(parts)


def looks(models: Sequence[AskedModel], image: Tensor, text: str, word: str | None, target: str | None = None) -> str:
    """Where a word of a text, or all of it, looks in an image."""
    parts = []
    for each in models:
        with each.alone() as model:
            if target is not None and target not in getattr(model.config, "answers", (target,)):
                continue
            heat = look(model, image, text, word=word, target=target)[0]
        of = f"“{target}”" if word is None and target else f"“{word or text}”"
        parts.append(card(each.name, heat_over(image, heat, f"{of}, by Grad-CAM")))
    return cards(parts)


def words(text: str) -> list[str]:
    """The phrases and words of a text that may be asked where they look, each once; no articles and the like."""
    phrases = [text[start:end] for start, end in noun_phrases(text)]
    single = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text)
    return list(dict.fromkeys([*phrases, *(word for word in single if word.lower() not in _SMALL)]))
