"""What a stage optimises: the task model that a configuration asks for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from fiber_backbone import FiberBackbone, FiberConfig, from_unimodal
from fiber_data import FiberProcessor
from fiber_heads import FiberForPretraining, PretrainingConfig

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
        made = FiberForPretraining.from_pretrained(model.checkpoint)
        made = _with_settings(made, settings)
    else:
        overrides = dict(model.overrides)
        if config.data.tokenizer is None:
            overrides["vocab_size"] = len(tokenizer)
            overrides["pad_token_id"] = tokenizer.pad_token_id
        made = FiberForPretraining(_build_backbone(config, overrides), settings)
        if model.checkpoint:
            made.load_original_checkpoint(model.checkpoint)
    sizes = made.backbone.config
    if len(tokenizer) > sizes.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the model {sizes.vocab_size}; "
            "use the tokenizer that the weights were trained with, or set model.overrides.vocab_size"
        )
    made.backbone.set_gradient_checkpointing(model.gradient_checkpointing)
    return made


def _build_backbone(config: TrainConfig, overrides: dict) -> FiberBackbone:
    model = config.model
    if model.image_weights and model.text_weights:
        return from_unimodal(model.image_weights, model.text_weights, **overrides)
    return FiberBackbone(FiberConfig.from_preset(model.preset, **overrides))


def _with_settings(model: FiberForPretraining, settings: PretrainingConfig) -> FiberForPretraining:
    """The same weights under this run's objectives and queue; heads that the run does not need are left out."""
    fresh = FiberForPretraining(model.backbone, settings)
    own, given = fresh.state_dict(), model.state_dict()
    fresh.load_state_dict({**own, **{name: value for name, value in given.items() if name in own}})
    return fresh
