"""How well each place of a picture fits each word: logits, and the focal loss that trains them.

Source: GLIP (Li et al. 2022), section 3.1, with a bias for each word:

    e = text / |text|;   t = W (e / 2) + b;   logit(p, word) = (x_p . t) / exp(s) + e . v + v0

Shapes: B batch, A anchors, L tokens, C channels, D width of the text.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

LIMIT = 50000.0  # so that a logit stays finite in half precision


class Alignment(nn.Module):
    """Word-region logits.

    Args:
        channels: Width of a place (C).
        hidden_size: Width of the text (D).
        prior: A fresh model's probability of any word anywhere.
        log_scale: A fresh model's s.
    """

    def __init__(self, channels: int, hidden_size: int, prior: float = 0.01, log_scale: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_size, channels)
        self.log_scale = nn.Parameter(torch.full((1,), float(log_scale)))
        self.text_bias = nn.Parameter(torch.zeros(hidden_size))
        self.bias = nn.Parameter(torch.full((1,), -math.log((1 - prior) / prior)))

    def forward(self, x: Tensor, text: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of all places and words.

        Args:
            x: (B, A, C).
            text: (B, L, D), the backbone's fused text.
            attention_mask: (B, L), 1 = real token. Padding gets logits too: they mean nothing.

        Returns:
            (B, A, L), within +-50000.
        """
        words = normalize(text * attention_mask[..., None].to(text.dtype), dim=-1, eps=1e-12)
        keys = self.project(words / 2) * torch.exp(-self.log_scale)
        offset = words @ self.text_bias + self.bias
        return torch.baddbmm(offset[:, None], x.to(keys.dtype), keys.mT).clamp(-LIMIT, LIMIT)


def token_focal_loss(
    logits: Tensor,
    targets: Tensor,
    attention_mask: Tensor,
    valid: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """The sum of the binary focal losses of all anchors and real tokens (Lin et al. 2017, equation 5).

    Args:
        logits: (B, A, L).
        targets: (B, A, L) bool, or 0 and 1: whether the anchor's box is what the token speaks of.
        attention_mask: (B, L), 1 = real token; the others do not count.
        valid: (B, A) bool, the anchors that count; all if None.
        alpha: Weight of the ones, in [0, 1]; the zeros have 1 - alpha.
        gamma: How little a logit counts that is right already.

    Returns:
        A scalar, to be divided by the number of anchors that have a box.

    Example:
        >>> token_focal_loss(torch.zeros(1, 1, 2), torch.tensor([[[1, 0]]]), torch.tensor([[1, 0]])).item()
        0.04332169...
    """
    targets = targets.bool()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    wrong = torch.where(targets, -logits, logits)  # the larger, the more the logit errs
    loss = wrong.sigmoid().pow(gamma) * -logsigmoid(-wrong) * torch.where(targets, alpha, 1 - alpha)
    counts = attention_mask.bool()[:, None, :]
    if valid is not None:
        counts = counts & valid[:, :, None]
    return loss.masked_fill(~counts, 0).sum()
