"""The image stream of FIBER: timm's Swin modules, our computation.

Source: Swin Transformer (Liu et al. 2021), equations 1-3, and FIBER section 3.1:

    a = WindowAttention(LN1(x))
    a = insert(a)                              (the top K blocks)
    x = x + DropPath(a)
    x = x + DropPath(MLP(LN2(x)))

Shapes: B batch, H W map, C channels.
"""

from __future__ import annotations

import re
from typing import Any, Self

import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from fiber_backbone.config import FiberConfig
from fiber_backbone.streams import ImageStream, Insert, Size, StreamSizes, rescale_linear
from fiber_backbone.windows import (
    WindowPlan,
    plan_any_windows,
    plan_windows,
    resize_relative_position_bias,
    window_attention,
    within,
)

BIAS_TABLE = "relative_position_bias_table"


class SwinStream(ImageStream):
    """Swin with room for text.

    Parameter names are timm's (`patch_embed`, `layers.{i}.downsample`, `layers.{i}.blocks.{j}`, `norm`), so that any
    `swin_*` of timm loads by name.

    Args:
        config: `image_size`, `patch_size`, `embed_dim`, `depths`, `image_num_heads`, `window_size`, `image_mlp_ratio`,
            `drop_path_rate`, `window_policy` and `pyramid_norms` are read.
    """

    library_class = SwinTransformer
    # Any: the library's modules, whose attributes the type checker cannot know
    patch_embed: Any
    layers: Any
    norm: nn.Module
    pyramid_norms: Any

    def __init__(self, config: FiberConfig) -> None:
        super().__init__()
        self.depths, self.window_size, self.policy = config.depths, config.window_size, config.window_policy
        self.heads, self.image_size, self.stride = config.image_num_heads, config.image_size, config.strides[-1]
        self.pyramid_dims, self.pyramid_strides = config.stage_dims, config.strides
        self.masks_padding = config.window_policy == "pad"
        self.block_stages = config.block_stages
        swin = SwinTransformer(
            img_size=self.stride,  # the least: sizes are found at run time, and timm's own masks stay small
            patch_size=config.patch_size,
            num_classes=0,
            embed_dim=config.embed_dim,
            depths=config.depths,
            num_heads=config.image_num_heads,
            window_size=config.window_size,
            mlp_ratio=config.image_mlp_ratio,
            drop_path_rate=config.drop_path_rate,
            strict_img_size=False,
            always_partition=True,  # bias tables of full size in every stage, whatever the image's size
        )
        self.patch_embed, self.layers = swin.patch_embed, swin.layers
        if config.pyramid_norms:
            self.pyramid_norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-5) for dim in config.stage_dims[1:])
        else:
            self.pyramid_norms, self.norm = None, swin.norm
        self._plans: dict[tuple[Size, bool, torch.device], WindowPlan] = {}
        rescale_linear(self, config.initializer_range)

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """See `Stream`."""
        return cls(config)

    @classmethod
    def describe(cls, module: Any) -> dict[str, Any]:
        """See `Stream`; windows must be squares, of one size in all stages."""
        blocks = [list(layer.blocks) for layer in module.layers]
        windows = sorted({tuple(block.attn.window_size) for stage in blocks for block in stage})
        if len(windows) > 1 or windows[0][0] != windows[0][1]:
            raise ValueError(
                f"the image stream computes Swins with square windows of one size, got windows of {windows} tokens; "
                "choose another swin_*, such as swin_tiny_patch4_window7_224"
            )
        mlp = blocks[0][0].mlp
        return {
            "image_size": module.patch_embed.img_size[0],
            "patch_size": module.patch_embed.patch_size[0],
            "embed_dim": module.embed_dim,
            "depths": tuple(len(stage) for stage in blocks),
            "image_num_heads": tuple(stage[0].attn.num_heads for stage in blocks),
            "window_size": windows[0][0],
            "image_mlp_ratio": mlp.fc1.out_features / mlp.fc1.in_features,
        }

    @property
    def sizes(self) -> StreamSizes:
        """See `Stream`."""
        stages = self.block_stages
        return StreamSizes(tuple(self.pyramid_dims[s] for s in stages), tuple(self.heads[s] for s in stages))

    @property
    def num_fusable(self) -> int:
        """The blocks of the last two stages."""
        return sum(self.depths[-2:])

    def units(self) -> list[nn.Module]:
        """See `Stream`: the blocks."""
        return [block for layer in self.layers for block in layer.blocks]

    def embed(self, pixel_values: Tensor) -> Tensor:
        """See `ImageStream`."""
        return self.patch_embed(pixel_values)

    def run(
        self, x: Tensor, block: int, insert: Insert | None = None, sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """See `ImageStream`."""
        stage = self.block_stages[block]
        index = block - sum(self.depths[:stage])
        plan = self._plan((x.shape[1], x.shape[2]), bool(index % 2), x.device)
        sizes = None if sizes is None else sizes // self.pyramid_strides[stage]
        arguments = (self.layers[stage].blocks[index], x, plan, insert or Insert(), sizes)
        x = self.compute(_block, *arguments)
        if index + 1 < self.depths[stage]:
            return x, None
        if stage + 1 < len(self.depths):
            return self.layers[stage + 1].downsample(x), x
        return x, x

    def pyramid_level(self, block: int, x: Tensor) -> Tensor:
        """See `ImageStream`; with norms of its own in the fine stage."""
        stage = self.block_stages[block]
        if self.pyramid_norms is not None and stage > 0:
            x = self.pyramid_norms[stage - 1](x)
        return x.permute(0, 3, 1, 2)

    def final_norm(self, x: Tensor) -> Tensor:
        """See `ImageStream`."""
        return (self.norm if self.pyramid_norms is None else self.pyramid_norms[-1])(x)

    def within(self, x: Tensor, block: int, sizes: Tensor) -> Tensor:
        """See `ImageStream`."""
        return within((x.shape[1], x.shape[2]), sizes // self.pyramid_strides[self.block_stages[block]])

    def num_tokens(self, block: int, image_size: int) -> int:
        """See `ImageStream`."""
        return (image_size // self.pyramid_strides[self.block_stages[block]]) ** 2

    def block_of(self, name: str) -> int:
        """See `Stream`; a step down between stages counts as part of the block that follows."""
        found = re.match(r"layers\.(\d+)\.(?:blocks\.(\d+)\.)?", name)
        if found is not None:
            return sum(self.depths[: int(found[1])]) + int(found[2] or 0)
        return -1 if name.startswith("patch_embed.") else sum(self.depths)

    def adapt(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        """Bias tables of another window size, by interpolation."""
        if not name.endswith(BIAS_TABLE) or value.ndim != 2:
            return value
        return resize_relative_position_bias(value, (round(shape[0] ** 0.5) + 1) // 2)

    def resize(self, config: FiberConfig) -> None:
        """See `ImageStream`."""
        self.image_size, self.window_size = config.image_size, config.window_size
        shape = torch.Size([(2 * self.window_size - 1) ** 2, 0])
        for name, table in list(self.named_parameters()):
            if name.endswith(BIAS_TABLE):
                owner = self.get_submodule(name.rpartition(".")[0])
                resized = nn.Parameter(self.adapt(name, table.detach(), shape), requires_grad=table.requires_grad)
                setattr(owner, BIAS_TABLE, resized)
        self._plans.clear()

    def _plan(self, size: Size, shifted: bool, device: torch.device) -> WindowPlan:
        if torch.compiler.is_exporting():
            return plan_any_windows(size, self.window_size, shifted, self.policy, device)
        key = (size, shifted, device)
        if key not in self._plans:
            if len(self._plans) >= 256:  # training on images of many sizes must not fill the memory
                self._plans.clear()
            with torch.inference_mode(False):  # what is kept serves gradients too
                self._plans[key] = plan_windows(size, self.window_size, shifted, self.policy, device)
        return self._plans[key]


def _block(block: SwinTransformerBlock, x: Tensor, plan: WindowPlan, insert: Insert, sizes: Tensor | None) -> Tensor:
    attended = window_attention(block.attn, block.norm1(x), plan, sizes, insert)
    if insert.after is not None:
        attended = insert.after(attended.flatten(1, 2)).view_as(attended)
    x = x + block.drop_path1(attended)
    return x + block.drop_path2(block.mlp(block.norm2(x)))
