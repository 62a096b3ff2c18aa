"""The alignment that METEOR chooses among the matches of two captions, by its beam search, and what it counts there.

Many pairs of captions are searched side by side: a path is a row of flat arrays, and each step moves the paths of all
pairs one word of the reference on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiber_eval.captioning._ngrams import Ints
from fiber_eval.captioning.meteor._matches import EXACT, Captions, Matches

BEAM = 40
PAIRS_AT_ONCE = 1024
NUM_STATISTICS = 23


def statistics_of(captions: Captions, candidates: Ints, references: Ints) -> Ints:
    """What METEOR counts in the alignment of each pair.

    Args:
        captions: The captions.
        candidates: [P] numbers of captions.
        references: [P] numbers of captions.

    Returns:
        [P, 23]: words of candidate and reference; function words of both; for each of the four modules the matched
        content words of both, then function words of both; chunks; matched words of both.
    """
    sizes = np.diff(captions.words.offsets)
    result = np.zeros((len(candidates), NUM_STATISTICS), dtype=np.int64)
    order = np.argsort(sizes[references], kind="stable")
    for first in range(0, len(order), PAIRS_AT_ONCE):
        pairs = order[first : first + PAIRS_AT_ONCE]
        ours, theirs = candidates[pairs], references[pairs]
        matches = captions.matches(ours, theirs)
        chosen, chunks = _search(matches, sizes[ours], sizes[theirs])
        result[pairs, 4:] = _counts(captions, matches, chosen, chunks, ours, theirs)
        for column, each in enumerate((ours, theirs)):
            begin, end = captions.words.offsets[each], captions.words.offsets[each + 1]
            result[pairs, column] = end - begin
            result[pairs, column + 2] = captions.function_before[end] - captions.function_before[begin]
    return result


def _counts(captions: Captions, matches: Matches, chosen: Ints, chunks: Ints, ours: Ints, theirs: Ints) -> Ints:
    """[P, 19], the statistics but for the lengths."""
    result = np.zeros((len(ours), NUM_STATISTICS - 4), dtype=np.int64)
    pair, module = matches.pair[chosen], matches.module[chosen]
    sides = ((ours, matches.other_start, matches.other_length), (theirs, matches.start, matches.length))
    for side, (caption, starts, lengths) in enumerate(sides):
        begin = captions.words.offsets[caption[pair]] + starts[chosen]
        length = lengths[chosen]
        function = captions.function_before[begin + length] - captions.function_before[begin]
        np.add.at(result, (pair, 4 * module + side), length - function)
        np.add.at(result, (pair, 4 * module + 2 + side), function)
        np.add.at(result, (pair, np.full_like(pair, 17 + side)), length)
    result[:, 16] = chunks
    return result


@dataclass(frozen=True)
class _Paths:
    """Rows of alignments in the making, sorted by pair.

    Args:
        pair: [N].
        total: [N], the weighted number of matched words, rounded down at each match.
        chunks: [N], closed ones.
        distance: [N], what METEOR sums of how far matched words lie apart.
        next: [N], the first word of the reference behind the last match.
        last: [N], the word of the candidate behind the last match while its chunk is open, else -1.
        used: [N, W], the words of the candidate that are matched, as bits.
        parent: [N], the path of the step before.
        match: [N], the match chosen in this step, or -1.
    """

    pair: Ints
    total: Ints
    chunks: Ints
    distance: Ints
    next: Ints
    last: Ints
    used: NDArray[np.uint64]
    parent: Ints
    match: Ints

    def take(self, rows: NDArray) -> _Paths:
        return _Paths(*(column[rows] for column in vars(self).values()))


def _search(matches: Matches, sizes: Ints, reference_sizes: Ints) -> tuple[Ints, Ints]:
    """The chosen matches of all pairs, and [P] the chunks of each pair."""
    num_pairs, steps = len(sizes), int(reference_sizes.max(initial=0)) + 1
    board = _Board.of(matches, num_pairs, steps, int(sizes.max(initial=0)))
    zeros = np.zeros(num_pairs, dtype=np.int64)
    used = np.zeros((num_pairs, board.used.shape[1]), dtype=np.uint64)
    paths = _Paths(np.arange(num_pairs), zeros, zeros, zeros, zeros, zeros - 1, used, zeros, zeros - 1)
    history = []
    for step in range(steps):  # the last one, behind the reference, closes chunks
        order = _best_first(paths)
        paths = _advance(paths.take(order), board, step)
        history.append((order[paths.parent], paths.match))
    order = _best_first(paths)
    row = order[np.diff(paths.pair[order], prepend=-1) > 0]
    chunks = paths.chunks[row]
    chosen = []
    for parent, match in reversed(history):
        chosen.append(match[row])
        row = parent[row]
    taken = np.concatenate(chosen) if chosen else zeros[:0]
    return taken[taken >= 0], chunks


@dataclass(frozen=True)
class _Board:
    """The matches as moves.

    Args:
        first: [P * steps + 1], the first match of each pair and start; those of a start are neighbors.
        steps: The number of starts of a pair.
        gain: [M + 1]; like the following, with a last one that stands for no match. The weighted words of each match.
        distance: [M + 1].
        end: [M + 1], the word of the reference behind the match.
        other_start: [M + 1].
        other_end: [M + 1].
        used: [M + 1, W], the candidate's words as bits.
        certain: [M + 1], whether no other match touches its words, by which it must be taken.
    """

    first: Ints
    steps: int
    gain: Ints
    distance: Ints
    end: Ints
    other_start: Ints
    other_end: Ints
    used: NDArray[np.uint64]
    certain: NDArray[np.bool_]

    @staticmethod
    def of(matches: Matches, num_pairs: int, steps: int, longest: int) -> _Board:
        # The program weighs matches 1 and 0.5 here, and its sum is a whole number after each.
        is_exact = matches.module == EXACT
        lengths = np.stack([matches.length, matches.other_length])
        gain = np.where(is_exact, lengths, lengths // 2).sum(axis=0)
        starts = matches.pair * steps + matches.start
        others = matches.pair * (longest + 1) + matches.other_start
        touched = [
            _coverage(starts, matches.length, num_pairs * steps),
            _coverage(others, matches.other_length, num_pairs * (longest + 1)),
        ]
        certain = np.ones(len(starts), dtype=bool)
        used = np.zeros((len(starts), longest // 64 + 1), dtype=np.uint64)
        rows = np.arange(len(starts))
        for offset in range(int(max(matches.length.max(initial=0), matches.other_length.max(initial=0)))):
            at = rows[matches.length > offset]
            certain[at] &= touched[0][starts[at] + offset] == 1
            at = rows[matches.other_length > offset]
            certain[at] &= touched[1][others[at] + offset] == 1
            word = matches.other_start[at] + offset
            used[at, word // 64] |= np.uint64(1) << (word % 64).astype(np.uint64)
        columns = (
            gain,
            np.abs(matches.start - matches.other_start),
            matches.start + matches.length,
            matches.other_start,
            matches.other_start + matches.other_length,
            used,
            certain,
        )
        first = np.searchsorted(starts, np.arange(num_pairs * steps + 1))
        return _Board(
            first,
            steps,
            *(np.concatenate([column, np.zeros_like(column, shape=(1, *column.shape[1:]))]) for column in columns),
        )


def _coverage(starts: Ints, lengths: Ints, size: int) -> Ints:
    """[size], how many matches touch each word."""
    steps = np.bincount(starts, minlength=size + 1) - np.bincount(starts + lengths, minlength=size + 1)
    return steps.cumsum()


def _best_first(paths: _Paths) -> Ints:
    """The order of the beam: pair by pair the most matched words, then the fewest chunks, then the least distance."""
    least = paths.total.max() - paths.total
    key = (paths.pair * (least.max() + 1) + least) * (paths.chunks.max() + 1) + paths.chunks
    order = np.lexsort((paths.distance, key))
    pair = paths.pair[order]
    rank = np.arange(len(order)) - np.searchsorted(pair, pair)
    return order[rank < BEAM]


def _advance(paths: _Paths, board: _Board, step: int) -> _Paths:
    """One word further: each path with every match that starts there, and without one unless the match is certain."""
    cell = paths.pair * board.steps + step
    first = board.first[cell]
    inside = paths.next > step
    counts = np.where(inside, 0, board.first[cell + 1] - first)
    begin = np.cumsum(counts + 1) - counts - 1
    parent = np.repeat(np.arange(len(cell)), counts + 1)
    index = np.arange(len(parent)) - begin[parent]
    stays = index == counts[parent]
    match = np.where(stays, -1, first[parent] + index)
    certain = (board.certain[first] & (counts > 0))[parent]
    possible = ~(paths.used[parent] & board.used[match]).any(axis=1) & ~(stays & certain)
    # The program adds the distance of a match to the path that it leaves, so to all that leave that path later.
    distance = board.distance[match] * possible
    before = distance.cumsum() - distance
    distance = paths.distance[parent] + before - before[begin][parent] + distance * certain
    kept = np.flatnonzero(possible)
    parent, match = parent[kept], match[kept]
    moves = match >= 0
    last, inside = paths.last[parent], inside[parent]
    goes_on = np.where(moves, board.other_start[match] == last, inside)
    return _Paths(
        paths.pair[parent],
        paths.total[parent] + board.gain[match],
        paths.chunks[parent] + ((last >= 0) & ~goes_on),
        distance[kept],
        np.where(moves, board.end[match], np.where(inside, paths.next[parent], step + 1)),
        np.where(moves, board.other_end[match], np.where(inside, last, -1)),
        paths.used[parent] | board.used[match],
        parent,
        match,
    )
