"""The settings of captioning."""

from __future__ import annotations

from dataclasses import dataclass, field

from fiber_heads import CaptioningConfig, GenerationConfig

from fiber_train.config import TaskSettings


def _default() -> CaptioningConfig:
    return CaptioningConfig(generation=GenerationConfig(max_length=50))


@dataclass
class CaptioningSettings(TaskSettings):
    """What captioning optimizes, and how captions are searched for."""

    model: CaptioningConfig = field(default_factory=_default)
    """Objective and generation; the run fills in the tokens. `refresh_every` counts optimizer steps here."""
