"""`fiber detect`, `fiber ground`, `fiber refer`, `fiber odinw`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiber_train.asking import add_images, ask
from fiber_train.listing import FORMATS, Found
from fiber_train.options import check_option
from fiber_train.outputs import claim_folder

if TYPE_CHECKING:
    from fiber_train.inputs import InputImage

Ask = Callable[[Any, list[Any]], list[Any]]


def detect(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Find objects by name, and draw boxes on request."""
    _add_options(parser)
    parser.add_argument(
        "--categories",
        required=True,
        help="what to find: 'person, dog'; with ; or ' . ' between, names may hold commas",
    )
    _add_threshold(parser)

    def run(options: Namespace) -> int:
        return _find(options, lambda model, images: model.detect(images, options.categories, **_above(options)))

    return run


def ground(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Find what the phrases of a sentence speak of, and draw boxes on request."""
    _add_options(parser)
    parser.add_argument("sentence", help="such as 'a man throws a ball to a dog'")
    _add_threshold(parser)

    def run(options: Namespace) -> int:
        def find(model: Any, images: list[Any]) -> list[Any]:
            return model.ground(images, [options.sentence] * len(images), **_above(options))

        return _find(options, find)

    return run


def refer(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Find the one thing that an expression describes, and draw its box on request."""
    _add_options(parser)
    parser.add_argument("expression", help="such as 'the man on the left'")

    def run(options: Namespace) -> int:
        return _find(options, lambda model, images: model.refer(images, [options.expression] * len(images)))

    return run


def odinw(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Fine-tune on all data sets of ODinW, each from the same weights, and average."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, as GLIP names them")
    parser.add_argument("--out", type=Path, required=True, help="folder for a run of each, and odinw.json")
    parser.add_argument(
        "--sets", default="13", help="13, 35, names with commas between, or a YAML file like ours (%(default)s)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="settings of all runs, such as model.checkpoint=runs/fine task.shots=3; a word without = is a recipe to "
        "lay over odinw, such as linear_probe",
    )
    return _odinw


def _odinw(options: Namespace) -> int:
    from fiber_train.stopping import STATUS
    from fiber_train.tasks.grounding.odinw import as_table, choose_sets, run_odinw

    recipes = [word for word in options.overrides if "=" not in word]
    overrides = [word for word in options.overrides if "=" in word]
    found = run_odinw(options.data, options.out, choose_sets(options.sets), recipes, overrides)
    if found is None:
        return STATUS
    sys.stdout.write(as_table(found))
    return 0


def _add_options(parser: ArgumentParser) -> None:
    add_images(parser, (*FORMATS, "coco"), batch_size=4)
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="folder to draw the images into, with their boxes")


def _add_threshold(parser: ArgumentParser) -> None:
    parser.add_argument("--threshold", type=float, default=0.3, help="least score (%(default)s)")


def _above(options: Namespace) -> dict[str, float]:
    return {"threshold": options.threshold}


def _find(options: Namespace, find: Ask) -> int:
    """Writes the boxes, and draws them."""
    from fiber_heads import FiberForGrounding

    check_option("--threshold", getattr(options, "threshold", 0), least=0, most=1)
    if options.draw:
        claim_folder(options.draw, "--draw")

    def found(model: Any, batch: list[InputImage]) -> list[Found]:
        results = find(model, [image.pixels for image in batch])
        if options.draw:
            _draw(options.draw, batch, results)
        return [_as_found(*each) for each in zip(batch, results, strict=True)]

    return ask(options, FiberForGrounding, found)


def _as_found(image: InputImage, result: Any) -> Found:
    boxes = [
        {"label": name, "score": round(score, 5), "box": [round(side, 2) for side in box]}
        for score, name, box in result.rows()
    ]
    height, width = image.pixels.shape[1:]
    sides = ("x1", "y1", "x2", "y2")
    return Found(
        {"image": image.name, "width": width, "height": height, "boxes": boxes},
        [
            {
                "image": image.name,
                "label": each["label"],
                "score": each["score"],
                **dict(zip(sides, each["box"], strict=True)),
            }
            for each in boxes
        ],
        str(result),
        ((height, width), [(each["label"], each["score"], each["box"]) for each in boxes]),
    )


def _draw(folder: Path, batch: list[InputImage], results: list[Any]) -> None:
    from matplotlib.font_manager import findfont

    from fiber_train.writing import explained, free_name

    font = findfont("DejaVu Sans")  # which comes with matplotlib
    for image, result in zip(batch, results, strict=True):
        name = Path(image.name.partition("?")[0]).stem  # of an address too
        target = free_name(folder / f"{name}.boxes.png")
        with explained(target):
            result.draw(image.pixels, font=font).save(target)
