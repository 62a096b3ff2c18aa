"""The data sets of the two stages in miniature, each in the layout and with the names in which it is published."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = [(64, 48), (48, 64), (56, 56)]  # width and height
WORDS = ["a red dog", "two blue cats", "one green bird", "the old tree", "a small boat"]


def write_published(root: Path) -> Path:
    """Writes `coco`, `visual_genome`, `sbu` and `cc3m` of the coarse stage, `objects365`, `flickr30k` and `mixed`.

    `coco` holds the boxes by which the fine stage is measured, too.
    """
    for make in (_coco, _visual_genome, _sbu, _cc3m, _objects365, _flickr30k, _mixed):
        make(root / make.__name__[1:])
    return root


def _coco(root: Path) -> None:
    images = []
    for number, split in enumerate(["train"] * 8 + ["restval"] * 2 + ["val"] * 4 + ["test"]):
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{number:012}.jpg"
        draw(root / folder / name, number)
        sentences = [{"raw": text, "imgid": number, "sentid": 5 * number} for text in captions(number, 5)]
        images.append({"filepath": folder, "filename": name, "split": split, "cocoid": number, "imgid": number})
        images[-1] |= {"sentids": [], "sentences": sentences}
    write(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    boxes = []
    for number in (139, 285, 632):
        width, height = draw(root / f"val2017/{number:012}.jpg", number)
        boxes.append({"id": number, "file_name": f"{number:012}.jpg", "width": width, "height": height})
    annotations = [
        {"id": place, "image_id": image["id"], "category_id": category, "bbox": [4, 4, 20, 24]}
        | {"area": 480, "iscrowd": 0, "segmentation": []}
        for place, (image, category) in enumerate(zip(boxes, (1, 18, 90), strict=True))
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}]
    content = {"images": boxes, "annotations": annotations, "categories": categories}
    write(root / "annotations/instances_val2017.json", content)


def _visual_genome(root: Path) -> None:
    regions, images = [], []
    for place in range(6):
        number = 2315000 + place
        folder = "VG_100K" if place < 4 else "VG_100K_2"
        width, height = draw(root / folder / f"{number}.jpg", number)
        box = {"x": 1, "y": 2, "width": 20, "height": 20, "image_id": number}
        phrases = [
            {**box, "region_id": 10 * number + row, "phrase": text} for row, text in enumerate(captions(place, 6))
        ]
        regions.append({"id": number, "regions": phrases})
        about = {"image_id": number, "width": width, "height": height, "flickr_id": None}
        images.append({**about, "coco_id": place if place < 2 else None, "url": f"https://cs/{folder}/{number}.jpg"})
    write(root / "region_descriptions.json", regions)
    write(root / "image_data.json", images)


def _sbu(root: Path) -> None:
    """The pair of texts; one image is gone from the web."""
    urls = [f"http://static.flickr.com/2723/4385058{number:03}_b0f291553e.jpg" for number in range(10)]
    for number, url in enumerate(urls[:-1]):
        draw(root / "images" / Path(url).name, 100 + number)
    name = "SBU_captioned_photo_dataset_{}.txt"
    write(root / name.format("urls"), "".join(f"{url}\n" for url in urls))
    write(root / name.format("captions"), "".join(f"{captions(number, 1)[0]}\n" for number in range(10)))


def _cc3m(root: Path) -> None:
    """Named by row and checksum, as the common script does; one image is gone from the web."""
    names = {"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"}
    for split, count in (("train", 10), ("val", 3)):
        rows = []
        for number in range(count):
            url = f"http://lh6.ggpht.com/{split}/picasa-{number}?w=640"
            rows.append(f"{captions(number + 3, 1)[0]}\t{url}\n")
            if number != 4:
                draw(root / split / f"{number}_{zlib.crc32(url.encode()) & 0xFFFFFFFF}", 200 + number)
        write(root / names[split], "".join(rows))


def _objects365(root: Path) -> None:
    """As GLIP packs it; of eight rows the list takes seven."""
    keys = [f"objects365_v1_{number:08}.jpg" for number in range(8)]
    rows: dict[str, list[str]] = {"images": [], "train.label": [], "train.hw": []}
    for number, key in enumerate(keys):
        path = root / "drawn.jpg"
        width, height = draw(path, 300 + number)
        names = ["Dog", "Wild Bird", "Boat"][: 1 + number % 3]
        objects = [{"class": name, "conf": 1.0, "rect": [2.0 + place, 3, 30, 40]} for place, name in enumerate(names)]
        rows["images"].append(f"{key}\t{base64.b64encode(path.read_bytes()).decode()}\n")
        rows["train.label"].append(f"{key}\t{json.dumps(objects)}\n")
        rows["train.hw"].append(f"{key}\t{json.dumps([{'height': height, 'width': width}])}\n")
        path.unlink()
    for name, lines in rows.items():
        write(root / f"{name}.tsv", "".join(lines))
        starts = [sum(map(len, lines[:place])) for place in range(len(lines))]
        write(root / f"{name}.lineidx", "".join(f"{start}\n" for start in starts))
    write(root / "train.label.linelist.cas.2000.tsv", "".join(f"{number}\n" for number in range(1, 8)))
    write(root / "object365_vgoiv6_class2ind.json", {"Dog": 1, "Wild Bird": 2, "Boat": 3})
    files = {"img": "images.tsv", "hw": "train.hw.tsv", "label": "train.label.tsv"}
    files |= {"linelist": "train.label.linelist.cas.2000.tsv", "labelmap": "object365_vgoiv6_class2ind.json"}
    lines = "".join(f'{key}: "{name}"\n' for key, name in files.items())
    write(root / "objects365_train_vgoiv6.cas2000.yaml", lines)


def _flickr30k(root: Path) -> None:
    """Two captions of each image, which `image_id` does not join."""
    entries = [
        {"file_name": f"10000{number}.jpg", "original_img_id": 10000 + number, "sentence_id": sentence}
        | {"dataset_name": "flickr", "seed": 400 + number, "folder": "flickr30k_images"}
        for number in range(4)
        for sentence in range(2)
    ]
    _grounding(root, "final_flickr_separateGT_train.json", entries)


def _mixed(root: Path) -> None:
    coco = [
        {"file_name": f"COCO_train2014_{number:012}.jpg", "original_id": number, "data_source": "coco"}
        | {"dataset_name": "mixed", "seed": 500 + number, "folder": "train2014"}
        for number in range(3)
    ]
    genome = [
        {"file_name": f"{2370800 + number}.jpg", "original_id": 2370800 + number, "data_source": "vg"}
        | {"dataset_name": "mixed", "seed": 600 + number, "folder": "images"}
        for number in range(3)
    ]
    _grounding(root, "final_mixed_train.json", [*coco, *genome])
    _grounding(root, "final_mixed_train_no_coco.json", genome)


def _grounding(root: Path, name: str, entries: list[dict[str, Any]]) -> None:
    images, annotations = [], []
    for number, entry in enumerate(entries):
        about = dict(entry)
        seed, folder = about.pop("seed"), about.pop("folder")
        width, height = draw(root / folder / about["file_name"], seed)
        images.append({**about, "id": number, "caption": "a red dog beside the old tree", "width": width})
        images[-1] |= {"height": height, "tokens_negative": [[0, 29]]}
        for place, (span, box) in enumerate([([0, 9], [2, 2, 20, 20]), ([17, 29], [20, 10, 20, 30])]):
            annotations.append({"id": 2 * number + place, "image_id": number, "category_id": 1, "iscrowd": 0})
            annotations[-1] |= {"bbox": box, "area": box[2] * box[3], "tokens_positive": [span]}
    write(root / name, {"info": {}, "images": images, "annotations": annotations, "categories": []})


def captions(seed: int, count: int) -> list[str]:
    """Different ones for different seeds."""
    pairs = [(WORDS[(seed + row) % 5], WORDS[(seed // 5 + 2 * row) % 5]) for row in range(count)]
    return [f"{one} by {other}, number {row} of {seed}" for row, (one, other) in enumerate(pairs)]


def draw(path: Path, seed: int) -> tuple[int, int]:
    """Writes a JPEG image of noise, gives its width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = SIZES[seed % 3]
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path, "JPEG")
    return size


def write(path: Path, content: Any) -> None:
    """Writes text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
