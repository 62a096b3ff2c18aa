"""How well each location of an image fits each token.

Source: GLIP (Li et al. 2022), section 3.1, with a bias for each token:

    e = text / |text|;   t = W (e / 2) + b;   logit(p, token) = (x_p . t) / exp(s) + e . v + v0

Shapes: B batch, A anchors, L tokens, C channels, D width of the text.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

LIMIT = 50000.0  # so that a logit stays finite in half precision


class Alignment(nn.Module):
    """Word-region logits.

    Args:
        channels: Width of a location (C).
        hidden_size: Width of the text (D).
        prior: A fresh model's probability of any token anywhere.
        log_scale: A fresh model's s.
    """

    def __init__(self, channels: int, hidden_size: int, prior: float = 0.01, log_scale: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_size, channels)
        self.log_scale = nn.Parameter(torch.full((1,), float(log_scale)))
        self.text_bias = nn.Parameter(torch.zeros(hidden_size))
        self.bias = nn.Parameter(torch.full((1,), -math.log((1 - prior) / prior)))

    def forward(self, x: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of all locations and tokens.

        Args:
            x: (B, A, C).
            text: (B, L, D), the backbone's fused text.
            attention_mask: (B, L), 1 = real token. Padding gets logits too: they mean nothing.

        Returns:
            (B, A, L), within +-50000.
        """
        tokens = normalize(text * attention_mask[..., None].to(text.dtype), dim=-1, eps=1e-12)
        keys = self.project(tokens / 2) * torch.exp(-self.log_scale)
        offset = tokens @ self.text_bias + self.bias
        return torch.baddbmm(offset[:, None], x.to(keys.dtype), keys.mT).clamp(-LIMIT, LIMIT)
