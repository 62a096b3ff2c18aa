"""Text from a causal decoder: greedy, sampling, and beam search over several images at once.

A decoder takes one token a row and keeps what it has computed (`Decoder`); everything here is about which tokens to
give it. Beam search ranks by log-probability over length (spec: coarse, section 2.8). What it does otherwise than the
original, which `original_beam_search` reproduces:

    * a hypothesis is divided by its own length; the original leaves the lengths in their slots when hypotheses move
    * a hypothesis that has ended goes into a pool; the original lets it compete on, and fill several slots with copies
    * an image that is done leaves the batch
    * begin and padding are never generated

Shapes: B images, K beams or samples of an image, R = B K rows of text, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from fiber_heads.config import GenerationConfig
from fiber_heads.draws import draw, uniform
from fiber_heads.results import Result


class Decoder(Protocol):
    """What makes the logits of next tokens, row by row; rows of the same image follow one another.

    Attributes:
        num_images: B.
        device: Where tokens are wanted and logits come from.
    """

    num_images: int
    device: torch.device

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (R, V) of the tokens that follow `tokens` (R,), each the newest of its row."""

    def select(self, rows: Tensor, images: Tensor | None = None) -> None:
        """Goes on with other rows, in this order; `images` are those that remain, all of them if None."""


@dataclass(frozen=True)
class Caption(Result):
    """One generated text.

    Attributes:
        token_ids: Its tokens without begin, end and padding.
        score: Sum of the log-probabilities of its tokens, the end token included, over their number to the power of
            `length_penalty`; at most 0, and the higher the better.
        text: Its words; None if nobody gave a tokenizer.
    """

    token_ids: list[int] = field(repr=False)
    score: float
    text: str | None = None

    def __str__(self) -> str:
        return f"{self.token_ids if self.text is None else self.text} ({self.score:.3f})"

    def row(self) -> dict[str, Any]:
        """The words, or the tokens where there are no words, and the score."""
        return {"caption": self.token_ids if self.text is None else self.text, "score": self.score}


@torch.no_grad()
def generate(decoder: Decoder, config: GenerationConfig) -> list[list[Caption]]:
    """Captions of each image, best first.

    Args:
        decoder: Fresh: it has seen no token yet.
        config: How.

    Returns:
        For each image `num_return_sequences` captions; fewer if the search met no more.
    """
    if not config.do_sample and config.original:
        return original_beam_search(decoder, config)
    if not config.do_sample and config.num_beams > 1:
        return beam_search(decoder, config)
    ids, log_probs = sample(decoder, config)
    lengths = (ids[:, 1:] != config.pad_token_id).sum(dim=1).clamp(min=1)
    captions = _captions(ids, log_probs.sum(dim=1) / lengths**config.length_penalty, config)
    each = len(captions) // decoder.num_images
    return [sorted(captions[start : start + each], key=_score, reverse=True) for start in range(0, len(captions), each)]


@torch.no_grad()
def sample(
    decoder: Decoder, config: GenerationConfig, forced: Tensor | None = None, seeds: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Texts token by token: drawn, or always the likeliest.

    Args:
        decoder: Fresh.
        config: Draws `num_return_sequences` texts of each image with `do_sample`, else the one greedy text.
        forced: (R, at least T) tokens to take instead of choosing, up to each row's end.
        seeds: (B,) int64, of each image one of its own, from which its draws follow; else torch's generator draws.

    Returns:
        ids: (R, 1 + T) int64, T at most `max_length`: the begin token, the text with its end token, padding.
        log_probs: (R, T) of the tokens, whatever the temperature; 0 at padding.
    """
    each = config.num_return_sequences if config.do_sample else 1
    images, device = decoder.num_images, decoder.device
    ids = torch.full((images * each, config.max_length + 1), config.pad_token_id, device=device)
    ids[:, 0] = config.begin_token_id
    logits = decoder.step(ids[::each, 0]).repeat_interleave(each, dim=0)
    decoder.select(torch.arange(images, device=device).repeat_interleave(each))
    log_probs = logits.new_zeros(len(ids), config.max_length)
    if seeds is not None:
        seeds = seeds.repeat_interleave(each) + torch.arange(each, device=device).repeat(images)
    live, ended = torch.arange(len(ids), device=device), torch.zeros(len(ids), dtype=torch.bool, device=device)
    for length in range(1, config.max_length + 1):
        log_prob = _log_probs(logits, config, length)
        numbers = None if seeds is None else uniform(seeds[live], length)
        token = _choose(log_prob, config, numbers) if forced is None else forced[live, length - 1]
        over = ended[live]
        token = token.masked_fill(over, config.pad_token_id)
        ids[live, length] = token
        log_probs[live, length - 1] = log_prob.gather(1, token[:, None])[:, 0].masked_fill(over, 0.0).to(logits.dtype)
        ended[live] = over | _ends(token, config)
        left = (~ended[live].view(-1, each).all(dim=1)).nonzero()[:, 0]
        if not len(left) or length == config.max_length:
            break
        if len(left) * each < len(live):  # images whose texts have all ended leave
            rows = (left[:, None] * each + torch.arange(each, device=device)).flatten()
            decoder.select(rows, left)
            live, token = live[rows], token[rows]
        logits = decoder.step(token)
    return ids[:, : length + 1], log_probs[:, :length]


def _choose(log_probs: Tensor, config: GenerationConfig, numbers: Tensor | None) -> Tensor:
    """One token a row, drawn by `numbers` in [0, 1) if they are given."""
    if not config.do_sample:
        return log_probs.argmax(dim=-1)
    logits = log_probs / config.temperature
    if config.top_k:
        least = logits.topk(min(config.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if config.top_p < 1:
        probabilities, order = logits.softmax(dim=-1).sort(descending=True)
        before = probabilities.cumsum(dim=-1) - probabilities
        logits = logits.masked_fill((before >= config.top_p).scatter(1, order, before >= config.top_p), -torch.inf)
    probabilities = logits.softmax(dim=-1)
    return torch.multinomial(probabilities, 1)[:, 0] if numbers is None else draw(probabilities, numbers)


@dataclass
class _Search:
    """The search for one image: live hypotheses, and those that have ended."""

    config: GenerationConfig
    paths: list[list[int]] = field(default_factory=lambda: [[]])
    sums: list[float] = field(default_factory=lambda: [0.0])
    parents: list[int] = field(default_factory=list)
    ended: list[Caption] = field(default_factory=list)

    def advance(self, sums: Sequence[float], parents: Sequence[int], tokens: Sequence[int], length: int) -> None:
        """Takes candidates of `length` tokens, best first: those that end go into the pool, the others live on."""
        width, live = self.config.num_beams, []
        for rank, (total, parent, token) in enumerate(zip(sums, parents, tokens, strict=True)):
            if total == -torch.inf:
                break
            if token != self.config.end_token_id:
                live.append((total, parent, [*self.paths[parent], token]))
            elif rank < width:
                self.end(self.paths[parent], total, length)
        live = live[:width]
        self.sums, self.parents, self.paths = (
            [one[0] for one in live],
            [one[1] for one in live],
            [one[2] for one in live],
        )

    def end(self, path: list[int], total: float, length: int) -> None:
        """Puts a hypothesis into the pool of the best `num_beams`."""
        self.ended.append(Caption(path, total / length**self.config.length_penalty))
        self.ended = sorted(self.ended, key=_score, reverse=True)[: self.config.num_beams]

    def is_done(self, length: int) -> bool:
        """Whether no live hypothesis need be followed any more."""
        if not self.sums or length == self.config.max_length:
            for path, total in zip(self.paths, self.sums, strict=True):
                self.end(path, total, length)
            return True
        if len(self.ended) < self.config.num_beams:
            return False
        power = self.config.length_penalty
        reach = self.config.max_length if self.config.exhaustive and power > 0 else length
        return self.ended[-1].score >= max(self.sums) / reach**power


@torch.no_grad()
def beam_search(decoder: Decoder, config: GenerationConfig) -> list[list[Caption]]:
    """See `generate`; images that are done leave the batch, ended hypotheses leave the beams."""
    searches = [_Search(config) for _ in range(decoder.num_images)]
    live, beams = searches, 1
    tokens = torch.full((len(live),), config.begin_token_id, device=decoder.device)
    for length in range(1, config.max_length + 1):
        log_probs = _log_probs(decoder.step(tokens), config, length)
        vocabulary = log_probs.shape[1]
        sums = log_probs.new_tensor([search.sums + [-torch.inf] * (beams - len(search.sums)) for search in live])
        totals = (sums[..., None] + log_probs.view(len(live), beams, vocabulary)).flatten(1)
        # Twice as many as beams: even if half of them end, enough live on.
        best, places = totals.topk(min(2 * config.num_beams, totals.shape[1]))
        candidates = zip(best.tolist(), (places // vocabulary).tolist(), (places % vocabulary).tolist(), strict=True)
        for search, (values, parents, ids) in zip(live, candidates, strict=True):
            search.advance(values, parents, ids, length)
        left = [place for place, search in enumerate(live) if not search.is_done(length)]
        if not left:
            break
        images = None if len(left) == len(live) else torch.tensor(left, device=decoder.device)
        live, before = [live[place] for place in left], beams
        beams = max(len(search.sums) for search in live)
        rows, newest = [], []
        for place, search in zip(left, live, strict=True):
            unused = beams - len(search.sums)  # rows without a hypothesis: only where the vocabulary is tiny
            rows += [place * before + parent for parent in search.parents + [0] * unused]
            newest += [path[-1] for path in search.paths] + [config.end_token_id] * unused
        decoder.select(torch.tensor(rows, device=decoder.device), images)
        tokens = torch.tensor(newest, device=decoder.device)
    return [search.ended[: config.num_return_sequences] for search in searches]


@dataclass
class OriginalBeams:
    """The original's search between two steps; row k of an image is its slot k.

    Attributes:
        ids: (R, 1 + max_length) int64.
        sums: (R,) log-probability of each hypothesis.
        lengths: (R,) number of tokens of the hypotheses that the slot has held, not of the one that it holds.
        ended: (R,) bool, whether the newest token is the end or padding.
    """

    ids: Tensor
    sums: Tensor
    lengths: Tensor
    ended: Tensor


@torch.no_grad()
def original_beams(decoder: Decoder, config: GenerationConfig) -> Iterator[OriginalBeams]:
    """The original's beam search step by step, with both its defects, token for token.

    Args:
        decoder: Fresh.
        config: `num_beams`, `max_length` and the tokens are used.
    """
    images, width, device = decoder.num_images, config.num_beams, decoder.device
    ids = torch.full((images * width, config.max_length + 1), config.pad_token_id, device=device)
    ids[:, 0] = config.begin_token_id
    first = _original_log_probs(decoder.step(ids[::width, 0]), config)
    sums, tokens = (part.flatten() for part in first.topk(width))
    decoder.select(torch.arange(images, device=device).repeat_interleave(width))
    ids[:, 1], lengths, ended = tokens, torch.ones_like(sums), _ends(tokens, config)
    yield OriginalBeams(ids, sums, lengths, ended)
    for position in range(2, config.max_length + 1):
        if ended.all():
            return
        # An ended hypothesis gains nothing, by whatever token: it is V candidates.
        gains = _original_log_probs(decoder.step(tokens), config).masked_fill(ended[:, None], 0.0)
        totals, vocabulary = sums[:, None] + gains, gains.shape[1]
        lengths = lengths + (~ended).to(lengths.dtype)  # stay in their slots below
        best = (totals / (lengths[:, None] + 1e-9)).view(images, -1).topk(width).indices
        sums = totals.view(images, -1).gather(1, best).flatten()
        parents = (best // vocabulary + torch.arange(images, device=device)[:, None] * width).flatten()
        tokens = (best % vocabulary).flatten().masked_fill(ended[parents], config.pad_token_id)
        ids, ended = ids[parents], _ends(tokens, config)
        ids[:, position] = tokens
        decoder.select(parents)
        yield OriginalBeams(ids, sums, lengths, ended)


def original_beam_search(decoder: Decoder, config: GenerationConfig) -> list[list[Caption]]:
    """The slots of `original_beams` at its end, in their order."""
    for state in original_beams(decoder, config):
        last = state
    captions = _captions(last.ids, last.sums / (last.lengths + 1e-9), config)
    return [
        captions[start : start + config.num_return_sequences] for start in range(0, len(captions), config.num_beams)
    ]


def _original_log_probs(logits: Tensor, config: GenerationConfig) -> Tensor:
    """Log-probabilities (R, V); forbidden tokens are as good as impossible."""
    logits = logits.clone()
    logits[:, [token for token in config.forbidden_token_ids if token < logits.shape[1]]] = -1e4
    return log_softmax(logits, dim=-1)


def _log_probs(logits: Tensor, config: GenerationConfig, length: int) -> Tensor:
    """Log-probabilities (R, V) of tokens number `length`, in float32 or better; barred ones have -inf."""
    barred = [token for token in config.forbidden_token_ids if token < logits.shape[1]]
    if not config.original:
        barred += [config.begin_token_id, config.pad_token_id]
    if length <= config.min_length:
        barred.append(config.end_token_id)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    logits[:, barred] = -torch.inf
    return log_softmax(logits, dim=-1)


def _ends(tokens: Tensor, config: GenerationConfig) -> Tensor:
    return (tokens == config.end_token_id) | (tokens == config.pad_token_id)


def _captions(ids: Tensor, scores: Tensor, config: GenerationConfig) -> list[Caption]:
    special = (config.begin_token_id, config.end_token_id, config.pad_token_id)
    return [
        Caption([token for token in row if token not in special], score)
        for row, score in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def _score(caption: Caption) -> float:
    return caption.score
