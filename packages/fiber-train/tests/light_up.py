"""Does an object light up more than the rest where its phrase looks: Grad-CAM of a model on scenes it never saw.

    python light_up.py quickstart/fine runs/vqa --least 2

Scenes are generated anew (`--seed`), neither those of training nor those by which a way of drawing was chosen. For a
phrase with one box: the map's mean inside of its box over its mean; the same inside of the other objects' boxes; and,
shuffled, inside of the box of the scene before. Models with boxes, of captions and of matching are asked with the
phrase in its sentence; models of answers with "what colour is the triangle?", where there is one, and its color.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from fiber_data import load_image, read_grounding
from fiber_data.scenes import generate_scenes
from fiber_heads import FiberForQuestionAnswering, TaskModel, look
from fiber_train.checkpoint import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--way", default="grad_cam")
    parser.add_argument(
        "--least",
        type=float,
        default=0.0,
        help="fail unless the own box has so much more than the others, and shuffled",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scenes = Path(scratch) / "scenes"
        generate_scenes(scenes, {"val": options.scenes}, seed=options.seed, progress=False)
        samples = {sample["image"]: sample for sample in read_grounding(scenes, "val", name="scenes")}
        weak = [path for path in options.checkpoints if not lights_up(path, list(samples.values()), options)]
    return 1 if weak else 0


def lights_up(checkpoint: Path, samples: list[Any], options: argparse.Namespace) -> bool:
    """Measures one model, and says what came out."""
    model, _ = load_model(checkpoint)
    found: list[tuple[torch.Tensor, Any, list[Any]]] = []
    for sample in samples:
        asked = question(model, sample)
        others = [box for box in sample["boxes"] if asked and list(box) != list(asked[3])]
        if others:
            text, word, target, box = asked
            heat = look(model, load_image(sample["image"]), text, word=word, target=target, way=options.way)[0]
            found.append((heat, box, others))
    own = torch.tensor([share(heat, box) for heat, box, _ in found])
    rest = torch.tensor([sum(share(heat, box) for box in others) / len(others) for heat, _, others in found])
    shuffled = torch.tensor([share(heat, found[row - 1][1]) for row, (heat, _, _) in enumerate(found)])
    sys.stdout.write(
        f"{checkpoint}: {len(found)} scenes, {options.way}: own box {own.mean():.2f} of the mean, other objects "
        f"{rest.mean():.2f}, shuffled {shuffled.mean():.2f}; own above the others in {100 * (own > rest).float().mean():.0f} %\n"
    )
    return bool(own.mean() >= options.least * max(rest.mean(), shuffled.mean()))


def question(model: TaskModel, sample: Any) -> tuple[str, Any, str | None, Any] | None:
    """A text, the word in question, what the score is of, and the box of what it is about; None where there is none."""
    text, phrases = sample["caption"], [tuple(phrase[0]) for phrase in sample["phrases"]]
    for phrase in sample["phrases"]:
        own, span = boxes_of(sample, phrase), tuple(phrase[0])
        words = text[slice(*span)].split()
        if len(own) != 1:
            continue
        if not isinstance(model, FiberForQuestionAnswering):
            return text, span, None, own[0]
        alone = len(words) == 4 and sum(words[3] in text[slice(*each)] for each in phrases) == 1
        if alone and words[2] in model.config.answers:  # a little yellow square
            return f"what colour is the {words[3]}?", None, words[2], own[0]
    return None


def boxes_of(sample: Any, phrase: Any) -> list[Any]:
    """The boxes of a phrase."""
    pairs = zip(sample["boxes"], sample["spans"], strict=True)
    return [box for box, spans in pairs if {tuple(each) for each in spans} & {tuple(each) for each in phrase}]


def share(heat: torch.Tensor, box: Any) -> float:
    """The mean inside of a box over the mean of the map."""
    left, top, right, bottom = (round(float(side)) for side in box)
    return float(heat[top:bottom, left:right].mean() / heat.mean().clamp(min=1e-12))


if __name__ == "__main__":
    sys.exit(main())
