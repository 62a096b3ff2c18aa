"""The generated data set on disk, in the formats of the real ones.

images/<split>/000000.png
annotations/captions_<split>.json                       COCO captions, five an image
annotations/instances_<split>.json                      COCO instances, one category for each shape; boxes, areas and
                                                        outlines of what is shown where things cover others
annotations/dataset_scenes.json                         Karpathy's splits
annotations/final_scenes_<split>.json                   MDETR grounding: one entry a caption, character spans
annotations/finetune_<dialect>_<split>.json             referring expressions in MDETR's form
annotations/v2_OpenEnded_scenes_<split>_questions.json  VQAv2 questions
annotations/v2_scenes_<split>_annotations.json          VQAv2 answers, ten a question
nlvr2/<split>.json, nlvr2/images/<split>/               NLVR2 sentences and pairs of images
manifest.json                                           what was made, from which level and seed, and a digest of
                                                        each file
fiber.json                                              that the folder is ours: the same call may write to it again
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fiber_data.scenes.captions import captions
from fiber_data.scenes.draw import draw_scene, shown_pixels
from fiber_data.scenes.expressions import DIALECTS, refer
from fiber_data.scenes.graph import Scene, SceneObject
from fiber_data.scenes.language import Sentence
from fiber_data.scenes.levels import LEVELS, Level
from fiber_data.scenes.pairs import pair_up
from fiber_data.scenes.placing import sample_scene
from fiber_data.scenes.questions import ask

# As fiber-train marks its folders (`fiber_train.ownership`), which are known by this file alone.
MARKER, FORMAT = "fiber.json", 1
LEAST_SIZE = 8  # pixels
VERSION = 2  # raised whenever the same seed gives other files
_STREAMS = ("scene", "captions", "questions", "expressions", "pairs")


class _Split:
    """One split while it is made: its scenes, and ids that no other split has."""

    def __init__(self, name: str, level: Level, scenes: list[Scene], first_id: int, size: int) -> None:
        self.name, self.level, self.scenes, self.first_id, self.size = name, level, scenes, first_id, size
        self._boxes = [[self._box(item) for item in scene.objects] for scene in scenes]

    def _box(self, item: SceneObject) -> list[float]:
        x1, y1, x2, y2 = item.box()
        return [round(value * self.size, 2) for value in (x1, y1, x2 - x1, y2 - y1)]

    def image_id(self, position: int) -> int:
        """The id of an image in all annotation files."""
        return self.first_id + position

    def image(self, position: int) -> dict[str, Any]:
        """COCO's entry of an image."""
        name = f"{position:06}.png"
        return {"id": self.image_id(position), "file_name": name, "width": self.size, "height": self.size}

    def boxes(self, position: int) -> list[list[float]]:
        """COCO's boxes, (x, y, width, height) in pixels, of a scene's objects."""
        return self._boxes[position]


def generate_scenes(
    out: str | Path,
    splits: Mapping[str, int],
    *,
    seed: int = 0,
    level: str = "easy",
    image_size: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes the data set.

    Args:
        out: Folder to write to; made if need be.
        splits: Number of scenes of each split, such as ``{"train": 2000, "val": 500}``. One called "unseen" shows and
            names combinations of color or texture and shape that no other split does.
        seed: The same seed gives the same files, and a split the same scenes however long it is.
        level: "easy", "medium" or "hard", see `fiber_data.scenes.levels`.
        image_size: Side of the images in pixels; None takes the level's.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder holds something else already, that is, has no ``fiber.json`` of ours.
        ValueError: If a split is too small to make pairs of images, or image size or seed is; if there is no such
            level, or it has no "unseen" split.
    """
    root = Path(out)
    if level not in LEVELS:
        raise ValueError(f"expected a level of {', '.join(LEVELS)}, not {level!r}")
    chosen = LEVELS[level]
    image_size = chosen.image_size if image_size is None else image_size
    if image_size < LEAST_SIZE or seed < 0:
        raise ValueError(
            f"expected an image size from {LEAST_SIZE} on and a seed from 0 on, not {image_size} and {seed}"
        )
    if small := [f"{name} ({count})" for name, count in splits.items() if count < 20]:
        raise ValueError(f"a split needs at least 20 scenes, got {', '.join(small)}")
    levels = [chosen.of_split(name) for name in splits]
    _claim(root)
    for folder in ("annotations", "nlvr2"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "manifest.json").unlink(missing_ok=True)
    karpathy: list[dict[str, Any]] = []
    first_id = 1
    for number, (name, count) in enumerate(splits.items()):
        scenes = sample_scenes(levels[number], count, seed=seed, number=number)
        split = _Split(name, levels[number], scenes, first_id, image_size)
        first_id += count
        _write_images(root, split, progress)
        sentences = [
            captions(scene, _random(seed, number, "captions", i), split.level) for i, scene in enumerate(scenes)
        ]
        _write_captions(root, split, sentences, karpathy)
        _write_instances(root, split)
        _write_grounding(root, split, sentences)
        _write_expressions(root, split, _random(seed, number, "expressions"))
        _write_questions(root, split, _random(seed, number, "questions"))
        _write_pairs(root, split, _random(seed, number, "pairs"))
    _write_json(root / "annotations" / "dataset_scenes.json", {"dataset": "scenes", "images": karpathy})
    _write_manifest(root, splits, seed, chosen, image_size)
    return root


def sample_scenes(level: Level, count: int, *, seed: int, number: int) -> list[Scene]:
    """The scenes that `generate_scenes` draws for a split.

    Args:
        level: The split's level, see `Level.of_split`.
        count: How many.
        seed: As there.
        number: Position of the split among the splits.
    """
    return [sample_scene(_random(seed, number, "scene", i), level) for i in range(count)]


def _claim(root: Path) -> None:
    """Marks a new or empty folder as ours, before anything is written; refuses others that are not marked so."""
    path = root / MARKER
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        marker = None
    if not (isinstance(marker, dict) and isinstance(marker.get("format"), int) and marker.get("kind") == "scenes"):
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise FileExistsError(
                f"{root} holds other files; choose a new folder for the scenes (it has no {MARKER} of such)"
            )
        root.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, "kind": "scenes", "files": {}}) + "\n", encoding="utf-8")


def _clear(folder: Path, names: str) -> None:
    """Makes a folder, and removes what an earlier call wrote there: files of these names, a regular expression."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if re.fullmatch(names, path.name) and path.is_file():
            path.unlink()


def _random(seed: int, split: int, stream: str, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, split, _STREAMS.index(stream), index])


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_images(root: Path, split: _Split, progress: bool) -> None:
    folder = root / "images" / split.name
    _clear(folder, r"\d{6}\.png")
    bar = tqdm(split.scenes, desc=f"drawing {split.name}", unit="image", disable=None if progress else True)
    for position, scene in enumerate(bar):
        image = draw_scene(scene, split.size, oversampling=split.level.oversampling)
        image.save(folder / f"{position:06}.png", compress_level=1)


def _write_captions(root: Path, split: _Split, sentences: list[list[Sentence]], karpathy: list[dict[str, Any]]) -> None:
    images = [split.image(i) for i in range(len(split.scenes))]
    rows = []
    for image, own in zip(images, sentences, strict=True):
        ids = [(image["id"] - 1) * len(own) + number + 1 for number in range(len(own))]
        rows += [
            {"id": i, "image_id": image["id"], "caption": sentence.text} for i, sentence in zip(ids, own, strict=True)
        ]
        karpathy.append(
            {
                "filename": image["file_name"],
                "filepath": split.name,
                "imgid": image["id"],
                "split": split.name,
                "sentids": ids,
                "sentences": [
                    {"raw": sentence.text, "tokens": sentence.text.split(), "imgid": image["id"], "sentid": i}
                    for i, sentence in zip(ids, own, strict=True)
                ],
            }
        )
    _write_json(root / "annotations" / f"captions_{split.name}.json", {"images": images, "annotations": rows})


def _annotations(split: _Split) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for position, scene in enumerate(split.scenes):
        for index, (item, box) in enumerate(zip(scene.objects, split.boxes(position), strict=True)):
            x, y = (item.outline() * split.size).T
            area = abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2  # of the polygon (shoelace formula)
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": split.image_id(position),
                    "category_id": split.level.shapes.index(item.shape) + 1,
                    "bbox": box,
                    "area": round(area * item.shown, 2),
                    "iscrowd": 0,
                    "segmentation": [[round(value, 2) for corner in zip(x, y, strict=True) for value in corner]]
                    if item.shown == 1
                    else _run_lengths(shown_pixels(scene, index, split.size)),
                }
            )
    return rows


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) in COCO's run lengths: of no and yes in turn, beginning with no, column by column."""
    pixels = np.concatenate([[False], mask.T.ravel(), [False]])
    turns = np.flatnonzero(pixels[1:] != pixels[:-1])
    return {"size": list(mask.shape), "counts": np.diff([0, *turns, mask.size]).tolist()}


def _write_instances(root: Path, split: _Split) -> None:
    content = {
        "images": [split.image(i) for i in range(len(split.scenes))],
        "annotations": _annotations(split),
        "categories": [
            {"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(split.level.shapes)
        ],
    }
    _write_json(root / "annotations" / f"instances_{split.name}.json", content)


_PHRASE = [{"id": 1, "name": "object", "supercategory": "object"}]


def _grounding_box(identifier: int, entry: int, box: list[float], spans: list[list[int]]) -> dict[str, Any]:
    return {
        "id": identifier,
        "image_id": entry,
        "category_id": 1,
        "bbox": box,
        "area": round(box[2] * box[3], 2),
        "iscrowd": 0,
        "tokens_positive": spans,
    }


def _write_grounding(root: Path, split: _Split, sentences: list[list[Sentence]]) -> None:
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for position, own in enumerate(sentences):
        boxes = split.boxes(position)
        for number, sentence in enumerate(own):
            entry = {**split.image(position), "id": len(images) + 1, "original_id": split.image_id(position)}
            entry |= {"caption": sentence.text, "sentence_id": number, "dataset_name": "scenes", "tokens_negative": []}
            phrases = [[[start, end]] for start, end, objects in sentence.spans if objects]
            images.append({**entry, "tokens_positive_eval": phrases})
            for index, box in enumerate(boxes):
                spans = [[start, end] for start, end, objects in sentence.spans if index in objects]
                rows.append(_grounding_box(len(rows) + 1, entry["id"], box, spans))
    content = {"images": images, "annotations": rows, "categories": _PHRASE}
    _write_json(root / "annotations" / f"final_scenes_{split.name}.json", content)


def _write_expressions(root: Path, split: _Split, random: np.random.Generator) -> None:
    expressions = refer(split.scenes, random, split.level)
    for dialect in DIALECTS:
        images: list[dict[str, Any]] = []
        rows = []
        for expression in (made for made in expressions if made.dialect == dialect):
            entry = {**split.image(expression.scene), "id": len(images) + 1}
            entry |= {"original_id": split.image_id(expression.scene), "dataset_name": f"scenes_{dialect}"}
            images.append({**entry, "caption": expression.text, "tokens_negative": []})
            box = split.boxes(expression.scene)[expression.target]
            rows.append(_grounding_box(len(images), len(images), box, [list(expression.phrase)]))
        content = {"images": images, "annotations": rows, "categories": _PHRASE}
        _write_json(root / "annotations" / f"finetune_{dialect}_{split.name}.json", content)


def _write_questions(root: Path, split: _Split, random: np.random.Generator) -> None:
    questions, annotations = [], []
    for number, question in enumerate(ask(split.scenes, random, split.level)):
        identity = {"question_id": split.first_id * 100 + number, "image_id": split.image_id(question.scene)}
        questions.append({**identity, "question": question.text})
        annotations.append(
            {
                **identity,
                "question_type": question.kind,
                "answer_type": question.answer_type,
                "multiple_choice_answer": question.answer,
                "answers": [
                    {"answer_id": i + 1, "answer": answer, "answer_confidence": "yes"}
                    for i, answer in enumerate(question.answers)
                ],
            }
        )
    folder, common = root / "annotations", {"data_type": "scenes", "data_subtype": split.name}
    _write_json(folder / f"v2_OpenEnded_scenes_{split.name}_questions.json", {**common, "questions": questions})
    _write_json(folder / f"v2_scenes_{split.name}_annotations.json", {**common, "annotations": annotations})


def _write_pairs(root: Path, split: _Split, random: np.random.Generator) -> None:
    folder = root / "nlvr2" / "images" / split.name
    _clear(folder, r".+-\d+-\d+-img[01]\.png")
    lines = []
    pairs = pair_up(split.scenes, max(2, len(split.scenes) // 4), random, split.level)
    for number, pair in enumerate(pairs):
        stem = f"{split.name}-{number // 2}-{number % 2}"
        for side, position in enumerate((pair.left, pair.right)):
            shutil.copyfile(root / "images" / split.name / f"{position:06}.png", folder / f"{stem}-img{side}.png")
        lines.append(
            json.dumps(
                {"identifier": f"{stem}-0", "sentence": pair.sentence, "label": "True" if pair.label else "False"}
            )
        )
    (root / "nlvr2" / f"{split.name}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_manifest(root: Path, splits: Mapping[str, int], seed: int, level: Level, image_size: int) -> None:
    files = sorted([*root.glob("annotations/*.json"), *root.glob("nlvr2/*.json")])
    content = {
        "dataset": "scenes",
        "version": VERSION,
        "level": level.name,
        "seed": seed,
        "image_size": image_size,
        "splits": dict(splits),
        "sha256": {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    (root / "manifest.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
