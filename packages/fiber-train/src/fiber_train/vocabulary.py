"""Another vocabulary for a trained model: new pieces begin as the mean of what the old ones said of their letters."""

from __future__ import annotations

from typing import Any

import torch
from fiber_heads import TaskModel
from fiber_heads.masked_lm import MaskedLMHead
from torch import Tensor, nn

_ROLES = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "mask_token_id",
    "cls_token_id",
    "sep_token_id",
)


def take_vocabulary(model: TaskModel, old: Any, new: Any) -> None:
    """Gives the text stream, and heads that predict words, the pieces of another tokenizer.

    A piece that both know keeps its embedding. Another one begins as the mean of the pieces that the old tokenizer
    cuts it into, which is how a word was read before (fast vocabulary transfer, Gee et al. 2022).

    Args:
        model: Trained with `old`; is changed.
        old: A tokenizer of transformers.
        new: Likewise; for roles such as padding it may have other numbers.
    """
    before, stream = model.backbone.vocab_size, model.backbone.text_stream
    mixed = _mixing(old, new, before)
    for module in list(model.modules()):
        for name, table in list(module.named_children()):
            if isinstance(table, nn.Embedding) and table.num_embeddings == before:
                grown = nn.Embedding.from_pretrained(mixed @ table.weight.detach(), False, new.pad_token_id)
                setattr(module, name, grown)
        if isinstance(module, MaskedLMHead):
            module.decoder.weight = nn.Parameter(mixed @ module.decoder.weight.detach())
            module.decoder.bias = nn.Parameter(mixed @ module.decoder.bias.detach())
            module.decoder.out_features = len(new)
    stream.vocab_size, stream.pad_token_id = len(new), new.pad_token_id
    sizes = {"vocab_size": len(new), "pad_token_id": new.pad_token_id}
    model.backbone.config = model.backbone.config.replaced(**sizes)


def _mixing(old: Any, new: Any, before: int) -> Tensor:
    """The share (new, old) of each old piece in each new one, sparse, for both may be large; rows add up to 1."""
    known, rows, columns, shares = old.get_vocab(), [], [], []
    roles = {getattr(new, role): getattr(old, role) for role in _ROLES}
    for piece, row in new.get_vocab().items():
        if roles.get(row) is not None:
            places = [roles[row]]
        elif piece in known:
            places = [known[piece]]
        else:
            places = old(new.decode([row]), add_special_tokens=False)["input_ids"] or list(range(len(old)))
        rows += [row] * len(places)
        columns += places
        shares += [1 / len(places)] * len(places)
    return torch.sparse_coo_tensor(
        torch.tensor([rows, columns]), torch.tensor(shares), (len(new), before), check_invariants=True
    )
