"""Base classes of metrics that count each sample once, over any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from fiber_eval.files import Id, check_ids, shown, some

if TYPE_CHECKING:  # absent from builds of PyTorch without distribution
    from torch.distributed import ProcessGroup

UNSEEN = -1


class MetricOptions(TypedDict, total=False):
    """Options of `torchmetrics.Metric`, which every metric here takes."""

    compute_on_cpu: bool
    dist_sync_on_step: bool
    process_group: ProcessGroup | None
    dist_sync_fn: Callable[..., list[Tensor]] | None
    distributed_available_fn: Callable[[], bool] | None
    sync_on_compute: bool
    compute_with_cache: bool


class AnnotatedMetric(Metric):
    """A metric whose `compute` needs all samples, but whose `forward` (calling it) scores the batch by itself."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    _batch_only = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch, as `update` does, and return the result of that batch alone."""
        self._batch_only = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._batch_only = False


class RecordMetric(AnnotatedMetric):
    """A metric that keeps predictions as bytes, which gather as one tensor, whatever they hold."""

    records: list[Tensor]

    def __init__(self, **kwargs: Unpack[MetricOptions]) -> None:
        super().__init__(**kwargs)
        self.add_state("records", default=[], dist_reduce_fx=None)

    def keep(self, record: bytes) -> None:
        """Add to what this process keeps; records follow each other without a gap."""
        if record:
            self.records.append(torch.frombuffer(bytearray(record), dtype=torch.uint8).to(self.device))

    def kept(self) -> list[bytes]:
        """The records of each process while they are synchronized, the lowest rank's first; else only its own."""
        parts = self.records if self._is_synced else [self._whole()]
        return [part.cpu().numpy().tobytes() for part in parts]

    def _sync_dist(
        self, dist_sync_fn: Callable = gather_all_tensors, process_group: ProcessGroup | None = None
    ) -> None:
        # torchmetrics gathers a list element by element, which hangs where processes hold different numbers of them.
        self.records = [self._whole()]
        super()._sync_dist(dist_sync_fn, process_group)

    def _whole(self) -> Tensor:
        return torch.cat([torch.empty(0, dtype=torch.uint8, device=self.device), *self.records])


class PerSampleMetric(AnnotatedMetric):
    """A metric that keeps one whole number, the outcome, for each sample of an annotated data set.

    The state has an entry for every annotated sample, so batches, order and the number of processes are free: a process
    may hold any number of samples, none included. A sample seen again counts once (the first is kept; over processes,
    that of the lowest rank), which undoes the padding of a distributed sampler. Within a process, an id that comes
    again with another outcome is an error: ids that are indices in the batch, or a `reset` forgotten.

    `compute` needs every annotated sample.

    Args:
        ids: The id of each annotated sample, all different.
        noun: What a sample is called in errors.
        **kwargs: Options of `torchmetrics.Metric`, `process_group` for one.

    Raises:
        ValueError: No annotation, two of one id, or an id that is null.
    """

    outcomes: Tensor

    def __init__(self, ids: Sequence[Id], noun: str, **kwargs: Unpack[MetricOptions]) -> None:
        super().__init__(**kwargs)
        self.noun = noun
        check_ids(ids, noun)
        self.rows = {sample: row for row, sample in enumerate(ids)}
        if not ids:
            raise ValueError(f"there is nothing to score: the annotations hold no {noun}")
        if len(self.rows) < len(ids):
            repeated = next(sample for row, sample in enumerate(ids) if self.rows[sample] != row)
            raise ValueError(f"{noun} {shown(repeated)} is annotated twice; give each {noun} one annotation")
        empty = torch.full((len(ids),), UNSEEN, dtype=torch.int32)
        self.add_state("outcomes", default=empty, dist_reduce_fx=_first_seen)

    def known(self, ids: Tensor | Sequence[Id], **values: Sized) -> list[Id]:
        """`ids` as a list, after checking that all are annotated and that there are as many of each of `values`."""
        listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        for name, value in values.items():
            if len(value) != len(listed):
                raise ValueError(f"{name} must be one for each of the {len(listed)} ids, but {len(value)} came")
        if unknown := [sample for sample in listed if sample not in self.rows]:
            raise ValueError(
                f"{some(unknown)}: no {self.noun} of the {len(self.rows)} annotated ones has such an id; "
                "give ids and annotations of the same data set"
            )
        return listed

    def record(self, ids: Sequence[Id], outcomes: Sequence[int]) -> None:
        """Keep the outcome (0 or more) of each sample that did not come before; all is checked before one is kept."""
        rows = [self.rows[sample] for sample in ids]
        kept = dict(zip(rows, self.outcomes[rows].tolist(), strict=True)) if rows else {}
        for sample, row, outcome in zip(ids, rows, outcomes, strict=True):
            if kept[row] not in (UNSEEN, outcome):
                raise ValueError(
                    f"{self.noun} {shown(sample)} came twice with different predictions; give each {self.noun} the "
                    "id of its annotation, and reset the metric between evaluations"
                )
            kept[row] = outcome
        if kept:
            self.outcomes[list(kept)] = torch.tensor(list(kept.values()), dtype=torch.int32, device=self.device)

    def seen(self) -> dict[Id, int]:
        """The outcome of every annotated sample, in the order of the annotations.

        Raises:
            ValueError: A sample never came.
        """
        outcomes = dict(zip(self.rows, self.outcomes.tolist(), strict=True))
        absent = [sample for sample, outcome in outcomes.items() if outcome == UNSEEN]
        if absent and not self._batch_only:
            raise ValueError(
                f"{len(absent)} of {len(outcomes)} {self.noun}s have no prediction: {some(absent)}; predict each one, "
                "or leave its annotation out"
            )
        for sample in absent:
            del outcomes[sample]
        return outcomes

    def seen_everywhere(self) -> dict[Id, int]:
        """`seen`, over all processes; every process must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self.seen()


def as_tensors(numbers: Mapping[str, float]) -> dict[str, Tensor]:
    """Numbers as every metric and function gives them: scalars in float64 on the CPU."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}


def as_numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a metric, groups included, as the numbers of Python, which JSON takes."""
    return {
        name: as_numbers(value) if isinstance(value, Mapping) else value.item() if isinstance(value, Tensor) else value
        for name, value in result.items()
    }


def _first_seen(outcomes: Tensor) -> Tensor:
    """[N] from [processes, N]: for each sample, the first outcome that is there."""
    first = (outcomes != UNSEEN).int().argmax(0, keepdim=True)
    return outcomes.gather(0, first)[0]
