"""The original checkpoints of both stages: reading them safely, and which of their tensors make up each of ours.

The original's detector and its image-text models name the same tensors differently. Both are first brought to the
image-text names (`vit_model.*`, `text_transformer.*`); `original_backbone_map` then says which of them make up each of
ours.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fiber_backbone.config import FiberConfig
from fiber_backbone.conversion import KeyMap, Pair
from fiber_backbone.pretrained import read_tensors

# Prefixes of the detector's names, and what the image-text models call the same tensors.
FINE_TO_COARSE = {
    "fusion_backbone.backbone.body.": "vit_model.",
    "fusion_backbone.language_backbone.body.model.": "text_transformer.",
}

_STREAMS = ("vit_model.", "text_transformer.", "fusion_backbone.")  # how the names of whole checkpoints begin
_NESTS = ("state_dict", "model", "model_state_dict", "module")  # under which training libraries keep weights

# The original's detector reads images with the colors in the order blue, green, red. The map of its patches is
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


def _inert_class(name: str) -> type:
    """A class that keeps what it is given and does nothing, in the place of one that a checkpoint names."""
    return type(name.rpartition(".")[2], (), {"__init__": lambda self, *args, **kwargs: None, "__module__": __name__})


def read_original_state_dict(path: str | Path, *, only_shapes: bool = False) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, without running anything that the file holds.

    Training state beside the weights may name classes of the original's libraries; they are read as inert stand-ins.

    Args:
        path: A `.safetensors` file or a file of `torch.save`, weights at the top or under one of `_NESTS`, nested as
            you like.
        only_shapes: Whether to leave the values on disk, to look at what a file is of.

    Returns:
        Name to tensor, on the CPU (without values on the device meta), without what wrappers put before every name
        (`module.`, `model.`, `_orig_mod.`).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no weights, or names a function that could run anything.
    """
    path = Path(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"checkpoint {path} {fault}; pass the path of a .ckpt, .pth, .pt, .bin or .safetensors file"
        )
    if path.suffix == ".safetensors":
        return read_tensors(path, only_shapes=only_shapes)
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_inert_class(name), name) for name in unsafe]):
            device = "meta" if only_shapes else "cpu"
            mapped = zipfile.is_zipfile(path)  # a queue of images, which nobody reads here, takes 7 GB
            content: Any = torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged archive makes zip, pickle and torch raise almost anything
        fault = _fault(path, error)
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely ({fault}); expected safetensors or torch.save"
        ) from error
    while isinstance(content, Mapping) and (
        nested := next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
    ):
        content = nested
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = f"the keys {list(content)!s:.200}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds no tensors at the top or under {', '.join(map(repr, _NESTS))}, but {keys}")
    return _unwrapped(tensors)


def _fault(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch does not read, in words for its owner."""
    if blocked := re.search(r"unsupported GLOBAL (\S+)", str(error)):
        return f"it names {blocked[1]:.80}, which could run anything"
    with path.open("rb") as file:
        begin = file.read(24)
    if not begin:
        return "it is empty"
    if begin.startswith(b"PK") and not zipfile.is_zipfile(path):
        return f"its end is missing after {path.stat().st_size:,} bytes; copy or download it again"
    if begin.startswith((b"PK", b"\x80")):  # archives, pickles
        return f"{next(iter(str(error).splitlines()), type(error).__name__):.200}"
    return f"it begins with {begin!r}"


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the original's names, without a prefix that all of them have."""
    whole = re.compile(rf"(?P<prefix>(?:\w+\.)*?)(?:{'|'.join(map(re.escape, _STREAMS))})")
    found = [match["prefix"] for name in tensors if (match := whole.match(name))]
    prefix = min(found, key=len, default="module.")
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def original_backbone_map(config: FiberConfig) -> KeyMap:
    """Which original tensors make up each parameter of the backbone, in the image-text models' spelling."""
    return KeyMap(
        [*_image_pairs(config), *_text_pairs(config), *_fusion_pairs(config)],
        rename=_coarse_name,
        change={DETECTOR_PATCHES: _reversed_channels},
        optional=FRESH,
        dead=_dead(config),
        left=HEADS,
        hints={".norm_i2t_i.": "build the model with FiberConfig(normalize_image_query=False)"},
    )


def check_original(tensors: Mapping[str, Tensor], origin: str) -> None:
    """ValueError unless the tensors are those of one of the original's models."""
    if not any(_coarse_name(key).startswith(("vit_model.", "text_transformer.")) for key in tensors):
        raise ValueError(
            f"{origin} is a checkpoint of another model: it has no key under 'vit_model.' or 'fusion_backbone.', "
            f"its first is {next(iter(tensors), None)!r:.200}"
        )


def _coarse_name(key: str) -> str:
    for fine, coarse in FINE_TO_COARSE.items():
        if key.startswith(fine):
            return coarse + key.removeprefix(fine)
    return key


def _reversed_channels(patches: Tensor) -> Tensor:
    return patches.flip(1)


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
    count = config.num_fusion_blocks
    for index in range(count):
        number, layer = sum(config.depths) - count + index, config.num_hidden_layers - count + index
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


def _dead(config: FiberConfig) -> re.Pattern[str]:
    """Names of tensors without effect on a model of this configuration."""
    cut = config.num_hidden_layers - config.num_fusion_blocks
    below = "|".join(map(str, range(cut))) or "none"
    parts = [DEAD.pattern, rf"^text_transformer\.encoder\.layer\.({below})\.alpha_t2i$"]
    parts.append(r"^vit_model\.norm\." if config.pyramid_norms else r"^vit_model\.norm\d\.")
    if not config.normalize_image_query:
        parts.append(r"\.norm_i2t_i\.")
    if not config.joint_projection:
        parts.append(r"^cross_modal_(text|image)_(transform|pooler)\.")
    return re.compile("|".join(parts))
