"""Whether a tokenizer suits texts: a thousand of them are cut as a model would read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

SAMPLED_TEXTS = 1000  # of each source, on which a tokenizer is judged
MOST_CUT = 0.05  # of the texts, that a maximal length may cut
MOST_PIECES = 2.5  # pieces of a word, with a tokenizer that knows the language about 1.3
MOST_UNKNOWN = 0.01  # of the pieces
# A word is a run of letters and digits, a mark, or one character of a script that writes without spaces.
_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")


def judge_tokenizer(tokenizer: Any, texts: Sequence[str], max_length: int) -> Iterator[str]:
    """What is wrong with a tokenizer for these texts, in sentences: it cuts them off, to pieces, or knows no words.

    Args:
        tokenizer: Of transformers.
        texts: A sample of them.
        max_length: Tokens that a text is cut to, special ones included.
    """
    if (found := _pieces(tokenizer, texts)) is None:
        return
    ids = tokenizer(list(texts), verbose=False)["input_ids"]
    cut = sum(len(each) > max_length for each in ids) / len(ids)
    of = f"of the first {len(texts):,} texts"
    if cut > MOST_CUT:
        longest = max(map(len, ids))
        yield f"{cut:.0%} {of} are cut off at data.max_length={max_length} tokens; the longest has {longest:,}"
    pieces, unknown = found
    if pieces > MOST_PIECES:
        yield (
            f"the tokenizer cuts words into {pieces:.1f} pieces, by a measure {of}; set data.tokenizer to one of this "
            "language, or to auto to train one, or raise data.vocab_size"
        )
    if unknown > MOST_UNKNOWN:
        yield f"the tokenizer does not know {unknown:.0%} of the pieces {of}; set data.tokenizer to one that does"


def covers(tokenizer: Any, texts: Iterable[str]) -> bool:
    """Whether a tokenizer knows the words of the first thousand texts: not as pieces of a few letters, nor not at all.

    Args:
        tokenizer: Of transformers.
        texts: In their order.
    """
    found = _pieces(tokenizer, list(islice(texts, SAMPLED_TEXTS)))
    return found is None or (found[0] <= MOST_PIECES and found[1] <= MOST_UNKNOWN)


def _pieces(tokenizer: Any, texts: Sequence[str]) -> tuple[float, float] | None:
    """Pieces of a word, and the share of the pieces that are unknown; None for texts without words."""
    words = sum(len(_WORD.findall(text)) for text in texts)
    if not words:
        return None
    bare = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    pieces = list(chain.from_iterable(bare))
    unknown = 0 if tokenizer.unk_token_id is None else pieces.count(tokenizer.unk_token_id)
    return len(pieces) / words, unknown / max(1, len(pieces))
