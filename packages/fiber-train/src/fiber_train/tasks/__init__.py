"""What can be trained for: a task a module."""

from fiber_train.config import TrainConfig
from fiber_train.tasks.answering import Answering
from fiber_train.tasks.base import Evaluation, Task
from fiber_train.tasks.captioning import Captioning
from fiber_train.tasks.grounding import Grounding
from fiber_train.tasks.pretraining import Pretraining
from fiber_train.tasks.reasoning import Reasoning
from fiber_train.tasks.retrieval import Retrieval

__all__ = ["BY_NAME", "Evaluation", "Task", "make_task"]

BY_NAME: dict[str, type[Task]] = {
    "pretraining": Pretraining,
    "answering": Answering,
    "reasoning": Reasoning,
    "retrieval": Retrieval,
    "captioning": Captioning,
    "grounding": Grounding,
}


def make_task(config: TrainConfig) -> Task:
    """The task that a configuration asks for."""
    return BY_NAME[config.task](config)
