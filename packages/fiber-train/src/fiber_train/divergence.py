"""When training diverges: a NaN or an infinity ends the run before anything of it is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fiber_heads.sharding import local
from torch import Tensor, nn


class NonFiniteLossError(FloatingPointError):
    """A loss, a gradient's norm or a weight became NaN or infinite. The message names the step and what it was."""


def find_nonfinite(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors in nested dictionaries and lists that hold a NaN or an infinity; waits for the device once.

    Of tensors that lie in pieces, this process's piece is checked.

    Args:
        state: Such as a state dict. Names of what lies deeper are joined by dots.
    """
    named = [(name, value) for name, value in _tensors(state, "") if value.is_floating_point() and value.numel()]
    devices: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, value in named:
        devices.setdefault(value.device, []).append((name, value))
    found = []
    for own in devices.values():
        finite = torch.stack([value.detach().isfinite().all() for _, value in own]).tolist()
        found += [name for (name, _), good in zip(own, finite, strict=True) if not good]
    return found


def find_nan_output(model: nn.Module, batch: Mapping[str, Any]) -> str | None:
    """The first module whose output holds a NaN when a forward pass that failed is made again; None if none does."""
    found: list[str] = []

    def look(name: str, output: object) -> None:
        parts = output if isinstance(output, Mapping | list | tuple) else [output]
        if not found and any(value.is_floating_point() and value.isnan().any() for _, value in _tensors(parts, "")):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: look(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            model(**batch)
    except Exception:  # as before
        return found[0] if found else None
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _tensors(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield prefix, local(node)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _tensors(value, f"{prefix}.{index}" if prefix else str(index))
