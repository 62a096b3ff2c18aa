"""Vision-language metrics as torchmetrics."""

from importlib.metadata import version

from fiber_eval.retrieval import RetrievalRecall, retrieval_recall

__all__ = ["RetrievalRecall", "retrieval_recall"]
__version__ = version("fiber-eval")
