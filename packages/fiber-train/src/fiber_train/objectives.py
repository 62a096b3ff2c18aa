"""What a stage optimises: the task model that a configuration asks for."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fiber_backbone import FiberBackbone, FiberConfig, from_unimodal
from fiber_data import FiberProcessor
from fiber_heads import FiberForPretraining, PretrainingConfig

from fiber_train.checkpoint import find_model
from fiber_train.config import TrainConfig


def build_pretraining(config: TrainConfig, processor: FiberProcessor) -> FiberForPretraining:
    """The coarse stage's model, fresh or from weights, sized to the tokenizer.

    Args:
        config: The run.
        processor: Its tokenizer decides the vocabulary, its normalisation what the queue can store.

    Raises:
        FileNotFoundError: The weights to start from do not exist.
        ValueError: The tokenizer and the weights, or settings among each other, do not fit.
    """
    model, tokenizer = config.model, processor.tokenizer
    settings = PretrainingConfig(
        **{**asdict(config.objectives), "objectives": tuple(config.objectives.objectives)},
        image_mean=tuple(processor.mean),
        image_std=tuple(processor.std),
    )
    if model.checkpoint and Path(model.checkpoint).is_dir():
        made = _with_settings(_load(model.checkpoint, model.overrides), settings)
    else:
        overrides = dict(model.overrides)
        if tokenizer_source(config) is None:
            overrides |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        made = FiberForPretraining(_build_backbone(config, overrides), settings)
        if model.checkpoint:
            made.load_original_checkpoint(model.checkpoint)
    sizes = made.backbone.config
    if len(tokenizer) > sizes.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {sizes.vocab_size}; "
            "use the tokenizer that the weights were trained with, or set model.overrides.vocab_size"
        )
    if processor.image_size != sizes.image_size:
        raise ValueError(
            f"pictures are prepared at {processor.image_size} px but the model is one for {sizes.image_size} px; "
            "set model.preset or model.overrides.image_size to agree with model.image_weights"
        )
    made.backbone.set_gradient_checkpointing(model.gradient_checkpointing)
    return made


def tokenizer_source(config: TrainConfig) -> str | None:
    """Where a run's tokenizer comes from if it is not trained by the run: named, or that of the text weights."""
    return config.data.tokenizer or config.model.text_weights


def _build_backbone(config: TrainConfig, overrides: dict[str, Any]) -> FiberBackbone:
    model = config.model
    if model.image_weights and model.text_weights:
        return from_unimodal(model.image_weights, model.text_weights, **overrides)
    return FiberBackbone(FiberConfig.from_preset(model.preset, **overrides))


def _load(checkpoint: str, overrides: dict[str, Any]) -> FiberForPretraining:
    """Weights of ours, at another resolution if the overrides say so."""
    made = FiberForPretraining.from_pretrained(find_model(checkpoint))
    if unknown := sorted(overrides.keys() - {item.name for item in fields(FiberConfig)}):
        raise ValueError(f"model.overrides.{unknown[0]}: FiberConfig has no field of this name")
    given = FiberConfig(**{**asdict(made.backbone.config), **overrides})
    for item in fields(FiberConfig):
        old, new = getattr(made.backbone.config, item.name), getattr(given, item.name)
        if old != new and item.name not in ("image_size", "window_size"):
            raise ValueError(
                f"model.overrides.{item.name}={new} does not fit the weights in {checkpoint}, which have {old}; with "
                "model.checkpoint only image_size and window_size can be changed"
            )
    if "image_size" in overrides:
        made.backbone.resize(overrides["image_size"], overrides.get("window_size"))
    return made


def _with_settings(model: FiberForPretraining, settings: PretrainingConfig) -> FiberForPretraining:
    """The same weights under this run's objectives and queue; heads that the run does not need are left out."""
    fresh = FiberForPretraining(model.backbone, settings)
    own, given = fresh.state_dict(), model.state_dict()
    fresh.load_state_dict({**own, **{name: value for name, value in given.items() if name in own}})
    return fresh
