"""Numbers of a run as it goes: a progress bar, a CSV file, TensorBoard, and loggers of the user's."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fiber_train.writing import explained, sync, write_file

CSV_FILE = "metrics.csv"
WAITING = "time/waiting_for_data"
"""The share of the steps' time, 0 to 1, in which the first process waited for data."""


class Tracker:
    """Writes named numbers; does nothing on processes other than the first.

    The CSV has one row for each number (step, name, value), so that it holds whatever a run measures; a resumed run
    first drops the rows of steps that it will do again.

    Args:
        folder: The run's folder.
        first_step: Steps already done.
        max_steps: Steps in all, for the progress bar.
        owed: Whether the evaluation after these steps is still to be made; what there is of it is dropped.
        active: Whether this process writes.
        tensorboard: Whether to write TensorBoard's files too.
        also: Called with the same numbers and their step, such as `Fabric.log_dict`.

    Attributes:
        cut_off: Whether those who read what is printed have gone.

    Raises:
        WriteError: Its files cannot be written; from all methods.
    """

    def __init__(
        self,
        folder: str | Path,
        first_step: int,
        max_steps: int,
        active: bool = True,
        owed: bool = False,
        tensorboard: bool = True,
        also: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> None:
        self.path, self.active, self.cut_off = Path(folder) / CSV_FILE, active, False
        self._max_steps, self._also = max_steps, also
        self._writer: SummaryWriter | None = None
        self._bar: tqdm | None = None
        if not active:
            return
        write_file(self.path, _text([("step", "name", "value"), *_rows_until(Path(folder), first_step, owed)]))
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
        with explained(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_text([(step, name, value) for name, value in values.items()]))
        if self._writer is not None:
            with explained(Path(self._writer.log_dir)):
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)
                self._writer.flush()
        if self._also is not None:
            self._also(values, step)
        losses = [name for name in values if "loss" in name and "_loss/" not in name]  # of sources only the whole
        shown = {name.removeprefix("train/"): f"{values[name]:.3f}" for name in losses}
        if (count := values.get("train/unreadable")) is not None:
            shown["unreadable"] = f"{count:.0f}"
        if WAITING in values:
            shown["waiting for data"] = f"{values[WAITING]:.0%}"
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix(shown)
        elif shown:  # no terminal: a line in the log instead of a bar
            text = "   ".join(f"{name} {value}" for name, value in shown.items())
            line = f"step {step:>{len(str(self._max_steps))}} of {self._max_steps}   {text}\n"
            self._print(lambda: sys.stderr.write(line))

    def sync(self) -> None:
        """Waits until the rows so far are on the disk, as a checkpoint of the same step will be."""
        if self.active:
            sync(self.path)

    def say(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self.active:
            self._print(lambda: tqdm.write(text))

    def _print(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BrokenPipeError:
            self.cut_off = True

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
    return [(int(step), name, float(value)) for step, name, value in _rows(Path(folder))]


def _rows(folder: Path) -> list[tuple[str, str, str]]:
    path = folder / CSV_FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(line for line in file if line.endswith("\n")) if len(row) == 3]
    return [(step, name, value) for step, name, value in rows if step.isdigit() and value]


def _rows_until(folder: Path, last: int, owed: bool) -> list[tuple[str, str, str]]:
    rows = [row for row in _rows(folder) if int(row[0]) <= last]
    return [row for row in rows if not (owed and int(row[0]) == last and row[1].startswith("eval/"))]


def _text(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
