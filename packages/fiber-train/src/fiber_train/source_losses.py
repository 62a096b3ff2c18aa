"""The loss of each of several data sets to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor


class SourceLosses:
    """The mean loss of each source since the last time that they were logged, over all processes.

    Of each loss (`itc_loss/NAME`) it is the sum over the source's samples by the number of what is averaged (decisions,
    tokens, anchors with a box), as the loss of a batch is; `loss/NAME` is the sum of all. Sums stay on the device until
    they are logged. Of objectives that do not tell the losses of samples there are none.

    Args:
        names: Of the sources; none for a run of one data set, of which nothing is counted.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        self._own: dict[str, Tensor] = {}  # (2, sources): sums and counts by loss, of this process
        self._settled: dict[str, Tensor] = {}  # of all processes

    def note(self, batch: Mapping[str, Any], sample_losses: Mapping[str, Tensor]) -> None:
        """Adds the samples of a batch.

        Args:
            batch: With ``source``, int64 (B,).
            sample_losses: As `fiber_heads.TaskOutput` has them.
        """
        if not self.names or "source" not in batch:
            return
        for name, values in sample_losses.items():
            own = self._own.setdefault(name, values.new_zeros(2, len(self.names), dtype=torch.float64))
            own.index_add_(1, batch["source"], values.double())

    def settle(self, fabric: Fabric) -> None:
        """Adds what all processes noted since the last time; every process has noted the same losses."""
        for name, own in self._own.items():
            total = torch.as_tensor(fabric.all_reduce(own, reduce_op="sum"))
            self._settled[name] = self._settled[name] + total if name in self._settled else total.clone()
        self._own = {}

    def take(self, fabric: Fabric) -> dict[str, float]:
        """The means, which are then counted anew; what a source had nothing to average for is left out."""
        self.settle(fabric)
        if not self._settled:
            return {}
        found: dict[str, float] = {}
        sums, counts = torch.stack(list(self._settled.values())).unbind(dim=1)
        columns = zip(self.names, sums.T.tolist(), counts.T.tolist(), strict=True)
        for source, own_sums, own_counts in columns:
            parts = zip(self._settled, own_sums, own_counts, strict=True)
            means = {f"{name}_loss/{source}": total / count for name, total, count in parts if count > 0}
            if len(means) == len(self._settled):
                found[f"loss/{source}"] = sum(means.values())
            found |= means
        self._settled = {}
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """What is settled, for a checkpoint."""
        return self._settled

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Goes on from `state_dict`."""
        self._settled = {name: value.to(device) for name, value in state.items()}
