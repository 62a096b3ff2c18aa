"""What every task model shares: inputs, its folder, its groups of parameters, and weights from elsewhere."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from fiber_backbone import FiberBackbone, KeyMap, LoadReport, PretrainedModel, convert, read_original_state_dict
from torch import Tensor

from fiber_heads.checkpoints import BACKBONE, join_key_maps, original_parts_map


class Processor(Protocol):
    """Images and texts to tensors, as `fiber_data`'s and transformers' processors do."""

    def __call__(self, images: Any = None, text: Any = None) -> Mapping[str, Tensor]:
        """`pixel_values` (B, 3, H, W) of images, `input_ids` and `attention_mask` (T, L) of texts.

        Where images keep their shapes, also `image_sizes` and `original_sizes` (B, 2), heights and widths before they
        were padded and as they came.
        """


@runtime_checkable
class PromptProcessor(Processor, Protocol):
    """A processor that also writes prompts to ask for boxes by, as `fiber_data.GroundingProcessor`."""

    def category_prompts(self, categories: Sequence[str], chunk_size: int | None = None) -> Mapping[str, Any]:
        """N prompts that name all categories.

        `input_ids` and `attention_mask` (N, L), and for each prompt `phrase_maps` (P, L) bool, the tokens of each of
        its categories, and `phrase_labels` (P,) int64, their indices.
        """

    def phrase_prompts(
        self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]] | None] | None = None
    ) -> Mapping[str, Any]:
        """The same of sentences and the phrases at `spans` of their characters, by default their noun phrases.

        Beside them `phrase_texts`, for each sentence the phrases.
        """


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
    """A backbone with the heads of a task. A subclass adds its heads, `forward(batch) -> TaskOutput` and its methods.

    Args:
        backbone: Both streams.
        config: Settings of the heads, of `config_class`; its defaults if None.

    Attributes:
        config_class: A dataclass, or None for a model that has nothing to set.
        processor: What prepares images and texts that come as they are; set it to use methods such as `answer`:
            `model.processor = fiber_data.load_processor(folder)`. Saved beside the model if it can save itself.
    """

    config_class: ClassVar[type[Any] | None] = None
    processor: Processor | None = None

    def __init__(self, backbone: FiberBackbone, config: Any = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = self.config_class() if config is None and self.config_class is not None else config

    def to_config(self) -> dict[str, Any]:
        """The backbone's description, and the settings of the heads."""
        head = {} if self.config is None else {"head": asdict(self.config)}
        return {"backbone": self.backbone.to_config(), **head}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, trusted: Collection[str] | None = None) -> Self:
        """A fresh model from `to_config`'s dictionary.

        Args:
            config: The description.
            trusted: As of `FiberBackbone.from_config`.
        """
        backbone = FiberBackbone.from_config(config["backbone"], trusted=trusted)
        return cls(backbone) if cls.config_class is None else cls(backbone, cls.config_class(**config["head"]))

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if (save := getattr(self.processor, "save_pretrained", None)) is not None:
            save(save_directory)

    def prepare(self, images: Any = None, text: str | Sequence[str] | None = None) -> dict[str, Tensor]:
        """What `processor` makes of images and texts, on the model's device.

        Args:
            images: One image or several, as the processor takes them: paths, PIL images, arrays.
            text: One text or several.

        Returns:
            `pixel_values` (B, 3, H, W) for images, `input_ids` and `attention_mask` (T, L) for texts.

        Raises:
            ValueError: The model has no processor, or a text is empty.
        """
        if self.processor is None:
            raise ValueError(
                "this model has no processor to prepare images and texts with; set model.processor, for instance to "
                "fiber_data.FiberProcessor.from_pretrained(folder), or give tensors to forward"
            )
        texts = [] if text is None else [text] if isinstance(text, str) else list(text)
        if empty := [index for index, one in enumerate(texts) if not one.strip()]:
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
        """Parameters that bring the streams together: they learn faster than the backbones (the original: times 5)."""
        return _below_backbone(self.backbone.cross_modal_parameter_names())

    def language_parameter_names(self) -> set[str]:
        """Parameters of the text stream, which the original's fine stage teaches at a rate of its own."""
        return _below_backbone(self.backbone.language_parameter_names())

    def head_parameter_names(self) -> set[str]:
        """Parameters of the heads that start from nothing."""
        return {name for name, _ in self.named_parameters() if not name.startswith(BACKBONE)}

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone: vectors and scalars (biases, norms, gates), and bias tables."""
        heads = ((name, value) for name, value in self.named_parameters() if not name.startswith(BACKBONE))
        own = {name for name, value in heads if value.ndim < 2 or is_bias(name)}
        return _below_backbone(self.backbone.no_weight_decay()) | own

    def decayed_by_original(self, name: str) -> bool:
        """Whether the original decays a parameter of `no_weight_decay` all the same, by oversight."""
        image_query_norm = ".image_stream.cross_attention." in name and name.endswith(".norm.weight")
        return name.endswith((".gate", ".temperature")) or image_query_norm

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from `training_state`."""

    def start_from(self, other: TaskModel) -> LoadReport:
        """Takes over all weights of a model of another task that fit this one by name.

        Window biases are interpolated where the resolutions differ.

        Args:
            other: For instance the coarse stage's model.

        Returns:
            What became of each tensor; parameters that keep their own values, such as those of a new head, are `fresh`.

        Raises:
            ValueError: The backbones differ in more than resolution and switches; the message names the field.
        """
        if (name := self.backbone.config.misfit(other.backbone.config)) is not None:
            theirs, ours = (getattr(model.backbone.config, name) for model in (other, self))
            raise ValueError(
                f"the weights to start from have FiberConfig.{name} = {theirs}, this model has {ours}; build it from "
                "the same backbone configuration"
            )
        given, shapes = other.state_dict(), self._shapes()
        # A head of the same name may have another size, such as other answers: it is another head.
        pairs = [
            (name, [name])
            for name, shape in shapes.items()
            if name in given and (name.startswith(BACKBONE) or given[name].shape == shape)
        ]

        def resize(name: str, value: Tensor, shape: torch.Size) -> Tensor:
            return self.backbone.adapt(name.removeprefix(BACKBONE), value, shape)

        key_map = KeyMap(pairs, optional=("",), left=re.compile(""), resize=resize)
        values, report = convert(given, key_map, shapes, "the state dict of the model to start from")
        self._take(values)
        return report

    def original_head_map(self) -> KeyMap:
        """Which tensors of an original checkpoint make up the heads.

        By default those heads that are the original's, by our names of them. A model with another head gives its own.
        """
        return original_parts_map(name for name in self._shapes() if not name.startswith(BACKBONE))

    def load_original_checkpoint(self, source: str | Path | Mapping[str, Tensor], partial: bool = False) -> LoadReport:
        """Loads a checkpoint of the original's model of this task, or, if `partial`, what another task's has in common.

        Args:
            source: A file, or the state dict already read by `fiber_backbone.read_original_state_dict`.
            partial: Whether heads that the checkpoint lacks may keep their own values.

        Returns:
            What became of each tensor. What else was noticed is in `notes`, and warned of.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the checkpoint does not fit the model; the message names the keys.
        """
        tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
        origin = "the state dict" if isinstance(source, Mapping) else str(source)
        optional = self.original_may_lack(tensors) if partial else ()
        key_map = join_key_maps(self.backbone.original_map(), self.original_head_map(), optional)
        values, report = convert(tensors, key_map, self._shapes(), f"{origin} (for {type(self).__name__})")
        self._take(values)
        self.finish_original_checkpoint(tensors, report)
        for note in report.notes:
            warnings.warn(f"{origin}: {note}", stacklevel=2)
        return report

    def original_may_lack(self, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Beginnings of names of the parameters that a `partial` checkpoint need not have: those of all heads."""
        return tuple(name for name in self._shapes() if not name.startswith(BACKBONE))

    def finish_original_checkpoint(self, tensors: Mapping[str, Tensor], report: LoadReport) -> None:
        """Called when an original checkpoint is in the model: sets what goes with it, adds to `report.notes`."""

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in self.named_parameters()}

    def _take(self, values: Mapping[str, Tensor]) -> None:
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)


def check_batch(batch: Mapping[str, Any], needed: Sequence[str]) -> None:
    """KeyError that names what a batch lacks."""
    if missing := [key for key in needed if key not in batch]:
        raise KeyError(f"the batch lacks {', '.join(missing)}; it has {', '.join(batch)}")


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, a table of biases, or an offset of scores, by the last part of its name."""
    return "bias" in name.rpartition(".")[2]


def _below_backbone(names: set[str]) -> set[str]:
    return {f"{BACKBONE}{name}" for name in names}
