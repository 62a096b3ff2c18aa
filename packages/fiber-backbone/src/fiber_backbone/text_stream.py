"""The text stream: transformers' RoBERTa modules, our computation, cross-attention inside the top layers.

Source: RoBERTa (Liu et al. 2019) and FIBER section 3.1:

    b = W_o SelfAttention(t)
    b = b + gate * Cross(b, image)             (the top K layers)
    h = LN(b + t)
    t = LN(h + FFN(h))

Shapes: B batch, L tokens, P tokens already decoded, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import RobertaConfig, RobertaModel

from fiber_backbone.attention import GatedCrossAttention, KeyValue, merge_heads, split_heads
from fiber_backbone.config import FiberConfig


def roberta_config(config: FiberConfig) -> RobertaConfig:
    """The text stream's sizes in transformers' terms."""
    return RobertaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        pad_token_id=config.pad_token_id,
        layer_norm_eps=config.layer_norm_eps,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
    )


class TextStream(nn.Module):
    """RoBERTa with room for pictures: `run` advances any layer, with or without an image to read.

    Parameter names are transformers' (`embeddings`, `encoder.layer.{i}`), so that any RoBERTa loads by name;
    `cross_attention.{k}` belongs to the k-th fused layer.
    """

    # Any: the library's modules, whose attributes the type checker cannot know
    embeddings: Any
    encoder: Any
    cross_attention: Any

    def __init__(self, config: FiberConfig) -> None:
        super().__init__()
        roberta = RobertaModel(roberta_config(config), add_pooling_layer=False)
        self.embeddings, self.encoder = roberta.embeddings, roberta.encoder
        self.cross_attention = nn.ModuleList(
            GatedCrossAttention(
                config.hidden_size,
                config.stage_dims[config.block_stages[block]],
                config.num_attention_heads,
                dropout=config.hidden_dropout,
                attention_dropout=config.attention_dropout,
            )
            for block, _ in config.fused_blocks
        )
        self.config = config
        self.gradient_checkpointing = False

    def embed(self, input_ids: Tensor, past_length: Tensor | None = None) -> Tensor:
        """Word, position and token type embeddings.

        Positions count the tokens that are not padding, from `pad_token_id + 1`; padding stands at `pad_token_id`.

        Args:
            input_ids: (B, L) int64.
            past_length: (B,) int64, tokens that are not padding and were decoded before.

        Returns:
            (B, L, D), the input of the first layer.
        """
        pad = self.config.pad_token_id
        real = (input_ids != pad).long()
        past = 0 if past_length is None else past_length[:, None]
        positions = pad + (real.cumsum(dim=1) + past) * real
        table = self.embeddings
        hidden = (
            table.word_embeddings(input_ids)
            + table.token_type_embeddings.weight[0]
            + table.position_embeddings(positions)
        )
        return table.dropout(table.LayerNorm(hidden))

    def run(
        self,
        hidden: Tensor,
        layer: int,
        mask: Tensor | None,
        context: Tensor | KeyValue | None = None,
        past: KeyValue | None = None,
        final_norm: bool = True,
        context_mask: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """One layer.

        Args:
            hidden: (B, L, D), input of the layer.
            layer: Number of the layer.
            mask: Additive, broadcastable to (B, heads, L, P + L).
            context: Images to read, (B, N, C) or their keys and values, for a fused layer; None leaves it unfused.
                With fewer images than texts, texts that read the same image follow one another.
            past: Keys and values of the tokens before these.
            final_norm: Whether the layer ends with its layer norm.
            context_mask: Additive, broadcastable to (B, heads, L, N): which tokens of the image to read.

        Returns:
            The input of the next layer, and the keys and values of all tokens so far.
        """
        module = self.encoder.layer[layer]
        cross = None if context is None else self.cross_attention[layer - self.config.fused_blocks[0][1]]
        arguments = (module, hidden, mask, cross, context, past, final_norm, context_mask)
        if self.gradient_checkpointing and self.training:
            return checkpoint(self._layer, *arguments, use_reentrant=False)
        return self._layer(*arguments)

    def _layer(
        self,
        layer: Any,
        hidden: Tensor,
        mask: Tensor | None,
        cross: GatedCrossAttention | None,
        context: Tensor | KeyValue | None,
        past: KeyValue | None,
        final_norm: bool,
        context_mask: Tensor | None,
    ) -> tuple[Tensor, KeyValue]:
        attention, heads = layer.attention, self.config.num_attention_heads
        query, key, value = (
            split_heads(linear(hidden), heads)
            for linear in (attention.self.query, attention.self.key, attention.self.value)
        )
        if past is not None:
            key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)
        attended = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask.to(query.dtype),
            dropout_p=self.config.attention_dropout if self.training else 0.0,
        )
        attended = attention.output.dropout(attention.output.dense(merge_heads(attended)))
        if cross is not None and context is not None:
            # Texts in a row that read one image are one long query of it: its keys and values are never repeated.
            images = len(context if isinstance(context, Tensor) else context.key)
            attended = cross(attended.reshape(images, -1, attended.shape[-1]), context, context_mask).view_as(attended)
        middle = attention.output.LayerNorm(attended + hidden)
        hidden = layer.output.dropout(layer.output.dense(gelu(layer.intermediate.dense(middle)))) + middle
        return (layer.output.LayerNorm(hidden) if final_norm else hidden), KeyValue(key, value)
