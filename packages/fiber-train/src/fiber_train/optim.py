"""The optimizer and its groups of learning rates and decay (the original's)."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

import torch
from fiber_backbone.seams import load_object
from fiber_heads import TaskModel
from torch import nn

from fiber_train.config import OptimConfig


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Takes parts of a model out of training.

    Args:
        model: Its parameters below the prefixes need no gradients afterwards.
        prefixes: Names of modules or parameters, such as "backbone.image_stream.patch_embed".

    Raises:
        ValueError: A prefix names nothing; the message gives the nearest name.
    """
    parameters = dict(model.named_parameters())
    for prefix in prefixes:
        found = [value for name, value in parameters.items() if f"{name}.".startswith(f"{prefix}.")]
        if not found:
            names = [
                *(
                    name
                    for name, module in model.named_modules()
                    if name and next(module.parameters(), None) is not None
                ),
                *parameters,
            ]
            near = get_close_matches(prefix, names, n=1, cutoff=0)[0]
            raise ValueError(f"optim.frozen: the model has no part {prefix!r}; did you mean {near!r}?")
        for parameter in found:
            parameter.requires_grad_(False)


def parameter_groups(model: TaskModel, config: OptimConfig) -> list[dict[str, Any]]:
    """Splits the trainable parameters by learning rate and decay, as the model tells them apart.

    Args:
        model: A task model.
        config: Rates, multipliers and decay.

    Returns:
        Groups for an optimizer, with `name` and `parameter_names` beside the usual keys. A name is such as
        "cross_modal", and, where their multipliers are not 1, "language_cross_modal" or "cross_modal_bias".
    """
    cross_modal, heads = model.cross_modal_parameter_names(), model.head_parameter_names()
    language, not_decayed = model.language_parameter_names(), model.no_weight_decay()
    multipliers = {
        "base": 1.0,
        "head": config.head_multiplier,
        "cross_modal": config.cross_modal_multiplier,
        "gate": config.gate_multiplier,
    }
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "cross_modal" if name in cross_modal else "head" if name in heads else "base"
        kind = "gate" if name.endswith(".gate") else kind
        rate = config.learning_rate * multipliers[kind]
        if config.language_multiplier != 1 and name in language:
            kind, rate = f"language_{kind}", rate * config.language_multiplier
        if config.bias_multiplier != 1 and "bias" in name.rpartition(".")[2]:
            kind, rate = f"{kind}_bias", rate * config.bias_multiplier
        decays = name not in not_decayed or (config.original_decay and model.decayed_by_original(name))
        empty = {"name": kind, "params": [], "parameter_names": [], "lr": rate}
        group = groups.setdefault((kind, decays), {**empty, "weight_decay": config.weight_decay if decays else 0.0})
        group["params"].append(parameter)
        group["parameter_names"].append(name)
    return list(groups.values())


def build_optimizer(model: TaskModel, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`, without the parts of the model that are frozen.

    Raises:
        ValueError: There is no such optimizer, or it does not take the options.
    """
    freeze(model, config.frozen)
    make = load_object(config.optimizer)
    known = {"betas": config.betas, "eps": config.eps}
    own = {name: value for name, value in known.items() if name in signature(make).parameters}
    try:
        return make(parameter_groups(model, config), **{**own, **config.options})
    except TypeError as error:
        raise ValueError(f"optim.options do not fit {config.optimizer}: {error}") from error
