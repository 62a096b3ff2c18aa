"""How every new linear map of the heads starts (the original's `init_weights`)."""

from torch import nn


def initialize(module: nn.Module, std: float = 0.02) -> None:
    """Normal weights of deviation `std` and zero biases for the linear maps; norms start as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
