"""Weights in and out: our own folders (safetensors + config.json), and the original checkpoints of both stages.

The original's detector and its image-text models name the same tensors differently. Both are first brought to the
image-text names (`vit_model.*`, `text_transformer.*`); `original_key_map` then says which of them make up each of ours.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fiber_backbone.config import FiberConfig
from fiber_backbone.image_stream import resize_relative_position_bias

if TYPE_CHECKING:
    from fiber_backbone.backbone import FiberBackbone

# Prefixes of the detector's names, and what the image-text models call the same tensors.
FINE_TO_COARSE = {
    "fusion_backbone.backbone.body.": "vit_model.",
    "fusion_backbone.language_backbone.body.model.": "text_transformer.",
}

# The original's detector reads pictures with the colours in the order blue, green, red. The map of its patches is
# turned round on loading, so that every model here reads red, green, blue.
DETECTOR_PATCHES = "fusion_backbone.backbone.body.patch_embed.proj.weight"

# Tensors that the original stores and never reads, or derives from the sizes.
DEAD = re.compile(
    r"\.relative_position_index$|\.attn_mask$|\.position_ids$|^text_transformer\.pooler\.|"
    r"\.crossattention_t2i\.output\.LayerNorm\.|^cross_modal_att_layers\."
)

# Tensors of the heads on top, and the frozen second model of one captioning objective.
HEADS = re.compile(
    r"^(temp|queue_ptr|queue_total|(image|text)_(input_)?(mask_)?queue|mlm_score\..*|itm_score\..*|rank_output\..*|"
    r"(vqa|nlvr2|snli)_classifier\..*|cross_modal_(text|image)_(transform|pooler)_itc\..*|copy_module\..*|"
    r"fusion_backbone\.backbone\.fpn\..*|rpn\..*)$"
)

# What a checkpoint of one stage cannot have and a model of the other needs: these keep their fresh values.
FRESH = ("image_stream.pyramid_norms.", "image_stream.norm.", "joint_projection.", "decoder_projections.")


@dataclass
class LoadReport:
    """What became of each tensor of an original checkpoint.

    Attributes:
        used: Keys whose values are now in the model.
        dead: Keys that have no effect on this model's outputs, in the original either or by its configuration.
        left: Keys of heads, for another package to read.
        resized: Those of `used` that were interpolated to the model's window size.
        fresh: Parameters of the model that this kind of checkpoint does not have; they keep their initial values.
    """

    used: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = (
            f"{len(self.used)} tensors used ({len(self.resized)} resized)",
            f"{len(self.left)} left for heads",
            f"{len(self.dead)} without effect",
            f"{len(self.fresh)} parameters fresh",
        )
        return ", ".join(counts)


def _inert_class(name: str) -> type:
    """A class that keeps what it is given and does nothing, in the place of one that a checkpoint names."""
    return type(name.rpartition(".")[2], (), {"__init__": lambda self, *args, **kwargs: None, "__module__": __name__})


def read_original_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, without running anything that the file holds.

    Training state beside the weights may name classes of the original's libraries; they are read as inert stand-ins.

    Args:
        path: A `.safetensors` file or a file of `torch.save`, weights at the top or under `state_dict` or `model`.

    Returns:
        Name to tensor, on the CPU, with a leading `module.` stripped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist; pass the path of a .ckpt, .pth, .pt, .bin or .safetensors file"
        )
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(_inert_class(name), name) for name in unsafe]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely ({reason}); expected safetensors or torch.save"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {
        name.removeprefix("module."): value for name, value in dict(content).items() if isinstance(value, Tensor)
    }
    if not tensors:
        raise ValueError(f"{path} holds no tensors; expected weights at the top or under 'state_dict' or 'model'")
    return tensors


Pair = tuple[str, list[str]]


def original_key_map(config: FiberConfig) -> list[Pair]:
    """Which original tensors make up each parameter of the backbone.

    Returns:
        Pairs of our name and the original names, in the image-text models' spelling; several are concatenated along
        their first dimension.
    """
    return [*_image_pairs(config), *_text_pairs(config), *_fusion_pairs(config)]


def _pairs(ours: str, *originals: str, parts: Iterable[str] = ("weight", "bias")) -> list[Pair]:
    return [(f"{ours}.{part}", [f"{original}.{part}" for original in originals]) for part in parts]


def _image_pairs(config: FiberConfig) -> Iterator[Pair]:
    image, vit = "image_stream", "vit_model"
    yield from _pairs(f"{image}.patch_embed.proj", f"{vit}.patch_embed.proj")
    yield from _pairs(f"{image}.patch_embed.norm", f"{vit}.patch_embed.norm")
    for stage, depth in enumerate(config.depths):
        if stage:  # timm steps down at the start of a stage, the original at the end of the one before
            yield from _pairs(f"{image}.layers.{stage}.downsample.norm", f"{vit}.layers.{stage - 1}.downsample.norm")
            yield from _pairs(
                f"{image}.layers.{stage}.downsample.reduction",
                f"{vit}.layers.{stage - 1}.downsample.reduction",
                parts=["weight"],
            )
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            yield from _pairs(f"{image}.{name}.attn", f"{vit}.{name}.attn", parts=["relative_position_bias_table"])
            for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
                yield from _pairs(f"{image}.{name}.{module}", f"{vit}.{name}.{module}")
    if config.pyramid_norms:
        for stage in range(1, len(config.depths)):
            yield from _pairs(f"{image}.pyramid_norms.{stage - 1}", f"{vit}.norm{stage}")
    else:
        yield from _pairs(f"{image}.norm", f"{vit}.norm")


def _text_pairs(config: FiberConfig) -> Iterator[Pair]:
    text, roberta = "text_stream", "text_transformer"
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        yield from _pairs(f"{text}.embeddings.{table}", f"{roberta}.embeddings.{table}", parts=["weight"])
    yield from _pairs(f"{text}.embeddings.LayerNorm", f"{roberta}.embeddings.LayerNorm")
    for layer in range(config.num_hidden_layers):
        name = f"encoder.layer.{layer}"
        for module in ("query", "key", "value"):
            yield from _pairs(f"{text}.{name}.attention.self.{module}", f"{roberta}.{name}.attention.self.{module}")
        for module in (
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ):
            yield from _pairs(f"{text}.{name}.{module}", f"{roberta}.{name}.{module}")


def _fusion_pairs(config: FiberConfig) -> Iterator[Pair]:
    for index, (number, layer) in enumerate(config.fused_blocks):
        stage = config.block_stages[number]
        attention = f"vit_model.layers.{stage}.blocks.{number - sum(config.depths[:stage])}.attn"
        ours = f"image_stream.cross_attention.{index}"
        yield (f"{ours}.gate", [f"{attention}.alpha_i2t"])
        if config.normalize_image_query:
            yield from _pairs(f"{ours}.norm", f"{attention}.norm_i2t_i")
        yield from _pairs(f"{ours}.query", f"{attention}.qkv_i2t")
        yield from _pairs(f"{ours}.key_value", f"{attention}.qkv_text_i2t")
        yield from _pairs(f"{ours}.output", f"{attention}.proj_i2t")

        name, ours = f"text_transformer.encoder.layer.{layer}", f"text_stream.cross_attention.{index}"
        yield (f"{ours}.gate", [f"{name}.alpha_t2i"])
        yield from _pairs(f"{ours}.query", f"{name}.crossattention_t2i.self.query")
        yield from _pairs(
            f"{ours}.key_value",
            f"{name}.crossattention_t2i.self.key",
            f"{name}.crossattention_t2i.self.value",
        )
        yield from _pairs(f"{ours}.output", f"{name}.crossattention_t2i.output.dense")
        if config.decoder_projections and config.stage_dims[stage] != config.image_dim:
            yield from _pairs(f"decoder_projections.{index}", f"cross_modal_att_layers.{layer}")

    if config.joint_projection:
        for stream in ("text", "image"):
            yield from _pairs(f"joint_projection.{stream}_transform", f"cross_modal_{stream}_transform")
            yield from _pairs(f"joint_projection.{stream}_pooler", f"cross_modal_{stream}_pooler.dense")


def _is_dead(key: str, config: FiberConfig) -> bool:
    """Whether a tensor that the key map does not name is one without effect on a model of this configuration."""
    gate = re.fullmatch(r"text_transformer\.encoder\.layer\.(\d+)\.alpha_t2i", key)
    if gate:
        return int(gate[1]) < config.fused_blocks[0][1]
    return bool(
        DEAD.search(key)
        or (not config.normalize_image_query and ".norm_i2t_i." in key)
        or (config.pyramid_norms and key.startswith("vit_model.norm."))
        or (not config.pyramid_norms and re.match(r"vit_model\.norm\d\.", key))
        or (not config.joint_projection and re.match(r"cross_modal_(text|image)_(transform|pooler)\.", key))
    )


def load_original_backbone(backbone: FiberBackbone, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load an original checkpoint; see `FiberBackbone.load_original_checkpoint`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the checkpoint is of another model, or keys are missing, unknown or of another shape.
    """
    tensors = source if isinstance(source, Mapping) else read_original_state_dict(source)
    origin = "the state dict" if isinstance(source, Mapping) else str(source)
    config, report = backbone.config, LoadReport()
    names = {_coarse_name(key): key for key in tensors}
    if not any(name.startswith(("vit_model.", "text_transformer.")) for name in names):
        raise ValueError(
            f"{origin} is a checkpoint of another model: it has no key under 'vit_model.' or 'fusion_backbone.', "
            f"its first is {next(iter(tensors), None)!r}"
        )

    parameters = dict(backbone.named_parameters())
    missing, mismatched, claimed = [], [], set()
    loaded: dict[str, Tensor] = {}
    for ours, originals in original_key_map(config):
        absent = [name for name in originals if name not in names]
        if absent and ours.startswith(FRESH):
            report.fresh.append(ours)
        elif absent:
            missing.extend(absent)
        else:
            keys = [names[name] for name in originals]
            value = tensors[keys[0]] if len(keys) == 1 else torch.cat([tensors[key] for key in keys])
            if keys == [DETECTOR_PATCHES]:
                value = value.flip(1)
            if ours.endswith("relative_position_bias_table") and value.shape != parameters[ours].shape:
                value = resize_relative_position_bias(value, config.window_size)
                report.resized.extend(keys)
            if value.shape != parameters[ours].shape:
                mismatched.append(f"{keys[0]} {tuple(value.shape)} where {ours} has {tuple(parameters[ours].shape)}")
            loaded[ours] = value
            claimed.update(originals)
            report.used.extend(keys)

    unknown: list[str] = []
    for name, key in names.items():
        if name not in claimed:
            (report.left if HEADS.match(name) else report.dead if _is_dead(name, config) else unknown).append(key)
    if missing or unknown or mismatched:
        raise ValueError(_explain(origin, missing, unknown, mismatched))
    backbone.load_state_dict(loaded, strict=False)
    return report


def _coarse_name(key: str) -> str:
    for fine, coarse in FINE_TO_COARSE.items():
        if key.startswith(fine):
            return coarse + key.removeprefix(fine)
    return key


def _explain(origin: str, missing: list[str], unknown: list[str], mismatched: list[str]) -> str:
    """One sentence for a checkpoint that does not fit, with a way out where one is known."""
    problems = [
        f"{len(found)} {kind} (first: {found[0]})"
        for kind, found in (
            ("keys missing", missing),
            ("keys unknown", unknown),
            ("shapes that differ", mismatched),
        )
        if found
    ]
    hint = "build the model with the sizes that the checkpoint was trained with (see FiberConfig)"
    if missing and all(".norm_i2t_i." in name for name in missing):
        hint = "build the model with FiberConfig(normalize_image_query=False)"
    return f"{origin} does not fit the model: {', '.join(problems)}; {hint}"
