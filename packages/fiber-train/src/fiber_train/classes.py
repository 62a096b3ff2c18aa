"""What a run's model will tell apart, in a line, and names that are probably meant to be one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_MOST_NAMED = 6  # in a line
_FEW = 3  # samples, from which little can be learned


@dataclass(frozen=True)
class Classes:
    """Names, and how often each is learned from.

    Attributes:
        what: What they are, in the plural: `"categories"`.
        of: What is counted, in the plural: `"boxes"`.
        counts: By name, 0 for what is never seen.
        apart: Whether names that differ only in case or number are probably one.
    """

    what: str
    of: str
    counts: Mapping[str, int]
    apart: bool = False

    def __str__(self) -> str:
        most = Counter(self.counts).most_common(_MOST_NAMED)
        named = ", ".join(f"{name} {count:,}" for name, count in most)
        more = ", ..." if len(self.counts) > _MOST_NAMED else ""
        few = sum(count < _FEW for count in self.counts.values())
        rare = f"; {few:,} of them with fewer than {_FEW}" if few else ""
        return f"{self.what}: {len(self.counts):,}, with {self.of}: {named}{more}{rare}"

    def warnings(self) -> Iterator[str]:
        """A sentence on names that look alike."""
        if not self.apart:
            return
        alike: dict[str, list[str]] = defaultdict(list)
        for name in self.counts:
            alike[_plain(name)].append(name)
        if groups := [names for names in alike.values() if len(names) > 1]:
            shown = "; ".join(", ".join(map(repr, names)) for names in groups[:_MOST_NAMED])
            yield (
                f"some {self.what} differ only in case or number, and each is learned apart from the others: {shown}"
                f"{'; ...' * (len(groups) > _MOST_NAMED)}; give what is one thing one name"
            )


def _plain(name: str) -> str:
    """In small letters, words joined by single spaces, the last one without an s."""
    words = " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
    return words[:-1] if words.endswith("s") and not words.endswith("ss") else words
