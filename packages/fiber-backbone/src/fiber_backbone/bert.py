"""A text stream of transformers' BERT modules, so that small encoders such as MiniLM serve.

A layer computes as RoBERTa's (Devlin et al. 2019); positions count from 0, padding among them, and a text is of type 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from fiber_backbone.config import FiberConfig
from fiber_backbone.roberta import RobertaStream


class BertStream(RobertaStream):
    """BERT with room for images; parameter names are transformers'.

    Args:
        config: As of `RobertaStream`, with BERT's values: `pad_token_id=0`, `type_vocab_size=2`,
            `layer_norm_eps=1e-12`, `max_position_embeddings=512`.
    """

    model_class = BertModel
    config_class = BertConfig
    model_types = ("bert",)

    @staticmethod
    def _longest(config: FiberConfig) -> int:
        return config.max_position_embeddings

    def _positions(self, input_ids: Tensor, past_length: Tensor | None) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return positions if past_length is None else positions + past_length[:, None]
