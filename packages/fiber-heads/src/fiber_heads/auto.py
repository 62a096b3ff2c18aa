"""The model in a folder, of whatever class: one of ours, or one that another distribution declares."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Unpack

from fiber_backbone import PretrainedModel, read_config
from fiber_backbone.seams import resolve

from fiber_heads.processing import HubOptions


class AutoFiber:
    """Finds the class of a saved model by its configuration: an entry point of the group `fiber.models`."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | Path, *, trusted: Collection[str] = (), **hub: Unpack[HubOptions]
    ) -> PretrainedModel:
        """Loads a model that `save_pretrained` wrote, in eval mode; a task model with its processor.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the hub.
            trusted: Import paths (`package.module:Name`) that the folder may name beside entry points, its class among
                them: to import them runs them.
            **hub: As of `PretrainedModel.from_pretrained`: `revision`, `token`, ...

        Raises:
            FileNotFoundError: If the folder or one of its two files does not exist.
            ValueError: If the folder names a class that is not there, is no model or may not be imported, or holds
                weights that do not fit its configuration.
        """
        name = read_config(pretrained_model_name_or_path, **hub).get("model_class")
        if not isinstance(name, str):
            raise ValueError(
                f"{pretrained_model_name_or_path} does not say which model it holds: its config.json has no "
                "model_class; save the model again with save_pretrained"
            )
        try:
            kind = resolve(f"{name:.200}", "fiber.models", trusted=trusted)
        except ValueError as error:
            raise ValueError(f"{pretrained_model_name_or_path}: {error}") from error
        if not (isinstance(kind, type) and issubclass(kind, PretrainedModel)):
            raise ValueError(f"{pretrained_model_name_or_path} names {name!r:.200}, which is no PretrainedModel")
        return kind.from_pretrained(pretrained_model_name_or_path, trusted=trusted, **hub)
