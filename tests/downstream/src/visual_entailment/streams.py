"""Two small towers of one's own: convolutions for images, averages for texts.

Shapes: B batch, H W map, C channels of an image, L tokens, P tokens already decoded, D channels of a text.
"""

from __future__ import annotations

from typing import Self

import torch
from fiber_backbone import FiberConfig, ImageStream, Insert, KeyValue, StreamSizes, TextStream, merge_heads, split_heads
from torch import Tensor, nn


def inserted(x: Tensor, insert: Insert | None) -> Tensor:
    """What a fusion makes of the tokens (B, N, C) that a block mixed, before they are added to its input."""
    return x if insert is None or insert.after is None else insert.after(x)


def mlp(width: int) -> nn.Sequential:
    """What every block ends with."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class ConvolutionStream(ImageStream):
    """Patches, then blocks of a depthwise convolution and an MLP (after ConvNeXt, Liu et al. 2022); no pyramid.

    Args:
        image_size: Nominal side of an image in pixels; other multiples of `patch_size` run too.
        patch_size: Side of a patch in pixels.
        width: Channels (C).
        depth: Number of blocks.
        num_heads: Attention heads of what a fusion inserts.
    """

    reads_context = False  # there is no attention to read it with

    def __init__(
        self, image_size: int, patch_size: int = 16, width: int = 32, depth: int = 3, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.image_size, self.stride, self.num_heads = image_size, patch_size, num_heads
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.mixers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(depth))
        self.mlps = nn.ModuleList(mlp(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """Of `model.overrides.image_settings`: the arguments but the first."""
        return cls(config.image_size, **config.image_settings)

    @property
    def sizes(self) -> StreamSizes:
        """All blocks are alike."""
        depth = len(self.mixers)
        return StreamSizes((self.patches.out_channels,) * depth, (self.num_heads,) * depth)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Patches (B, H, W, C) of images (B, 3, height, width)."""
        return self.patches(pixel_values).permute(0, 2, 3, 1)

    def run(
        self, x: Tensor, block: int, insert: Insert | None = None, sizes: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """One block."""
        mixed = self.mixers[block](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + inserted(mixed.flatten(1, 2), insert).view_as(x)
        return x + self.mlps[block](x), None

    def final_norm(self, x: Tensor) -> Tensor:
        """A layer norm."""
        return self.norm(x)

    def resize(self, config: FiberConfig) -> None:
        """Convolutions take any size."""
        self.image_size = config.image_size


class WordMixerStream(TextStream):
    """Layers in which each token reads the mean of all that it may see (after Zhang et al. 2018), and an MLP.

    Args:
        vocab_size: Number of tokens of the vocabulary.
        pad_token_id: Id of the padding token.
        width: Channels (D).
        depth: Number of layers.
        num_heads: Attention heads of what a fusion inserts.
        max_length: Tokens of the longest text.
    """

    reads_context = False

    def __init__(
        self,
        vocab_size: int,
        pad_token_id: int,
        width: int = 32,
        depth: int = 3,
        num_heads: int = 4,
        max_length: int = 64,
    ) -> None:
        super().__init__()
        self.vocab_size, self.pad_token_id, self.max_length = vocab_size, pad_token_id, max_length
        self.num_heads = num_heads
        self.words, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(max_length, width)
        self.mixers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.mlps = nn.ModuleList(mlp(width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """Of `model.overrides.text_settings`: the arguments but the first two."""
        return cls(config.vocab_size, config.pad_token_id, **config.text_settings)

    @property
    def sizes(self) -> StreamSizes:
        """All layers are alike."""
        depth = len(self.mixers)
        return StreamSizes((self.words.embedding_dim,) * depth, (self.num_heads,) * depth)

    def embed(self, input_ids: Tensor, past_length: Tensor | None = None) -> Tensor:
        """Words at their positions (B, L, D); padding is on the right."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.words(input_ids) + self.positions(
            positions if past_length is None else positions + past_length[:, None]
        )

    def run(
        self,
        hidden: Tensor,
        layer: int,
        mask: Tensor,
        insert: Insert | None = None,
        past: KeyValue | None = None,
        final_norm: bool = True,
    ) -> tuple[Tensor, KeyValue]:
        """One layer; what is remembered of earlier tokens is their values, in place of keys too."""
        value = split_heads(self.mixers[layer](hidden), 1)
        value = value if past is None else torch.cat([past.value, value], dim=2)
        mixed = merge_heads(mask.softmax(dim=-1) @ value)
        hidden = hidden + inserted(mixed.expand_as(hidden), insert)
        hidden = hidden + self.mlps[layer](hidden)
        return self.norms[layer](hidden) if final_norm else hidden, KeyValue(value, value)
