"""What reports show of models that search: the captions found for an image, and how sure matching is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fiber_data import CaptionSample, load_image
from fiber_heads.ranking import search_scores
from fiber_heads.search import SearchModel

from fiber_train.examples import Example, Said, Shown, show_image, spread

_SEARCHED = 500  # images, with a caption of each, that are searched
_MATCHED = 150  # of these, also matched with another's caption
_TOP = 3


def show_search(model: SearchModel, samples: Sequence[CaptionSample], number: int) -> Shown:
    """The captions that a model ranks first for some images, by cosines or else by matching."""
    chosen = spread(samples, _SEARCHED if model.contrastive_head is not None else max(4, number))
    texts = [(caption, row) for row, sample in enumerate(chosen) for caption in sample["captions"]]
    shown = Shown(
        note="The three best of all captions of the held-out images. Right is an image's own caption; another's may "
        "describe it all the same."
    )
    images = [load_image(sample["image"]) for sample in spread(chosen, number)]
    if model.contrastive_head is not None:
        features = model.encode_texts([text for text, _ in texts]).float()
        scores = model.encode_images(images).float() @ features.T
    else:
        scores = search_scores(None, _matcher(model, images, texts), shape=(len(images), len(texts)), top_k=0)
    for sample, image, row in zip(spread(chosen, number), images, scores.cpu(), strict=True):
        best = row.topk(min(_TOP, len(row)))
        own = {text.strip().lower() for text in sample["captions"]}
        said = [
            Said(texts[place][0], score, texts[place][0].strip().lower() in own)
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        truth = "; ".join(sample["captions"][:2])
        shown.examples.append(Example((show_image(image),), (), tuple(said), truth))
    if model.matching_head is not None and len(chosen) > 1:
        shown.confidences["matching"] = _matching(model, spread(chosen, _MATCHED))
    return shown


def _matcher(model: SearchModel, images: Sequence[Any], texts: Sequence[tuple[str, int]]) -> Any:
    begun, words = model.begin_images(images), model.begin_texts([text for text, _ in texts])
    return lambda pairs: model.score_pairs(begun, words, pairs)


def _matching(model: SearchModel, samples: Sequence[CaptionSample]) -> list[tuple[float, bool]]:
    """Each image with its own first caption and with the next image's."""
    images = [load_image(sample["image"]) for sample in samples]
    captions = [sample["captions"][0] for sample in samples]
    pairs = torch.tensor([(row, (row + off) % len(images)) for off in (0, 1) for row in range(len(images))])
    begun, texts = model.begin_images(images), model.begin_texts(captions)
    chances = model.score_pairs(begun, texts, pairs).float().sigmoid().tolist()
    found = []
    for (image, text), chance in zip(pairs.tolist(), chances, strict=True):
        matches = captions[text] in samples[image]["captions"]
        found.append((max(chance, 1 - chance), (chance >= 0.5) == matches))
    return found
