"""The settings of visual question answering."""

from __future__ import annotations

from dataclasses import dataclass

from fiber_backbone.ranges import ranged

from fiber_train.config import TaskSettings


@dataclass
class AnsweringSettings(TaskSettings):
    """Which answers a question answering model chooses from."""

    answers: str | None = None
    """File of the answers; without one they are the frequent ones of the training splits' questions, all of them."""
    min_count: int = ranged(9, least=1)
    """How many training questions an answer must answer; 9 gives the usual 3,129 of VQAv2."""
