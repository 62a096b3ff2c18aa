"""Training on several data sets at once: the sources of `data.sources`, and how much of each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fiber_data import Blocks, Mixture, MixtureDataset, share_out
from fiber_data.formats import Fault, faults_of
from torch.utils.data import Dataset

from fiber_train.sources import SourceConfig
from fiber_train.tasks.base import Task


class SourceSamples(Sequence[Any]):
    """The samples of several sources, one behind the other.

    Args:
        parts: Of each source by its name, whatever the task reads; only lists and the like can be counted and indexed.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = dict(parts)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What was wrong with the files of all sources."""
        return tuple(chain.from_iterable(map(faults_of, self.parts.values())))

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __getitem__(self, index: Any) -> Any:
        """The sample at `index`, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        parts = list(self.parts.values())
        ends = list(accumulate(map(len, parts)))
        place = index + ends[-1] if index < 0 else index
        if not 0 <= place < ends[-1]:
            raise IndexError(f"sample {index} of {ends[-1]}")
        source = bisect_right(ends, place)
        return parts[source][place - ends[source] + len(parts[source])]


def read_training(task: Task[Any]) -> Any:
    """The samples to learn from: of one data set as its `Task.samples`, of `data.sources` a `SourceSamples`."""
    data = task.config.data
    if not data.sources:
        return task.samples(data.train_split, training=True)
    if task.given is not None:
        return SourceSamples({source.name: task.samples(source.name, training=True) for source in data.sources})
    parts = {}
    for source in data.sources:
        own = at(task, source)
        parts[source.name] = own.samples(own.config.data.train_split, training=True)
    return SourceSamples(parts)


def read_held_out(task: Task[Any]) -> Any:
    """The samples to measure on: those of `data.held_out`, if it is set and none are given."""
    data = task.config.data
    if data.held_out is None or task.given is not None:
        return task.samples(data.eval_split)
    return at(task, data.held_out).samples(data.held_out.split or data.eval_split)


def at(task: Task[Any], source: SourceConfig) -> Task[Any]:
    """The same task on one data set."""
    made, data = copy(task), task.config.data
    own = replace(
        data,
        root=_below(data.root, source.root),
        format=source.format,
        format_options=source.format_options,
        train_split=source.split or data.train_split,
        sources=[],
        held_out=None,
    )
    made.config = replace(task.config, data=own)
    return made


def _below(root: str, name: str) -> str:
    """A folder in the root, unless it is a URL or absolute; the root may be a URL too."""
    if "://" in name:
        return name
    return f"{root.rstrip('/')}/{name}" if "://" in root else str(Path(root) / name)


def check_training(task: Task[Any], samples: Any) -> None:
    """`Task.check_training` of each source.

    Raises:
        ValueError: As there; the message names the source.
    """
    if not isinstance(samples, SourceSamples):
        task.check_training(samples)
        return
    for source in task.config.data.sources:
        try:
            at(task, source).check_training(samples.parts[source.name])
        except ValueError as error:
            raise ValueError(f"data.sources: {source.name}: {error}") from error


def texts(task: Task[Any], samples: Any) -> Iterator[str]:
    """The texts of all sources."""
    parts = samples.parts.values() if isinstance(samples, SourceSamples) else [samples]
    return chain.from_iterable(map(task.texts, parts))


def make_training_set(task: Task[Any], samples: Any, processor: Any, model: Any) -> tuple[Dataset, dict[str, Any]]:
    """The data set of training samples, and the options of its `fiber_data.EpochSampler`.

    Raises:
        ValueError: A source would give nothing to an epoch.
    """
    transform = task.make_transform(processor, True)
    if not isinstance(samples, SourceSamples):
        dataset = task.make_dataset(samples, transform, True, model)
        return dataset, _options(task, samples, dataset)
    parts = [task.make_dataset(part, transform, True, model) for part in samples.parts.values()]
    joined = MixtureDataset(parts)
    counts = count_samples(task.config.data.sources, joined.lengths)
    options = [_options(task, part, own) for part, own in zip(samples.parts.values(), parts, strict=True)]
    orders = [own.pop("order", None) or length for own, length in zip(options, joined.lengths, strict=True)]
    return joined, {**_join(options), "order": Mixture(orders, counts)}


def _options(task: Task[Any], samples: Any, dataset: Any) -> dict[str, Any]:
    """The options of a data set's sampler: shards behind URLs are read a few at a time."""
    options = dict(task.sampling_groups(dataset))
    if not getattr(samples, "is_remote", False):
        return options
    ends = np.cumsum(samples.blocks)
    if len(dataset) != len(samples):  # an item for each caption of an image
        ends = np.searchsorted(np.asarray(dataset.image_ids), ends)
    return {"order": Blocks(np.diff(ends, prepend=0)), **options}


def describe_epoch(task: Task[Any], sampling: Mapping[str, Any]) -> str:
    """What an epoch draws of each source; empty for one data set."""
    order = sampling.get("order")
    if not isinstance(order, Mixture):
        return ""
    parts = zip(task.config.data.sources, order.counts, order.lengths, strict=True)
    return "an epoch: " + ", ".join(
        f"{count:,} of {length:,} samples of {source.name}" for source, count, length in parts
    )


def count_samples(sources: Sequence[SourceConfig], lengths: Sequence[int]) -> list[int]:
    """How many samples an epoch draws from each source.

    Args:
        sources: With `epochs`, or all of them with `weight`: an epoch is then as long as all sources together.
        lengths: Samples of each.

    Raises:
        ValueError: Of a source it is none.
    """
    weights = [source.weight for source in sources if source.weight is not None]
    try:
        if weights:
            return share_out(sum(lengths), weights)
        counts = [
            round(length * (1 if source.epochs is None else source.epochs))
            for source, length in zip(sources, lengths, strict=True)
        ]
    except ValueError as error:
        raise ValueError(f"data.sources: {error}") from error
    if 0 in counts:
        bare = counts.index(0)
        raise ValueError(
            f"data.sources: {sources[bare].name}: {sources[bare].epochs} epochs of {lengths[bare]} samples are none; "
            "raise epochs"
        )
    return counts


def _join(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Groups of several data sets as those of all: groups kept apart are those of one data set each."""
    joined: dict[str, Any] = {}
    for name in groups[0]:
        parts = [torch.as_tensor(own[name]) for own in groups]
        if name == "unique_groups":
            sizes = [int(part.max()) + 1 for part in parts]
            parts = [part + first for part, first in zip(parts, accumulate(sizes, initial=0), strict=False)]
        joined[name] = torch.cat(parts)
    return joined
