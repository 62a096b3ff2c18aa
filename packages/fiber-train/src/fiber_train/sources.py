"""The settings of several data sets to learn from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fiber_backbone.ranges import Ranged, ranged

_NAME = re.compile(r"[\w.-]+")


@dataclass
class SourceConfig(Ranged):
    """One data set of several."""

    name: str = ""
    """What logs and messages call it; held-out data need none."""
    root: str = "."
    """Its folder, below `data.root` unless it is absolute."""
    split: str | None = None
    """Without one `data.train_split`, of held-out data `data.eval_split`."""
    format: str | None = None
    """As `data.format`: what reads it in place of the task's own reader."""
    format_options: dict[str, Any] = field(default_factory=dict)
    epochs: float | None = ranged(None, above=0, most=1000)
    """Passes over its samples in an epoch of all sources, such as 0.5 or 2; without it and without weights 1."""
    weight: float | None = ranged(None, above=0, most=1_000_000)
    """Its part of an epoch in proportion to the weights of the others; an epoch is then as long as all sources."""


def check_sources(sources: Sequence[SourceConfig], held_out: SourceConfig | None) -> None:
    """Refuses sources whose settings contradict each other.

    Raises:
        ValueError: The message names the setting.
    """
    for place, source in enumerate(sources):
        key = f"data.sources[{place}]"
        if not _NAME.fullmatch(source.name):
            raise ValueError(f"{key}.name must be of letters, digits, `_`, `-` and `.`, is {source.name!r:.80}")
        _check_format(key, source)
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"data.sources: {twice[0]!r} is the name of two sources; give each a name of its own")
    num_weighted = sum(source.weight is not None for source in sources)
    if num_weighted and (num_weighted < len(sources) or any(source.epochs is not None for source in sources)):
        raise ValueError("data.sources: give each source a weight and none epochs, or none a weight")
    if held_out is not None:
        _check_format("data.held_out", held_out)
        if held_out.weight is not None or held_out.epochs is not None:
            raise ValueError("data.held_out: weight and epochs are of sources to learn from; leave them out")


def _check_format(key: str, source: SourceConfig) -> None:
    if source.format_options and source.format is None:
        raise ValueError(f"{key}.format_options are those of {key}.format, which is not set")
