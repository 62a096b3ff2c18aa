"""Tables with images inside (Arrow, parquet, GLIP's), Hugging Face's folders, and ODVG's lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fuzz import documents
from fuzz.target import Documents
from fuzz.targets.box_readers import CategoriesTarget
from fuzz.targets.readers import ReaderTarget

_SIZE = {"height": 48, "width": 64}
_IMAGES = ("a.jpg", "b.jpg", "caf\u00e9.jpg")
_CAPTION = "a dog beside two café tables"


def _lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _captions() -> list[dict[str, Any]]:
    texts = [["a dog", "the red ball"], ["Straße"], ["a boat", "two boats"], ["water"]]
    return [
        {"image": f"image {row}", "caption": own, "image_id": 5 + row, "split": "train"}
        for row, own in enumerate(texts)
    ]


def _questions() -> list[dict[str, Any]]:
    return [
        {
            **{"image": f"image {row}", "image_id": 5 + row, "split": "val"},
            **{"questions": ["What?", f"How many {row}?"], "question_id": [10 * row, 10 * row + 1]},
            **{"answers": [["two", "zwölf"], ["no"]], "answer_scores": [[1.0, 0.3], [0.6]]},
        }
        for row in range(4)
    ]


def _pairs() -> list[dict[str, Any]]:
    return [
        {
            **{"image_0": f"left {row}", "image_1": f"right {row}", "identifier": f"dev-{row}-0"},
            **{"questions": ["One is dark.", "Both are Hunde."], "answers": ["True", "False"]},
        }
        for row in range(4)
    ]


def _rows() -> list[dict[str, Any]]:
    return [{"image": f"image {row}", "text": f"caption {row} läuft", "id": row} for row in range(4)]


def _table(name: str, rows: list[dict[str, Any]], form: str) -> Callable[[], Mapping[str, bytes]]:
    return lambda: {name: documents.write(rows, form, {})}


def _saved() -> Mapping[str, bytes]:
    state = {"_data_files": [{"filename": f"data-0000{part}-of-00002.arrow"} for part in range(2)], "_fingerprint": "x"}
    parts = {f"data-0000{part}-of-00002.arrow": _rows()[2 * part : 2 * part + 2] for part in range(2)}
    return {
        "state.json": json.dumps(state).encode(),
        **{name: documents.write(rows, ".arrows", {}) for name, rows in parts.items()},
    }


def _glip(*, is_whole: bool) -> dict[str, str]:
    """Three images; whole tables have all that may be left out."""
    keys = ("k0", "k1", "zwölf")
    images = [f"{key}\taW1hZ2U{row}" for row, key in enumerate(keys)]
    starts = [sum(len(image.encode()) + 1 for image in images[:row]) for row in range(3)]
    objects = [
        [{"class": "dog", "rect": [1, 2, 30, 40]}, {"class": "café", "rect": [3, 3, 12, 12.5]}],
        [],
        {"objects": [{"class": "dog", "rect": [0, 0, 64, 48]}]},
    ]
    files = {
        "train.yaml": "img: img.tsv\nlabel: 'label.tsv'  # the boxes\nhw: hw.tsv\n",
        "img.tsv": "".join(f"{image}\n" for image in images),
        "label.tsv": "".join(f"{key}\t{json.dumps(own)}\n" for key, own in zip(keys, objects, strict=True)),
        "hw.tsv": "".join(f"{key}\t{json.dumps([_SIZE])}\n" for key in keys),
    }
    if is_whole:
        files["train.yaml"] += "linelist: lines.txt\nlabelmap: map.json\n"
        files |= {"img.lineidx": "".join(f"{start}\n" for start in starts), "lines.txt": "0\n1\n2\n"}
        files["map.json"] = json.dumps({"dog": 1, "café": 7}, ensure_ascii=False)
    return files


_INSTANCES = [
    {"bbox": [1, 2, 30, 40], "label": 0, "category": "dog"},
    {"bbox": [3, 3, 12, 12.5], "label": 1, "category": "café"},
]
_REGIONS = [
    {"bbox": [1, 2, 30, 40], "phrase": "a dog"},
    {"bbox": [[3, 3, 12, 12.5], [4, 4, 20, 20]], "phrase": "two café tables", "tokens_positive": [[13, 28]]},
]
_DETECTION = [
    {"filename": name, **_SIZE, "detection": {"instances": _INSTANCES[row:]}} for row, name in enumerate(_IMAGES)
]
_GROUNDING = [
    {"filename": name, **_SIZE, "grounding": {"caption": _CAPTION, "regions": _REGIONS[row:]}}
    for row, name in enumerate(_IMAGES)
]


class TableTarget(ReaderTarget):
    """Rows of tables: of a column whose type has changed, all rows do."""

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None if touched > 1 else super().budget(documents, 2 * touched)  # a row may hold two samples


def _of_rows(things: str) -> Callable[[Documents], Mapping[str, int]]:
    def count(documents: Documents) -> Mapping[str, int]:
        rows = [row for content in documents.values() if isinstance(content, list) for row in content]
        return {"samples": sum(len(row[things]) for row in rows) if things else len(rows)}

    return count


def _of_captions(documents: Documents) -> Mapping[str, int]:
    (rows,) = documents.values()
    return {
        "samples": len(rows),
        "captions": sum(len(row["caption"]) if isinstance(row["caption"], list) else 1 for row in rows),
    }


def _of_lines(kind: str, key: str) -> Callable[[Documents], Mapping[str, int]]:
    def count(documents: Documents) -> Mapping[str, int]:
        rows = documents["train.jsonl"]
        entries = [entry for row in rows for entry in row[kind][key]]
        boxes = sum(len(entry["bbox"]) if isinstance(entry["bbox"][0], list) else 1 for entry in entries)
        return {"samples": len(rows), "boxes": boxes}

    return count


def _of_glip(documents: Documents) -> Mapping[str, int]:
    rows = [row[1] if isinstance(row[1], list) else row[1]["objects"] for row in documents["label.tsv"]]
    return {"samples": len(rows), "boxes": sum(map(len, rows))} if "lines.txt" not in documents else {}


_SHARED: dict[str, Any] = {"split": None, "share": 0.3}
_CAPTIONED: dict[str, Any] = {"sample": "CaptionSample", "counted": {"captions": "captions"}, **_SHARED}
_BOXED: dict[str, Any] = {"sample": "DetectionSample", "counted": {"boxes": "boxes"}, **_SHARED}
_IN_IMAGES = tuple(f"images/{name}" for name in _IMAGES)
_GLIP_FORMS = {"img.tsv": "", "train.yaml": ".txt", "img.lineidx": ".txt"}
TARGETS = [
    TableTarget(
        "arrow_captions",
        _table("coco_train.arrow", _captions(), ".arrow"),
        format="arrow",
        expected=_of_captions,
        **_CAPTIONED,
    ),
    TableTarget(
        "arrow_questions",
        _table("vqav2_val.arrow", _questions(), ".arrow"),
        format="arrow",
        expected=_of_rows("questions"),
        **{**_CAPTIONED, "sample": "QuestionSample", "counted": {}},
    ),
    TableTarget(
        "arrow_pairs",
        _table("nlvr2_dev.arrow", _pairs(), ".arrow"),
        format="arrow",
        expected=_of_rows("questions"),
        **{**_CAPTIONED, "sample": "ReasoningSample", "counted": {}},
    ),
    TableTarget(
        "huggingface_saved",
        _saved,
        format="huggingface",
        expected=lambda documents: {},  # what state.json does not name is not read
        forms={f"data-0000{part}-of-00002.arrow": ".arrows" for part in range(2)},
        **{**_CAPTIONED, "counted": {}},
    ),
    TableTarget(
        "huggingface_parquet",
        _table("data/train-00000-of-00001.parquet", _rows(), ".parquet"),
        format="huggingface",
        uncompared=("image",),  # which is read when it is asked for
        expected=_of_rows(""),
        **{**_CAPTIONED, "counted": {}},
    ),
    CategoriesTarget(
        "odvg_detection",
        {"train.jsonl": _lines(*_DETECTION), "label_map.json": json.dumps({"0": "dog", "1": "café"})},
        format="odvg",
        expected=_of_lines("detection", "instances"),
        beside=_IN_IMAGES,
        **_BOXED,
    ),
    ReaderTarget(
        "odvg_grounding",
        {"train.jsonl": _lines(*_GROUNDING)},
        format="odvg",
        expected=_of_lines("grounding", "regions"),
        beside=_IN_IMAGES,
        uncompared=("id",),
        **{**_BOXED, "sample": "GroundingSample"},
    ),
    CategoriesTarget(
        "glip_tsv", _glip(is_whole=True), format="glip_tsv", expected=_of_glip, forms=_GLIP_FORMS, **_BOXED
    ),
    CategoriesTarget(
        "glip_tsv_bare", _glip(is_whole=False), format="glip_tsv", expected=_of_glip, forms=_GLIP_FORMS, **_BOXED
    ),
]
