"""What the page shows, as HTML that holds everything in itself: boxes, words, bars, maps, thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from fiber_data import load_image, noun_phrases
from fiber_heads import Match
from fiber_heads.grounding.drawing import edge_color, label_colors
from fiber_heads.processing import image_name
from fiber_heads.results import data_address
from torch import Tensor
from torchvision.ops import nms
from torchvision.transforms.v2.functional import to_pil_image

from fiber_train.drawing import draw_heat
from fiber_train.tasks.grounding.examples import SAME_THING

_LONGEST = 900  # pixels of an image's longer side on the page
_SMALL = 240  # of one of many
_LONG = 30  # characters of a text that needs the width of its row

STYLE = """
.fiber-image img{width:100%!important;height:100%!important;object-fit:contain}
.fiber-cards{display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start}
.fiber-card{flex:1 1 280px;min-width:0;max-width:520px;border:1px solid var(--border-color-primary);border-radius:10px;
 padding:12px;background:var(--background-fill-secondary);color:var(--body-text-color)}
.fiber-card h4{margin:0 0 8px;font-size:15px;overflow-wrap:anywhere}
.fiber-card svg,.fiber-card img{width:100%;height:auto;max-height:520px;display:block;border-radius:6px;
 object-fit:contain}
.fiber-card svg g:hover rect,.fiber-card svg g:focus rect{stroke-width:5px;fill-opacity:.25}
.fiber-card svg g:focus{outline:none}
.fiber-words{font-size:17px;line-height:1.9;margin:10px 0 2px}
.fiber-words span{border-radius:5px;padding:2px 5px;box-shadow:inset 0 0 0 1px rgba(128,128,128,.7)}
.fiber-words span.none{background:none!important;color:inherit!important;box-shadow:none;
 outline:1px dashed currentColor;outline-offset:-1px}
.fiber-row{display:grid;grid-template-columns:minmax(5em,38%) 1fr 4.2em;gap:8px;align-items:center;margin:5px 0;
 font-size:15px}
.fiber-row.long{grid-template-columns:1fr 18% 3.2em}
.fiber-row b{font-weight:500;overflow-wrap:anywhere}
.fiber-row i{display:block;height:10px;border-radius:5px;background:#3b6fd4;min-width:2px}
.fiber-row small,.fiber-note{opacity:.75;font-variant-numeric:tabular-nums}
.fiber-note{font-size:13px;margin:8px 0 0}
.fiber-found{display:grid;grid-template-columns:repeat(auto-fill,minmax(110px,1fr));gap:10px}
.fiber-found figure{margin:0}.fiber-found figcaption{font-size:13px;overflow-wrap:anywhere}
.fiber-error{border-left:4px solid #c43b3b;padding:8px 12px;background:var(--background-fill-secondary);
 color:var(--body-text-color)}
"""


@dataclass
class Boxes:
    """What one model found, of which the page shows what is above a threshold.

    Attributes:
        name: The model's.
        image: Address that holds the image.
        size: Its width and height.
        rows: Score, place of the label among `labels`, corners.
        labels: Phrases or categories.
        text: The sentence; empty for categories.
        spans: Of its characters, those of each label.
    """

    name: str
    image: str
    size: tuple[int, int]
    rows: list[tuple[float, int, list[float]]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    text: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def of(
        cls, name: str, image: Tensor, found: Any, labels: Sequence[str], text: str = "", whole: bool = False
    ) -> Boxes:
        """From detections; `whole` says that the text is one phrase."""
        # of boxes that claim one thing under several phrases the highest-scoring, whatever the threshold
        kept = nms(found.boxes.cpu(), found.scores.cpu(), SAME_THING) if text else slice(None)
        parts = (each.cpu()[kept].tolist() for each in (found.scores, found.labels, found.boxes))
        rows = list(zip(*parts, strict=True))
        spans = ([(0, len(text))] if whole else noun_phrases(text)) if text else []
        size = (image.shape[2], image.shape[1])
        return cls(name, data_address(to_pil_image(image), _LONGEST), size, rows, list(labels), text, spans)

    def html(self, threshold: float) -> str:
        """The image with the boxes above a threshold, and the words colored like them."""
        chosen = label_colors(self.labels)
        colors = [(f"rgb{color}", f"rgb{edge_color(color)}") for color in chosen]  # of a label, and of what is on it
        width, height = self.size
        unit = max(self.size) / 100
        shown = [row for row in self.rows if row[0] >= threshold]
        marks = []
        for score, label, (left, top, right, bottom) in reversed(shown):  # the highest-scoring on top
            (color, edge), said = colors[label], f"{escape(self.labels[label])}: {score:.2f}"
            marks.append(
                f'<g tabindex="0" role="img" aria-label="{said}"><title>{said}</title>'
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
                f'rx="{unit / 2:.2f}" fill="{color}" fill-opacity=".06" stroke="{color}" '
                f'stroke-width="3" vector-effect="non-scaling-stroke"/><text x="{left + unit:.1f}" '
                f'y="{max(top, 0.3 * unit) + 4.2 * unit:.1f}" font-size="{4 * unit:.1f}" font-weight="600" '
                f'fill="{color}" stroke="{edge}" stroke-width="{0.9 * unit:.2f}" paint-order="stroke">{score:.2f}'
                "</text></g>"
            )
        drawn = (
            f'<svg viewBox="0 0 {width} {height}" role="group" aria-label="{len(shown)} boxes">'
            f'<image href="{self.image}" width="{width}" height="{height}"/>{"".join(marks)}</svg>'
        )
        best = {label: max(score for score, own, _ in shown if own == label) for _, label, _ in shown}
        note = f"{len(shown)} boxes above {threshold:.2f}; hover for the score"
        words = _colored(self.text, self.spans, colors, best) if self.text else _legend(self.labels, colors, best)
        return card(self.name, f'{drawn}<p class="fiber-words">{words}</p><p class="fiber-note">{note}</p>')


def _colored(
    text: str, spans: Sequence[tuple[int, int]], colors: Sequence[tuple[str, str]], best: Mapping[int, float]
) -> str:
    """A sentence whose phrases are colored; those without a box have no color."""
    pieces, place = [], 0
    for label, (start, end) in sorted(enumerate(spans), key=lambda each: each[1]):
        if start >= place:
            pieces += [escape(text[place:start]), _word(text[start:end], colors[label], best.get(label))]
            place = end
    return "".join([*pieces, escape(text[place:])])


def _legend(labels: Sequence[str], colors: Sequence[tuple[str, str]], best: Mapping[int, float]) -> str:
    return " ".join(_word(name, colors[label], best.get(label)) for label, name in enumerate(labels))


def _word(text: str, color: tuple[str, str], score: float | None) -> str:
    told, pale = ("no box", ' class="none"') if score is None else (f"{score:.2f}", "")
    return f'<span{pale} style="background:{color[0]};color:{color[1]}" title="{told}">{escape(text)}</span>'


def cards(parts: Sequence[str]) -> str:
    """Models beside each other."""
    return f'<div class="fiber-cards">{"".join(parts)}</div>'


def card(name: str, inner: str) -> str:
    """One model's part."""
    return f'<section class="fiber-card"><h4>{escape(name)}</h4>{inner}</section>'


def bars(rows: Sequence[tuple[str, float, str]], note: str = "") -> str:
    """Texts with a bar in [0, 1] and what is written beside it."""
    long = " long" if any(len(text) > _LONG for text, _, _ in rows) else ""
    lines = [
        f'<div class="fiber-row{long}"><b>{escape(text)}</b><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i>'
        f"<small>{escape(told)}</small></div>"
        for text, share, told in rows
    ]
    return "".join(lines) + (f'<p class="fiber-note">{escape(note)}</p>' if note else "")


def heat_over(image: Tensor, heat: Tensor, note: str) -> str:
    """An image (3, H, W) uint8 with a map (h, w) in [0, 1] over it."""
    drawn = data_address(draw_heat(image, heat), _LONGEST)
    return f'<img src="{drawn}" alt="{escape(note)}"><p class="fiber-note">{escape(note)}</p>'


def thumbnails(found: Sequence[Match]) -> str:
    """Files, named without their folders, with scores."""
    figures = []
    for match in found:
        small = data_address(to_pil_image(load_image(match.image)), _SMALL)
        figures.append(
            f'<figure><img src="{small}" alt=""><figcaption>{escape(Path(image_name(match.image)).name)} '
            f"<small>{match.score:.3f}</small></figcaption></figure>"
        )
    return f'<div class="fiber-found">{"".join(figures)}</div>'


def error(sentence: str) -> str:
    """Why there is nothing to show."""
    return f'<p class="fiber-error" role="alert">{escape(sentence)}</p>'
