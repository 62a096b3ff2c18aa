"""One's own data: `fiber train captions|vqa|detect DIR` as recipes and settings of an ordinary run.

What is heavy is imported when a folder is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fiber_train.recipe_files import find_recipes
from fiber_train.stopping import say

LARGE = 512  # width of a text stream from which on a model counts as large
FRESH = (
    "without --checkpoint a small model begins with random weights, which is enough for drawings; photos need weights "
    "that have seen many: --checkpoint RUN, a file of the original or a name on the hub, or lay gpu_12gb over it"
)
LARGE_RECIPES = ("gpu_12gb", "gpu_24gb")  # whose models do
_HELD_OUT = ("val", "valid", "validation", "dev", "minival")  # the first that there is; a test split stays untouched
# Of the head of a detector, what its weights were trained with.
_HEAD = (
    *("channels", "num_blocks", "norm_groups", "anchor_scale", "flat_offsets", "inclusive_boxes", "padding_aware"),
    *("no_object_column", "prompt_vectors"),
)


@dataclass(frozen=True)
class Kind:
    """What may be learned from a folder.

    Attributes:
        recipe: Its settings.
        reader: The function of `fiber_data.formats` that finds out which format the folder holds.
        layout: What a folder should hold, for messages.
    """

    recipe: str
    reader: str
    layout: str


KINDS = {
    "captions": Kind(
        "own_captions",
        "read_captions",
        'captions.jsonl beside images/, a line {"image": "a.jpg", "caption": "a dog"} for each caption, or '
        "captions.csv with these columns; or annotations/captions_train*.json (COCO), or metadata.jsonl (Hugging Face)",
    ),
    "vqa": Kind(
        "own_vqa",
        "read_questions",
        'questions.jsonl beside images/, a line {"image": "a.jpg", "question": "what is it?", "answer": "a dog"} for '
        "each question, or questions.csv with these columns; or VQAv2's files",
    ),
    "detect": Kind(
        "own_detect",
        "read_boxes",
        'boxes.jsonl beside images/, a line {"image": "a.jpg", "boxes": [{"bbox": [x, y, width, height], "name": '
        "\"dog\"}]} for each image, in pixels; or COCO's JSON (instances_train.json, or a single file); or Roboflow's "
        "train/_annotations.coco.json; YOLO's and Pascal VOC's labels are not read, export them as COCO",
    ),
}


def is_own(recipe: str, words: Sequence[str]) -> bool:
    """Whether a folder of one's own is meant: by a name that is no recipe, or by a folder after one that is."""
    if recipe not in KINDS:
        return False
    if recipe not in (known := find_recipes()):
        return True
    first = words[0] if words else ""
    if "=" in first or first in known or first.endswith((".yaml", ".yml")):
        return False
    return "/" in first or Path(first).is_dir()


def resolve_own(name: str, words: Sequence[str], checkpoint: str | None) -> tuple[list[str], list[str]]:
    """The recipes and the settings that a command on one's own data stands for.

    Args:
        name: Of `KINDS`.
        words: The folder, then recipes to lay over and settings.
        checkpoint: Weights to start from: a run, a file of the original, or a name on the hub.

    Returns:
        As for `load_config`. The run goes to `runs/NAME-FOLDER` unless `out` is set; what is held out is the folder's
        own split, or a tenth of the images.

    Raises:
        FileNotFoundError: There is no such folder, not one image of it is on disk, or no weights.
        ValueError: The folder is not given, or holds no data of the kind; the message says which layout it needs.
    """
    kind = KINDS[name]
    if not words or "=" in words[0]:
        raise ValueError(f"fiber train {name} DIR: give the folder of your data, with {kind.layout}")
    root, layers = Path(words[0]), [word for word in words[1:] if "=" not in word]
    typed = [word for word in words[1:] if "=" in word]
    found = [f"data.root={words[0]}", f"out={Path('runs') / f'{name}-{root.resolve().name}'}"]
    if "://" not in words[0]:
        found += _splits(kind, root)
    if checkpoint:
        found.append(f"model.checkpoint={checkpoint}")
    settings = dict(word.split("=", 1) for word in [*found, *typed])
    start = settings.get("model.checkpoint", "null")
    is_large = not set(layers).isdisjoint(LARGE_RECIPES)
    if start in ("", "null"):
        if not is_large:
            say(FRESH)
    else:
        backbone, head = _look_at(start)
        is_large |= backbone.get("hidden_size", 0) >= LARGE
        found += _fitting(backbone, head) if name == "detect" else []
    return [kind.recipe, *["own_large"] * is_large, *layers], [*found, *typed]


def local(checkpoint: str) -> str:
    """A checkpoint as a run takes it: what is here as it was typed, a name on the hub as the folder it is kept in.

    Raises:
        FileNotFoundError: There is none.
    """
    from fiber_train.checkpoint import find_model

    found = find_model(checkpoint)
    return checkpoint if Path(checkpoint).exists() else str(found)


def _look_at(checkpoint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the backbone of weights and, of a detector, those of its head; values are left to the run."""
    from fiber_backbone import read_original_state_dict
    from fiber_backbone.described import read_object
    from fiber_heads import FiberForGrounding, recognize_original

    from fiber_train.checkpoint import find_model

    found = find_model(checkpoint)
    if found.is_file():
        known = recognize_original(read_original_state_dict(found, only_shapes=True), str(found))
        return asdict(known.backbone), asdict(known.head) if known.kind is FiberForGrounding else {}
    content = read_object(found / "config.json")
    return content.get("backbone") or {}, content["head"] if "num_blocks" in (content.get("head") or {}) else {}


def _fitting(backbone: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """The settings of a detector by which all of its start weights are of use."""
    switch = backbone.get("normalize_image_query")
    words = [] if switch is None else [f"model.overrides.normalize_image_query={json.dumps(switch)}"]
    return [*words, *(f"task.model.{key}={json.dumps(head[key])}" for key in _HEAD if key in head)]


def _splits(kind: Kind, root: Path) -> list[str]:
    """The settings that say what a folder holds: its splits, and the one file if it is called as no format's is.

    Raises:
        FileNotFoundError: As of the reader.
        ValueError: It holds no data of the kind, or something out of format.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected one with {kind.layout}")
    if _has_split(kind, root, "train"):
        held_out = next((name for name in _HELD_OUT if _has_split(kind, root, name)), None)
        return [f"data.eval_split={held_out}"] if held_out else []
    if kind.reader == "read_boxes" and len(files := list(_coco_files(root))) == 1:
        file = json.dumps(str(files[0]))
        return ["data.format=detection", f"data.format_options={{annotation_file: {file}}}"]
    there = sorted(path.name + "/" * path.is_dir() for path in root.iterdir() if not path.name.startswith("."))
    shown = ", ".join(there[:6]) + ", ..." * (len(there) > 6)
    raise ValueError(f"{root}: expected {kind.layout}; found {shown or 'nothing'}")


def _has_split(kind: Kind, root: Path, split: str) -> bool:
    """Whether a split is there; it is read as the run will read it, so that nothing is done twice."""
    from fiber_data import formats, open_samples

    try:
        open_samples(getattr(formats, kind.reader), root, split, hold_out=0.0)
    except formats.SplitNotFoundError:
        return False
    return True


def _coco_files(root: Path) -> list[Path]:
    """JSON files in COCO's form, of whatever name."""
    from fiber_data.formats import read_detection

    found = []
    for path in sorted([*root.glob("*.json"), *root.glob("annotations/*.json")]):
        try:
            read_detection(root, "train", check_images=False, annotation_file=path)
        except (ValueError, KeyError, FileNotFoundError):
            continue
        found.append(path)
    return found
