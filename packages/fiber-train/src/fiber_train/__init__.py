"""Training, evaluation and prediction for FIBER."""

from importlib.metadata import version

from fiber_train.config import TrainConfig, load_config
from fiber_train.predict import Match, find_images, load_model, retrieve
from fiber_train.report import write_report
from fiber_train.run import train
from fiber_train.tasks import Evaluation, Task, make_task

__all__ = [
    "Evaluation",
    "Match",
    "Task",
    "TrainConfig",
    "find_images",
    "load_config",
    "load_model",
    "make_task",
    "retrieve",
    "train",
    "write_report",
]

__version__ = version("fiber-train")
