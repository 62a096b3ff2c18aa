"""The plain format: a folder with ``images/`` and ``captions.jsonl``, a JSON object in each line.

Each line names its picture (``image``, or ``file_name`` as Hugging Face's image folders call it) relative to
``images/``, or to the folder itself where there is no ``images/``. It has ``caption`` (or ``text``) with one
caption, or ``captions`` with several. ``id`` and ``split`` are optional; a line without split belongs to
``train``. Lines of the same picture are joined.
"""

from pathlib import Path
from typing import Any

from fiber_data.formats.samples import (
    CaptionSample,
    SplitNotFoundError,
    clean_caption,
    keep_usable,
    read_json_lines,
)

_IMAGE_KEYS = ("image", "file_name")
_CAPTION_KEYS = ("captions", "caption", "text")


def read_caption_folder(
    root: str | Path, split: str | None = None, *, check_images: bool = True
) -> list[CaptionSample]:
    """Reads a folder with ``images/`` and ``captions.jsonl``.

    Args:
        root: The folder.
        split: Keep the lines of this split only; None keeps all.
        check_images: Whether to leave out, with a warning, pictures that are not on disk or have no caption.

    Returns:
        A sample for each picture, in the order of the file; ``id`` is the picture's name unless the line has
        an id.

    Raises:
        FileNotFoundError: There is no ``captions.jsonl``, or none of its pictures is on disk.
        KeyError: A line lacks its picture or caption; the message names file and line.
        ValueError: A line is not a JSON object, or a name or caption in it is no text.
        SplitNotFoundError: No line belongs to the split.
    """
    path = Path(root) / "captions.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a caption folder holds images/ and captions.jsonl")
    folder = Path(root) / "images" if (Path(root) / "images").is_dir() else Path(root)
    samples: dict[str, CaptionSample] = {}
    splits: set[str] = set()
    for where, record in read_json_lines(path):
        name = _first_of(record, _IMAGE_KEYS, where)
        if not isinstance(name, str):
            raise ValueError(f"{where}: expected the picture's name as text, found {type(name).__name__}")
        captions = _first_of(record, _CAPTION_KEYS, where)
        captions = [clean_caption(text, where) for text in (captions if isinstance(captions, list) else [captions])]
        splits.add(line_split := record.get("split") or "train")
        if split not in (None, line_split):
            continue
        image_id = record.get("id", name)
        sample = samples.setdefault(name, {"image": folder / name, "captions": [], "id": image_id, "split": line_split})
        sample["captions"] += [caption for caption in captions if caption]
    if not samples:
        raise SplitNotFoundError(f"{path}: no line of split {split!r}; the file has {sorted(splits) or 'no lines'}")
    found = list(samples.values())
    return keep_usable(found, path) if check_images else found


def _first_of(record: dict[str, Any], keys: tuple[str, ...], where: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    raise KeyError(
        f"{where}: expected one of the keys {', '.join(map(repr, keys))}, found {', '.join(map(repr, record))}"
    )
