"""What question answering and visual reasoning share: a classifier of pairs, images that serve several texts."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu


class ClassificationHead(nn.Module):
    """Linear, LayerNorm, GELU, Linear over the pooled pair.

    Args:
        input_size: C, of the pooled features: [text | image], for two images one after the other.
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


def image_rows(count: int, texts: int, each: int, device: torch.device) -> Tensor | None:
    """For each text the rows of its images, where one set of images may serve all texts.

    Args:
        count: Sets of images.
        texts: How many texts there are.
        each: Images in a set.
        device: Of the rows.

    Returns:
        (texts * each,) int64, or None where every text has its own set: then nothing needs to be picked.

    Raises:
        ValueError: If the sets are neither one nor one for each text.
    """
    if count not in (1, texts):
        of = "images" if each == 1 else f"sets of {each} images"
        raise ValueError(f"{count} {of} do not fit {texts} texts; give one for all texts, or one for each")
    return None if count == texts else torch.arange(each, device=device).repeat(texts)
