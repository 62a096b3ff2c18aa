"""Where a word looks: cross-attention maps, and Grad-CAM over them.

    maps = attention_maps(model, **batch)             # what reads what, block by block and head by head
    heat = grad_cam(model, tokens=words, **batch)     # where reading these words made the model say what it says
    heat = look(model, "photo.jpg", "a red bus beside a tree", word="red bus")

Grad-CAM (Selvaraju et al. 2017) over cross-attention, after ALBEF (Li et al. 2021): each attention probability times
the gradient of a score with respect to it, summed over heads, words and blocks. What differs from ALBEF:

* The side is that of the score, `TaskModel.explained_by`. A score that words give (an answer, a match, the next word of
  a caption) is explained by what the words read of the image; one that places of the image give (boxes) by what those
  read of the words. The other side hardly tells one object from another.
* Of words the sum has its signs, and only then is what is negative left out, as in Grad-CAM itself. Of places each
  product counts by its size: what a place reads of one word it does not read of the others, so that the sign says no
  more than which word's values are larger.

The model itself is not touched: in `attend` a layer computes what it does in `forward`, by visible probabilities.

Shapes: B pairs, I images (of a pair of images two for each text), L text tokens, h w cells of a block, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from fiber_backbone import GatedCrossAttention
from torch import Tensor
from torch.nn.functional import interpolate

from fiber_heads.processing import Images
from fiber_heads.task import Reader, TaskModel

Way = Literal["grad_cam", "attention"]


@dataclass(frozen=True)
class AttentionMaps:
    """Which tokens of one stream read which of the other, of each fused block, bottom to top.

    Blocks may differ in their heads and cells; `over_pixels` brings a map to the image's size.

    Attributes:
        text_to_image: Of each block (I, heads, L, h, w), how much a token reads each cell: over the cells (and tokens
            of the class, if the stream has such) the sum is one.
        image_to_text: Of each block (I, heads, L, h, w), how much each cell reads a token: over the tokens the sum is
            one, with 0 for padding. Empty where the image reads no text, as in captioning.
    """

    text_to_image: tuple[Tensor, ...]
    image_to_text: tuple[Tensor, ...]


@torch.no_grad()
def attention_maps(model: TaskModel, *, pixel_values: Tensor, **batch: Any) -> AttentionMaps:
    """The probabilities of all cross-attention layers while a model reads images with texts.

    Args:
        model: In eval mode, with gated cross-attention, the published fusion.
        pixel_values: As the model's `forward` takes them, like `input_ids`, `attention_mask`, ...
        **batch: The others.

    Raises:
        ValueError: The model has another fusion, is in training mode, or does not read images and texts together.
    """
    mask = _text_mask(batch)
    with _recorded(model) as seen:
        model.explained_score(mask.bool(), pixel_values=pixel_values, **batch)
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    text, image = (tuple(_as_map(each, size, model) for each in side) for side in (seen.by_text, seen.of_text()))
    return AttentionMaps(text, image)


def grad_cam(
    model: TaskModel,
    *,
    tokens: Tensor | None = None,
    target: str | None = None,
    score: Callable[..., Tensor] | None = None,
    by: Reader | None = None,
    pixel_values: Tensor,
    **batch: Any,
) -> Tensor:
    """How much reading some words at each pixel raises a score.

    Args:
        model: As of `attention_maps`.
        tokens: (B, L) bool, the words; all of the text by default.
        target: What the score is of, such as an answer; see the model's `explained_score`.
        score: In place of the model's own: called with the batch, gives any numbers, whose sum is the score.
        by: Whose reading is shown, the words' of the image or the image's of the words; the model's `explained_by` by
            default.
        pixel_values: As of `attention_maps`.
        **batch: The others.

    Returns:
        (I, H, W) float32, at least 0, over the pixels of `pixel_values`, padding included; scores of different
        images, models and targets have different scales.

    Raises:
        ValueError: As of `attention_maps`; or the score does not depend on what was read.
    """
    words = _text_mask(batch).bool() if tokens is None else tokens.bool()
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    with torch.inference_mode(False), torch.enable_grad():
        given = {"pixel_values": pixel_values, **batch}
        given = {name: each.clone() if isinstance(each, Tensor) else each for name, each in given.items()}
        given["pixel_values"].requires_grad_()  # so that a frozen model has gradients too
        with _recorded(model) as seen:
            value = model.explained_score(words, target, **given) if score is None else score(**given)
        places = (by or model.explained_by) == "image"
        read = seen.by_image if places else seen.by_text
        gradients = torch.autograd.grad(value.sum(), read, allow_unused=True) if read else ()
    if all(each is None for each in gradients):
        raise ValueError("the score does not depend on what image and text read of each other; choose another score")
    heat = torch.zeros(())
    for probabilities, gradient in zip(read, gradients, strict=True):
        if gradient is not None:
            product = probabilities.detach() * gradient
            weighed = _as_map((product.abs().mT if places else product).sum(dim=1), size, model)  # (I, L, h, w)
            # of a text that is written word by word, every word may have been read for the next
            own = words if seen.by_image else torch.ones_like(words)
            own = own.repeat_interleave(len(weighed) // len(own), dim=0)[..., None, None]
            cells = (weighed * own).sum(dim=1, keepdim=True)
            # a sum over cells counts alike whatever their size
            heat = heat + over_pixels(cells.float() * cells.shape[-2] * cells.shape[-1], size)[:, 0].cpu()
    return heat.relu()


def look(
    model: TaskModel,
    images: Images,
    text: str,
    *,
    word: str | tuple[int, int] | None = None,
    target: str | None = None,
    way: Way = "grad_cam",
) -> list[Tensor]:
    """Where the words of a text look in an image, both as they come.

    Args:
        model: As of `attention_maps`, with a processor.
        images: One image, or a pair where the model takes pairs.
        text: What the model reads; for a model that writes captions, the caption.
        word: One or several words of the text that stand together (of several such the first), or the [start, end) of
            their characters; all by default.
        target: As of `grad_cam`.
        way: `"attention"` is the mean over blocks and heads of what the words read.

    Returns:
        For each image (H, W) float32 on the host, between 0 and 1 (which it reaches if there is anything), over the
        pixels of the image as it was prepared: its own proportions, without padding.

    Raises:
        ValueError: As of `grad_cam`; or the word is not in the text, or cut off, or the model has no processor.
    """
    batch: dict[str, Any] = dict(model.prepare(images, text))
    tokens = word_tokens(model, text, word).to(model.device)
    if way == "grad_cam":
        heat = grad_cam(model, tokens=tokens, target=target, **batch)
    else:
        size, maps = (batch["pixel_values"].shape[-2], batch["pixel_values"].shape[-1]), attention_maps(model, **batch)
        means = [over_pixels(each.mean(dim=1), size) for each in maps.text_to_image]
        rows = tokens if maps.image_to_text else tokens.roll(-1, dims=1)  # a written word is read for by the one before
        share = rows / rows.sum()
        heat = (torch.stack(means).mean(dim=0) * share[..., None, None]).sum(dim=1).float().cpu()
    sizes = batch["image_sizes"].tolist() if "image_sizes" in batch else [heat.shape[1:]] * len(heat)
    shown = [each[: int(height), : int(width)] for each, (height, width) in zip(heat, sizes, strict=True)]
    return [each / each.max().clamp(min=1e-12) for each in shown]


def word_tokens(model: TaskModel, text: str, word: str | tuple[int, int] | None = None) -> Tensor:
    """Which tokens of a text are those of a word, (1, L) bool; arguments and errors as of `look`."""
    tokenizer: Any = getattr(model.processor, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(
            "this model has no tokenizer to find words by; set model.processor, or give tokens to grad_cam"
        )
    found = tokenizer(
        text, return_offsets_mapping=True, truncation=True, max_length=getattr(model.processor, "max_length", None)
    )
    if word is None:
        return torch.ones(1, len(found["input_ids"]), dtype=torch.bool)
    if isinstance(word, str):
        start = text.find(word) if word else -1
        if start < 0:
            raise ValueError(f"{word!r} is not in {text!r}; give a word of the text as it is written there")
        word = (start, start + len(word))
    own = [start < word[1] and end > word[0] for start, end in found["offset_mapping"]]
    if not any(own):
        raise ValueError(f"no token is of characters {word[0]} to {word[1]} of {text!r}, which may be cut; shorten it")
    return torch.tensor([own])


def over_pixels(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, n, h, w) over an image's pixels (B, n, H, W), by bilinear interpolation."""
    return interpolate(maps, size=size, mode="bilinear", align_corners=False)


@dataclass
class _Seen:
    """Probabilities of each block by which the text reads the image, (I, heads, L, N), and it the text, transposed."""

    by_text: list[Tensor]
    by_image: list[Tensor]

    def of_text(self) -> list[Tensor]:
        """What the image reads, (I, heads, L, N)."""
        return [each.mT for each in self.by_image]


@contextmanager
def _recorded(model: TaskModel) -> Iterator[_Seen]:
    """Keeps the probabilities of what the layers read, while it is open; of several readings the last."""
    backbone = model.backbone
    layers = (backbone.text_stream.cross_attention, backbone.image_stream.cross_attention)
    other = next((each for side in layers for each in side if not isinstance(each, GatedCrossAttention)), None)
    if other is not None or not backbone.pairs:
        raise ValueError(
            f"explanations are of gated cross-attention, whose probabilities they show; this model's fusion is "
            f"{type(backbone.fusion).__name__}; train one with FiberConfig(fusion='gated')"
        )
    if model.training:
        raise ValueError("the model is in training mode, in which dropout would blur what is shown; call model.eval()")
    found: dict[tuple[int, int], Tensor] = {}

    def hook(place: tuple[int, int]) -> Callable[..., Tensor]:
        def look_on(layer: GatedCrossAttention, given: Any, named: dict[str, Any], _: Tensor) -> Tensor:
            output, found[place] = layer.attend(*given, **named)
            return output

        return look_on

    hooks = [
        layer.register_forward_hook(hook((side, number)), with_kwargs=True)
        for side, each in enumerate(layers)
        for number, layer in enumerate(each)
    ]
    seen = _Seen([], [])
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()
    seen.by_text += [found[place] for place in sorted(found) if place[0] == 0]
    seen.by_image += [found[place] for place in sorted(found) if place[0] == 1]


def _as_map(read: Tensor, size: tuple[int, int], model: TaskModel) -> Tensor:
    """What is read of an image's tokens (..., N) as maps of its cells (..., h, w), without tokens of the class."""
    prefix = getattr(model.backbone.image_stream, "num_prefix_tokens", 0)
    cells = read.shape[-1] - prefix
    side = (size[0] * size[1] / cells) ** 0.5  # of a cell, in pixels
    height = round(size[0] / side)
    if height * round(size[1] / side) != cells:
        raise ValueError(
            f"{cells} tokens are no map of an image of {size[0]} x {size[1]} pixels; explanations need an image stream "
            "with square cells, such as swin or vit"
        )
    return read[..., prefix:].unflatten(-1, (height, -1))


def _text_mask(batch: dict[str, Any]) -> Tensor:
    """(B, L), which tokens are real."""
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask
