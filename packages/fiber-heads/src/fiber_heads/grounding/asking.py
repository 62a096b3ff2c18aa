"""Between people and `find`: names and thresholds on the way in, detections with names on the way out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fiber_heads.grounding.config import DetectionSettings
from fiber_heads.grounding.detections import Detections
from fiber_heads.processing import Images, Texts, image_list, image_name
from fiber_heads.results import Results

# What no name holds, and what one may ("St. Bernard", "salt, pepper"). Line ends are those of `str.splitlines`.
_HARD = re.compile(r"[;；|\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]|\s\.(?!\d)")
_SOFT = re.compile(r"[，、。]|\.\s|(?<=[^\W\d_]{2})\.(?=[^\W\d_]{2})|(?<!\d),|,(?!\d)")


def category_names(categories: Texts) -> list[str]:
    """The categories, none of them empty.

    A lone text is split at semicolons, bars, tabs, line ends and " . ", as in GroundingDINO's prompts, and, where it
    has none of these, at commas and at periods between words. A comma in a name thus needs a list, or a semicolon
    beside it: "salt, pepper; dog". Names of a list stay as they are.

    Raises:
        ValueError: There is none, or one of a list is empty.

    Example:
        >>> category_names("red circle . blue square ."), category_names("person, dog"), category_names("circle")
        (['red circle', 'blue square'], ['person', 'dog'], ['circle'])
    """
    if isinstance(categories, str):
        text = categories.strip().removesuffix(".")
        parts = _HARD.split(text)
        parts = parts if len(parts) > 1 else _SOFT.split(text)
        names = [name for part in parts if (name := part.strip(" ."))]
    else:
        names = list(categories)
    if not names or any(not name.strip() for name in names):
        raise ValueError(
            "categories must be names, at least one and none empty, as in ['person', 'dog'] or 'person, dog'; "
            f"they are {categories!r}"
        )
    return names


def settings_above(threshold: float, settings: DetectionSettings | None) -> DetectionSettings:
    """Settings under which everything is a candidate whose score can lie above the threshold."""
    return replace(settings or DetectionSettings(), score_threshold=max(threshold, 0.0) ** 2)


def named_results(
    images: Images, found: list[dict[str, Tensor]], names: Sequence[Sequence[str]], threshold: float
) -> Results[Detections]:
    """Detections with names, those above the threshold."""
    given = image_list(images)
    results = []
    for image, each, own in zip(given, found, names, strict=True):
        text_labels = [own[label] for label in each["labels"].tolist()]
        result = Detections(each["boxes"], each["scores"], each["labels"], text_labels)
        result.image, result.names = image, own
        results.append(result.best(int((each["scores"] > threshold).sum())))
    return Results(results, titles=[image_name(image) or f"image {number}" for number, image in enumerate(given, 1)])


def check_words(texts: Sequence[str]) -> None:
    """ValueError if a sentence has no words."""
    if blank := [number for number, text in enumerate(texts) if not text.strip()]:
        raise ValueError(f"sentence {blank[0]} is empty ({texts[blank[0]]!r}); write what to look for")


def tell_unasked(texts: Sequence[str], prompts: Mapping[str, Any]) -> None:
    """ValueError if there is nothing to look for in any sentence; a warning for a sentence or a phrase."""
    phrases = prompts["phrase_texts"]
    unasked = [f"{text!r} names no phrase to look for" for text, own in zip(texts, phrases, strict=True) if not own]
    unasked = [f"{sentence}; give spans, or use refer to look for all of it" for sentence in unasked]
    for text, own, maps in zip(texts, phrases, prompts["phrase_maps"], strict=True):
        cut = [phrase for phrase, tokens in zip(own, maps, strict=True) if not tokens.any()]
        unasked += [f"{phrase!r} has no token in {text!r}, which is cut at max_length; shorten it" for phrase in cut]
    if unasked and not any(maps.any() for maps in prompts["phrase_maps"]):
        raise ValueError(unasked[0])
    for sentence in unasked:
        warnings.warn(sentence, stacklevel=4)
