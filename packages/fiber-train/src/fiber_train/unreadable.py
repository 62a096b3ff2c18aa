"""Samples that cannot be read: in training others come in their place, and too many of them end the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from fiber_heads.distributed import gather_by_id
from lightning_fabric import Fabric

from fiber_train.stopping import say

JUDGED_AFTER = 100  # samples tried
_MOST_NAMES = 5  # in a message
_MEND = "mend these files or leave them out, and the same command goes on; or raise data.max_unreadable"


class UnreadableError(ValueError):
    """Too many training samples cannot be read. The message names some, with the reasons."""


@dataclass
class Unreadable:
    """What could not be read, over all processes; `settle` brings together what each of them noted.

    Attributes:
        most: The share of tried samples, 0..1, above which a run ends.
        replaced: How often another sample came instead, since the run began.
        tried: Samples tried since the run began, or was last ended for its share.
        failed: Those of them that could not be read.
        reasons: A sentence for each image, as the keys of a dict: a set that keeps its order.
    """

    most: float = 0.01
    replaced: int = 0
    tried: int = 0
    failed: int = 0
    reasons: dict[str, None] = field(default_factory=dict)
    _own: list[int] = field(default_factory=lambda: [0, 0])
    _fresh: dict[str, None] = field(default_factory=dict)

    def note(self, batch: Mapping[str, Any]) -> None:
        """Counts the samples of a batch of this process.

        Raises:
            UnreadableError: The batch is empty: nothing could be found in the place of what cannot be read.
        """
        broken = batch.get("broken", ())
        self._own[0] += len(batch["ids"]) + len(broken)
        self._own[1] += len(broken)
        self._fresh |= dict.fromkeys(broken)
        if not batch["ids"]:
            count = len(set(broken))
            raise UnreadableError(f"{count} training samples were tried in vain: {some_reasons(broken)}; {_MEND}")

    def settle(self, fabric: Fabric) -> None:
        """Adds what all processes noted since the last time; the first one says which images are new."""
        own = torch.tensor(self._own, device=fabric.device)
        tried, failed = torch.as_tensor(fabric.all_reduce(own, reduce_op="sum")).tolist()
        self.tried, self.failed, self.replaced = self.tried + tried, self.failed + failed, self.replaced + failed
        self._own = [0, 0]
        if not failed:
            return
        for reason in gather_by_id(self._fresh):
            if reason not in self.reasons and fabric.is_global_zero:
                say(f"{reason}; another sample is taken in its place")
            self.reasons[reason] = None
        self._fresh = {}

    def judge(self) -> UnreadableError | None:
        """Whether the share is too large, after enough samples; they are then counted anew, so that a run can go on.

        A single image is no reason to end a run, unless none at all is allowed.
        """
        tried, failed = self.tried, self.failed
        if tried < JUDGED_AFTER or failed <= self.most * tried or len(self.reasons) <= (self.most > 0):
            return None
        self.tried = self.failed = 0
        return UnreadableError(
            f"{failed} of {tried} training samples could not be read, more than data.max_unreadable "
            f"({self.most:.2%}) allows: {some_reasons(self.reasons)}; {_MEND}"
        )

    def state_dict(self) -> dict[str, Any]:
        """What `settle` brought together, for a checkpoint."""
        counts = {"replaced": self.replaced, "tried": self.tried, "failed": self.failed}
        return {**counts, "reasons": list(self.reasons)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.replaced, self.tried, self.failed = (state[name] for name in ("replaced", "tried", "failed"))
        self.reasons = dict.fromkeys(state["reasons"])


def some_reasons(reasons: Iterable[str]) -> str:
    """The first few reasons, and how many more there are."""
    different = list(dict.fromkeys(reasons))
    more = f"; and {len(different) - _MOST_NAMES} more" if len(different) > _MOST_NAMES else ""
    return "; ".join(different[:_MOST_NAMES]) + more
