"""What passes between the parts of the backbone: work already done, indexable along the batch.

A hard negative, a beam, a caption chunk or a re-ranked pair is an index into a state, never a second computation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

Index = Tensor | slice | list[int]


class BatchState:
    """Tensors that share their first dimension, the batch; the base of the dataclasses below."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same state with a function applied to every tensor."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, tuple):
                made = [apply(item) for item in value]
                return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
            return value

        return type(self)(**{field.name: apply(getattr(self, field.name)) for field in fields(self)})  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def __getitem__(self, index: Index) -> Self:
        """Rows of the batch, by index tensor, boolean mask, slice or list of integers."""
        if isinstance(index, int):
            raise TypeError(f"a state is indexed by rows that keep the batch dimension: write [[{index}]]")
        return self.map(lambda tensor: tensor[index])

    def repeat_interleave(self, repeats: int) -> Self:
        """Each row `repeats` times in a row, as `torch.repeat_interleave` does."""
        return self.map(lambda tensor: tensor.repeat_interleave(repeats, dim=0))


@dataclass
class ImageState(BatchState):
    """The image stream at the cut.

    Attributes:
        hidden_state: (B, H, W, C), the input of the first fused block.
        pyramid: Outputs of the stages that end below the cut, each (B, C_s, H_s, W_s); empty unless asked for.
        sizes: (B, 2) int64, height and width in pixels of each image, up to whole strides, where the batch was padded
            further and that is to have no effect.
    """

    hidden_state: Tensor
    pyramid: tuple[Tensor, ...] = ()
    sizes: Tensor | None = None

    @staticmethod
    def cat(states: Sequence[ImageState]) -> ImageState:
        """The rows of all states, in order. All must come from images of one size."""
        shapes = {tuple(state.hidden_state.shape[1:]) for state in states}
        if len(shapes) > 1:
            raise ValueError(
                f"image states to concatenate must have one size, got maps of shapes {sorted(shapes)}; "
                "pad the images alike"
            )
        levels = zip(*(state.pyramid for state in states), strict=True)
        sizes = [state.sizes for state in states if state.sizes is not None]
        if sizes and len(sizes) < len(states):
            raise ValueError(
                "image states to concatenate must all have sizes, or none; give image_sizes to begin_image"
            )
        return ImageState(
            torch.cat([state.hidden_state for state in states]),
            tuple(map(torch.cat, levels)),
            torch.cat(sizes) if sizes else None,
        )


@dataclass
class TextState(BatchState):
    """The text stream at the cut.

    Attributes:
        hidden_state: (B, L, D), the input of the first fused layer.
        attention_mask: (B, L), 1 = real token.
    """

    hidden_state: Tensor
    attention_mask: Tensor

    @staticmethod
    def cat(states: Sequence[TextState]) -> TextState:
        """The rows of all states, in order; shorter ones are padded at the end."""
        length = max(state.hidden_state.shape[1] for state in states)
        missing = [length - state.hidden_state.shape[1] for state in states]
        return TextState(
            torch.cat([pad(state.hidden_state, (0, 0, 0, more)) for state, more in zip(states, missing, strict=True)]),
            torch.cat([pad(state.attention_mask, (0, more)) for state, more in zip(states, missing, strict=True)]),
        )


@dataclass
class ImageFeatures(BatchState):
    """A finished image stream that read no text.

    Attributes:
        hidden_state: (B, N, C), tokens in row-major order after the final norm.
        unnormalized: (B, N, C), the same before it (what captioning reads).
        pyramid: Outputs of all stages, each (B, C_s, H_s, W_s); empty unless `begin_image` was asked for it.
    """

    hidden_state: Tensor
    unnormalized: Tensor
    pyramid: tuple[Tensor, ...] = ()


@dataclass
class TextFeatures(BatchState):
    """A finished text stream that read no image, or a decoded one.

    Attributes:
        hidden_state: (B, L, D), after the last layer norm.
        attention_mask: (B, L), 1 = real token.
        text_features: (B, L, D), after the joint projection; only from `decode_text` of a model that has one.
    """

    hidden_state: Tensor
    attention_mask: Tensor
    text_features: Tensor | None = None


@dataclass
class FusedFeatures(BatchState):
    """Both streams after the fused blocks.

    Attributes:
        text_hidden_state: (B, L, D).
        image_hidden_state: (B, N, C), tokens in row-major order.
        attention_mask: (B, L), 1 = real token.
        pyramid: Outputs of all stages, each (B, C_s, H_s, W_s), with norms if the configuration says so; empty
            unless `begin_image` was asked for it.
        text_features: (B, L, D) after the joint projection, None without one.
        image_features: (B, N, D) after the joint projection, None without one.
        pooled: (B, 2 D), [pooled text | pooled image], each tanh of a linear map; None without a joint projection.
    """

    text_hidden_state: Tensor
    image_hidden_state: Tensor
    attention_mask: Tensor
    pyramid: tuple[Tensor, ...] = ()
    text_features: Tensor | None = None
    image_features: Tensor | None = None
    pooled: Tensor | None = None
