"""One step of the coarse stage over several parts, equal to one over all pairs at once (GradCache, arXiv:2101.06983).

The contrast compares every pair with every other, and a hard negative may lie in any part, so no part can be finished
by itself. Below the cut a pair needs no other pair, so the step has three passes over the parts:

    begin  without gradient; states at the cut and features are kept, leaves of what follows
    fuse   the objectives of a part, over the candidates of all parts; leaves gather their gradients g
    again  begin with the random numbers of the first time; its results r send g back:  sum(r * g) has the gradient g

Activations exist of one part at a time. What is kept of a pair is its states and their gradients (at base size, 384 px
and float32 twice 1.4 MiB); the price is another forward pass below the cut, and above it for the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, autograd
from torch.distributed.tensor import DTensor

from fiber_heads.distributed import BatchMean, max_over_processes, world_size
from fiber_heads.share import Begun, Pairs, Share, padded
from fiber_heads.task import TaskOutput


class Cuttable(Protocol):
    """A model whose step can be cut."""

    def begin(self, pairs: Pairs) -> Begun:
        """What needs no other pair."""

    def compare(self, own: Begun, share: Share, part: slice, pairs: Pairs, mean: BatchMean) -> TaskOutput:
        """The objectives of a part."""

    def remember(self, share: Share, inputs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        """What a step leaves behind for later ones."""

    def parameters(self) -> Any:
        """All of them."""


class GradCache:
    """The passes of one step, and what they leave for each other.

    Args:
        parts: The batches of this process, of equally many pairs.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        self._parts = parts
        self._begun: list[Begun] = []
        self._pairs: list[Pairs] = []
        self._random: list[list[Tensor]] = []
        self._share: Share | None = None

    def passes(self) -> list[dict[str, Any]]:
        """The batch of each pass in their order, with what the model does with it as `stage`."""
        stages = (self._begin, self._fuse, self._again)
        numbered = list(enumerate(self._parts))
        return [{**batch, "stage": partial(stage, number)} for stage in stages for number, batch in numbered]

    def _begin(self, number: int, model: Cuttable, pairs: Pairs, mean: BatchMean) -> TaskOutput:
        """The first pass, which has nothing to send back."""
        self._random.append(_random_state(pairs.pixel_values.device))
        with torch.no_grad():
            self._begun.append(model.begin(pairs))
        self._pairs.append(pairs)
        return TaskOutput(pairs.pixel_values.new_zeros(()))

    def _fuse(self, number: int, model: Cuttable, pairs: Pairs, mean: BatchMean) -> TaskOutput:
        """The losses of a part; after the last one the model remembers the whole share."""
        if self._share is None:
            self._share = self._join()
        size = len(pairs.input_ids)
        part = slice(number * size, (number + 1) * size)
        output = model.compare(self._leaves(part, pairs.input_ids.shape[1]), self._share, part, pairs, mean)
        if number + 1 == len(self._parts):
            model.remember(self._share, [each.inputs() for each in self._pairs])
        return output

    def _again(self, number: int, model: Cuttable, pairs: Pairs, mean: BatchMean) -> TaskOutput:
        """The gradients of a part's leaves sent further; the loss is zero, its gradient is what counts."""
        assert self._share is not None and self._share.gradients is not None
        _set_random_state(pairs.pixel_values.device, self._random[number])
        size = len(pairs.input_ids)
        results, gradients = [], []
        for name, result in model.begin(pairs).items():
            if result.requires_grad:
                rows = self._share.gradients[name][number * size : (number + 1) * size]
                results.append(result)
                gradients.append(rows[:, : result.shape[1]])
        loss = _SendBack.apply(gradients, *results) if results else pairs.pixel_values.new_zeros(())
        if number + 1 == len(self._parts) and world_size() > 1:
            # Processes average the gradients of this backward pass; with the others' sums, so all must take part in it.
            # Of a sharded model those that are in pieces here do so by themselves.
            learned = [each for each in model.parameters() if each.requires_grad and not isinstance(each, DTensor)]
            loss = loss + 0.0 * torch.stack([each.sum() for each in learned]).sum()
        return TaskOutput(loss)

    def _join(self) -> Share:
        """The rows of all parts, texts as long as the longest of any process, with room for their gradients."""
        masks = [pairs.attention_mask for pairs in self._pairs]
        length = max_over_processes(max(mask.shape[1] for mask in masks), masks[0].device)
        begun: Begun = {}
        for name in list(self._begun[0]):
            states = [each.pop(name) for each in self._begun]
            joined = torch.cat(
                [padded(state, length) for state in states] if "text" in name and states[0].ndim == 3 else states
            )
            begun[name] = joined.requires_grad_()
        gradients = {name: torch.zeros_like(value) for name, value in begun.items()}
        for name in ("image_features", "text_features"):  # small: these gather gradients as any leaf does
            if name in begun:
                begun[name].grad = gradients[name]
        ids = [pairs.image_ids for pairs in self._pairs if pairs.image_ids is not None]
        return Share(
            begun, torch.cat([padded(mask, length) for mask in masks]), torch.cat(ids) if ids else None, gradients
        )

    def _leaves(self, part: slice, length: int) -> Begun:
        """The states of a part, whose gradients add up in their places among those of all."""
        assert self._share is not None and self._share.gradients is not None
        leaves: Begun = {}
        for name, state in self._share.begun.items():
            if not name.endswith("_features"):
                leaf = state[part].detach().requires_grad_()
                leaf.grad = self._share.gradients[name][part]
                leaves[name] = leaf[:, :length] if "text" in name else leaf
        return leaves


class _SendBack(autograd.Function):
    """Zero, whose gradient is as given, whatever a loss scaler or a number of parts multiplies it by."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *results: Tensor) -> Tensor:
        ctx.gradients = gradients
        return torch.zeros((), device=results[0].device)

    @staticmethod
    @autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the generators that dropout on a device draws from."""
    return [torch.get_rng_state(), *([] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()])]


def _set_random_state(device: torch.device, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])
