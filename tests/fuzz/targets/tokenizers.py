"""Files of tokenizers: transformers' own and RoBERTa's two."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz.target import Documents
from fuzz.targets.weights import BuiltTarget

_TEXTS = ["a dog runs", "Ein Hund läuft über die Straße", "自行车", "", "x" * 60]


class TokenizerTarget(BuiltTarget):
    """A tokenizer, loaded and used: what it cannot use it has to refuse when it is loaded."""

    def build(self, folder: Path) -> None:
        _train().save_pretrained(str(folder))

    def read(self, folder: Path) -> Any:
        from fiber_data import load_tokenizer

        tokenizer = load_tokenizer(folder)
        return tokenizer, tokenizer(_TEXTS, padding=True, truncation=True, max_length=12, return_tensors="pt")

    def parts(self, result: Any) -> Counter[str]:
        _, encoded = result
        return Counter(str(row) for row in encoded["input_ids"].tolist())

    def breaches(self, result: Any) -> list[str]:
        tokenizer, encoded = result
        ids = set(encoded["input_ids"].flatten().tolist())
        strange = ids - set(tokenizer.get_vocab().values())
        return [f"tokens that are not in the vocabulary: {sorted(strange)}"] if strange else []

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None if touched else 0


class VocabularyTarget(TokenizerTarget):
    """A vocabulary and its merges."""

    def build(self, folder: Path) -> None:
        model = json.loads(_train().backend_tokenizer.to_str())["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def _train() -> Any:
    from fiber_data import train_tokenizer

    return train_tokenizer(["a dog runs", "a dog sleeps", "a cat runs"] * 4, 290)


TARGETS = [TokenizerTarget("tokenizer"), VocabularyTarget("vocabulary")]
