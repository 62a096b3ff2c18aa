"""Files of retrieval scores: a matrix [images, texts], and the image of each text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fiber_eval.files import holds_boolean, read_json
from fiber_eval.retrieval import Ties, retrieval_recall
from fiber_eval.samples import as_numbers


def score_files(
    annotations: Path, results: Path, *, ks: Sequence[int] = (1, 5, 10), ties: Ties = "pessimistic"
) -> dict[str, float]:
    """Score a file of retrieval scores. Both files may be one that holds both arrays.

    Args:
        annotations: npz or JSON object with text_image_index: for each text the row of its image (may be the result
            file)
        results: npz or JSON object with scores [images][texts], higher being better
        ks: The K of each recall.
        ties: Where a right answer stands among wrong ones of the same score: "pessimistic" or "optimistic".

    Returns:
        As `retrieval_recall`, in Python's numbers.

    Raises:
        ValueError: A malformed file; the sentence names it and the entry.

    Source: Faghri et al. 2018, VSE++, https://arxiv.org/abs/1707.05612

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fiber_eval.retrieval_files import score_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "scores.json")
        ...     _ = path.write_text(json.dumps({"scores": [[0.9, 0.2], [0.3, 0.1]], "text_image_index": [0, 1]}))
        ...     score_files(path, path, ks=[1])["text_to_image_recall@1"]
        0.5
    """
    owner = _read_array(Path(annotations), "text_image_index")
    scores = _read_array(Path(results), "scores")
    wrong = np.argwhere(np.isnan(scores))
    if len(wrong):
        index = ", ".join(map(str, wrong[0]))
        raise ValueError(f"{results}: scores[{index}] is NaN, which has no rank; look for NaN in the model's output")
    try:
        recalls = retrieval_recall(torch.from_numpy(scores), torch.from_numpy(owner), ks=ks, ties=ties)
    except ValueError as error:
        raise ValueError(f"{results} with {annotations}: {error}") from error
    return as_numbers(recalls)


def _read_array(path: Path, key: str) -> Any:
    """A numeric array of a file."""
    contents = _read_npz(path, key) if path.suffix == ".npz" else read_json(path)
    if not isinstance(contents, dict) or key not in contents:
        raise ValueError(f"{path} must hold {key!r}; write an object with that key, or numpy.savez(path, {key}=...)")
    try:
        array = np.asarray(contents[key])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: the rows of {key!r} must be equally long: {error}") from error
    if array.dtype.kind not in "iuf" or holds_boolean(contents[key]):
        came = "true or false" if holds_boolean(contents[key]) else f"{array.dtype!s:.80}"
        raise ValueError(f"{path}: {key!r} must hold numbers, but holds {came}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{path}: {key!r} must hold numbers of 64 bits, but holds {array.max()}")
    known = np.float32 if array.dtype.kind == "f" and array.itemsize == 4 else np.float64  # in the machine's byte order
    return array.astype(known if array.dtype.kind == "f" else np.int64, copy=False)


def _read_npz(path: Path, key: str) -> dict[str, Any]:
    """The array of that name in an archive, if it holds one."""
    try:
        with np.load(path) as archive:
            return {key: archive[key]} if key in archive else {}
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds, and a broken size no memory
        raise ValueError(f"{path} is not npz; write it anew with numpy.savez(path, {key}=...)") from error
