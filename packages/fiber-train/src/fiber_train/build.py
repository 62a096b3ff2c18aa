"""The task model of a run: fresh, from two unimodal models, or from the weights of another run or of the original."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from fiber_backbone import FiberBackbone, FiberConfig, LoadReport
from fiber_backbone.unimodal import load_unimodal
from fiber_heads import TaskModel

from fiber_train.checkpoint import load_task_model
from fiber_train.config import TrainConfig
from fiber_train.data import Processor, image_overrides, tokenizer_source, trusted_names
from fiber_train.tasks.base import Task
from fiber_train.vocabulary import take_vocabulary


def build_model(task: Task[Any], samples: Any, processor: Processor) -> tuple[TaskModel, LoadReport | None]:
    """The task's model, fresh or from weights, sized to the tokenizer.

    Args:
        task: The task with the run's configuration.
        samples: Training samples, from which a task may take its classes.
        processor: Its tokenizer decides the vocabulary.

    Returns:
        The model, and what became of the weights that it starts from, if it starts from any.

    Raises:
        FileNotFoundError: The weights to start from do not exist.
        ValueError: The tokenizer and the weights, or settings among each other, do not fit.
    """
    config, model, tokenizer = task.config, task.config.model, processor.tokenizer
    overrides = {**task.backbone_switches(), **image_overrides(model)}
    report: LoadReport | None
    if model.checkpoint and Path(model.checkpoint).is_dir():
        made, report = _build_from_ours(task, samples, processor, overrides)
    else:
        if tokenizer_source(config) is None:
            overrides |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        backbone, report = _build_backbone(config, overrides)
        made = task.make_model(backbone, samples, processor)
        if model.checkpoint:
            report = made.load_original_checkpoint(model.checkpoint, partial=True)
    sizes = made.backbone
    if len(tokenizer) > sizes.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {sizes.vocab_size}; "
            "use the tokenizer that the weights were trained with, or set model.overrides.vocab_size"
        )
    if processor.max_length > sizes.max_text_length:
        raise ValueError(
            f"texts may have {processor.max_length} tokens but the model reads {sizes.max_text_length}; set "
            f"data.max_length={sizes.max_text_length}, or build the model for longer texts"
        )
    if (image_size := getattr(processor, "image_size", sizes.image_size)) != sizes.image_size:
        raise ValueError(
            f"images are prepared at {image_size} px but the model is one for {sizes.image_size} px; "
            "set model.preset or model.overrides.image_size to agree with model.image_weights"
        )
    made.set_gradient_checkpointing(model.gradient_checkpointing)
    if config.trainer.compile:
        _check_compiler()
        made.compile_blocks()
    return made, report


def _check_compiler() -> None:
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise ValueError(
            "trainer.compile needs a C++ compiler, and there is none on PATH; install g++, or leave it out"
        )


def _build_from_ours(
    task: Task[Any], samples: Any, processor: Processor, overrides: dict[str, Any]
) -> tuple[TaskModel, LoadReport]:
    """From a folder of ours, of whatever task; the overrides may change resolution, switches and dropout."""
    origin = task.config.model.checkpoint
    assert origin is not None
    source = load_task_model(origin, trusted_names(task.config))
    before = getattr(source.processor, "tokenizer", None)
    if before is not None and before.get_vocab() != processor.tokenizer.get_vocab():
        take_vocabulary(source, before, processor.tokenizer)
    own = source.backbone.config
    given = start_form(task, own).grown(**overrides)
    if (name := given.misfit(own)) is not None:
        raise ValueError(
            f"model.overrides.{name}={getattr(given, name)} does not fit the weights in {origin}, which have "
            f"{getattr(own, name)}; with model.checkpoint only resolution, switches and dropout can be changed"
        )
    made = task.make_model(FiberBackbone.from_config(given), samples, processor)
    return made, made.start_from(source)


def start_form(task: Task[Any], own: FiberConfig) -> FiberConfig:
    """The configuration of weights to start from, in the form of the task's stage where they are of the other.

    Tasks of the fine stage set its switches themselves.
    """
    is_fine_task = task.backbone_switches().get("joint_projection") is False
    return own if own.joint_projection or is_fine_task else own.coarse_stage()


def _build_backbone(config: TrainConfig, overrides: dict[str, Any]) -> tuple[FiberBackbone, LoadReport | None]:
    model = config.model
    if model.image_weights and model.text_weights:
        return load_unimodal(model.image_weights, model.text_weights, **overrides)
    return FiberBackbone.from_config(FiberConfig.from_preset(model.preset).grown(**overrides)), None
