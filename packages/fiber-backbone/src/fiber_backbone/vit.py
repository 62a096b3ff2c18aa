"""A plain image stream: timm's VisionTransformer with its standard blocks, our computation.

Source: An Image is Worth 16x16 Words (Dosovitskiy et al. 2021), equations 1-4:

    a = SelfAttention(LN1(x));   a = insert(a)   (the top K blocks)
    x = x + DropPath(scale1 · a)
    x = x + DropPath(scale2 · MLP(LN2(x)))

All tokens, those of class and registers first, are a map of one row. There is no pyramid.

Shapes: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Self

import torch
from timm.layers import Attention, Mlp, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fiber_backbone.attention import merge_heads, split_heads
from fiber_backbone.config import FiberConfig
from fiber_backbone.streams import ImageStream, Insert, StreamSizes, rescale_linear


class VitStream(ImageStream):
    """ViT with room for text.

    Parameter names are timm's (`patch_embed`, `cls_token`, `pos_embed`, `blocks.{i}`, `norm`).

    Args:
        config: `image_size`, `patch_size`, `embed_dim`, `depths` (one stage), `image_num_heads`, `image_mlp_ratio` and
            `drop_path_rate` are read; `image_settings` are further arguments of timm's `VisionTransformer`
            (`class_token`, `reg_tokens`, `qkv_bias`, `qk_norm`, `init_values`, `pre_norm`, `no_embed_class`,
            `pos_embed`, `final_norm`), and `norm_eps`.
    """

    library_class = VisionTransformer
    # Any: the library's modules, whose attributes the type checker cannot know
    patch_embed: Any
    blocks: Any
    norm: nn.Module
    norm_pre: nn.Module
    pos_drop: nn.Module
    cls_token: nn.Parameter | None
    reg_token: nn.Parameter | None
    pos_embed: nn.Parameter | None

    def __init__(self, config: FiberConfig) -> None:
        super().__init__()
        if len(config.depths) != 1:
            raise ValueError(f"a ViT has one stage; depths is {config.depths}, give one number, such as depths=(12,)")
        settings = dict(config.image_settings)
        vit = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=config.embed_dim,
            depth=config.depths[0],
            num_heads=config.image_num_heads[0],
            mlp_ratio=config.image_mlp_ratio,
            drop_path_rate=config.drop_path_rate,
            dynamic_img_size=True,  # patches come as a map, whatever the image's size
            norm_layer=partial(nn.LayerNorm, eps=settings.pop("norm_eps", 1e-6)),
            **settings,
        )
        self.patch_embed, self.blocks, self.norm = vit.patch_embed, vit.blocks, vit.norm
        self.norm_pre, self.pos_drop = vit.norm_pre, vit.pos_drop
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.num_prefix_tokens, self.no_embed_class = vit.num_prefix_tokens, vit.no_embed_class
        self.grid_size, self.image_size, self.stride = vit.patch_embed.grid_size, config.image_size, config.patch_size
        rescale_linear(self, config.initializer_range)

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """See `Stream`."""
        return cls(config)

    @classmethod
    def describe(cls, module: Any) -> dict[str, Any]:
        """See `Stream`; of other blocks, attentions or embeddings than the standard ones nothing is computed here."""
        if (other := next((name for name, standard in _parts(module) if not standard), None)) is not None:
            raise ValueError(
                f"the image stream computes timm's VisionTransformer with its standard blocks only, got {other}; "
                "choose another model, such as vit_base_patch16_224"
            )
        block = module.blocks[0]
        return {
            "image_size": module.patch_embed.img_size[0],
            "patch_size": module.patch_embed.patch_size[0],
            "embed_dim": module.embed_dim,
            "depths": (len(module.blocks),),
            "image_num_heads": (block.attn.num_heads,),
            "image_mlp_ratio": block.mlp.fc1.out_features / block.mlp.fc1.in_features,
            "image_settings": _settings(module, block),
        }

    @property
    def sizes(self) -> StreamSizes:
        """See `Stream`."""
        attention = self.blocks[0].attn
        return StreamSizes((attention.proj.out_features,) * len(self.blocks), (attention.num_heads,) * len(self.blocks))

    def units(self) -> list[nn.Module]:
        """See `Stream`: the blocks."""
        return list(self.blocks)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """See `ImageStream`; positions are interpolated for images of another size."""
        x = self.patch_embed(pixel_values)  # (B, rows, columns, C)
        size, x = list(x.shape[1:3]), x.flatten(1, 2)
        prefix = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        positions: Tensor | float = 0.0
        if self.pos_embed is not None:
            embedded = 0 if self.no_embed_class else self.num_prefix_tokens
            positions = resample_abs_pos_embed(self.pos_embed, size, list(self.grid_size), num_prefix_tokens=embedded)
        x = (
            torch.cat([*prefix, x + positions], dim=1)
            if self.no_embed_class
            else torch.cat([*prefix, x], 1) + positions
        )
        return self.norm_pre(self.pos_drop(x))[:, None]

    def run(
        self, x: Tensor, block: int, insert: Insert | None = None, sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """See `ImageStream`."""
        arguments = (self.blocks[block], x[:, 0], insert or Insert())
        return self.compute(_block, *arguments)[:, None], None

    def final_norm(self, x: Tensor) -> Tensor:
        """See `ImageStream`."""
        return self.norm(x)

    def num_tokens(self, block: int, image_size: int) -> int:
        """See `ImageStream`."""
        return self.num_prefix_tokens + (image_size // self.stride) ** 2

    def adapt(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        """Positions of another grid, by interpolation."""
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        side = round((shape[1] - prefix) ** 0.5) if name == "pos_embed" else 0
        if name != "pos_embed" or prefix + side * side != shape[1]:
            return value
        return resample_abs_pos_embed(value, [side, side], num_prefix_tokens=prefix)

    def resize(self, config: FiberConfig) -> None:
        """See `ImageStream`."""
        side, prefix = config.image_size // self.stride, 0 if self.no_embed_class else self.num_prefix_tokens
        if self.pos_embed is not None:
            shape = torch.Size([1, prefix + side * side, self.dim])
            self.pos_embed = nn.Parameter(self.adapt("pos_embed", self.pos_embed.detach(), shape))
        self.image_size, self.grid_size = config.image_size, (side, side)


def _block(block: Block, x: Tensor, insert: Insert) -> Tensor:
    attended = _attend(block.attn, block.norm1(x), insert)
    if insert.after is not None:
        attended = insert.after(attended)
    x = x + block.drop_path1(block.ls1(attended))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _attend(attention: Any, x: Tensor, insert: Insert) -> Tensor:
    """Self-attention (B, N, C), over the inserted context too."""
    query, key, value = (split_heads(part, attention.num_heads) for part in attention.qkv(x).chunk(3, dim=-1))
    query, key, mask = attention.q_norm(query), attention.k_norm(key), None
    if insert.context is not None:
        if insert.mask is not None:
            own = insert.mask.new_zeros(*insert.mask.shape[:3], key.shape[2])
            mask = torch.cat([own, insert.mask], dim=-1).to(query.dtype)
        key, value = (torch.cat(parts, dim=2) for parts in zip((key, value), insert.context, strict=True))
    dropout = attention.attn_drop.p if attention.training else 0.0
    attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attention.proj_drop(attention.proj(attention.norm(merge_heads(attended))))


def _parts(module: Any) -> Iterator[tuple[str, bool]]:
    """The kinds of a ViT's parts, from outside in, and whether they are those that this stream computes."""
    yield type(module).__name__, type(module) is VisionTransformer
    yield "images that are not square", module.patch_embed.img_size[0] == module.patch_embed.img_size[1]
    yield "a norm of patches", isinstance(module.patch_embed.norm, nn.Identity)
    block = module.blocks[0]
    yield type(block).__name__, type(block) is Block
    yield type(block.norm1).__name__, isinstance(block.norm1, nn.LayerNorm)
    yield type(block.attn).__name__, type(block.attn) is Attention
    yield "a gated attention", getattr(block.attn, "gate", None) is None
    yield type(block.mlp).__name__, type(block.mlp) is Mlp and isinstance(block.mlp.norm, nn.Identity)
    yield type(block.mlp.act).__name__, type(block.mlp.act) is nn.GELU and block.mlp.act.approximate == "none"


def _settings(module: Any, block: Any) -> dict[str, Any]:
    """Arguments of timm's class under which it would be built like a module."""
    scale = getattr(block.ls1, "gamma", None)
    return {
        "class_token": module.cls_token is not None,
        "reg_tokens": module.num_reg_tokens,
        "no_embed_class": module.no_embed_class,
        "pos_embed": "none" if module.pos_embed is None else "learn",
        "pre_norm": not isinstance(module.norm_pre, nn.Identity),
        "final_norm": not isinstance(module.norm, nn.Identity),
        "qkv_bias": block.attn.qkv.bias is not None,
        "proj_bias": block.attn.proj.bias is not None,
        "qk_norm": not isinstance(block.attn.q_norm, nn.Identity),
        "scale_attn_norm": not isinstance(block.attn.norm, nn.Identity),
        "init_values": None if scale is None else 1e-5,  # whether there are scales; their values are weights
        "norm_eps": block.norm1.eps,
    }
