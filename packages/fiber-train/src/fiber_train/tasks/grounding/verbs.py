"""`fiber detect`, `fiber ground`, `fiber refer`, `fiber odinw`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fiber_train.options import add_checkpoint, check_option, load_checkpoint
from fiber_train.outputs import claim_file
from fiber_train.writing import explained, free_name

_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def detect(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Find objects by name, and draw boxes."""
    _add_image(parser)
    parser.add_argument(
        "--categories",
        required=True,
        help="what to find: 'person, dog'; with ; or ' . ' between, names may hold commas",
    )
    _add_threshold(parser)

    def find(model: Any, options: Namespace) -> dict[str, Any]:
        return model.detect(options.image, options.categories, threshold=options.threshold)[0]

    return lambda options: _show(find, options)


def ground(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Find what the phrases of a sentence speak of, and draw boxes."""
    _add_image(parser)
    parser.add_argument("sentence", help="such as 'a man throws a ball to a dog'")
    _add_threshold(parser)

    def find(model: Any, options: Namespace) -> dict[str, Any]:
        return model.ground(options.image, options.sentence, threshold=options.threshold)[0]

    return lambda options: _show(find, options)


def refer(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Find the one thing that an expression describes, and draw boxes."""
    _add_image(parser)
    parser.add_argument("expression", help="such as 'the man on the left'")

    def find(model: Any, options: Namespace) -> dict[str, Any]:
        return model.refer(options.image, options.expression)[0]

    return lambda options: _show(find, options)


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


def _add_image(parser: ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("image", type=Path, help="the image")
    parser.add_argument("--out", type=Path, help="image to write; a new PHOTO.boxes.png here by default")


def _add_threshold(parser: ArgumentParser) -> None:
    parser.add_argument("--threshold", type=float, default=0.3, help="least score (%(default)s)")


def _show(find: Callable[[Any, Namespace], dict[str, Any]], options: Namespace) -> int:
    """Prints and draws the boxes."""
    target = options.out or free_name(Path(f"{options.image.stem}.boxes.png"))
    if target.suffix.lower() not in _FORMATS:
        raise ValueError(f"--out: {target} must end in one of {', '.join(_FORMATS)}")
    check_option("--threshold", getattr(options, "threshold", 0), least=0, most=1)
    claim_file(target, "--out")
    from fiber_heads import FiberForGrounding

    from fiber_train.drawing import draw_detections

    model, _ = load_checkpoint(options, FiberForGrounding)
    found = find(model, options)
    rows = zip(found["scores"].tolist(), found["text_labels"], found["boxes"].tolist(), strict=True)
    for score, name, box in rows:
        sys.stdout.write(f"{score:6.3f}  {name:24}  {'  '.join(f'{side:7.1f}' for side in box)}\n")
    with explained(target):
        draw_detections(options.image, found).save(target)
    sys.stdout.write(f"{len(found['scores'])} boxes in {target}\n")
    return 0
