"""What every task model shares: inputs, its folder, its groups of parameters, and weights from elsewhere."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack, cast

import torch
from fiber_backbone import (
    FiberBackbone,
    KeyMap,
    LoadReport,
    PretrainedModel,
    check_original,
    convert,
    read_original_state_dict,
)
from fiber_backbone.described import from_mapping
from torch import Tensor
from transformers.utils.generic import ModelOutput

from fiber_heads.checkpoints import BACKBONE, join_key_maps, original_parts_map
from fiber_heads.distributed import BatchMean, alone, world_size
from fiber_heads.exported import ExportPart, fused_part, tower_parts
from fiber_heads.processing import (
    HubOptions,
    Images,
    Processor,
    Texts,
    as_list,
    check_processor,
    is_prepared,
    load_processor,
)

NONE: Any = None  # the default that transformers wants of fields which are never None once an output is made


@dataclass
class TaskOutput(ModelOutput):
    """One step or one look of a task model: dictionary, tuple (`output[0]` is the loss) and attributes at once.

    Attributes:
        loss: Scalar; 0 where the batch holds nothing to learn from.
        losses: Scalar of each objective.
        metrics: Scalars worth a curve, on the device.
        logits: Of the task's head.
    """

    loss: Tensor
    losses: dict[str, Tensor] = NONE
    metrics: dict[str, Tensor] = NONE
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("losses", "metrics"):
            if getattr(self, name) is None:
                self[name] = {}
        for each in fields(self):  # as a tuple, in the order of the fields
            if each.name in self:
                self.move_to_end(each.name)


@dataclass
class NoSettings:
    """The `config` of a model that has nothing to set: libraries such as peft read one."""


Reader = Literal["text", "image"]


class TaskModel(PretrainedModel):
    """A backbone with the heads of a task. A subclass adds its heads, `forward(*, ...) -> TaskOutput` and its methods.

    A batch is given by its keys, `model(**batch)`. `forward` names those that it reads, keyword-only and without a
    default if it cannot do without, and swallows the others by `**_`.

    Args:
        backbone: Both streams.
        config: Settings of the heads, of `config_class`; its defaults if None.

    Attributes:
        config_class: A dataclass, or None for a model that has nothing to set.
        processor: What prepares images and texts that come as they are, for methods such as `answer`. It is saved with
            the model and comes with it; set it where there is none.
        scalars: Parameters without dimensions, which have one element while the model is sharded.
        accepts_loss_kwargs: False: `loss` is a mean over the batch, which transformers' Trainer divides by the number
            of accumulated batches itself.
        explained_by: Which side's reading explains `explained_score`: the words' of the image, or the image's.
    """

    config_class: ClassVar[type[Any] | None] = None
    accepts_loss_kwargs: ClassVar[bool] = False
    explained_by: ClassVar[Reader] = "text"
    example: ClassVar[str] = ""  # an expression of `model` that shows its use, for model cards
    processor: Processor | None = None
    scalars: frozenset[str] = frozenset()
    config: Any
    _needed: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        parameters = inspect.signature(cls.forward).parameters.values()
        cls._needed = tuple(
            each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty
        )

    def __init__(self, backbone: FiberBackbone, config: object = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = (self.config_class or NoSettings)() if config is None else config

    def __call__(self, *args: Any, **batch: Any) -> Any:
        """`forward`, as of any module; in eval mode no process waits for another.

        Raises:
            KeyError: The batch lacks a key; the message names it.
        """
        if not args:
            check_batch(batch, self.needed_keys())
        if self.training or world_size() == 1:
            return super().__call__(*args, **batch)
        with alone():
            return super().__call__(*args, **batch)

    def needed_keys(self) -> tuple[str, ...]:
        """Keys that every batch must have: the arguments of `forward` without a default."""
        return self._needed

    def totals(self, **batch: Any) -> Tensor | None:
        """What losses are divided by, such as numbers of tokens, (n,); None where they are means over samples."""
        return None

    def passes(self, parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The forward passes of one training step, each of them followed by its backward pass.

        A model whose samples need each other says here how a step is taken apart, see `FiberForPretraining`.

        Args:
            parts: This process's share of the global batch, in as many batches of as many samples as every process's.

        Returns:
            For each pass a batch for `forward`, with the `mean` of `totals`. The sum of their losses, divided by the
            number of parts and averaged over processes, is the loss of the global batch.
        """
        totals = [self.totals(**part) for part in parts] if len(parts) > 1 else []
        counted = [each for each in totals if each is not None]
        mean = {"mean": BatchMean.over(counted)} if counted else {}
        return [{**part, **mean} for part in parts]

    def to_config(self) -> dict[str, Any]:
        """The backbone's description, and the settings of the heads."""
        head = {} if self.config_class is None else {"head": asdict(self.config)}
        return {"backbone": self.backbone.to_config(), **head}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, trusted: Collection[str] | None = None) -> Self:
        """A fresh model from `to_config`'s dictionary.

        Args:
            config: The description.
            trusted: As of `FiberBackbone.from_config`.
        """
        for key in ("backbone", *(["head"] if cls.config_class else [])):
            if key not in config:
                raise ValueError(f"the description of a {cls.__name__} has no {key!r}")
        backbone = FiberBackbone.from_config(config["backbone"], trusted=trusted)
        return (
            cls(backbone) if cls.config_class is None else cls(backbone, from_mapping(cls.config_class, config["head"]))
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        trusted: Collection[str] = (),
        dtype: torch.dtype | None = None,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """Loads a model that `save_pretrained` wrote, in eval mode, and the processor saved with it.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the hub.
            trusted: Import paths (`package.module:Name`) that the folder may name beside entry points.
            dtype: Of the weights; by default, as in transformers 5, the one that they were saved in.
            **hub: As of `PretrainedModel.from_pretrained`: `revision`, `token`, ...

        Raises:
            FileNotFoundError: If the folder or one of its two files does not exist.
            ValueError: If the folder holds another model, or weights that do not fit its configuration.
        """
        model = super().from_pretrained(pretrained_model_name_or_path, trusted=trusted, dtype=dtype, **hub)
        model.processor = load_processor(pretrained_model_name_or_path, trusted=trusted, hub=hub)
        try:
            model.check_parts()
        except ValueError as error:
            raise ValueError(f"{pretrained_model_name_or_path}: {error}") from error
        return model

    def check_parts(self) -> None:
        """Refuses a processor that does not fit the model; a model whose parts have to fit each other adds to it.

        Raises:
            ValueError: There is no embedding for some of its tokens, or its images are of sizes that the backbone does
                not take.
        """
        check_processor(self.processor, self.backbone.vocab_size, self.backbone.image_stream.stride)

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if (save := getattr(self.processor, "save_pretrained", None)) is not None:
            save(save_directory)

    def prepare(self, images: Images | None = None, text: Texts | None = None) -> dict[str, Tensor]:
        """What `processor` makes of images and texts, on the model's device and, if floats, of its type.

        Args:
            images: One image or several, as the processor takes them: paths, PIL images, arrays, ...; or prepared, a
                float tensor (B, 3, H, W).
            text: One text or several.

        Returns:
            `pixel_values` (B, 3, H, W) for images, `input_ids` and `attention_mask` (T, L) for texts.

        Raises:
            ValueError: The model has no processor, or a text is empty.
        """
        texts = [] if text is None else as_list(text)
        if self.processor is None and (texts or not is_prepared(images)):
            raise ValueError(
                "this model has no processor to prepare images and texts with; set model.processor, for instance to "
                "fiber_data.FiberProcessor.from_pretrained(folder), or give tensors to forward"
            )
        if empty := [index for index, one in enumerate(texts) if not one.strip()]:
            raise ValueError(f"text {empty[0]} of {len(texts)} is empty; every text needs at least one word")
        parts: dict[str, Tensor] = {}
        if is_prepared(images):
            parts["pixel_values"] = cast(Tensor, images)
        elif images is not None and self.processor is not None:
            parts |= self.processor(images=images)
        if texts and self.processor is not None:
            parts |= self.processor(text=texts)
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in parts.items()
        }

    def explained_score(self, tokens: Tensor, target: str | None = None, **batch: Any) -> Tensor:
        """What `fiber_heads.explain` finds the causes of, (B,): by default the highest of `forward`'s logits.

        Args:
            tokens: (B, L) bool, the words in question.
            target: What to say why of, such as an answer; None for what the model holds best.
            **batch: As of `forward`.
        """
        return self(**batch).logits.flatten(1).amax(dim=1)

    def export_parts(self) -> dict[str, ExportPart]:
        """What `fiber_heads.export` makes programs of, by name; here both towers and the fused encoder."""
        return {**tower_parts(self.backbone), "fused": fused_part(self.backbone)}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    def set_gradient_checkpointing(self, enable: bool = True) -> None:
        """Recompute in the backward pass instead of keeping activations: slower training in less memory."""
        self.backbone.set_gradient_checkpointing(enable)

    def compile_blocks(self, **options: Any) -> None:
        """Compute the backbone's blocks by `torch.compile` in training, with these options of it."""
        self.backbone.compile_blocks(**options)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """`set_gradient_checkpointing` as transformers' Trainer asks for it.

        Args:
            activation_checkpointing_kwargs: Of `torch.utils.checkpoint`; only its way without reentry is known here.
            every_n_layers: 1: every block is recomputed.
            offload: False: what is kept stays on the device.

        Raises:
            ValueError: Something else is asked for.
        """
        if (activation_checkpointing_kwargs or {}).get("use_reentrant") or every_n_layers != 1 or offload:
            raise ValueError(
                "every block is recomputed, without reentry and on the device; leave use_reentrant, every_n_layers "
                "and offload at their defaults"
            )
        self.set_gradient_checkpointing(True)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, object] | None = None, **options: Any
    ) -> None:
        """`activation_checkpointing_enable` by its name in transformers before 6."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def cross_modal_parameter_names(self) -> set[str]:
        """Parameters that bring the streams together: they learn faster than the backbones (the original: times 5)."""
        return _below_backbone(self.backbone.cross_modal_parameter_names())

    def language_parameter_names(self) -> set[str]:
        """Parameters of the text stream, which the original's fine stage teaches at a rate of its own."""
        return _below_backbone(self.backbone.language_parameter_names())

    def head_parameter_names(self) -> set[str]:
        """Parameters of the heads that start from nothing."""
        return {name for name, _ in self.named_parameters() if not name.startswith(BACKBONE)}

    def depths(self) -> dict[str, int]:
        """How deep below the top of its stream each parameter of the backbone is, see `FiberBackbone.depths`."""
        return {f"{BACKBONE}{name}": depth for name, depth in self.backbone.depths().items()}

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone: vectors and scalars (biases, norms, gates), and bias tables."""
        heads = ((name, value) for name, value in self.named_parameters() if not name.startswith(BACKBONE))
        own = {name for name, value in heads if value.ndim < 2 or is_bias(name)}
        return _below_backbone(self.backbone.no_weight_decay()) | own

    def decayed_by_original(self, name: str) -> bool:
        """Whether the original decays a parameter of `no_weight_decay` all the same, by oversight."""
        image_query_norm = ".image_stream.cross_attention." in name and name.endswith(".norm.weight")
        return name.endswith((".gate", ".temperature")) or image_query_norm

    def prepare_sharding(self) -> None:
        """Called before the weights are taken apart (`fiber_heads.sharding`): the last look at them as they are.

        Raises:
            ValueError: The model cannot be trained in pieces; the message says what to set.
        """

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

    def load_original_checkpoint(
        self, source: str | Path | Mapping[str, Tensor], *, partial: bool = False
    ) -> LoadReport:
        """Loads a checkpoint of the original's model of this task, or, if `partial`, what another task's has in common.

        Args:
            source: A file, or the state dict already read by `fiber_backbone.read_original_state_dict`.
            partial: Whether heads that the checkpoint lacks may keep their own values.

        Returns:
            What became of each tensor. What else was noticed is in `notes`, and warned of.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the checkpoint is of another model or does not fit; the message names the keys.
        """
        tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
        origin = "the state dict" if isinstance(source, Mapping) else str(source)
        check_original(tensors, origin)
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


def check_batch(batch: Iterable[str], needed: Sequence[str]) -> None:
    """KeyError that names what a batch lacks."""
    if missing := [key for key in needed if key not in batch]:
        raise KeyError(f"the batch lacks {', '.join(missing)}; it has {', '.join(batch)}")


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, a table of biases, or an offset of scores, by the last part of its name."""
    return "bias" in name.rpartition(".")[2]


def _below_backbone(names: set[str]) -> set[str]:
    return {f"{BACKBONE}{name}" for name in names}
