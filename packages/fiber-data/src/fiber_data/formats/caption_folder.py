"""The plain format: a folder with ``images/`` and ``captions.jsonl``, a JSON object in each line.

Each line names its image (``image``, or ``file_name`` as Hugging Face's image folders call it) relative to
``images/``, or to the folder itself where there is no ``images/``. It has ``caption`` (or ``text``) with one
caption, or ``captions`` with several. ``id`` and ``split`` are optional; a line without split belongs to
``train``. Lines of the same image are joined.
"""

from pathlib import Path
from typing import Any

from fiber_data.formats.files import FolderListing, check_folder, keep_on_disk, whole_folder
from fiber_data.formats.samples import CaptionSample, SplitNotFoundError, clean_caption, read_json_lines

CAPTIONS_FILE = "captions.jsonl"
_IMAGE_KEYS = ("image", "file_name")
_CAPTION_KEYS = ("captions", "caption", "text")


def read_caption_folder(
    root: str | Path,
    split: str | None = None,
    *,
    check_images: bool = True,
    annotation_file: str | Path | None = None,
    image_folder: str | Path | None = None,
) -> list[CaptionSample]:
    """Reads a folder with ``images/`` and ``captions.jsonl``.

    Args:
        root: Folder of the data set.
        split: Keep the lines of this split only; None keeps all.
        check_images: Whether to leave out, with a warning, images that are not on disk or have no caption.
        annotation_file: A file of such lines that lies elsewhere or has another name.
        image_folder: The folder that the names of images are relative to, if it is another.

    Returns:
        A sample for each image, in the order of the file; ``id`` is the image's name unless the line has an id.

    Raises:
        FileNotFoundError: There is no such folder or no ``captions.jsonl``, or none of its images is on disk.
        KeyError: A line lacks its image or caption; the message names file and line.
        ValueError: A line is not a JSON object, or a name or caption in it is no text.
        SplitNotFoundError: No line belongs to the split.
    """
    if annotation_file is None:
        check_folder(Path(root))
    path = Path(root) / CAPTIONS_FILE if annotation_file is None else Path(annotation_file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a caption folder holds images/ and {CAPTIONS_FILE}")
    folder = whole_folder(Path(root), image_folder)
    samples: dict[str, CaptionSample] = {}
    splits: set[str] = set()
    for where, record in read_json_lines(path):
        name = _first_of(record, _IMAGE_KEYS, where)
        if not isinstance(name, str):
            raise ValueError(f"{where}: expected the image's name as text, found {type(name).__name__}")
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
    return keep_on_disk(found, "samples", path, FolderListing()) if check_images else found


def _first_of(record: dict[str, Any], keys: tuple[str, ...], where: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    raise KeyError(
        f"{where}: expected one of the keys {', '.join(map(repr, keys))}, found {', '.join(map(repr, record))}"
    )
