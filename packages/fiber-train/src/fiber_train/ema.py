"""The exponential moving average of the weights over the steps, which is smoother than the last step's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from fiber_heads.sharding import local
from torch import Tensor, nn


class WeightAverage:
    """Keeps an average of a model's trainable parameters; frozen ones and buffers have none and stay the model's own.

    Args:
        model: On its device, with the weights that the average starts from.
        decay: What the average keeps of itself at every update, between 0 and 1; the model's weights make up the rest.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._averages = {name: value.detach().float().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average by a small step towards the model's weights, without waiting for the device."""
        weights = [local(value).detach().float() for value in self._parameters.values()]
        torch._foreach_lerp_([local(value) for value in self._averages.values()], weights, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again afterwards."""
        own = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._put(self._averages)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the parameters' names, float32; of a sharded model in pieces as they are."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state_dict`.

        Raises:
            ValueError: It has other parameters than this model trains.
        """
        if differing := sorted(state.keys() ^ self._averages.keys()):
            raise ValueError(
                f"the averaged weights to go on from and the parameters trained here differ in {len(differing)} names "
                f"(first: {differing[0]}); go on with the run's own model and optim.frozen"
            )
        for name, average in self._averages.items():
            average.copy_(state[name])
