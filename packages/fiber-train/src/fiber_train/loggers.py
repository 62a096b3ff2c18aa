"""Loggers of Lightning Fabric by import path (`trainer.loggers`), beside CSV and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fiber_backbone.seams import load_object
from lightning_fabric.loggers import Logger

KNOWN = {
    "wandb": "lightning.pytorch.loggers:WandbLogger",
    "mlflow": "lightning.pytorch.loggers:MLFlowLogger",
}
_NEEDED = {"wandb": "lightning and wandb", "mlflow": "lightning and mlflow"}


def load_loggers(entries: Sequence[Any]) -> list[Logger]:
    """The loggers that settings name.

    Args:
        entries: Each `wandb`, `mlflow` or an import path (`package.module:Name`); or a mapping whose `class` is one of
            these and whose other keys are the class's arguments.

    Raises:
        ValueError: One cannot be imported or made, or is no logger of Fabric; the message names its place.
    """
    return [_load(f"trainer.loggers[{place}]", entry) for place, entry in enumerate(entries)]


def _load(where: str, entry: Any) -> Logger:
    options = dict(entry) if isinstance(entry, Mapping) else {"class": entry}
    name = options.pop("class", None)
    if not isinstance(name, str):
        raise ValueError(f"{where} must be an import path, or have it as class: {{class: PATH, ...}}, is {entry!r:.80}")
    try:
        made = load_object(KNOWN.get(name, name))(**options)
    except (ValueError, ImportError, TypeError) as error:
        hint = f"; it needs {_NEEDED[name]}: pip install {_NEEDED[name].replace(' and', '')}" if name in KNOWN else ""
        raise ValueError(f"{where}: {name:.120} cannot be made: {error!s:.300}{hint}") from error
    if not isinstance(made, Logger):
        raise ValueError(f"{where}: {name:.120} is no logger of Lightning Fabric; derive it from its Logger")
    return made


def tell_settings(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Gives a run's settings to the loggers that keep any."""
    for logger in loggers:
        with suppress(NotImplementedError):
            logger.log_hyperparams(dict(settings))
