"""How every new linear map of the heads starts (the original's `init_weights`)."""

from torch import nn


def initialize(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and zero biases for the linear maps; norms start as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
