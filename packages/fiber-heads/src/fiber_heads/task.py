"""What every task model shares: its inputs, its groups of parameters, and weights from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from fiber_backbone import FiberBackbone, PretrainedModel, resize_relative_position_bias
from torch import Tensor

from fiber_heads.checkpoints import TaskLoadReport, load_original_task


class Processor(Protocol):
    """Pictures and texts to tensors, as `fiber_data.FiberProcessor` and transformers' processors do."""

    def __call__(self, images: Any = None, text: Any = None) -> Mapping[str, Tensor]:
        """`pixel_values` (B, 3, H, W) of pictures, `input_ids` and `attention_mask` (T, L) of texts."""


@dataclass
class TaskOutput:
    """One step or one look of a task model.

    Attributes:
        loss: Scalar; 0 where the batch holds nothing to learn from.
        losses: Scalar of each objective.
        metrics: Scalars worth a curve, on the device.
        logits: Of the task's head.
    """

    loss: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None


class TaskModel(PretrainedModel):
    """A backbone with the heads of a task.

    Attributes:
        backbone: The two streams.
        processor: What prepares pictures and texts that come as they are; set it to use methods such as `answer`:
            `model.processor = FiberProcessor.from_pretrained(folder)`. Saved beside the model if it can save itself.
    """

    backbone: FiberBackbone
    processor: Processor | None = None

    def prepare(self, images: Any = None, text: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """What `processor` makes of pictures and texts, on the model's device.

        Args:
            images: One picture or several, as the processor takes them: paths, PIL images, arrays.
            text: One text or several.

        Returns:
            `pixel_values` (B, 3, H, W) for pictures, `input_ids` and `attention_mask` (T, L) for texts.

        Raises:
            ValueError: The model has no processor, or a text is empty.
        """
        if self.processor is None:
            raise ValueError(
                "this model has no processor to prepare pictures and texts with; set model.processor, for instance to "
                "fiber_data.FiberProcessor.from_pretrained(folder), or give tensors to forward"
            )
        texts = [] if text is None else [text] if isinstance(text, str) else list(text)
        if empty := [place for place, one in enumerate(texts) if not one.strip()]:
            raise ValueError(f"text {empty[0]} of {len(texts)} is empty; every text needs at least one word")
        parts: dict[str, Tensor] = {}
        if images is not None:
            parts |= self.processor(images=images)
        if texts:
            parts |= self.processor(text=texts)
        return {name: value.to(self.device) for name, value in parts.items()}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def set_gradient_checkpointing(self, enable: bool = True) -> None:
        """Recompute in the backward pass instead of keeping activations: slower training in less memory."""
        self.backbone.set_gradient_checkpointing(enable)

    def cross_modal_parameter_names(self) -> set[str]:
        """Parameters that bring the streams together: they learn faster than the backbones (spec: times 5)."""
        names = {f"backbone.{name}" for name in self.backbone.cross_modal_parameter_names()}
        own = {name for name, _ in self.named_parameters() if name.startswith("contrastive_head.")}
        return names | own - {"contrastive_head.temperature"}

    def head_parameter_names(self) -> set[str]:
        """Parameters of the heads that start from nothing."""
        return {name for name, _ in self.named_parameters() if not name.startswith(("backbone.", "contrastive_head."))}

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from `training_state`."""

    def start_from(self, other: TaskModel) -> list[str]:
        """Takes over all weights of a model of another task that fit this one by name.

        Window biases are interpolated where the resolutions differ.

        Args:
            other: For instance the coarse stage's model.

        Returns:
            Names of the parameters that keep their own values, such as those of a new head.

        Raises:
            ValueError: The backbones differ in more than resolution and switches; the message names the field.
        """
        ours, theirs = asdict(self.backbone.config), asdict(other.backbone.config)
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "embed_dim", "depths", "num_fusion_blocks"):
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"the weights to start from have FiberConfig.{name} = {theirs[name]}, this model has {ours[name]}; "
                    "build it from the same backbone configuration"
                )
        given, window = other.state_dict(), self.backbone.config.window_size
        fresh = []
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                value = given.get(name)
                if value is not None and name.endswith("relative_position_bias_table"):
                    value = resize_relative_position_bias(value, window)
                if value is None or value.shape != parameter.shape:
                    fresh.append(name)
                else:
                    parameter.copy_(value)
        return fresh

    def load_original_checkpoint(
        self, source: str | Path | Mapping[str, Tensor], partial: bool = False
    ) -> TaskLoadReport:
        """Loads a checkpoint of the original's model of this task, or, if `partial`, what another task's has in common.

        Args:
            source: A file, or the state dict already read by `fiber_backbone.read_original_state_dict`.
            partial: Whether heads that the checkpoint lacks may keep their own values.

        Returns:
            Which keys were used, which were left, and whether the stored ranking vector disagrees with the matcher.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the checkpoint does not fit the model; the message names the keys.
        """
        return load_original_task(self, source, partial)

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if (save := getattr(self.processor, "save_pretrained", None)) is not None:
            save(save_directory)


def check_batch(batch: Mapping[str, Any], needed: Sequence[str]) -> None:
    """KeyError that names what a batch lacks."""
    if missing := [key for key in needed if key not in batch]:
        raise KeyError(f"the batch lacks {', '.join(missing)}; it has {', '.join(batch)}")
