"""Category lists to captions, so that detection is grounding: "person. hot dog. traffic light".

After GLIP (Li et al., CVPR 2022), whose converters the original FIBER uses. What differs: parentheses are removed one
by one, and all double blanks, but stay where two categories would be called alike without them; categories that are
called alike nevertheless are named once in a prompt, so that no words are right and wrong at once; only real categories
are drawn as negatives, never the background; and tokens are counted in the caption as it will be, so that none is cut.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from fiber_data.prompt_config import SEPARATOR, PromptConfig
from fiber_data.text import positive_map

_HYPHEN = re.compile(r"(?<=\w)[-\u2010-\u2015](?=\w)")


class Wording(NamedTuple):
    """How to put a category into a prompt in one's own words; only the name counts as its span."""

    name: str
    prefix: str = ""
    suffix: str = ""


Categories = Mapping[int, str | Wording]


@dataclass(frozen=True)
class Prompt:
    """A caption that names categories.

    Attributes:
        text: The caption.
        spans: By category id the [start, end) of its name in characters of the text, in the order of the text.
            Categories with the same words share a span.
    """

    text: str
    spans: dict[int, tuple[int, int]]


def clean_name(name: str, *, original: bool = False) -> str:
    """A category's name as one would write it: "traffic_light" is "traffic light", "bow_(weapon)" is "bow".

    A name that stands wholly in parentheses keeps its words.

    Args:
        name: As the annotation file has it.
        original: Whether to do as the original does: remove everything from the first "(" to the last ")", and
            halve double blanks once.
    """
    if original:
        return re.sub("  ", " ", re.sub("_", " ", re.sub(r"\(.*\)", "", name)))
    bare = re.sub(r"\([^()]*\)", " ", name)
    while re.search(r"\([^()]*\)", bare):  # nested ones
        bare = re.sub(r"\([^()]*\)", " ", bare)
    bare = " ".join(bare.replace("_", " ").split())
    return bare or " ".join(re.sub(r"[()_]", " ", name).split())


def category_wordings(categories: Categories, *, original: bool = False) -> dict[int, Wording]:
    """How each category is put into prompts, by id.

    Names are cleaned. Those that would be alike without their parentheses keep them: LVIS's "bow_(weapon)" and
    "bow_(decorative_ribbons)" are "bow (weapon)" and "bow (decorative ribbons)", each alone is "bow".

    Args:
        categories: Names by id, which are cleaned, or `Wording`s, which stay as they are.
        original: Whether names are cleaned as the original does, which calls both "bow"; see `clean_name`.

    Raises:
        ValueError: A name is empty.
    """
    named = {
        number: category if isinstance(category, Wording) else Wording(clean_name(category, original=original))
        for number, category in categories.items()
    }
    if original:
        return named
    for number, wording in named.items():
        if not wording.name.strip():
            raise ValueError(f"category {number} has no name ({categories[number]!r}): give it one, or leave it out")
    times = Counter(map(_key, named.values()))
    for number, category in categories.items():
        if times[_key(named[number])] > 1 and not isinstance(category, Wording):
            named[number] = Wording(" ".join(category.replace("_", " ").split()))
    return named


def _key(wording: Wording) -> str:
    """Equal for what is called alike: case, width, blanks and hyphens make no other words."""
    text = unicodedata.normalize("NFKC", "".join((wording.prefix, wording.name, wording.suffix))).casefold()
    return " ".join(_HYPHEN.sub(" ", text).split())


def make_prompt(
    categories: Categories,
    ids: Iterable[int] | None = None,
    *,
    separator: str = SEPARATOR,
    original: bool = False,
) -> Prompt:
    """Joins categories to a caption.

    Args:
        categories: As of `category_wordings`.
        ids: Which categories, in which order; None takes all, sorted by id.
        separator: What stands between two categories; none follows the last.
        original: Whether names are cleaned as the original does, and named again where they are alike.

    Raises:
        ValueError: A name is empty.

    Example:
        >>> make_prompt({1: "person", 2: "hot_dog"})
        Prompt(text='person. hot dog', spans={1: (0, 6), 2: (8, 15)})
    """
    return _join(
        category_wordings(categories, original=original),
        sorted(categories) if ids is None else ids,
        separator,
        original,
    )


def _join(wordings: Mapping[int, Wording], ids: Iterable[int], separator: str, original: bool = False) -> Prompt:
    text = ""
    spans: dict[int, tuple[int, int]] = {}
    named: dict[str, tuple[int, int]] = {}
    for number in ids:
        name, prefix, suffix = wordings[number]
        key = str(number) if original else _key(wordings[number])
        if key not in named:
            start = len(text) + len(separator if spans else "") + len(prefix)
            text += (separator if spans else "") + prefix + name + suffix
            named[key] = (start, start + len(name))
        spans[number] = named[key]
    return Prompt(text, spans)


def chunk_categories(
    categories: Categories,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int = 254,
    max_categories: int | None = None,
    separator: str = SEPARATOR,
    original: bool = False,
) -> list[Prompt]:
    """Splits categories, sorted by id, into as few prompts as fit, for an evaluation prompt by prompt.

    Args:
        categories: As of `make_prompt`.
        tokenizer: That of the model.
        max_tokens: Most tokens of a prompt, without the special ones.
        max_categories: Most categories of a prompt, or None.
        separator: As of `make_prompt`.
        original: As of `make_prompt`.

    Raises:
        ValueError: There are no categories, `max_categories` is not positive, or a name is empty or does not fit
            alone; the message names it.
    """
    if not categories or (max_categories is not None and max_categories < 1):
        raise ValueError(f"expected categories, and max_categories >= 1, not {len(categories)} and {max_categories}")

    wordings = category_wordings(categories, original=original)

    def prompt_of(ids: list[int]) -> Prompt:
        return _join(wordings, ids, separator, original)

    prompts: list[Prompt] = []
    waiting = sorted(categories)
    lengths = _piece_lengths(wordings, tokenizer, separator)
    while waiting:
        taken, budget = 0, max_tokens
        while taken < min(len(waiting), max_categories or len(waiting)) and lengths[waiting[taken]] <= budget:
            budget -= lengths[waiting[taken]]
            taken += 1
        taken = max(taken, 1)  # the first piece is counted with a separator that it does not have
        while (count := _count(tokenizer, prompt_of(waiting[:taken]).text)) > max_tokens:
            if taken == 1:
                raise ValueError(
                    f"category {waiting[0]} ({categories[waiting[0]]!r}) alone has {count} tokens, more than the "
                    f"{max_tokens} of a prompt: shorten its name"
                )
            taken -= 1
        prompts.append(prompt_of(waiting[:taken]))
        waiting = waiting[taken:]
    return prompts


def _count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _piece_lengths(
    wordings: Mapping[int, Wording], tokenizer: PreTrainedTokenizerBase, separator: str
) -> dict[int, int]:
    """Tokens of each category with the separator before it. Their sum is an estimate: only the caption is sure."""
    texts = [separator + "".join((each.prefix, each.name, each.suffix)) for each in wordings.values()]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return dict(zip(wordings, map(len, encoded), strict=True))


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, *, max_length: int = 256
) -> dict[str, Any]:
    """Tokens of prompts, and which of them stand for which category, to ask a model without a data set.

    Args:
        prompts: N prompts, such as `chunk_categories` makes.
        tokenizer: That of the model.
        max_length: Most tokens of a prompt, special ones included.

    Returns:
        ``input_ids``, ``attention_mask`` (N, L) int64, and as lists (N) ``phrase_labels`` (P,) int64, the category
        ids, and ``phrase_maps`` (P, L) bool, the tokens of each.

    Raises:
        ValueError: A prompt is too long, or a category has no token.
    """
    encoded = tokenizer(
        [prompt.text for prompt in prompts], padding=True, padding_side="right", return_tensors="pt", verbose=False
    )
    length = encoded["input_ids"].shape[1]
    if length > max_length:
        raise ValueError(
            f"a prompt has {length} tokens, more than the {max_length} that the model reads: split the categories "
            "with chunk_categories"
        )
    maps = [
        positive_map(encoding, [[span] for span in prompt.spans.values()], length)
        for prompt, encoding in zip(prompts, encoded.encodings or (), strict=True)
    ]
    for prompt, rows in zip(prompts, maps, strict=True):
        if wordless := [number for number, row in zip(prompt.spans, rows, strict=True) if not row.any()]:
            name = prompt.text[slice(*prompt.spans[wordless[0]])]
            raise ValueError(f"the tokenizer has no token for category {wordless[0]} ({name!r}); name it otherwise")
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "phrase_labels": [torch.tensor(list(prompt.spans), dtype=torch.int64) for prompt in prompts],
        "phrase_maps": maps,
    }


class PromptSampler:
    """Draws prompts for training on many categories: those that an image holds, and some that it does not.

    How many, `PromptConfig` says. Positives come first into the budget of tokens, then negatives while they fit, all in
    random order; then the caption is shuffled. Categories with the same words are one to it. Random numbers come from
    torch's global generator, which `fiber_data.DetectionDataset` seeds for each item.

    Args:
        categories: As of `make_prompt`. An entry "__background__" is never drawn.
        tokenizer: That of the model.
        config: The chances; None takes the defaults.
        max_tokens: Most tokens of a prompt, without the special ones.

    Raises:
        ValueError: There are no categories, or a name is empty.
    """

    def __init__(
        self,
        categories: Categories,
        tokenizer: PreTrainedTokenizerBase,
        config: PromptConfig | None = None,
        *,
        max_tokens: int = 254,
    ) -> None:
        self.categories = {number: name for number, name in categories.items() if name != "__background__"}
        if not self.categories:
            raise ValueError("expected at least one category to make prompts of, found none")
        self.tokenizer = tokenizer
        self.config = PromptConfig() if config is None else config
        self.max_tokens = max_tokens
        self._wordings = category_wordings(self.categories)
        self._lengths = _piece_lengths(self._wordings, tokenizer, self.config.separator)
        alike: dict[str, list[int]] = {}
        for number, wording in self._wordings.items():
            alike.setdefault(_key(wording), []).append(number)
        self._alike = {numbers[0]: numbers for numbers in alike.values()}
        self._first = {number: first for first, numbers in self._alike.items() for number in numbers}

    def __call__(self, present: Collection[int]) -> Prompt:
        """Draws a prompt for an image.

        Args:
            present: Ids of the categories that it holds, repetitions allowed.

        Returns:
            The prompt, in which a name stands for all categories that it is right for. Categories of the image that
            do not fit are left out. The text is empty if nothing was present and nothing was drawn.
        """
        positives = list(dict.fromkeys(self._first[number] for number in present if number in self._first))
        negatives = [number for number in self._alike if number not in set(positives)]
        num_positives, num_negatives = self.draw_counts(len(positives), len(negatives))
        chosen = _drawn(positives, num_positives) + _drawn(negatives, num_negatives)
        kept: list[int] = []
        budget = self.max_tokens
        for number in chosen[: self.config.max_categories]:
            if self._lengths[number] <= budget:
                kept.append(number)
                budget -= self._lengths[number]
        while _count(self.tokenizer, (prompt := self._prompt(kept)).text) > self.max_tokens:
            kept.pop()
        return prompt

    def _prompt(self, kept: list[int]) -> Prompt:
        order = _drawn(kept, len(kept)) if self.config.shuffle else sorted(kept)
        return _join(self._wordings, (each for first in order for each in self._alike[first]), self.config.separator)

    def draw_counts(self, num_present: int, num_absent: int) -> tuple[int, int]:
        """Draws how many positives and negatives a prompt names, before the budget is applied.

        Args:
            num_present: Categories that the image holds.
            num_absent: Categories that it does not.
        """
        full = min(self.config.max_negatives, num_absent)
        one, none, every = self.config.one_negative, self.config.no_negatives, self.config.all_negatives
        draw = float(torch.rand(()))
        if full == 0:
            return num_present, 0
        if draw < one + none + every:
            return num_present, 1 if draw < one else 0 if draw < one + none else full
        if num_present and float(torch.rand(())) < self.config.drop_positives:
            num_present = 1 + int(torch.randint(num_present, ()))
        return num_present, 1 + int(torch.randint(full, ()))


def _drawn(ids: list[int], count: int) -> list[int]:
    return [ids[index] for index in torch.randperm(len(ids))[:count].tolist()]
