"""The text stream of FIBER: transformers' RoBERTa modules, our computation.

Source: RoBERTa (Liu et al. 2019) and FIBER section 3.1:

    b = W_o SelfAttention(t)
    b = insert(b)                              (the top K layers)
    h = LN(b + t)
    t = LN(h + FFN(h))

Shapes: B batch, L tokens, P tokens already decoded, D channels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PretrainedConfig, PreTrainedModel, RobertaConfig, RobertaModel

from fiber_backbone.attention import KeyValue, merge_heads, split_heads
from fiber_backbone.config import FiberConfig
from fiber_backbone.streams import Insert, StreamSizes, TextStream, rescale_linear

# Fields of `FiberConfig` and what transformers calls them.
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "pad_token_id": "pad_token_id",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_act": "hidden_act",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}


class RobertaStream(TextStream):
    """RoBERTa with room for images.

    Parameter names are transformers' (`embeddings`, `encoder.layer.{i}`), so that any RoBERTa loads by name.

    Args:
        config: `vocab_size`, `hidden_size` and the fields up to `attention_dropout` are read.
    """

    library_class = PreTrainedModel
    model_class: ClassVar[type[PreTrainedModel]] = RobertaModel
    config_class: ClassVar[type[PretrainedConfig]] = RobertaConfig
    model_types: ClassVar[tuple[str, ...]] = ("roberta", "xlm-roberta", "camembert")
    # Any: the library's modules, whose attributes the type checker cannot know
    embeddings: Any
    encoder: Any

    def __init__(self, config: FiberConfig) -> None:
        super().__init__()
        settings = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
        model: Any = self.model_class(self.config_class(**settings), add_pooling_layer=False)
        self.embeddings, self.encoder = model.embeddings, model.encoder
        rescale_linear(self, config.initializer_range)
        self.vocab_size, self.pad_token_id = config.vocab_size, config.pad_token_id
        self.max_length = self._longest(config)
        self.attention_dropout, self._sizes = config.attention_dropout, self.sizes_of(config)

    @classmethod
    def from_config(cls, config: FiberConfig) -> Self:
        """See `Stream`."""
        return cls(config)

    @classmethod
    def sizes_of(cls, config: FiberConfig) -> StreamSizes:
        """Sizes of the stream that a configuration would give."""
        layers, dropouts = config.num_hidden_layers, (config.hidden_dropout, config.attention_dropout)
        return StreamSizes((config.hidden_size,) * layers, (config.num_attention_heads,) * layers, *dropouts)

    @classmethod
    def describe(cls, module: Any) -> dict[str, Any]:
        """See `Stream`."""
        own = module.config
        if own.model_type not in cls.model_types or own.is_decoder or own.add_cross_attention:
            raise ValueError(f"{cls.__name__} takes {', '.join(cls.model_types)} encoders, got a {own.model_type}")
        return {ours: getattr(own, theirs) for ours, theirs in FIELDS.items()}

    @property
    def sizes(self) -> StreamSizes:
        """See `Stream`."""
        return self._sizes

    def units(self) -> list[nn.Module]:
        """See `Stream`: the layers."""
        return list(self.encoder.layer)

    def embed(self, input_ids: Tensor, past_length: Tensor | None = None) -> Tensor:
        """See `TextStream`."""
        table = self.embeddings
        hidden = (
            table.word_embeddings(input_ids)
            + table.token_type_embeddings.weight[0]
            + table.position_embeddings(self._positions(input_ids, past_length))
        )
        return table.dropout(table.LayerNorm(hidden))

    def run(
        self,
        hidden: Tensor,
        layer: int,
        mask: Tensor,
        insert: Insert | None = None,
        past: KeyValue | None = None,
        final_norm: bool = True,
    ) -> tuple[Tensor, KeyValue]:
        """See `TextStream`."""
        arguments = (self, hidden, mask, insert or Insert(), past, final_norm)
        return self.compute(_block, self.encoder.layer[layer], *arguments)

    @staticmethod
    def _longest(config: FiberConfig) -> int:
        return config.max_position_embeddings - config.pad_token_id - 1

    def _positions(self, input_ids: Tensor, past_length: Tensor | None) -> Tensor:
        """Positions count the tokens that are not padding, from `pad_token_id + 1`; padding is at `pad_token_id`."""
        real = (input_ids != self.pad_token_id).long()
        past = 0 if past_length is None else past_length[:, None]
        return self.pad_token_id + (real.cumsum(dim=1) + past) * real


def _block(
    layer: Any,
    stream: RobertaStream,
    hidden: Tensor,
    mask: Tensor,
    insert: Insert,
    past: KeyValue | None,
    final_norm: bool,
) -> tuple[Tensor, KeyValue]:
    attention = layer.attention
    query, key, value = (
        split_heads(linear(hidden), stream._sizes.heads[0])
        for linear in (attention.self.query, attention.self.key, attention.self.value)
    )
    if past is not None:
        key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)
    attended = scaled_dot_product_attention(
        query,
        *_with_context(key, value, mask, insert),
        dropout_p=stream.attention_dropout if stream.training else 0.0,
    )
    attended = attention.output.dropout(attention.output.dense(merge_heads(attended)))
    if insert.after is not None:
        attended = insert.after(attended)
    middle = attention.output.LayerNorm(attended + hidden)
    wide = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(middle))
    hidden = layer.output.dropout(layer.output.dense(wide)) + middle
    return (layer.output.LayerNorm(hidden) if final_norm else hidden), KeyValue(key, value)


def _with_context(key: Tensor, value: Tensor, mask: Tensor, insert: Insert) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and mask of a layer's own tokens, followed by those of an inserted context."""
    mask = mask.to(key.dtype)
    if insert.context is None:
        return key, value, mask
    repeats = key.shape[0] // insert.context.key.shape[0]  # texts in a row may read one image
    context = (part[:, None].expand(-1, repeats, -1, -1, -1).flatten(0, 1) for part in insert.context)
    key, value = (torch.cat(parts, dim=2) for parts in zip((key, value), context, strict=True))
    more = mask.new_zeros(1) if insert.mask is None else insert.mask.to(mask.dtype)
    shape = (key.shape[0], 1, mask.shape[2])
    own, more = mask.expand(*shape, -1), more.expand(*shape, key.shape[2] - mask.shape[3])
    return key, value, torch.cat([own, more], dim=-1)
