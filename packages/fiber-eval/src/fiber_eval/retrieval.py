"""Image-text retrieval: recall at K and ranks, in both directions.

A query is a hit at K if *any* of its right answers is among its K best candidates, as in the evaluators of VSE++ and
ALBEF. (`torchmetrics.retrieval.RetrievalRecall` divides by the number of right answers: with five captions an image it
cannot pass 0.2 at K = 1.) What differs from those evaluators: ties are defined; theirs depend on an unstable sort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from fiber_eval._ranks import AddUp, Blocks, Ties, alone, recalls_in_blocks, row_blocks
from fiber_eval.samples import MetricOptions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Two features of one id may differ by the rounding of bf16 and of another batch; by more, they are two things.
SAME_FEATURE_TOLERANCE = 0.05


def retrieval_recall(
    scores: Tensor,
    text_image_index: Tensor | Sequence[int],
    *,
    ks: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
    chunk_size: int = 64,
) -> dict[str, Tensor]:
    """Recall at K from a matrix of scores, higher being better; any real number is a score, negative ones too.

    An image without a text asks no question but remains a candidate for every text.

    Args:
        scores: [N images, M texts], without NaN.
        text_image_index: [M], the row in `scores` of each text's image, in 0..N-1.
        ks: The K of each recall, at least 1. A K above the number of candidates is met by every query.
        ties: Where a right answer stands among wrong ones of the same score: after all of them ("pessimistic"; a scorer
            that cannot tell gets no credit) or before all of them ("optimistic"). Any other order lies between.
        chunk_size: Queries ranked at a time. Bounds the memory; changes no result.

    Returns:
        Scalars in float64 on the CPU. For `image_to_text` and `text_to_image`: `…_recall@K` (0..1), `…_median_rank`
        (rounded down, as in VSE++) and `…_mean_rank` (the best rank is 1); and `mean_recall`, the mean of all recalls.

    Raises:
        ValueError: `scores` is no matrix, is empty or has a NaN; `text_image_index` does not fit it; a bad option.

    Example:
        >>> import torch
        >>> from fiber_eval import retrieval_recall
        >>> scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]])  # two images, three texts
        >>> result = retrieval_recall(scores, [0, 0, 1], ks=(1, 2))
        >>> result["image_to_text_recall@1"].item(), result["image_to_text_mean_rank"].item()
        (0.5, 2.0)
    """
    _check_options(ks, ties, chunk_size)
    if scores.ndim != 2 or scores.numel() == 0:
        raise ValueError(f"scores must be a filled matrix [images, texts], but its shape is {tuple(scores.shape)}")
    owner = _owners(text_image_index, *scores.shape).to(scores.device)
    if not scores.is_floating_point():
        scores = scores.double()
    blocks = row_blocks(len(scores), chunk_size, owner.device, lambda rows: scores[rows])
    return recalls_in_blocks(blocks, owner, len(scores), ks, ties, alone)


def retrieval_recall_in_blocks(
    blocks: Blocks,
    text_image_index: Tensor | Sequence[int],
    *,
    num_images: int,
    ks: Sequence[int] = (1, 5, 10),
    ties: Ties = "pessimistic",
    add_up: AddUp | None = None,
) -> dict[str, Tensor]:
    """`retrieval_recall` of a matrix that is never whole in one place: blocks of its rows, in any number of processes.

    Memory holds one block and a few numbers for each image and text.

    Args:
        blocks: Gives the rows of this process block by block: which images, [n] int64, and their scores [n, M texts].
            It is called twice and gives the same each time.
        text_image_index: [M], the row of each text's image, in 0..num_images-1, alike in every process.
        num_images: N, the rows of all processes. Each row comes once.
        ks: As in `retrieval_recall`, like `ties`.
        ties: As there.
        add_up: Gives the sum of a tensor over all processes, such as an all-reduce; None: there is one process.

    Returns:
        As `retrieval_recall`, the same in every process.

    Raises:
        ValueError: As of `retrieval_recall`; or a row came twice, or never.

    Example:
        >>> import torch
        >>> from fiber_eval import retrieval_recall_in_blocks
        >>> scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.1]])  # two images, three texts
        >>> blocks = lambda: ((torch.tensor([row]), scores[[row]]) for row in range(2))
        >>> retrieval_recall_in_blocks(blocks, [0, 0, 1], num_images=2, ks=(1,))["image_to_text_recall@1"].item()
        0.5
    """
    _check_options(ks, ties, chunk_size=1)
    owner = _owners(text_image_index, num_images, len(text_image_index))
    return recalls_in_blocks(blocks, owner, num_images, ks, ties, add_up or alone)


class RetrievalRecall(Metric):
    """Recall at K of a dual encoder, from image and text features; the score of a pair is their dot product.

    Give unit vectors for cosine similarity. Features are kept in float32; scores are summed in float64 and rounded to
    float32, so that neither autocast, TF32 nor the order of samples moves a rank, and equal captions tie.

    Ids decide what belongs together, so batches, order and the number of processes are free: a process may hold any
    number of samples, none included. An id seen again counts once (the first is kept), which undoes the padding of a
    distributed sampler. Ids must be unique over the data set: two different features under one id are an error.
    An image without a text asks no question but remains a candidate; a text without its image is an error.

    `forward` (calling the metric) also scores the batch by itself, which needs the images of all of its texts;
    `update` does not.

    Args:
        ks: As in `retrieval_recall`, like the two that follow.
        ties: Where a right answer stands among wrong ones of the same score.
        chunk_size: Queries ranked at a time.
        **kwargs: Options of `torchmetrics.Metric`, `process_group` for one.

    Raises:
        ValueError: A bad option.

    Example:
        >>> import torch
        >>> from fiber_eval import RetrievalRecall
        >>> metric = RetrievalRecall(ks=(1,))
        >>> metric.update(image_features=torch.eye(2), image_ids=[7, 8])
        >>> metric.update(text_features=torch.eye(2), text_ids=[70, 80], text_image_ids=[7, 8])
        >>> metric.compute()["text_to_image_recall@1"].item()
        1.0
    """

    is_differentiable = False
    higher_is_better = None  # recalls up, ranks down
    full_state_update = False

    image_features: list[Tensor]
    image_ids: list[Tensor]
    text_features: list[Tensor]
    text_ids: list[Tensor]
    text_image_ids: list[Tensor]

    def __init__(
        self,
        *,
        ks: Sequence[int] = (1, 5, 10),
        ties: Ties = "pessimistic",
        chunk_size: int = 64,
        **kwargs: Unpack[MetricOptions],
    ) -> None:
        super().__init__(**kwargs)
        _check_options(ks, ties, chunk_size)
        self.ks, self.ties, self.chunk_size = tuple(ks), ties, chunk_size
        for name in ("image_features", "image_ids", "text_features", "text_ids", "text_image_ids"):
            self.add_state(name, default=[], dist_reduce_fx=None)

    def update(
        self,
        *,
        image_features: Tensor | None = None,
        image_ids: Tensor | Sequence[int] | None = None,
        text_features: Tensor | None = None,
        text_ids: Tensor | Sequence[int] | None = None,
        text_image_ids: Tensor | Sequence[int] | None = None,
    ) -> None:
        """Add images, texts, or both; the two need not match in number.

        Args:
            image_features: [B, D], any floating-point type.
            image_ids: [B] integers, unique to each image.
            text_features: [T, D].
            text_ids: [T] integers, unique to each text.
            text_image_ids: [T], the id of each text's image.

        Raises:
            ValueError: Features without their ids, ids without features, nothing at all, or shapes that disagree.
        """
        images = {"image_features": image_features, "image_ids": image_ids}
        texts = {"text_features": text_features, "text_ids": text_ids, "text_image_ids": text_image_ids}
        groups = [group for group in (images, texts) if any(value is not None for value in group.values())]
        if not groups:
            raise ValueError("update got nothing; give image_features with image_ids, or text_features with their ids")
        checked: dict[str, Tensor] = {}
        for group in groups:  # all is checked before anything is kept
            if absent := [name for name, value in group.items() if value is None]:
                raise ValueError(f"update needs {', '.join(group)} together, but {', '.join(absent)} did not come")
            (feature_name, features), *ids = group.items()
            if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
                came = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features)
                raise ValueError(f"{feature_name} must be a floating-point tensor [samples, width], but is {came}")
            checked[feature_name] = features.detach().float()
            for name, value in ids:
                checked[name] = _as_ids(value, name, len(features))
        kept = self.image_features[-1:] + self.text_features[-1:]
        _check_widths(kept + [value for name, value in checked.items() if name.endswith("features")])
        for name, value in checked.items():
            getattr(self, name).append(value.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Rank all images and texts that came, over all processes.

        Returns:
            As `retrieval_recall`; the same on every process.

        Raises:
            ValueError: No image or no text came, a text's image never came, one id stands for two different things,
                widths disagree, or a feature is NaN.
        """
        _check_widths(self.image_features + self.text_features)
        state = {name: self._whole(name) for name in self._defaults}
        if self.device.type == "mps":  # has no float64
            state = {name: value.cpu() for name, value in state.items()}
        images, image_ids = state["image_features"], state["image_ids"]
        texts, text_ids, text_image_ids = state["text_features"], state["text_ids"], state["text_image_ids"]
        if not len(images) or not len(texts):
            raise ValueError(
                f"retrieval needs images and texts, but {len(images)} images and {len(texts)} texts came; "
                "call update with both before compute"
            )
        first = _first_of_each(image_ids, images, "image")
        images, image_ids = images[first], image_ids[first]
        first = _first_of_each(text_ids, texts, "text", text_image_ids)
        texts, text_image_ids = texts[first], text_image_ids[first]
        owner = _find(text_image_ids, image_ids, text_ids[first])

        candidates = texts.double().T
        blocks = row_blocks(
            len(images), self.chunk_size, owner.device, lambda rows: (images[rows].double() @ candidates).float()
        )
        return recalls_in_blocks(blocks, owner, len(images), self.ks, self.ties, alone)

    def _sync_dist(
        self, dist_sync_fn: Callable = gather_all_tensors, process_group: ProcessGroup | None = None
    ) -> None:
        # torchmetrics gathers a list element by element, which hangs where processes hold different numbers of them.
        for name in self._defaults:
            setattr(self, name, [self._whole(name)])
        super()._sync_dist(dist_sync_fn, process_group)

    def _whole(self, name: str) -> Tensor:
        """A state as one tensor; without samples, an empty one of the type and number of dimensions that gathers."""
        filled = [part for part in getattr(self, name) if len(part)]
        if filled:
            return torch.cat(filled)
        if name.endswith("features"):
            return torch.empty((0, 0), device=self.device)
        return torch.empty(0, dtype=torch.int64, device=self.device)


def _owners(text_image_index: Tensor | Sequence[int], num_images: int, num_texts: int) -> Tensor:
    """The row of each text's image, int64 [num_texts]."""
    owner = _as_ids(text_image_index, "text_image_index", num_texts)
    if not num_images or not num_texts:
        raise ValueError(f"retrieval needs images and texts, but there are {num_images} and {num_texts}")
    if owner.min() < 0 or owner.max() >= num_images:
        raise ValueError(
            f"text_image_index must lie in 0..{num_images - 1}, the rows of scores, but goes from {owner.min().item()} "
            f"to {owner.max().item()}; number the images by their row"
        )
    return owner


def _check_widths(parts: list[Tensor]) -> None:
    widths = sorted({part.shape[1] for part in parts if len(part)})
    if len(widths) > 1:
        raise ValueError(f"all image and text features must be equally wide, but widths {widths} came")


def _check_options(ks: Sequence[int], ties: str, chunk_size: int) -> None:
    if not ks or any(int(k) != k or k < 1 for k in ks):
        raise ValueError(f"ks must be whole numbers from 1 on, but is {tuple(ks)}")
    if ties not in get_args(Ties):
        raise ValueError(f"ties must be one of {', '.join(get_args(Ties))}, but is {ties!r}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, but is {chunk_size}")


def _as_ids(ids: object, name: str, count: int) -> Tensor:
    """`ids` as int64 of shape [count]."""
    try:
        tensor = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:  # the last: null
        raise ValueError(f"{name} must be integers; number your names, for instance by their row") from error
    if tensor.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one for each sample, but has {tuple(tensor.shape)}")
    if count and (tensor.is_floating_point() or tensor.dtype == torch.bool or tensor.is_complex()):
        raise ValueError(f"{name} must be integers, but is {tensor.dtype}")
    return tensor.to(torch.int64)


def _first_of_each(ids: Tensor, features: Tensor, kind: str, image_ids: Tensor | None = None) -> Tensor:
    """Where each id comes first, in the order of ids, so that results do not depend on who saw what when."""
    order = ids.argsort(stable=True)
    is_first = torch.ones_like(order, dtype=torch.bool)
    is_first[1:] = ids[order][1:] != ids[order][:-1]
    first = order[is_first]
    again = order[~is_first]
    kept = first[is_first.cumsum(0) - 1][~is_first]
    distance = torch.linalg.vector_norm(features[again] - features[kept], dim=1)
    differs = distance > SAME_FEATURE_TOLERANCE * torch.linalg.vector_norm(features[kept], dim=1)
    if differs.any():
        raise ValueError(
            f"{kind} id {ids[again[differs][0]].item()} came with two different features; give each {kind} an id of "
            "its own over the whole data set (not its index in the batch), and encode in eval mode"
        )
    if image_ids is not None and (moved := image_ids[again] != image_ids[kept]).any():
        later, earlier = again[moved][0], kept[moved][0]
        raise ValueError(
            f"text id {ids[later].item()} came with the image ids {image_ids[earlier].item()} and "
            f"{image_ids[later].item()}; give each text an id of its own and one image"
        )
    return first


def _find(text_image_ids: Tensor, image_ids: Tensor, text_ids: Tensor) -> Tensor:
    """[texts], the index of each text's image in `image_ids`, which is sorted."""
    owner = torch.searchsorted(image_ids, text_image_ids).clamp(max=len(image_ids) - 1)
    absent = image_ids[owner] != text_image_ids
    if absent.any():
        raise ValueError(
            f"{int(absent.sum())} of {len(text_ids)} texts belong to an image that never came, the first being text id "
            f"{text_ids[absent][0].item()} of image id {text_image_ids[absent][0].item()}; "
            "update with every image, or leave these texts out"
        )
    return owner
