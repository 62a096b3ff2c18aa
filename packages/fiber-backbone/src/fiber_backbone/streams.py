"""What the backbone asks of its two streams: sizes, embeddings, one block at a time, an end, and resizing of weights.

A stream is any module that does this. Ours hold the modules of a library under the library's names (`swin`, `vit`;
`roberta`, `bert`); the computation of a block is ours, since a fusion puts something into it.

Shapes: B batch, H W map, C channels of the image stream, L tokens, P tokens already decoded, D channels of the text
stream, M tokens of what is inserted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fiber_backbone.attention import KeyValue
from fiber_backbone.config import FiberConfig

Size = tuple[int, int]


class Insert(NamedTuple):
    """What a fusion puts into one block or layer; a stream applies both parts where they are not None.

    Attributes:
        context: Keys and values (B, heads, M, C / heads) that the block's self-attention reads beside its own tokens,
            under one softmax.
        mask: Additive, (B, 1, 1, M): which of them. All if None.
        after: Function of the attention's output (B, N, C), before it is added to the block's input, to what takes its
            place.
    """

    context: KeyValue | None = None
    mask: Tensor | None = None
    after: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class StreamSizes:
    """Sizes of a stream, block by block, bottom to top.

    Attributes:
        dims: Channels of the tokens that enter each block.
        heads: Attention heads of each block.
        dropout: Probability that a fusion's layers take over for their outputs, in [0, 1).
        attention_dropout: The same for their attention probabilities.
    """

    dims: tuple[int, ...]
    heads: tuple[int, ...]
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def at(self, blocks: tuple[int, ...]) -> StreamSizes:
        """Sizes of some of the blocks."""
        dims, heads = (tuple(each[block] for block in blocks) for each in (self.dims, self.heads))
        return StreamSizes(dims, heads, self.dropout, self.attention_dropout)


def rescale_linear(module: nn.Module, std: float) -> None:
    """Brings fresh linear weights, which timm, transformers and this package draw with 0.02, to another deviation."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.weight.mul_(std / 0.02)


class Stream(nn.Module, ABC):
    """What both kinds of streams have.

    Attributes:
        cross_attention: The layers with which this stream reads the other one; the backbone puts those of its fusion
            here, one for each pair.
        gradient_checkpointing: Whether blocks are computed again in the backward pass.
        compiler: What makes a faster function of a block's, such as `torch.compile`, for training; None for the same.
        reads_context: Whether `run` heeds `Insert.context`; a stream without attention does not.
        library_class: The class of a library whose weights the stream takes by name, None for a stream without one.
    """

    reads_context: ClassVar[bool] = True
    library_class: ClassVar[type[nn.Module] | None] = None
    cross_attention: nn.ModuleList
    gradient_checkpointing: bool = False
    compiler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    def compute(self, block: Callable[..., Any], unit: nn.Module, *arguments: Any) -> Any:
        """`block(unit, *arguments)`, in training as the two switches ask; for `run`.

        Where a unit has `around`, it is called by that: there, what keeps the unit's weights in pieces
        (`fiber_heads.sharding`) brings them together for the while.
        """
        if self.training and self.compiler is not None:
            block = self.compiler(block)
        if self.training and self.gradient_checkpointing:
            block = partial(checkpoint, block, use_reentrant=False)
        around = getattr(unit, "around", None)
        return block(unit, *arguments) if around is None else around(block, *arguments)

    @classmethod
    @abstractmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """A fresh stream.

        One that `FiberConfig` has no fields for takes its settings from `config.image_settings` or
        `config.text_settings`, which are saved with the model.
        """

    @classmethod
    def describe(cls, module: Any) -> dict[str, Any]:
        """The fields of `FiberConfig` under which `from_config` makes the twin of a library's module.

        Raises:
            ValueError: The module is of a kind that this stream does not compute.
        """
        raise ValueError(f"{cls.__name__} takes no weights of {type(module).__name__}")

    @property
    @abstractmethod
    def sizes(self) -> StreamSizes:
        """Sizes of all blocks."""

    def block_of(self, name: str) -> int:
        """The block that a parameter is in: -1 for what comes before the first, their number for what follows the last.

        Unless a stream says otherwise, its blocks are a list of as many modules as `sizes` counts, followed by `norm`.

        Args:
            name: Of the parameter in this stream, none of the cross-attention.

        Raises:
            ValueError: There is no such list.
        """
        count = len(self.sizes.dims)
        lists = (nn.ModuleList, nn.Sequential)
        found = [path for path, part in self.named_modules() if isinstance(part, lists) and len(part) == count]
        found = [path for path in found if path != "cross_attention"]
        if not found:
            raise ValueError(f"{type(self).__name__} has no list of its {count} blocks; give it a method block_of")
        for path in found:
            if name.startswith(f"{path}."):
                return int(name.removeprefix(f"{path}.").partition(".")[0])
        return count if name.startswith("norm.") else -1

    def units(self) -> list[nn.Module]:
        """The modules that `run` computes one at a time, each by way of `compute`, bottom to top; others stay whole."""
        return []

    def adapt(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        """A weight that was made for another resolution or length, resized.

        Args:
            name: Of the parameter in this stream.
            value: The weight.
            shape: What it should have.

        Returns:
            A value of this shape, or `value` itself where no rule is known.
        """
        return value


class ImageStream(Stream):
    """Images to maps of tokens. A map is (B, H, W, C); a stream without rows and columns uses H = 1.

    Attributes:
        image_size: Nominal side of an image in pixels.
        stride: Height and width of every image must be multiples of this, in pixels.
        pyramid_dims: Channels of the maps that end a stage, fine to coarse; empty for a stream without a pyramid.
        pyramid_strides: Pixels per cell of each.
        masks_padding: Whether `run` can keep an image's features apart from the padding of its batch.
    """

    image_size: int
    stride: int
    pyramid_dims: tuple[int, ...] = ()
    pyramid_strides: tuple[int, ...] = ()
    masks_padding: bool = False

    @property
    def num_fusable(self) -> int:
        """How many of the top blocks may read text."""
        return len(self.sizes.dims)

    @property
    def dim(self) -> int:
        """Channels of the finished map."""
        return self.sizes.dims[-1]

    @abstractmethod
    def embed(self, pixel_values: Tensor) -> Tensor:
        """The input (B, H, W, C) of the first block from images (B, 3, height, width), normalized."""

    @abstractmethod
    def run(
        self, x: Tensor, block: int, insert: Insert | None = None, sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """One block, and the step down to the next stage where the block is the last of its own.

        Args:
            x: (B, H, W, C), input of the block.
            block: Its index, counted over all stages.
            insert: What a fusion puts into it.
            sizes: (B, 2) int64, height and width in pixels of each image where the batch's are larger.

        Returns:
            The input of the next block, and the stage's output (B, H, W, C) if the block ends one of a pyramid.
        """

    @abstractmethod
    def final_norm(self, x: Tensor) -> Tensor:
        """The norm after the last block (..., C), for a stream that read no text."""

    def pyramid_level(self, block: int, x: Tensor) -> Tensor:
        """The output of a block that ends a stage, as a map (B, C, H, W) of the pyramid."""
        return x.permute(0, 3, 1, 2)

    def within(self, x: Tensor, block: int, sizes: Tensor) -> Tensor:
        """(B, H, W) bool: which tokens of a block's input belong to an image of its own `sizes`."""
        raise NotImplementedError(f"{type(self).__name__} does not keep images apart from padding")

    def num_tokens(self, block: int, image_size: int) -> int:
        """Tokens that enter a block, for square images; only counts of operations depend on it."""
        return (image_size // self.stride) ** 2

    def resize(self, config: FiberConfig) -> None:
        """Prepares the stream for a configuration of another image size, in place.

        Raises:
            ValueError: The stream has no rule for it.
        """
        raise ValueError(f"{type(self).__name__} has no rule to grow to {config.image_size} px")


class TextStream(Stream):
    """Token ids to tokens.

    Attributes:
        vocab_size: Number of tokens of the vocabulary.
        pad_token_id: Id of the padding token.
        max_length: Tokens of the longest text.
    """

    vocab_size: int
    pad_token_id: int
    max_length: int

    @property
    def dim(self) -> int:
        """Channels of the finished text."""
        return self.sizes.dims[-1]

    @abstractmethod
    def embed(self, input_ids: Tensor, past_length: Tensor | None = None) -> Tensor:
        """The input (B, L, D) of the first layer.

        Args:
            input_ids: (B, L) int64.
            past_length: (B,) int64, tokens that are not padding and were decoded before.
        """

    @abstractmethod
    def run(
        self,
        hidden: Tensor,
        layer: int,
        mask: Tensor,
        insert: Insert | None = None,
        past: KeyValue | None = None,
        final_norm: bool = True,
    ) -> tuple[Tensor, KeyValue]:
        """One layer.

        Args:
            hidden: (B, L, D), input of the layer.
            layer: Its index.
            mask: Additive, broadcastable to (B, heads, L, P + L).
            insert: What a fusion puts into it.
            past: Keys and values of the tokens before these.
            final_norm: Whether the layer ends with its layer norm.

        Returns:
            The input of the next layer, and the keys and values of all tokens so far.
        """
