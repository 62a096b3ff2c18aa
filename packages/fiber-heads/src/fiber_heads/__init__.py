"""Heads and task models on the FIBER backbone."""

from importlib.metadata import version

from fiber_heads.checkpoints import PretrainingLoadReport
from fiber_heads.contrastive import Contrast, ContrastiveHead, FeatureQueue, sample_negatives
from fiber_heads.masked_lm import WordHead
from fiber_heads.matching import MatchingHead
from fiber_heads.models import FiberForPretraining, Negatives, PretrainingConfig, PretrainingOutput

__all__ = [
    "Contrast",
    "ContrastiveHead",
    "FeatureQueue",
    "FiberForPretraining",
    "MatchingHead",
    "Negatives",
    "PretrainingConfig",
    "PretrainingLoadReport",
    "PretrainingOutput",
    "WordHead",
    "sample_negatives",
]

__version__ = version("fiber-heads")
