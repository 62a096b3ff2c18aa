"""Image captions: BLEU, METEOR, ROUGE-L, CIDEr, CIDEr-D and SPICE, with the tokenization that they are defined on."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fiber_eval.captioning.bleu import bleu_score
    from fiber_eval.captioning.cider import DocumentFrequencies, cider_d, cider_d_reward, cider_plain
    from fiber_eval.captioning.meteor.metric import meteor_score
    from fiber_eval.captioning.metric import CaptionScores, score_captions, score_files
    from fiber_eval.captioning.rouge import rouge_l
    from fiber_eval.captioning.spice.metric import NativeSpice, OfficialSpice
    from fiber_eval.captioning.tokenization import ptb_tokenize

_MODULES = {
    "bleu": ("bleu_score",),
    "cider": ("DocumentFrequencies", "cider_d", "cider_d_reward", "cider_plain"),
    "meteor.metric": ("meteor_score",),
    "metric": ("CaptionScores", "score_captions", "score_files"),
    "rouge": ("rouge_l",),
    "spice.metric": ("NativeSpice", "OfficialSpice"),
    "tokenization": ("ptb_tokenize",),
}

__all__ = [
    "CaptionScores",
    "DocumentFrequencies",
    "NativeSpice",
    "OfficialSpice",
    "bleu_score",
    "cider_d",
    "cider_d_reward",
    "cider_plain",
    "meteor_score",
    "ptb_tokenize",
    "rouge_l",
    "score_captions",
    "score_files",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
