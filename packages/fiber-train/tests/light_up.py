"""Does an object light up more than the rest where its phrase looks: Grad-CAM of a grounding model on scenes.

    python light_up.py quickstart/fine quickstart/scenes --phrases 100 --least 2

For each phrase with one box: the map's mean inside of its box over its mean; the same inside of the other objects'
boxes; and, shuffled, inside of its own box the map of another sample's phrase.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from fiber_data import load_image, read_grounding
from fiber_heads import look
from fiber_train.checkpoint import load_model
from fiber_train.examples import spread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--phrases", type=int, default=100)
    parser.add_argument("--way", default="grad_cam")
    parser.add_argument(
        "--least", type=float, default=0.0, help="fail unless the own box has so much more than shuffled"
    )
    options = parser.parse_args()
    model, _ = load_model(options.checkpoint)
    samples = read_grounding(options.scenes, "val", name="scenes")
    found: list[tuple[torch.Tensor, Any, list[Any]]] = []
    for sample in spread(samples, options.phrases):
        alone = [(phrase[0], own) for phrase in sample["phrases"] if len(own := boxes_of(sample, phrase)) == 1]
        others = [box for box in sample["boxes"] if alone and list(box) != list(alone[0][1][0])]
        if others:
            span, (box,) = alone[0]
            heat = look(model, load_image(sample["image"]), sample["caption"], word=tuple(span), way=options.way)[0]
            found.append((heat, box, others))
    own = torch.tensor([share(heat, box) for heat, box, _ in found])
    rest = torch.tensor([sum(share(heat, box) for box in others) / len(others) for heat, _, others in found])
    shuffled = torch.tensor([share(heat, found[row - 1][1]) for row, (heat, _, _) in enumerate(found)])
    sys.stdout.write(
        f"{len(found)} phrases, {options.way}: own box {own.mean():.2f} of the mean, other objects {rest.mean():.2f}, "
        f"shuffled {shuffled.mean():.2f}; own above other objects in {100 * (own > rest).float().mean():.0f} %\n"
    )
    return 0 if own.mean() >= options.least * shuffled.mean() else 1


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
