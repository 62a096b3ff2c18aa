"""How training prompts are drawn: settings alone, so that a configuration is checked without torch."""

from __future__ import annotations

from dataclasses import dataclass

SEPARATOR = ". "


@dataclass
class PromptConfig:
    """How many categories a training prompt names, and how it is written.

    One draw decides how many negatives (categories that the image does not hold): one, none, all (that is
    `max_negatives`, or as many as there are), or any number from one to that, each as likely.

    Raises:
        ValueError: The chances are none, or a number is too small.
    """

    max_negatives: int = 85
    """Most negatives of a prompt."""
    one_negative: float = 0.05
    """Chance of exactly one negative."""
    no_negatives: float = 0.05
    """Chance of none."""
    all_negatives: float = 0.5
    """Chance of all."""
    drop_positives: float = 0.0
    """Chance, in the remaining cases, that only a random number of the positives are named; the objects of the others
    are then no objects of the item."""
    max_categories: int | None = None
    """Most categories of a prompt, or None; positives go first."""
    shuffle: bool = True
    """Whether the caption is shuffled; else it runs by category id."""
    separator: str = SEPARATOR
    """What stands between two categories; none follows the last."""

    def __post_init__(self) -> None:
        chances = (self.one_negative, self.no_negatives, self.all_negatives, self.drop_positives)
        if not all(0 <= chance <= 1 for chance in chances) or sum(chances[:3]) > 1 + 1e-9:
            raise ValueError(
                f"one_negative, no_negatives, all_negatives and drop_positives are chances in [0, 1], the first three "
                f"at most 1 together, not {chances}"
            )
        if self.max_negatives < 0 or (self.max_categories is not None and self.max_categories < 1):
            raise ValueError(
                "max_negatives must be at least 0 and max_categories at least 1, are "
                f"{self.max_negatives} and {self.max_categories}"
            )
