"""Karpathy's splits of COCO and Flickr30k: ``{"images": [{filename, filepath, split, sentences: [{raw}], ...}]}``."""

from pathlib import Path

from fiber_data.formats.samples import CaptionSample, SplitNotFoundError, clean_caption, keep_usable, read_json, require

_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def read_karpathy(
    file: str | Path, image_root: str | Path, split: str, *, check_images: bool = True
) -> list[CaptionSample]:
    """Reads one split of ``dataset_coco.json`` or ``dataset_flickr30k.json``.

    Args:
        file: The JSON file.
        image_root: The folder that ``filepath/filename`` is relative to (COCO: it holds train2014 and
            val2014).
        split: ``"train"``, which includes the file's ``restval`` as is the custom (COCO: 113,287 pictures),
            ``"val"`` or ``"test"``.
        check_images: Whether to leave out, with a warning, pictures that are not on disk or have no caption.

    Returns:
        A sample for each image, in the order of the file; ``id`` is ``cocoid`` where there is one, else
        ``imgid``, else the file name.

    Raises:
        FileNotFoundError: The file is missing, or none of its pictures is on disk.
        KeyError: A key of the format is missing; the message names file and place.
        ValueError: The file is not JSON.
        SplitNotFoundError: `split` is none of the three, or no image belongs to it.
    """
    if split not in _SPLITS:
        raise SplitNotFoundError(f"{file}: a Karpathy split is one of {', '.join(_SPLITS)}, not {split!r}")
    path, root = Path(file), Path(image_root)
    samples: list[CaptionSample] = []
    splits: set[str] = set()
    for position, image in enumerate(require(read_json(path), "images", str(path))):
        where = f"{path}: images[{position}]"
        splits.add(require(image, "split", where))
        if image["split"] not in _SPLITS[split]:
            continue
        file_name = require(image, "filename", where)
        sentences = require(image, "sentences", where)
        captions = [
            clean_caption(require(sentence, "raw", f"{where}.sentences[{number}]"), where)
            for number, sentence in enumerate(sentences)
        ]
        samples.append(
            {
                "image": root / image.get("filepath", "") / file_name,
                "captions": [caption for caption in captions if caption],
                "id": image.get("cocoid", image.get("imgid", file_name)),
                "split": split,
            }
        )
    if not samples:
        raise SplitNotFoundError(f"{path}: no image of split {split!r}; the file has {sorted(splits) or 'no images'}")
    return keep_usable(samples, path) if check_images else samples
