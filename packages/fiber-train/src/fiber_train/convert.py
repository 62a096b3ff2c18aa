"""`fiber convert`: a model folder of ours from a checkpoint file of the original."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fiber_train.options import add_original


def convert(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Make a model folder of a checkpoint of the original, of either stage, recognizing which it is."""
    parser.add_argument("file", type=Path, help="the original's .ckpt, .pth or .pt file")
    parser.add_argument("out", type=Path, help="folder to write: weights, configuration, processor, card")
    add_original(parser)
    parser.add_argument(
        "--set",
        dest="known",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="what its tensors do not tell, or another resolution: a field of FiberConfig, such as image_size=480; can "
        "be given again",
    )
    return _convert


def _convert(options: Namespace) -> int:
    from fiber_train.card import converted_card, write_card
    from fiber_train.original import describe, load_original
    from fiber_train.ownership import check_free
    from fiber_train.stopping import say
    from fiber_train.writing import replace_folder

    known = read_known(options.known)
    check_free(options.out)
    model, found = load_original(options.file, tokenizer=options.tokenizer, answers=options.answers, known=known)
    told = describe(options.file, found)
    for sentence in told:
        say(sentence)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        write_card(folder, converted_card(model, options.file, told))

    replace_folder(options.out, write)
    sys.stdout.write(f"{options.out}: {found.kind.__name__}, {sum(map(_size, model.parameters())):,} parameters\n")
    return 0


def read_known(words: Sequence[str]) -> dict[str, Any]:
    """`FIELD=VALUE` words, values as JSON or, if they are none, as text.

    Raises:
        ValueError: A word has no `=`.
    """
    known = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ValueError(f"{word!r} is no FIELD=VALUE; give fields of FiberConfig, such as image_size=480")
        try:
            known[name] = json.loads(value)
        except ValueError:
            known[name] = value
    return known


def _size(parameter: Any) -> int:
    return parameter.numel()
