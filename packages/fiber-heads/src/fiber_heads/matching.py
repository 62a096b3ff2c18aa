"""Image-text matching: does this text belong to this image (FIBER, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fiber_heads.initialization import initialize


class MatchingHead(nn.Module):
    """One linear map of the pooled pair to two logits, (no match, match).

    Args:
        hidden_size: Half the width of the pooled pair (D).
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(2 * hidden_size, 2)
        initialize(self)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits (N, 2) of pooled pairs (N, 2 D). Column 1 is the score that retrieval ranks by."""
        return self.classifier(pooled)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over pairs.

        Args:
            logits: (N, 2).
            labels: (N,) int64, 1 = match, 0 = no match, -100 = left out.

        Returns:
            A scalar; zero, with zero gradients, if all pairs are left out.
        """
        total = cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        return total / (labels != -100).sum().clamp(min=1)
