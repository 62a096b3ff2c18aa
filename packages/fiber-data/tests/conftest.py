"""Images and captions that the tests make, and the real ones where they are."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fiber_data import CaptionSample, load_tokenizer, train_tokenizer
from PIL import Image
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "cat",
    "dog",
    "bird",
    "house",
    "left",
    "right",
    "of",
    "the",
    "on",
    "mat",
    "tree",
    "runs",
    "sleeps",
    "sees",
    "two",
    "three",
]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indices of shards are kept here, not in the user's folder."""
    os.environ["FIBER_DATA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("FIBER_DATA_CACHE_GB", None)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set; the test is skipped where it is absent."""
    root = Path(os.environ.get("FIBER_DATA", Path(__file__).parents[3].parent / "shared" / "data"))

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            reason = f"no folder {root / name}; set FIBER_DATA to the folder of the real data"
            (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
        return root / name

    return folder


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[CaptionSample]:
    """Twelve images of noise, each with two to four captions."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    made: list[CaptionSample] = []
    for number in range(12):
        path = root / f"{number:03}.png"
        height, width = random.integers(20, 60, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        captions = [" ".join(random.choice(WORDS, random.integers(3, 12))) for _ in range(2 + number % 3)]
        made.append({"image": path, "captions": captions, "id": f"image-{number}", "split": "train"})
    return made


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([" ".join(WORDS)] * 3, vocab_size=320)


@pytest.fixture(scope="session")
def fine_goldens() -> dict[str, Any]:
    """What the original's data code of the fine stage gave; the test is skipped where it is absent."""
    return json.loads((_fine_reference() / "data" / "data_goldens.json").read_text())


@pytest.fixture(scope="session")
def fine_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer that these numbers are from."""
    return load_tokenizer(_fine_reference() / "tokenizer")


def _fine_reference() -> Path:
    root = Path(os.environ.get("FIBER_REFERENCE", Path(__file__).parents[3].parent / "shared" / "reference"))
    if not (root / "fine").is_dir():
        reason = f"no reference numbers at {root / 'fine'}; set FIBER_REFERENCE to the folder that holds fine/"
        (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
    return root / "fine"
