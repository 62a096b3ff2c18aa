"""Ranks of images and texts from a matrix of scores that comes in blocks of rows, and their recall."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

Ties = Literal["pessimistic", "optimistic"]
Blocks = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # rows [n] of the matrix of scores, and these [n, texts]
AddUp = Callable[[Tensor], Tensor]  # the sum over processes


def alone(tensor: Tensor) -> Tensor:
    return tensor


def row_blocks(num_images: int, size: int, device: torch.device, score: Callable[[slice], Tensor]) -> Blocks:
    """The rows that a function gives, so many at a time."""
    images = torch.arange(num_images, device=device)
    parts = [slice(start, start + size) for start in range(0, num_images, size)]
    return lambda: ((images[part], score(part)) for part in parts)


def recalls_in_blocks(
    blocks: Blocks, owner: Tensor, num_images: int, ks: Sequence[int], ties: Ties, add_up: AddUp
) -> dict[str, Tensor]:
    """The result from the scores of some images with all texts, image by image exactly once over all processes."""
    has_text = torch.isin(torch.arange(num_images, device=owner.device), owner)
    image_ranks, text_ranks = ranks_in_blocks(blocks, owner, num_images, ties, add_up)
    result = {}
    for direction, ranks in (("image_to_text", image_ranks[has_text]), ("text_to_image", text_ranks)):
        values = ranks.double().cpu()
        for k in ks:
            result[f"{direction}_recall@{k}"] = (values <= k).double().mean()
        result[f"{direction}_median_rank"] = values.quantile(0.5).floor()
        result[f"{direction}_mean_rank"] = values.mean()
    recalls = [value for name, value in result.items() if "_recall@" in name]
    return result | {"mean_recall": torch.stack(recalls).mean()}


def ranks_in_blocks(blocks: Blocks, owner: Tensor, num_images: int, ties: Ties, add_up: AddUp) -> tuple[Tensor, Tensor]:
    """Of each image and of each text, 1 + the number of wrong candidates before the best right one.

    Right is a candidate of the query's image. The rank of an image without a text means nothing.
    """
    image_ranks, came = (torch.zeros(num_images, dtype=torch.int64, device=owner.device) for _ in range(2))
    text_ranks = torch.ones_like(owner)
    # The score of each text with its own image; mps has no float64, nor scores in it.
    own = torch.zeros(len(owner), dtype=torch.float32 if owner.device.type == "mps" else torch.float64).to(owner.device)

    def before(scores: Tensor, best: Tensor) -> Tensor:
        return scores >= best if ties == "pessimistic" else scores > best

    for rows, scores in blocks():
        if scores.shape != (len(rows), len(owner)):
            raise ValueError(
                f"a block of scores must be [its images, all texts] = {(len(rows), len(owner))}, but is "
                f"{tuple(scores.shape)}"
            )
        if scores.isnan().any():
            raise ValueError(
                "the scores hold NaN, which has no rank; look for NaN in the features or the model's output"
            )
        right = rows[:, None] == owner
        best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        image_ranks[rows] += 1 + (before(scores, best) & ~right).sum(dim=1)
        own += scores.masked_fill(~right, 0).sum(dim=0)  # of one image at most
        came += torch.bincount(rows, minlength=num_images)
    image_ranks, own, came = add_up(image_ranks), add_up(own), add_up(came)
    if (wrong := (came != 1).nonzero().flatten()).numel():
        raise ValueError(
            f"each image needs its scores once over all processes, but those of image {wrong[0].item()} came "
            f"{came[wrong[0]].item()} times; give each row to one process"
        )
    wrong_before = torch.zeros_like(text_ranks)
    for rows, scores in blocks():
        wrong_before += (before(scores, own.to(scores.dtype)) & (rows[:, None] != owner)).sum(dim=0)
    return image_ranks, text_ranks + add_up(wrong_before)
