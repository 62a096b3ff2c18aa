"""Heads and task models on the FIBER backbone."""

from importlib.metadata import version

from fiber_heads.answering import Answer, AnsweringConfig, FiberForQuestionAnswering
from fiber_heads.captioning import CaptioningConfig, FiberForCaptioning
from fiber_heads.checkpoints import TaskLoadReport
from fiber_heads.classification import ClassificationHead
from fiber_heads.contrastive import Contrast, ContrastiveHead, FeatureQueue, sample_negatives
from fiber_heads.generation import Caption, GenerationConfig, generate
from fiber_heads.grounding.config import GroundingConfig
from fiber_heads.grounding.model import FiberForGrounding, GroundingOutput
from fiber_heads.grounding.postprocess import DetectionSettings
from fiber_heads.masked_lm import WordHead
from fiber_heads.matching import MatchingHead
from fiber_heads.pretraining import FiberForPretraining, Negatives, PretrainingConfig, PretrainingOutput
from fiber_heads.reasoning import FiberForVisualReasoning
from fiber_heads.retrieval import FiberForRetrieval, place_reranked, rerank_candidates
from fiber_heads.task import Processor, TaskModel, TaskOutput

__all__ = [
    "Answer",
    "AnsweringConfig",
    "Caption",
    "CaptioningConfig",
    "ClassificationHead",
    "Contrast",
    "ContrastiveHead",
    "DetectionSettings",
    "FeatureQueue",
    "FiberForCaptioning",
    "FiberForGrounding",
    "FiberForPretraining",
    "FiberForQuestionAnswering",
    "FiberForRetrieval",
    "FiberForVisualReasoning",
    "GenerationConfig",
    "GroundingConfig",
    "GroundingOutput",
    "MatchingHead",
    "Negatives",
    "PretrainingConfig",
    "PretrainingOutput",
    "Processor",
    "TaskLoadReport",
    "TaskModel",
    "TaskOutput",
    "WordHead",
    "generate",
    "place_reranked",
    "rerank_candidates",
    "sample_negatives",
]

__version__ = version("fiber-heads")
