"""What a model sees, as a page: images after their transforms, with texts, boxes, phrases and masked tokens."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any

from PIL import Image
from torchvision.transforms.v2 import functional as F
from transformers import PreTrainedTokenizerBase

from fiber_data.collate import ImageTextCollator
from fiber_data.dataset import BrokenSample, CaptionDataset, SeededDataset
from fiber_data.folders import Annotated
from fiber_data.grounding import DetectionDataset, GroundingDataset
from fiber_data.prompts import PromptSampler, make_prompt
from fiber_data.transforms import (
    build_detection_evaluation_transform,
    build_detection_training_transform,
    build_evaluation_transform,
    build_training_transform,
)
from fiber_data.understanding import QuestionDataset, ReasoningDataset

_COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#e377c2", "#17becf", "#ff7f0e", "#8c564b")
_LOSSLESS = 200  # pixels of a side up to which images are PNGs
_STYLE = """body{font:14px/1.4 system-ui,sans-serif;margin:2em;background:#fafafa;color:#222}
main{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}
figure{margin:0;padding:.6em;background:#fff;border:1px solid #ddd;max-width:22em}
svg{width:100%;min-width:12em;height:auto;display:block}mark{background:#ffe08a}small{color:#777}
figcaption{overflow-wrap:anywhere}.pair{display:flex;gap:.3em}.broken{color:#b00}"""


def make_dataset(
    part: Annotated,
    *,
    size: int | None = None,
    training: bool = True,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> SeededDataset[Any]:
    """The data set that suits samples, with images as uint8.

    Args:
        part: As of `fiber_data.folders.read_folder`.
        size: Side of the squares in pixels (384 by default), or length of the shorter side where there are boxes
            (drawn from those of the fine stage by default, 800 in evaluation).
        training: Whether images are augmented, and captions and prompts drawn.
        tokenizer: Counts the tokens of drawn prompts; without one, a prompt names all categories.
        seed: Seed of everything random.

    Raises:
        ValueError: There are no samples.
    """
    first = part.samples[0] if len(part.samples) else {}
    if "boxes" in first:
        shorter: dict[str, Any] = {} if size is None else {"shorter": size}
        build: Any = build_detection_training_transform if training else build_detection_evaluation_transform
        transform = build(**shorter, normalize=False)
        if "labels" not in first:
            return GroundingDataset(part.read, transform, seed=seed)
        categories = part.read.categories
        drawn = tokenizer is not None and training
        prompts = PromptSampler(categories, tokenizer) if drawn else make_prompt(categories)  # type: ignore[arg-type]
        return DetectionDataset(part.read, transform, prompts, seed=seed)
    square = (build_training_transform if training else build_evaluation_transform)(size or 384, normalize=False)
    if "question" in first:
        return QuestionDataset(part.samples, square, seed=seed)
    if "statement" in first:
        return ReasoningDataset(part.samples, square, seed=seed)
    return CaptionDataset(part.samples, square, captions="random", seed=seed)


def write_sheet(
    sections: Iterable[tuple[str, Iterable[dict[str, Any] | BrokenSample]]],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int = 256,
) -> str:
    """A page of HTML that needs no other file.

    Args:
        sections: Titles, each with items of a data set, images as uint8 (3, H, W), or pairs.
        tokenizer: Masks tokens as pre-training does, and marks them; without one texts stay whole.
        max_length: Tokens that a text is cut to.
    """
    collator = None if tokenizer is None else ImageTextCollator(tokenizer, max_length)
    body = "".join(
        f"<h2>{escape(title)}</h2>\n<main>\n{''.join(_figure(item, collator) for item in items)}</main>\n"
        for title, items in sections
    )
    head = f'<meta charset="utf-8"><title>What the model sees</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


def _figure(item: dict[str, Any] | BrokenSample, collator: ImageTextCollator | None) -> str:
    if isinstance(item, BrokenSample):
        return f'<figure class="broken">{escape(item.reason)}</figure>\n'
    pixels = item["pixel_values"]
    shown = "".join(_svg(image, item) for image in (pixels if pixels.ndim == 4 else [pixels]))
    lines = [_marked_spans(item) if "target" in item else escape(item["text"])]
    if "answers" in item:
        lines.append(f"answers: {escape(', '.join(item['answers']))}")
    if "labels" in item:
        lines.append(f"label: {bool(item['labels'])}")
    if collator is not None and "target" not in item:
        lines.append(f"masked: {_masked(collator([item]), collator.tokenizer)}")
    height, width = pixels.shape[-2:]
    lines.append(f"<small>{escape(str(item['id']))}, {width} x {height}</small>")
    return f'<figure><div class="pair">{shown}</div><figcaption>{"<br>".join(lines)}</figcaption></figure>\n'


def _svg(image: Any, item: dict[str, Any]) -> str:
    """An image with its boxes, each in the color of its phrase."""
    height, width = image.shape[-2:]
    buffer, kind = io.BytesIO(), "png" if max(height, width) <= _LOSSLESS else "jpeg"
    pil: Image.Image = F.to_pil_image(image)
    pil.save(buffer, kind, **({} if kind == "png" else {"quality": 90}))
    data = base64.b64encode(buffer.getvalue()).decode()
    drawn = [f'<image href="data:image/{kind};base64,{data}" width="{width}" height="{height}"/>']
    line = max(height, width) / 200
    colors = _phrase_colors(item)
    for box, spans in zip(
        item["target"]["boxes"].tolist() if "target" in item else [], item.get("spans", ()), strict=True
    ):
        left, top, right, bottom = box
        color = colors.get(str(spans[0] if spans else None), _COLORS[0])
        words = escape(" ".join(item["text"][start:end] for start, end in spans))
        drawn.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
            f'stroke="{color}" stroke-width="{line:.2f}"/><text x="{left + line:.1f}" y="{top + 7 * line:.1f}" '
            f'fill="{color}" font-size="{7 * line:.1f}" stroke="#fff" stroke-width="{line:.2f}" '
            f'paint-order="stroke">{words}</text>'
        )
    return f'<svg viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>'


def _phrase_colors(item: dict[str, Any]) -> dict[str, str]:
    """By the first span of each phrase that has a box."""
    firsts = dict.fromkeys(str(spans[0]) for spans in item.get("spans", ()) if spans)
    return {span: _COLORS[number % len(_COLORS)] for number, span in enumerate(firsts)}


def _marked_spans(item: dict[str, Any]) -> str:
    """The text, phrases in the colors of their boxes; where these overlap, the first one counts."""
    text, colors, made, at = item["text"], _phrase_colors(item), [], 0
    named = (own for own in item["spans"] if own)
    for start, end, color in sorted({(*span, colors[str(own[0])]) for own in named for span in own}):
        if start >= at:
            made.append(f'{escape(text[at:start])}<b style="color:{color}">{escape(text[start:end])}</b>')
            at = end
    return "".join([*made, escape(text[at:])])


def _masked(batch: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens as the model reads them; those that it has to tell are marked, with what they were."""
    made = []
    rows = zip(batch["mlm_input_ids"][0].tolist(), batch["mlm_labels"][0].tolist(), strict=True)
    for token, label in rows:
        read, true = (escape(str(tokenizer.decode([each]))) for each in (token, max(label, 0)))
        if label >= 0:  # else it is none of those
            made.append(f'<mark title="{true}">{read} ({true.strip()})</mark>')
        elif token not in tokenizer.all_special_ids:
            made.append(read)
    return "".join(made)
