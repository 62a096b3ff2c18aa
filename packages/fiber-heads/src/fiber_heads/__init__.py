"""Heads and task models on the FIBER backbone.

Names are imported when they are asked for, so that to look for a part by its entry point costs no import of torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fiber_heads.answering import Answer, AnsweringConfig, FiberForQuestionAnswering
    from fiber_heads.auto import AutoFiber
    from fiber_heads.captioning import FiberForCaptioning
    from fiber_heads.classification import ClassificationHead
    from fiber_heads.config import CaptioningConfig, GenerationConfig, PretrainingConfig
    from fiber_heads.contrastive import Contrast, ContrastiveHead, FeatureQueue, sample_negatives
    from fiber_heads.explain import AttentionMaps, attention_maps, grad_cam, look
    from fiber_heads.generation import Caption, generate
    from fiber_heads.grounding.config import DetectionSettings, GroundingConfig
    from fiber_heads.grounding.detections import Detections
    from fiber_heads.grounding.model import FiberForGrounding, GroundingOutput
    from fiber_heads.initialization import initialize
    from fiber_heads.masked_lm import MaskedLMHead
    from fiber_heads.matches import Match, TextMatch
    from fiber_heads.matching import MatchingHead
    from fiber_heads.pretraining import FiberForPretraining, Negatives, PretrainingOutput
    from fiber_heads.processing import Processor, PromptProcessor
    from fiber_heads.ranking import search_scores
    from fiber_heads.reasoning import FiberForVisualReasoning, Judgment
    from fiber_heads.recognition import Recognized, recognize_original
    from fiber_heads.results import Results
    from fiber_heads.retrieval import FiberForRetrieval
    from fiber_heads.search import SearchModel
    from fiber_heads.task import TaskModel, TaskOutput, check_batch

_MODULES = {
    "answering": ("Answer", "AnsweringConfig", "FiberForQuestionAnswering"),
    "auto": ("AutoFiber",),
    "captioning": ("FiberForCaptioning",),
    "classification": ("ClassificationHead",),
    "config": ("CaptioningConfig", "GenerationConfig", "PretrainingConfig"),
    "contrastive": ("Contrast", "ContrastiveHead", "FeatureQueue", "sample_negatives"),
    "explain": ("AttentionMaps", "attention_maps", "grad_cam", "look"),
    "generation": ("Caption", "generate"),
    "grounding.config": ("DetectionSettings", "GroundingConfig"),
    "grounding.detections": ("Detections",),
    "grounding.model": ("FiberForGrounding", "GroundingOutput"),
    "initialization": ("initialize",),
    "masked_lm": ("MaskedLMHead",),
    "matches": ("Match", "TextMatch"),
    "matching": ("MatchingHead",),
    "pretraining": ("FiberForPretraining", "Negatives", "PretrainingOutput"),
    "reasoning": ("FiberForVisualReasoning", "Judgment"),
    "recognition": ("Recognized", "recognize_original"),
    "results": ("Results",),
    "retrieval": ("FiberForRetrieval",),
    "ranking": ("search_scores",),
    "search": ("SearchModel",),
    "processing": ("Processor", "PromptProcessor"),
    "task": ("TaskModel", "TaskOutput", "check_batch"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Answer",
    "AnsweringConfig",
    "AttentionMaps",
    "AutoFiber",
    "Caption",
    "CaptioningConfig",
    "ClassificationHead",
    "Contrast",
    "ContrastiveHead",
    "DetectionSettings",
    "Detections",
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
    "Judgment",
    "MaskedLMHead",
    "Match",
    "MatchingHead",
    "Negatives",
    "PretrainingConfig",
    "PretrainingOutput",
    "Processor",
    "PromptProcessor",
    "Recognized",
    "Results",
    "SearchModel",
    "TaskModel",
    "TaskOutput",
    "TextMatch",
    "attention_maps",
    "check_batch",
    "generate",
    "grad_cam",
    "initialize",
    "look",
    "recognize_original",
    "sample_negatives",
    "search_scores",
]

__version__ = version("fiber-heads")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
