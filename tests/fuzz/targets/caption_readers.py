"""Images with captions: COCO, Karpathy, and folders with a file of lines."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fuzz.target import Documents
from fuzz.targets.readers import ReaderTarget

CAPTIONS = [
    *("a dog runs over the street", "Ein Hund läuft über die Straße", "two red squares, left of a circle"),
    *("a cat", "自行车 and 狗", "a man rides a “bike”", "nothing to see here .", "a small boat \U0001f6a4"),
]
NAMES = ["000000000001.jpg", "000000000002.jpg", "b/000000000003.jpg", "caf\u00e9.jpg", "000000000005.jpg"]
_OWNERS = [0, 0, 1, 2, 2, 2, 3, 4]  # the image of each caption


def coco_captions() -> dict[str, Any]:
    """Five images with eight captions, as COCO writes them."""
    images = [{"id": 11 + row, "file_name": name, "height": 48, "width": 64} for row, name in enumerate(NAMES)]
    annotations = [
        {"id": 100 + row, "image_id": 11 + owner, "caption": caption}
        for row, (owner, caption) in enumerate(zip(_OWNERS, CAPTIONS, strict=True))
    ]
    return {"info": {"year": 2017, "version": "1.0"}, "images": images, "annotations": annotations, "licenses": []}


def _karpathy() -> dict[str, Any]:
    images = []
    for row, name in enumerate(NAMES):
        texts = [caption for owner, caption in zip(_OWNERS, CAPTIONS, strict=True) if owner == row]
        sentences = [{"raw": text, "tokens": text.split(), "imgid": row, "sentid": at} for at, text in enumerate(texts)]
        entry = {"filepath": "val2014", "filename": name, "imgid": row, "cocoid": 11 + row, "sentids": [0]}
        images.append({**entry, "split": "train" if row == 1 else "val", "sentences": sentences})
    return {"images": images, "dataset": "coco"}


def _lines() -> str:
    rows: list[dict[str, Any]] = [
        {"image": NAMES[0], "captions": CAPTIONS[:2], "id": 11, "split": "val"},
        {"image": NAMES[1], "caption": CAPTIONS[2], "id": 12, "split": "val"},
        {"file_name": NAMES[2], "text": CAPTIONS[3], "id": "c", "split": "val"},
        {"image": NAMES[2], "caption": CAPTIONS[4], "id": "c", "split": "val"},
        {"image": NAMES[3], "caption": CAPTIONS[5], "split": "val"},
        {"image": NAMES[4], "caption": CAPTIONS[6], "id": 15, "split": "train"},
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _of_coco(documents: Documents) -> Mapping[str, int]:
    content = documents["annotations/captions_val2017.json"]
    return {"samples": len(content["images"]), "captions": len(content["annotations"])}


def _of_karpathy(documents: Documents) -> Mapping[str, int]:
    images = [image for image in documents["dataset_coco.json"]["images"] if image["split"] == "val"]
    return {"samples": len(images), "captions": sum(len(image["sentences"]) for image in images)}


def _of_lines(documents: Documents) -> Mapping[str, int]:
    rows = [row for row in documents["captions.jsonl"] if row["split"] == "val"]
    written = [row["image"] if "image" in row else row["file_name"] for row in rows]
    names = {str(PurePosixPath(name.replace("\\", "/"))).casefold() for name in written}  # as an image is found by
    captions = [next(row[key] for key in ("captions", "caption", "text") if key in row) for row in rows]
    return {"samples": len(names), "captions": sum(len(each) if isinstance(each, list) else 1 for each in captions)}


class ShardTarget(ReaderTarget):
    """Tar shards: which bytes of them are whose, only a checksum could tell."""

    def read(self, folder: Path) -> Any:
        os.environ.setdefault("FIBER_DATA_CACHE", os.devnull)  # no folder: the index of none of them is kept
        return super().read(folder)

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None


def _shards() -> dict[str, bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for row, caption in enumerate(CAPTIONS):
            record = json.dumps({"caption": caption, "id": row, "status": "success"}, ensure_ascii=False)
            for ending, content in ((".jpg", b"no image, which no reader opens"), (".json", record.encode())):
                member = tarfile.TarInfo(f"{row:09}{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return {"val-00000.tar": buffer.getvalue()}


_SHARED: dict[str, Any] = {"split": "val", "sample": "CaptionSample", "counted": {"captions": "captions"}}
_COCO_FILE = {"annotations/captions_val2017.json": json.dumps(coco_captions(), ensure_ascii=False)}
_KARPATHY_FILE = {"dataset_coco.json": json.dumps(_karpathy(), ensure_ascii=False)}
_IN_VAL = tuple(f"val2017/{name}" for name in NAMES)
_IN_IMAGES = tuple(f"images/{name}" for name in NAMES)
_IN_VAL_2014 = tuple(f"images/val2014/{name}" for name in NAMES)
TARGETS = [
    ReaderTarget("coco_captions", _COCO_FILE, format="coco_captions", expected=_of_coco, beside=_IN_VAL, **_SHARED),
    ReaderTarget("karpathy", _KARPATHY_FILE, format="karpathy", expected=_of_karpathy, beside=_IN_VAL_2014, **_SHARED),
    ReaderTarget(
        "caption_folder",
        {"captions.jsonl": _lines()},
        format="caption_folder",
        expected=_of_lines,
        beside=_IN_IMAGES,
        **_SHARED,
    ),
    ReaderTarget(
        "captions", {"captions.jsonl": _lines()}, format="captions", expected=_of_lines, beside=_IN_IMAGES, **_SHARED
    ),
    ShardTarget("tar_shards", _shards(), format="tar_shards", expected=lambda documents: {}, **_SHARED),
]
