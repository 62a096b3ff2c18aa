"""What a run tells: the hooks that objects given to `train(..., callbacks=[...])` may have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiber_heads import TaskModel
from torch import Tensor

from fiber_train.evaluation import Evaluation

if TYPE_CHECKING:
    from fiber_train.loop import Loop


class Callback:
    """Hooks of a run, all empty; a callback overrides those that it wants.

    Any object will do, also without this base: Fabric calls the methods that it has, by keyword. A hook names the
    arguments that it wants, and takes the others as `**_`. All processes call, unless a hook says otherwise. Before
    every step torch's generator gets the step's own seed, so that a hook that draws random numbers changes nothing.
    """

    def on_train_start(self, *, loop: Loop, model: TaskModel) -> None:
        """Everything is built, and `loop.step` steps are done: 0, or those of the checkpoint to go on from.

        Args:
            loop: Optimizer, scheduler and position; `loop.config.max_steps` is known.
            model: The task model, not wrapped by Fabric.
        """

    def on_step_end(self, *, loop: Loop, step: int, values: Mapping[str, Tensor], ids: list[Any]) -> None:
        """An optimizer step is done.

        Args:
            loop: The run's state.
            step: Optimizer steps done, this one included.
            values: Means of its losses and metrics over this process's part, scalars on the device: to read one waits.
            ids: Of its samples.
        """

    def on_evaluation_end(self, *, step: int, evaluation: Evaluation) -> None:
        """The model was measured on the held-out samples; every process has the same numbers."""

    def on_checkpoint(self, *, step: int, folder: Path) -> None:
        """A checkpoint is whole in `folder`; only the first process calls."""

    def on_train_end(self, *, step: int, evaluation: Evaluation | None) -> None:
        """The run is done, or was asked to stop and goes on later, when `evaluation` is None."""
