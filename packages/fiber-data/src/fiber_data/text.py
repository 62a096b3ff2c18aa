"""Texts to tokens: loading and training a tokenizer, masking, and the tokens of a span of characters."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, RobertaTokenizerFast

SPECIAL_TOKENS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
_IGNORED_LABEL = -100
_FILES = {"tokenizer.json", "tokenizer_config.json", "vocab.json"}
_HUB_FILES = ("tokenizer_config.json", "config.json", "tokenizer.json")  # one of which any cached one has
_TRIED = 6  # tokens
_HUB_TIMEOUT = 20  # seconds


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Loads a fast tokenizer of transformers.

    Args:
        source: A folder saved by ``save_pretrained``; a folder that holds RoBERTa's ``vocab.json`` and
            ``merges.txt``; or a name on the Hugging Face hub, such as ``"roberta-base"``.

    Returns:
        A tokenizer with the special tokens that FIBER needs: first, last, padding and mask.

    Raises:
        FileNotFoundError: The source is neither a folder with tokenizer files nor a name that the hub or its
            cache has.
        ValueError: The tokenizer is not a fast one, lacks a special token, or has files that are damaged.
    """
    folder = Path(source)
    files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    where = f"the tokenizer at {str(source)!r}"
    try:
        tokenizer = _read_tokenizer(str(source), files)
    except (OSError, ValueError) as error:
        if files & _FILES:
            reason = " ".join(str(error).split())
            raise ValueError(f"{where} cannot be read ({reason:.200}); copy or save it again") from error
        raise FileNotFoundError(
            f"no tokenizer at {str(source)!r}: expected a folder with tokenizer.json, a folder with vocab.json and "
            "merges.txt, or a name on the Hugging Face hub that can be reached from here"
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f"{where} is a slow one; save its fast twin (tokenizer.json) there")
    missing = [
        name for name in ("cls_token", "sep_token", "pad_token", "mask_token") if getattr(tokenizer, name) is None
    ]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}; add it with add_special_tokens")
    if (fault := _unusable(tokenizer)) is not None:
        raise ValueError(f"{where} cannot be used ({fault}); copy or save it again")
    return tokenizer


def _read_tokenizer(source: str, files: set[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of files, or of the hub; no code of theirs is run.

    Raises:
        OSError: There is none.
        ValueError: The files hold none.
    """
    is_roberta = {"vocab.json", "merges.txt"} <= files and not files & {"tokenizer.json", "tokenizer_config.json"}
    if is_roberta and b"\r" in (Path(source) / "merges.txt").read_bytes().replace(b"\r\n", b""):
        raise ValueError("merges.txt has the line ends of old Macs, at which merges would be lost")
    kind: Any = RobertaTokenizerFast if is_roberta else AutoTokenizer
    options = {} if is_roberta else {"trust_remote_code": False}
    with _as_value_error((OSError, ValueError)):
        if not files and not any(isinstance(try_to_load_from_cache(source, name), str) for name in _HUB_FILES):
            # Asked once: without network the library tries each of several files six times, a minute in all.
            HfApi().model_info(source, timeout=_HUB_TIMEOUT)
        return kind.from_pretrained(source, local_files_only=bool(files), **options)


def _unusable(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why a tokenizer cannot tokenize, None if it can."""
    if not isinstance(tokenizer.model_max_length, int | float):
        return f"its model_max_length is {tokenizer.model_max_length!r:.80}"
    truncation, padding = tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding
    try:
        with _as_value_error(()):
            encoded = tokenizer(
                ["a", "two words"],
                padding="longest",
                padding_side="right",
                truncation=True,
                max_length=_TRIED,
                return_tensors="pt",
            )
            ids, mask = encoded["input_ids"], encoded["attention_mask"]
            if ids.shape != mask.shape or not 2 <= ids.shape[1] <= _TRIED or len(encoded.encodings or ()) != 2:
                return f"two texts become {tuple(ids.shape)} tokens"
            vocabulary = set(tokenizer.get_vocab().values())
            if strange := {*ids.flatten().tolist(), *tokenizer.all_special_ids} - vocabulary:
                return f"its vocabulary has no token {next(iter(strange))}"
            first, last = ids[0, 0], ids[0, int(mask[0].sum()) - 1]
            if (first, last) != (tokenizer.cls_token_id, tokenizer.sep_token_id):
                return f"a text begins with token {first} and ends with {last}, not with its cls_token and sep_token"
    except ValueError as error:
        return f"{' '.join(str(error).split()):.200}"
    finally:  # what a call sets stays set, and would be saved
        backend = tokenizer.backend_tokenizer
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)
    return None


@contextmanager
def _as_value_error(passed: tuple[type[Exception], ...]) -> Iterator[None]:
    """Whatever the libraries raise of damaged files becomes a ValueError, but for exceptions that are to be passed."""
    try:
        yield
    except passed:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which is no Exception and has no name in Python
            raise
        raise ValueError(f"the library tokenizers fails: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer in RoBERTa's conventions; no text is ever unknown to it.

    Args:
        texts: The texts to learn from, such as all training captions.
        vocab_size: Upper bound of the vocabulary, at least 261 (256 bytes and five special tokens).

    Returns:
        A tokenizer with ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, ``<mask>`` 4. Its length is at most
        `vocab_size`, less when the texts hold too few different words.

    Raises:
        ValueError: `vocab_size` is too small.
        TypeError: `texts` is a single string.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several texts, not one string; write [text]")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = list(SPECIAL_TOKENS.values())
    if vocab_size < len(alphabet) + len(special):
        raise ValueError(f"vocab_size must be at least {len(alphabet) + len(special)}, not {vocab_size}")
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    first, last = (("<s>", special.index("<s>")), ("</s>", special.index("</s>")))
    tokenizer.post_processor = processors.RobertaProcessing(last, first, add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


def mask_tokens(
    input_ids: Tensor,
    tokenizer: PreTrainedTokenizerBase,
    *,
    probability: float = 0.15,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> tuple[Tensor, Tensor]:
    """Masks a whole batch for masked language modeling (Devlin et al., 2019, section 3.1).

    Of the tokens that are not special, a share `probability` is to be predicted; of these 80 % become the
    mask token, 10 % a random token that is not special, and 10 % stay.

    Args:
        input_ids: Tokens (B, L), int64.
        tokenizer: Says which tokens are special and which one is the mask.
        probability: Chance of each token to be predicted.
        generator: CPU generator for the batch, or one for each of the B rows, which makes a row's mask
            independent of its neighbors and of the padding; none draws from torch's global generator.

    Returns:
        The masked tokens (B, L) and the labels (B, L): the true token where it is to be predicted, -100
        elsewhere.

    Raises:
        ValueError: The probability is outside [0, 1], or the number of generators is not B.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the masking probability must lie in [0, 1], not {probability}")
    chosen_draw, kind_draw, token_draw = _draw(input_ids.shape, generator).unbind(-1)
    vocabulary = torch.arange(len(tokenizer))
    special = torch.tensor(tokenizer.all_special_ids)
    ordinary = vocabulary[~torch.isin(vocabulary, special)]

    chosen = (chosen_draw < probability) & ~torch.isin(input_ids, special)
    labels = input_ids.masked_fill(~chosen, _IGNORED_LABEL)
    random_ids = ordinary[(token_draw * len(ordinary)).long()]
    masked = input_ids.masked_fill(chosen & (kind_draw < 0.8), tokenizer.mask_token_id)
    masked = torch.where(chosen & (kind_draw >= 0.9), random_ids, masked)
    return masked, labels


def _draw(shape: torch.Size, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Three uniform numbers a token, (B, L, 3). The last axis is the fastest, so that padding only appends draws."""
    rows, length = shape
    if generator is None or isinstance(generator, torch.Generator):
        return torch.rand(rows, length, 3, generator=generator)
    if len(generator) != rows:
        raise ValueError(f"expected one generator or {rows} (one for each row), not {len(generator)}")
    return torch.stack([torch.rand(length, 3, generator=of_row) for of_row in generator])


def positive_map(encoding: Encoding, spans: Sequence[Sequence[tuple[int, int]]], length: int) -> Tensor:
    """The tokens that stand for phrases.

    Of a span these are all from the first to the last that hold a character of it: a character may have several tokens,
    as most do in byte-level vocabularies, and blanks or accents may have none. In the original a span ends with the
    first token of its last character, and has no tokens where more than two blanks stand at one of its ends.

    Args:
        encoding: One tokenized text of a fast tokenizer, such as ``tokenizer([text]).encodings[0]``.
        spans: For each of n phrases its [start, end) in characters of the text; a phrase may have several.
        length: Number of token positions L; tokens beyond it, and those that truncation cut off, are left out.

    Returns:
        bool (n, L); a row is all False where no token holds a character of the phrase.

    Example:
        >>> tokenizer = train_tokenizer(["a dog", "a cat"], 300)
        >>> positive_map(tokenizer(["a dog"]).encodings[0], [[(2, 5)], []], 5).int()
        tensor([[0, 0, 1, 0, 0],
                [0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    tokens = torch.zeros(len(spans), length, dtype=torch.bool)
    starts, ends = torch.tensor(encoding.offsets, dtype=torch.int64).reshape(-1, 2).unbind(1)
    for row, of_phrase in zip(tokens, spans, strict=True):
        for start, end in of_phrase:
            # Special tokens and a lone space of RoBERTa's hold no character: their offsets are empty.
            holding = ((starts < ends) & (starts < end) & (ends > start)).nonzero()
            if len(holding):
                row[int(holding[0]) : int(holding[-1]) + 1] = True
    return tokens
