"""Numbers of a run as it goes: a progress bar, a CSV file, TensorBoard, and loggers of the user's."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

CSV_FILE = "metrics.csv"


class Tracker:
    """Writes named numbers; does nothing on processes other than the first.

    The CSV has one row for each number (step, name, value), so that it holds whatever a run measures; a resumed run
    first drops the rows of steps that it will do again.

    Args:
        folder: The run's folder.
        first_step: Steps already done.
        max_steps: Steps in all, for the progress bar.
        active: Whether this process writes.
        tensorboard: Whether to write TensorBoard's files too.
        also: Called with the same numbers and their step, such as `Fabric.log_dict`.
    """

    def __init__(
        self,
        folder: str | Path,
        first_step: int,
        max_steps: int,
        active: bool = True,
        tensorboard: bool = True,
        also: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> None:
        self.path, self.active = Path(folder) / CSV_FILE, active
        self._max_steps, self._also = max_steps, also
        self._writer: SummaryWriter | None = None
        self._bar: tqdm | None = None
        if not active:
            return
        rows = [row for row in read_metrics(folder) if row[0] <= first_step]
        temporary = self.path.with_suffix(".partial")
        _append(temporary, [("step", "name", "value"), *rows], "w")
        temporary.replace(self.path)
        if tensorboard:
            self._writer = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=first_step + 1)
        self._bar = tqdm(initial=first_step, total=max_steps, desc="training", unit="step", disable=None)

    def advance(self) -> None:
        """Notes that one more step is done."""
        if self._bar is not None:
            self._bar.update()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers of one step."""
        if not self.active:
            return
        _append(self.path, [(step, name, value) for name, value in values.items()], "a")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        if self._also is not None:
            self._also(values, step)
        shown = {name.removeprefix("train/"): f"{value:.3f}" for name, value in values.items() if "loss" in name}
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix(shown)
        elif shown:  # no terminal: a line in the log instead of a bar
            text = "   ".join(f"{name} {value}" for name, value in shown.items())
            sys.stderr.write(f"step {step:>{len(str(self._max_steps))}} of {self._max_steps}   {text}\n")

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self.active:
            tqdm.write(text)

    def close(self) -> None:
        """Ends bar and files."""
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()


@contextmanager
def tracking(tracker: Tracker) -> Iterator[Tracker]:
    """Closes the tracker however the block ends."""
    try:
        yield tracker
    finally:
        tracker.close()


def read_metrics(folder: str | Path) -> list[tuple[int, str, float]]:
    """All (step, name, value) of a run, empty if it has none yet; a last line cut off by a crash is left out."""
    path = Path(folder) / CSV_FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdigit()]
    return [(int(step), name, float(value)) for step, name, value in rows if value]


def _append(path: Path, rows: list[tuple], mode: str) -> None:
    with path.open(mode, newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
