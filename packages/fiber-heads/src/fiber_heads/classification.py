"""The classifier of pairs that question answering and visual reasoning share."""

from torch import Tensor, nn
from torch.nn.functional import gelu


class ClassificationHead(nn.Module):
    """Linear, LayerNorm, GELU, Linear over the pooled pair.

    Args:
        input_size: C, of the pooled features: [text | image], for two pictures one after the other.
        hidden_size: Of the layer between.
        num_classes: A.
    """

    def __init__(self, input_size: int, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.decoder = nn.Linear(hidden_size, num_classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits (B, A) of pooled features (B, C)."""
        return self.decoder(gelu(self.norm(self.dense(pooled))))
