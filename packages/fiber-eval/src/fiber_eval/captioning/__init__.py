"""Image captions: BLEU, METEOR, ROUGE-L, CIDEr and CIDEr-D, with the tokenization that they are defined on."""

from fiber_eval.captioning.bleu import bleu
from fiber_eval.captioning.cider import DocumentFrequencies, cider_d, cider_d_reward, cider_plain
from fiber_eval.captioning.meteor import meteor
from fiber_eval.captioning.metric import CaptionScores, score_captions, score_files
from fiber_eval.captioning.rouge import rouge_l
from fiber_eval.captioning.spice import NativeSpice, OfficialSpice
from fiber_eval.captioning.tokenization import ptb_tokenize

__all__ = [
    "CaptionScores",
    "DocumentFrequencies",
    "NativeSpice",
    "OfficialSpice",
    "bleu",
    "cider_d",
    "cider_d_reward",
    "cider_plain",
    "meteor",
    "ptb_tokenize",
    "rouge_l",
    "score_captions",
    "score_files",
]
