"""What a backbone is made of: two streams, a fusion, projections; building, sizes, loading, groups of parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fiber_backbone.config import FiberConfig
from fiber_backbone.conversion import KeyMap, LoadReport, convert
from fiber_backbone.described import from_mapping
from fiber_backbone.fusion import Fusion, FusionCost
from fiber_backbone.original import check_original, original_backbone_map, read_original_state_dict
from fiber_backbone.pretrained import PretrainedModel
from fiber_backbone.projection import JointProjection
from fiber_backbone.seams import name_of, resolve
from fiber_backbone.streams import ImageStream, Stream, StreamSizes, TextStream


class BackboneParts(PretrainedModel):
    """The parts of a `FiberBackbone`, which computes with them.

    Layers that a stream already has in `cross_attention` are kept.

    Args:
        image_stream: Any image stream, such as `SwinStream(config)`.
        text_stream: Any text stream, such as `RobertaStream(config)`.
        fusion: What is inserted into the pairs of their blocks, such as `GatedFusion()`.
        config: Number of pairs and switches. What it says of the sizes of streams and fusion is not used here, but is
            what `save_pretrained` writes and `from_config` builds by: it must describe them if it is to be saved.

    Raises:
        ValueError: If the streams have fewer blocks than `config.num_fusion_blocks`.
    """

    def __init__(self, image_stream: ImageStream, text_stream: TextStream, fusion: Fusion, config: FiberConfig) -> None:
        super().__init__()
        self.config, self.fusion = config, fusion
        self.image_stream, self.text_stream = image_stream, text_stream
        most = min(image_stream.num_fusable, len(text_stream.sizes.dims))
        if config.num_fusion_blocks > most:
            raise ValueError(
                f"num_fusion_blocks must be between 1 and {most}, since {image_stream.num_fusable} image blocks may be "
                f"fused and there are {len(text_stream.sizes.dims)} text layers; it is {config.num_fusion_blocks}"
            )
        num_blocks, num_layers = len(image_stream.sizes.dims), len(text_stream.sizes.dims)
        for stream in (image_stream, text_stream):
            if fusion.inserts_context and not stream.reads_context:
                raise ValueError(
                    f"{type(fusion).__name__} lets self-attention read the other stream, which {type(stream).__name__} "
                    "cannot; take another fusion, such as gated"
                )
        self.pairs = fusion.pairs(num_blocks, num_layers, config.num_fusion_blocks)
        self.cut = self.pairs[0] if self.pairs else (num_blocks, num_layers)
        sizes = self._fused_sizes()
        if not hasattr(image_stream, "cross_attention"):
            image_stream.cross_attention = fusion.image_layers(*sizes, config.num_fusion_blocks)
        if not hasattr(text_stream, "cross_attention"):
            text_stream.cross_attention = fusion.text_layers(*sizes, config.num_fusion_blocks)
        self._add_projections()

    def _fused_sizes(self) -> tuple[StreamSizes, StreamSizes]:
        """Sizes of the blocks and layers of all pairs; without pairs, of the last ones."""
        pairs = self.pairs or ((self.cut[0] - 1, self.cut[1] - 1),)
        blocks, layers = zip(*pairs, strict=True)
        return self.image_stream.sizes.at(blocks), self.text_stream.sizes.at(layers)

    def _add_projections(self) -> None:
        """What follows the fusion."""
        config = self.config
        if config.joint_projection:
            self.joint_projection = JointProjection(self.text_dim, self.image_dim, config.initializer_range)
        if config.decoder_projections:
            if not self.fusion.can_decode:
                raise ValueError(
                    f"{type(self.fusion).__name__} cannot decode text, which decoder_projections=True asks for; take a "
                    "fusion that can, such as gated"
                )
            self.decoder_projections = nn.ModuleList(
                nn.Linear(self.image_dim, dim) if dim != self.image_dim else nn.Identity()
                for dim in self._fused_sizes()[0].dims
            )
            for linear in self.decoder_projections:
                if isinstance(linear, nn.Linear):
                    nn.init.normal_(linear.weight, std=config.initializer_range)
                    nn.init.zeros_(linear.bias)

    @classmethod
    def from_config(cls, config: FiberConfig | Mapping[str, Any], *, trusted: Collection[str] | None = None) -> Self:
        """A fresh backbone of the parts that a configuration names.

        Args:
            config: The configuration, or `to_config`'s dictionary.
            trusted: See `fiber_backbone.seams.resolve`.

        Raises:
            ValueError: A part cannot be found, or the parts do not fit each other.
        """
        config = config if isinstance(config, FiberConfig) else from_mapping(FiberConfig, config)
        image_class = resolve(config.image_stream, "fiber.streams", trusted=trusted)
        text_class = resolve(config.text_stream, "fiber.streams", trusted=trusted)
        fusion = _made(resolve(config.fusion, "fiber.fusions", trusted=trusted), config, "fusion_settings")
        image = _made(image_class, config, "image_settings")
        if (sizes_of := getattr(text_class, "sizes_of", None)) is not None:
            # Fresh weights are drawn from bottom to top, image before text, so that a seed means the same model always.
            text_sizes, count = sizes_of(config), config.num_fusion_blocks
            pairs = fusion.pairs(len(image.sizes.dims), len(text_sizes.dims), count) or ((-1, -1),)
            blocks, layers = zip(*pairs, strict=True)
            image.cross_attention = fusion.image_layers(image.sizes.at(blocks), text_sizes.at(layers), count)
        return cls(image, _made(text_class, config, "text_settings"), fusion, config)

    def to_config(self) -> dict[str, Any]:
        """The configuration as a dictionary, with the names of the parts that are really there."""
        names = {
            "image_stream": name_of(type(self.image_stream), "fiber.streams"),
            "text_stream": name_of(type(self.text_stream), "fiber.streams"),
            "fusion": name_of(type(self.fusion), "fiber.fusions"),
        }
        return asdict(self.config) | names

    @property
    def text_dim(self) -> int:
        """Channels of the text stream (D)."""
        return self.text_stream.dim

    @property
    def image_dim(self) -> int:
        """Channels of the finished image (C)."""
        return self.image_stream.dim

    @property
    def image_size(self) -> int:
        """Nominal side of an image in pixels."""
        return self.image_stream.image_size

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.text_stream.vocab_size

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
        return self.text_stream.pad_token_id

    @property
    def max_text_length(self) -> int:
        """Tokens of the longest text."""
        return self.text_stream.max_length

    @property
    def has_pyramid(self) -> bool:
        """Whether `fuse` can give maps of several strides that have read the text."""
        return bool(self.image_stream.pyramid_dims) and self.fusion.has_pyramid

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of the pyramid's maps, fine to coarse."""
        return self.image_stream.pyramid_dims

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of the pyramid's maps; of a stream without one, per token."""
        return self.image_stream.pyramid_strides or (self.image_stream.stride,)

    def fusion_cost(self, image_size: int | None = None, text_length: int = 40) -> FusionCost:
        """What the fusion adds to the two streams, to compare fusions at equal cost.

        Args:
            image_size: Side of the image in pixels; the nominal one by default.
            text_length: Tokens of the text.
        """
        layers = (*self.image_stream.cross_attention.parameters(), *self.text_stream.cross_attention.parameters())
        blocks = [block for block, _ in self.pairs] or [self.cut[0] - 1] * self.config.num_fusion_blocks
        tokens = [self.image_stream.num_tokens(block, image_size or self.image_size) for block in blocks]
        flops = self.fusion.flops(*self._fused_sizes(), tokens, text_length)
        return FusionCost(sum(parameter.numel() for parameter in layers), flops)

    def set_gradient_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.image_stream.gradient_checkpointing = self.text_stream.gradient_checkpointing = enable

    def compile_blocks(self, **options: Any) -> None:
        """Compute each block of both streams by `torch.compile` in training, with what the fusion puts into it.

        Names of weights stay. The sizes of the first batch are compiled for themselves, those of others in general.

        Args:
            **options: Of `torch.compile`: `backend`, `mode`, ...
        """
        for stream in (self.image_stream, self.text_stream):
            stream.compiler = cache(partial(torch.compile, **options))
        # Blocks differ in sizes, shifts, drop rates and what they read; what is beyond the limit is not compiled.
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 4 * len(self.image_stream.sizes.dims))

    def resize(self, image_size: int, window_size: int | None = None) -> Self:
        """Prepare the model for images of another size, in place: what depends on the size is interpolated.

        Args:
            image_size: New nominal side in pixels.
            window_size: New side of a window in tokens; by default windows grow with the image.

        Raises:
            ValueError: If the default window is not a whole number of tokens.
        """
        window = {} if window_size is None else {"window_size": window_size}
        self.config = self.config.grown(image_size=image_size, **window)
        self.image_stream.resize(self.config)
        return self

    def adapt(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        """A weight that was made for another resolution, resized by its stream's rule.

        Args:
            name: Of the parameter in this backbone.
            value: The weight.
            shape: What it should have.
        """
        stream, _, rest = name.partition(".")
        streams = {"image_stream": self.image_stream, "text_stream": self.text_stream}
        return streams[stream].adapt(rest, value, shape) if stream in streams else value

    def load_original_checkpoint(self, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
        """Load a checkpoint of the original code, of the coarse or of the fine stage.

        Args:
            source: A file, or the state dict already read by `read_original_state_dict`.

        Returns:
            Which tensors were taken, which have no effect in the original either, and which belong to heads.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the checkpoint is of another model, or keys are missing, unknown or of another shape.
        """
        tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
        origin = "the state dict" if isinstance(source, Mapping) else str(source)
        check_original(tensors, origin)
        shapes = {name: parameter.shape for name, parameter in self.named_parameters()}
        values, report = convert(tensors, self.original_map(), shapes, origin)
        self.load_state_dict(values, strict=False)
        return report

    def original_map(self) -> KeyMap:
        """Which tensors of the original's checkpoints make up the parameters.

        Raises:
            ValueError: The original has no such streams or fusion.
        """
        given = self.to_config()
        for field, only in (("image_stream", "swin"), ("text_stream", "roberta"), ("fusion", "gated")):
            if given[field] != only:
                raise ValueError(f"the original's checkpoints have {field}={only!r}, this model has {given[field]!r}")
        return replace(original_backbone_map(self.config), resize=self.adapt)

    def cross_modal_parameter_names(self) -> set[str]:
        """Names of the parameters that let the streams read each other (the original's faster learning rate group)."""
        parts = ("cross_attention.", "joint_projection.", "decoder_projections.")
        return {name for name, _ in self.named_parameters() if any(part in name for part in parts)}

    def language_parameter_names(self) -> set[str]:
        """Names of the parameters of the text stream, its cross-attention among them."""
        return {name for name, _ in self.named_parameters() if name.startswith("text_stream.")}

    def depths(self) -> dict[str, int]:
        """By name of each parameter, how deep below the top of its stream it is.

        1 for the last block and what follows it, the number of blocks for the first one, 1 more for embeddings, as timm
        counts. What the streams read of each other is where it is inserted; 0 for what is in neither stream.
        """
        streams: dict[str, tuple[int, Stream]]
        streams = {"image_stream": (0, self.image_stream), "text_stream": (1, self.text_stream)}
        found = {}
        for name, _ in self.named_parameters():
            owner, _, rest = name.partition(".")
            if owner not in streams:
                found[name] = 0
                continue
            side, stream = streams[owner]
            count, pair = len(stream.sizes.dims), re.match(r"cross_attention\.(\d+)\.", rest)
            if pair is None:
                found[name] = count - min(stream.block_of(rest), count - 1)
            else:
                found[name] = count - self.pairs[int(pair[1])][side] if self.pairs else 0
        return found

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are scalars or vectors, and of biases and tables of biases."""
        named = self.named_parameters()
        return {name for name, value in named if value.ndim < 2 or "bias" in name.rpartition(".")[2]}

    @property
    def _num_layers(self) -> int:
        return len(self.text_stream.sizes.dims)


def _made(part: Any, config: FiberConfig, field: str) -> Any:
    """A part of a configuration; settings that it does not have are named."""
    try:
        return part.from_config(config)
    except TypeError as error:
        raise ValueError(f"{field} {getattr(config, field)} do not fit {part.__name__}: {error}") from error
