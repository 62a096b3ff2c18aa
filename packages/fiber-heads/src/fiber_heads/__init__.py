"""Heads and task models on the FIBER backbone."""

from importlib.metadata import version

from fiber_heads.checkpoints import TaskLoadReport
from fiber_heads.classification import ClassificationHead
from fiber_heads.contrastive import Contrast, ContrastiveHead, FeatureQueue, sample_negatives
from fiber_heads.masked_lm import WordHead
from fiber_heads.matching import MatchingHead
from fiber_heads.pretraining import FiberForPretraining, Negatives, PretrainingConfig, PretrainingOutput
from fiber_heads.task import Processor, TaskModel, TaskOutput

__all__ = [
    "ClassificationHead",
    "Contrast",
    "ContrastiveHead",
    "FeatureQueue",
    "FiberForPretraining",
    "MatchingHead",
    "Negatives",
    "PretrainingConfig",
    "PretrainingOutput",
    "Processor",
    "TaskLoadReport",
    "TaskModel",
    "TaskOutput",
    "WordHead",
    "sample_negatives",
]

__version__ = version("fiber-heads")
