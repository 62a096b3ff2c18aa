"""What is inserted into the pairs of blocks: the layers with which each stream reads the other, and how they are used.

Shapes: B batch, N image tokens, C channels of the image stream, L text tokens, D channels of the text stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor, nn

from fiber_backbone.attention import KeyValue
from fiber_backbone.config import FiberConfig
from fiber_backbone.streams import Insert, StreamSizes


@dataclass(frozen=True)
class FusionCost:
    """What a fusion adds to two streams.

    Attributes:
        parameters: Their number.
        flops: Floating-point operations for one image and one text in a forward pass, a multiplication and an addition
            counted as two; norms, biases and softmax are left out.
    """

    parameters: int
    flops: int


class Fusion(ABC):
    """A way for two streams to read each other.

    It makes layers for both streams, which live in `image_stream.cross_attention` and `text_stream.cross_attention`,
    and says what a layer inserts into its block. Of a pair, both sides read the other stream's value from before the
    step.

    Attributes:
        has_pyramid: Whether the image blocks themselves read text, so that their maps form a fused pyramid.
        inserts_context: Whether it uses `Insert.context`, which not every stream can read.
        can_decode: Whether text layers can read an image without being read by it, which decoding needs.
    """

    has_pyramid: ClassVar[bool] = True
    inserts_context: ClassVar[bool] = False
    can_decode: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """The fusion that a configuration asks for; settings that it has no field for are in `fusion_settings`."""

    def pairs(self, num_blocks: int, num_layers: int, count: int) -> tuple[tuple[int, int], ...]:
        """Which blocks read each other.

        Args:
            num_blocks: Blocks of the image stream.
            num_layers: Layers of the text stream.
            count: `FiberConfig.num_fusion_blocks` (K).

        Returns:
            Pairs (image block, text layer), bottom to top: the last K of both, in order. Work below the first pair is
            shared by all partners of an image or text.
        """
        return tuple(zip(range(num_blocks - count, num_blocks), range(num_layers - count, num_layers), strict=True))

    @abstractmethod
    def image_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """Fresh layers of the image side.

        Args:
            image: Sizes of the image blocks of all pairs; where there are no pairs, of the last block.
            text: The same of the text layers.
            count: K.
        """

    @abstractmethod
    def text_layers(self, image: StreamSizes, text: StreamSizes, count: int) -> nn.ModuleList:
        """Fresh layers of the text side; see `image_layers`."""

    @abstractmethod
    def into_image(self, layer: nn.Module, text: Tensor, mask: Tensor) -> Insert:
        """What a layer of the image side inserts.

        Args:
            layer: Of `image_layers`.
            text: (B, L, D), input of the pair's text layer.
            mask: (B, 1, 1, L), additive, see `fiber_backbone.attention.padding_mask`.
        """

    @abstractmethod
    def into_text(self, layer: nn.Module, image: Tensor | KeyValue, mask: Tensor | None) -> Insert:
        """What a layer of the text side inserts.

        Args:
            layer: Of `text_layers`.
            image: (B, N, C), input of the pair's image block, or what `read_image` made of it. In decoding, several
                texts in a row may read one image.
            mask: (B, 1, 1, N), additive; None where all tokens are the image's.
        """

    def read_image(self, layer: nn.Module, image: Tensor) -> KeyValue:
        """Keys and values of an image (B, N, C) for a text layer, to be kept while a text is decoded."""
        raise NotImplementedError(f"{type(self).__name__} cannot decode text")

    def on_top(
        self,
        image_layers: nn.ModuleList,
        text_layers: nn.ModuleList,
        image: Tensor,
        text: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What follows the last pair.

        Args:
            image_layers: As made.
            text_layers: As made.
            image: (B, N, C).
            text: (B, L, D).
            mask: (B, 1, 1, L), additive.

        Returns:
            Image and text of the same shapes.
        """
        return image, text

    @abstractmethod
    def flops(self, image: StreamSizes, text: StreamSizes, image_tokens: Sequence[int], text_length: int) -> int:
        """Operations that the layers add for one image and one text, as `FusionCost` counts them.

        Args:
            image: As in `image_layers`.
            text: As in `image_layers`.
            image_tokens: N of each pair's image block.
            text_length: L.
        """


def linear_flops(tokens: int, width_in: int, width_out: int) -> int:
    """Operations of a linear map."""
    return 2 * tokens * width_in * width_out


def attention_flops(queries: int, keys: int, width: int) -> int:
    """Operations of the two products of an attention, without its linear maps."""
    return 4 * queries * keys * width
