"""Adapters of low rank (LoRA; Hu et al. 2022), by peft: few weights learn, and what is saved is a plain model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from fiber_heads import TaskModel
from torch import Tensor, nn

from fiber_train.optim_config import LoraConfig
from fiber_train.patterns import find_modules, find_parameters

SETTING = "optim.lora"


def add_adapters(model: TaskModel, config: LoraConfig) -> None:
    """Puts adapters on linear layers, in place; they and `config.whole` are what learns from then on.

    Args:
        model: With the weights to start from, which the adapters leave as they are at first.
        config: Which layers, and the rank.

    Raises:
        ValueError: peft is not installed, or a pattern means nothing.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError(f"{SETTING} needs peft: pip install fiber-train[lora]") from error
    targets = {name for each in config.targets for name in find_modules(model, each, nn.Linear, f"{SETTING}.targets")}
    whole = model.head_parameter_names() if config.whole is None else set()
    for each in config.whole or ():
        whole |= find_parameters(model, each, f"{SETTING}.whole").keys()
    learns = [value for name, value in model.named_parameters() if name in whole and value.requires_grad]
    settings: Any = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    peft.inject_adapter_in_model(peft.LoraConfig(**settings, target_modules=sorted(targets)), model)
    for parameter in learns:
        parameter.requires_grad_(True)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Adapters, and the weights below them to the bit, which `merged` weights do not tell; empty without adapters."""
    layers = _adapted(model)
    return {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Goes on from `adapter_state`."""
    own = model.state_dict()
    for name, value in state.items():
        own[name].copy_(value)


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, the model has plain layers whose weights contain the adapters, under the names that all tools know."""
    layers = _adapted(model)
    try:
        for name, layer in layers.items():
            model.set_submodule(name, _merge(layer))
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Peft's layers by name, told by what they can: it need not be installed where there are none."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}


@torch.no_grad()
def _merge(layer: Any) -> nn.Linear:
    base = layer.get_base_layer()
    plain = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    plain.weight = nn.Parameter(base.weight + sum(layer.get_delta_weight(name) for name in layer.active_adapters))
    plain.bias = base.bias
    return plain.train(layer.training)
