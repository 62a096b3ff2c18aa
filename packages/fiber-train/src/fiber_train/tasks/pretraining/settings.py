"""The settings of the coarse stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from fiber_heads import PretrainingConfig

from fiber_train.config import TaskSettings


@dataclass
class PretrainingSettings(TaskSettings):
    """The coarse stage."""

    model: PretrainingConfig = field(default_factory=PretrainingConfig)
    """Objectives and queue; the run fills in what images are normalized by."""
