"""The task model of a run: fresh, from two unimodal models, or from the weights of another run or of the original."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from fiber_backbone import FiberBackbone, FiberConfig, from_unimodal
from fiber_heads import TaskModel

from fiber_train.checkpoint import load_task_model
from fiber_train.config import TrainConfig
from fiber_train.data import Processor, image_overrides, tokenizer_source
from fiber_train.tasks.base import Task


def build_model(task: Task, samples: Any, processor: Processor) -> TaskModel:
    """The task's model, fresh or from weights, sized to the tokenizer.

    Args:
        task: The task with the run's configuration.
        samples: Training samples, from which a task may take its classes.
        processor: Its tokenizer decides the vocabulary.

    Raises:
        FileNotFoundError: The weights to start from do not exist.
        ValueError: The tokenizer and the weights, or settings among each other, do not fit.
    """
    config, model, tokenizer = task.config, task.config.model, processor.tokenizer
    overrides = {**task.backbone_switches(), **image_overrides(model)}
    if model.checkpoint and Path(model.checkpoint).is_dir():
        source = load_task_model(model.checkpoint)
        made = task.make_model(FiberBackbone(_like(source, overrides, model.checkpoint)), samples, processor)
        made.start_from(source)
    else:
        if tokenizer_source(config) is None:
            overrides |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        made = task.make_model(_build_backbone(config, overrides), samples, processor)
        if model.checkpoint:
            made.load_original_checkpoint(model.checkpoint, partial=True)
    sizes = made.backbone.config
    if len(tokenizer) > sizes.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {sizes.vocab_size}; "
            "use the tokenizer that the weights were trained with, or set model.overrides.vocab_size"
        )
    if (image_size := getattr(processor, "image_size", sizes.image_size)) != sizes.image_size:
        raise ValueError(
            f"pictures are prepared at {image_size} px but the model is one for {sizes.image_size} px; "
            "set model.preset or model.overrides.image_size to agree with model.image_weights"
        )
    made.set_gradient_checkpointing(model.gradient_checkpointing)
    return made


def _build_backbone(config: TrainConfig, overrides: dict[str, Any]) -> FiberBackbone:
    model = config.model
    if model.image_weights and model.text_weights:
        return from_unimodal(model.image_weights, model.text_weights, **overrides)
    return FiberBackbone(_grown(FiberConfig.from_preset(model.preset), overrides))


def _like(source: TaskModel, overrides: dict[str, Any], origin: str) -> FiberConfig:
    """The configuration of weights of ours, at another resolution and with other switches if the overrides say so."""
    own = source.backbone.config
    given = _grown(own, overrides)
    changeable: tuple[str, ...] = ("image_size", "window_size", "joint_projection", "decoder_projections")
    changeable += ("normalize_image_query", "fused_text_norm", "window_policy", "pyramid_norms")
    changeable += ("hidden_dropout", "attention_dropout", "drop_path_rate")
    for item in fields(FiberConfig):
        old, new = getattr(own, item.name), getattr(given, item.name)
        if old != new and item.name not in changeable:
            raise ValueError(
                f"model.overrides.{item.name}={new} does not fit the weights in {origin}, which have {old}; with "
                "model.checkpoint only resolution, switches and dropout can be changed"
            )
    return given


def _grown(config: FiberConfig, overrides: dict[str, Any]) -> FiberConfig:
    """The configuration with other values; unless they name the window, it grows with the picture."""
    if unknown := sorted(overrides.keys() - {item.name for item in fields(FiberConfig)}):
        raise ValueError(f"model.overrides.{unknown[0]}: FiberConfig has no field of this name")
    given = FiberConfig(**{**asdict(config), **overrides})
    if given.image_size == config.image_size or "window_size" in overrides:
        return given
    if config.window_size * given.image_size % config.image_size:
        raise ValueError(
            f"windows of {config.window_size} tokens at {config.image_size} px do not become whole windows at "
            f"{given.image_size} px; set model.overrides.window_size"
        )
    return replace(given, window_size=config.window_size * given.image_size // config.image_size)
