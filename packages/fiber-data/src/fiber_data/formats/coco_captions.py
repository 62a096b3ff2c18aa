"""COCO captions: ``{"images": [{id, file_name}], "annotations": [{id, image_id, caption}]}``."""

from pathlib import Path

from fiber_data.formats.samples import CaptionSample, clean_caption, keep_usable, read_json, require


def read_coco_captions(
    annotation_file: str | Path,
    image_root: str | Path,
    split: str | None = None,
    *,
    check_images: bool = True,
) -> list[CaptionSample]:
    """Reads a COCO captions file.

    Args:
        annotation_file: Such as ``annotations/captions_train2017.json``.
        image_root: The folder that the file names are relative to.
        split: Noted in the samples.
        check_images: Whether to leave out, with a warning, pictures that are not on disk or have no caption.

    Returns:
        A sample for each image, in the order of the file; ``id`` is COCO's image id.

    Raises:
        FileNotFoundError: The file is missing, or none of its pictures is on disk.
        KeyError: A key of the format is missing; the message names file and place.
        ValueError: The file is not JSON, or an annotation belongs to no image.
    """
    path, root = Path(annotation_file), Path(image_root)
    content = read_json(path)
    samples: dict[int, CaptionSample] = {}
    for position, image in enumerate(require(content, "images", str(path))):
        where = f"{path}: images[{position}]"
        file_name = require(image, "file_name", where)
        image_id = require(image, "id", where)
        samples[image_id] = {"image": root / file_name, "captions": [], "id": image_id, "split": split}
    for position, annotation in enumerate(require(content, "annotations", str(path))):
        where = f"{path}: annotations[{position}]"
        image_id = require(annotation, "image_id", where)
        if image_id not in samples:
            raise ValueError(f"{where}: image_id {image_id} is not among the file's {len(samples)} images")
        if caption := clean_caption(require(annotation, "caption", where), where):
            samples[image_id]["captions"].append(caption)
    found = list(samples.values())
    return keep_usable(found, path) if check_images else found
