"""Between people and `find`: names and thresholds on the way in, detections with names on the way out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from fiber_heads.grounding.config import DetectionSettings
from fiber_heads.grounding.detections import Detections
from fiber_heads.processing import Image, Images, Texts, as_list

SEVERAL_NAMES = re.compile(r" \. |;|[\r\n]")


def category_names(categories: Texts) -> list[str]:
    """The categories, none of them empty."""
    if isinstance(categories, str) and SEVERAL_NAMES.search(categories.strip()):
        parts = [part.strip() for part in SEVERAL_NAMES.split(categories) if part.strip(" .")]
        raise ValueError(f"one text holds several categories; give a list of them, {parts}")
    names = as_list(categories)
    if not names or any(not name.strip() for name in names):
        raise ValueError(f"categories must be names, at least one and none empty; they are {names}")
    return names


def settings_above(threshold: float, settings: DetectionSettings | None) -> DetectionSettings:
    """Settings under which everything is a candidate whose score can lie above the threshold."""
    return replace(settings or DetectionSettings(), score_threshold=max(threshold, 0.0) ** 2)


def named_results(
    images: Images, found: list[dict[str, Tensor]], names: Sequence[Sequence[str]], threshold: float
) -> list[Detections]:
    """Detections with names, those above the threshold."""
    given: Sequence[Image] = [images]  # type: ignore[list-item]
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        given = images
    elif isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        given = list(images)
    results = []
    for image, each, own in zip(given, found, names, strict=True):
        text_labels = [own[label] for label in each["labels"].tolist()]
        result = Detections(each["boxes"], each["scores"], each["labels"], text_labels)
        result.image = image
        results.append(result.best(int((each["scores"] > threshold).sum())))
    return results


def tell_unasked(texts: Sequence[str], prompts: Mapping[str, Any]) -> None:
    """ValueError if there is nothing to look for in any sentence; a warning for a sentence or a phrase."""
    phrases = prompts["phrase_texts"]
    if empty := [text for text, own in zip(texts, phrases, strict=True) if not own]:
        sentence = f"{empty[0]!r} names no phrase to look for; give spans, or use refer to look for all of it"
        if len(empty) == len(texts):
            raise ValueError(sentence)
        warnings.warn(sentence, stacklevel=4)
    for own, maps in zip(phrases, prompts["phrase_maps"], strict=True):
        if cut := [phrase for phrase, tokens in zip(own, maps, strict=True) if not tokens.any()]:
            warnings.warn(f"{cut[0]!r} has no token in its text, which is cut at max_length; shorten it", stacklevel=4)
