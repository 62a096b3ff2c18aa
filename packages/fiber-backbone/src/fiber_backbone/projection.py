"""The coarse stage's last step: both fused streams in one width, and one pooled vector per pair."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class JointProjection(nn.Module):
    """Linear maps to one width and tanh poolers.

    Args:
        text_dim: Channels of the text stream (D), the joint width.
        image_dim: Channels of the image stream (C).
        initializer_range: Standard deviation of new weights.
    """

    def __init__(self, text_dim: int, image_dim: int, initializer_range: float = 0.02) -> None:
        super().__init__()
        self.text_transform = nn.Linear(text_dim, text_dim)
        self.image_transform = nn.Linear(image_dim, text_dim)
        self.text_pooler = nn.Linear(text_dim, text_dim)
        self.image_pooler = nn.Linear(text_dim, text_dim)
        for linear in (self.text_transform, self.image_transform, self.text_pooler, self.image_pooler):
            nn.init.normal_(linear.weight, std=initializer_range)
            nn.init.zeros_(linear.bias)

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project and pool.

        Args:
            text: (B, L, D).
            image: (B, N, C).

        Returns:
            Text (B, L, D), image (B, N, D), and pooled (B, 2 D): the first text token and the mean image token.
        """
        text, image = self.text_transform(text), self.image_transform(image)
        pooled = torch.cat([self.text_pooler(text[:, 0]), self.image_pooler(image.mean(dim=1))], dim=-1).tanh()
        return text, image, pooled
