"""What `fiber` can do with a trained model: `fiber entail photo.jpg "a dog sleeps" --checkpoint RUN`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from fiber_train import add_checkpoint, load_checkpoint


def entail(parser: ArgumentParser) -> Callable[[Namespace], int]:
    """Say whether an image entails a hypothesis."""
    add_checkpoint(parser)
    parser.add_argument("image", type=Path, help="the image")
    parser.add_argument("hypothesis", help="such as 'a dog sleeps'")
    return _entail


def _entail(options: Namespace) -> int:
    from visual_entailment.model import FiberForEntailment  # here, so that `fiber entail --help` waits for no torch

    model, _ = load_checkpoint(options, FiberForEntailment)
    for label, chance in model.judge(options.image, options.hypothesis).items():
        sys.stdout.write(f"{chance:6.3f}  {label}\n")
    return 0
