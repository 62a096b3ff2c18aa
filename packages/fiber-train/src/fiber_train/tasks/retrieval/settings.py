"""The settings of retrieval."""

from __future__ import annotations

from dataclasses import dataclass, field

from fiber_backbone.ranges import ranged
from fiber_heads import PretrainingConfig

from fiber_train.config import TaskSettings


@dataclass
class RetrievalSettings(TaskSettings):
    """Image-text retrieval."""

    model: PretrainingConfig = field(default_factory=lambda: PretrainingConfig(objectives=("itc", "itm")))
    """Objectives (itc, itm or both) and queue; the run fills in what images are normalized by."""
    rerank: int = ranged(16, least=0)
    """With both: how many of the best by contrast evaluations re-rank by matching; 0 for every pair."""
    block_size: int = ranged(16, least=1)
    """Images begun at a time for evaluations by matching, in each process; every caption is begun anew for them."""
    pair_batch_size: int = ranged(16, least=1)
    """Pairs, of which both streams read each other, that evaluations compute at a time."""
