"""What a caption data set holds, before a run depends on it: counts, coverage, caption lengths, leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from fiber_data.formats.files import find_missing
from fiber_data.formats.samples import CaptionSample
from fiber_data.images import BrokenImageError, load_image


@dataclass(frozen=True)
class Inspection:
    """What `inspect_samples` found in one split. Lengths are (least, median, 95th percentile, most)."""

    num_images: int
    num_captions: int
    num_without_caption: int
    missing: list[Path]
    broken: list[str] | None
    """A sentence for each image that cannot be decoded; None if none was decoded."""
    words: tuple[int, int, int, int]
    tokens: tuple[int, int, int, int] | None
    """Special tokens included; None without a tokenizer."""
    num_cut: int | None
    """Captions longer than the asked length in tokens; None without a tokenizer."""

    def __str__(self) -> str:
        found = self.num_images - len(self.missing)
        lines = [
            f"images        {self.num_images:>9,}   on disk {found:,} ({found / max(1, self.num_images):.1%})",
            f"captions      {self.num_captions:>9,}   {self.num_captions / max(1, self.num_images):.2f} an image, "
            f"{self.num_without_caption:,} images without",
            f"words         {_spread(self.words)}",
        ]
        if self.tokens is not None:
            lines.append(f"tokens        {_spread(self.tokens)}   {self.num_cut:,} captions would be cut")
        if self.broken is not None:
            lines.append(f"unreadable    {len(self.broken):>9,}")
        problems = [f"{path}: not on disk" for path in self.missing] + (self.broken or [])
        return "\n".join(lines + [f"  {problem}" for problem in problems[:10]] + _more(problems))


def inspect_samples(
    samples: Sequence[CaptionSample],
    *,
    decode: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int = 40,
) -> Inspection:
    """Counts what a split holds.

    Args:
        samples: The samples of a reader called with ``check_images=False``, so that what is missing still counts.
        decode: Whether to decode every image that is on disk, with a progress bar.
        tokenizer: Gives the lengths in tokens too.
        max_length: The length in tokens, special ones included, that captions would be cut to.

    Returns:
        The findings; ``str()`` of them is a small table.
    """
    captions = [caption for sample in samples for caption in sample["captions"]]
    missing = find_missing(samples)
    num_tokens = None
    if tokenizer is not None and captions:
        num_tokens = np.array([len(ids) for ids in tokenizer(captions, verbose=False)["input_ids"]])
    return Inspection(
        num_images=len(samples),
        num_captions=len(captions),
        num_without_caption=sum(not sample["captions"] for sample in samples),
        missing=missing,
        broken=_find_broken(samples, set(missing)) if decode else None,
        words=_quantiles(np.array([len(caption.split()) for caption in captions])),
        tokens=None if num_tokens is None else _quantiles(num_tokens),
        num_cut=None if num_tokens is None else int((num_tokens > max_length).sum()),
    )


def find_shared(splits: Mapping[str, Sequence[CaptionSample]]) -> dict[tuple[str, str], list[str]]:
    """Images that several splits name, by file name: what a model was trained on must not judge it.

    Args:
        splits: The samples of each split by its name.

    Returns:
        For each pair of splits that share images the names that they share, sorted.
    """
    names = {
        split: {Path(sample["image"]).name for sample in samples if isinstance(sample["image"], str | Path)}
        for split, samples in splits.items()
    }
    shared = {}
    for position, first in enumerate(names):
        for second in list(names)[position + 1 :]:
            if common := sorted(names[first] & names[second]):
                shared[first, second] = common
    return shared


def _find_broken(samples: Sequence[CaptionSample], missing: set[Path]) -> list[str]:
    broken = []
    for sample in tqdm(samples, desc="decoding", unit="image", disable=None):
        if isinstance(sample["image"], str | Path) and Path(sample["image"]) in missing:
            continue
        try:
            load_image(sample["image"])
        except BrokenImageError as error:
            broken.append(str(error))
    return broken


def _quantiles(lengths: np.ndarray) -> tuple[int, int, int, int]:
    if len(lengths) == 0:
        return 0, 0, 0, 0
    least, median, high, most = np.quantile(lengths, (0, 0.5, 0.95, 1), method="nearest").astype(int).tolist()
    return least, median, high, most


def _spread(lengths: tuple[int, int, int, int]) -> str:
    return f"{lengths[1]:>9,}   median; from {lengths[0]:,} to {lengths[3]:,}, 95 % at most {lengths[2]:,}"


def _more(problems: list[str]) -> list[str]:
    return [f"  ... and {len(problems) - 10:,} more"] if len(problems) > 10 else []
