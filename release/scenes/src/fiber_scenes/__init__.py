"""Small FIBER models of both stages, trained on generated scenes: folders that every command and class loads."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

STAGES = ("coarse", "fine")
__all__ = ["STAGES", "model_folder"]
__version__ = version("fiber-scenes")


def model_folder(stage: str) -> Path:
    """The model of a stage, with its processor and its card.

    Args:
        stage: `"coarse"` (`fiber_heads.FiberForPretraining`) or `"fine"` (`fiber_heads.FiberForGrounding`).

    Returns:
        A folder for `AutoFiber.from_pretrained` and `--checkpoint`.

    Raises:
        ValueError: There is no such stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be {' or '.join(STAGES)}, is {stage!r:.80}")
    return Path(__file__).parent / stage
