"""Vision-language metrics as torchmetrics. A name's module is imported when the name is first asked for."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fiber_eval.captioning import CaptionScores, score_captions
    from fiber_eval.detection import CocoAP, coco_ap
    from fiber_eval.flickr30k_entities import Phrase, Sentence, read_flickr30k_entities
    from fiber_eval.lvis import LvisAP, lvis_ap
    from fiber_eval.odinw import ODINW_13, odinw_average
    from fiber_eval.phrase_grounding import PhraseGroundingRecall, phrase_grounding_recall
    from fiber_eval.question_answering import VQAAccuracy, normalize_answer, vqa_accuracy
    from fiber_eval.reasoning import NLVR2Accuracy, nlvr2_accuracy
    from fiber_eval.referring import ReferringAccuracy, referring_accuracy
    from fiber_eval.retrieval import RetrievalRecall, retrieval_recall, retrieval_recall_in_blocks

_MODULES = {
    "captioning": ("CaptionScores", "score_captions"),
    "detection": ("CocoAP", "coco_ap"),
    "flickr30k_entities": ("Phrase", "Sentence", "read_flickr30k_entities"),
    "lvis": ("LvisAP", "lvis_ap"),
    "odinw": ("ODINW_13", "odinw_average"),
    "phrase_grounding": ("PhraseGroundingRecall", "phrase_grounding_recall"),
    "question_answering": ("VQAAccuracy", "normalize_answer", "vqa_accuracy"),
    "reasoning": ("NLVR2Accuracy", "nlvr2_accuracy"),
    "referring": ("ReferringAccuracy", "referring_accuracy"),
    "retrieval": ("RetrievalRecall", "retrieval_recall", "retrieval_recall_in_blocks"),
}

__all__ = [
    "ODINW_13",
    "CaptionScores",
    "CocoAP",
    "LvisAP",
    "NLVR2Accuracy",
    "Phrase",
    "PhraseGroundingRecall",
    "ReferringAccuracy",
    "RetrievalRecall",
    "Sentence",
    "VQAAccuracy",
    "coco_ap",
    "lvis_ap",
    "nlvr2_accuracy",
    "normalize_answer",
    "odinw_average",
    "phrase_grounding_recall",
    "read_flickr30k_entities",
    "referring_accuracy",
    "retrieval_recall",
    "retrieval_recall_in_blocks",
    "score_captions",
    "vqa_accuracy",
]

__version__ = version("fiber-eval")

if not TYPE_CHECKING:  # hidden from checkers, which would take any name for known

    def __getattr__(name: str) -> Any:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
