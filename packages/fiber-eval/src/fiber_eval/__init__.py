"""Vision-language metrics as torchmetrics."""

from importlib.metadata import version

from fiber_eval.captioning import CaptionScores, score_captions
from fiber_eval.detection import CocoAP, coco_ap
from fiber_eval.flickr30k_entities import Phrase, Sentence, read_flickr30k_entities
from fiber_eval.lvis import LvisAP, lvis_ap
from fiber_eval.odinw import ODINW_13, odinw_average
from fiber_eval.phrase_grounding import PhraseGroundingRecall, phrase_grounding_recall
from fiber_eval.question_answering import VQAAccuracy, normalise_answer, vqa_accuracy
from fiber_eval.reasoning import NLVR2Accuracy, nlvr2_accuracy
from fiber_eval.referring import ReferringAccuracy, referring_accuracy
from fiber_eval.retrieval import RetrievalRecall, retrieval_recall

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
    "normalise_answer",
    "odinw_average",
    "phrase_grounding_recall",
    "read_flickr30k_entities",
    "referring_accuracy",
    "retrieval_recall",
    "score_captions",
    "vqa_accuracy",
]

__version__ = version("fiber-eval")
