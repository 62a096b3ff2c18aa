"""Files of the original: read without running them, recognized, and turned into model folders of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from fiber_backbone import read_original_state_dict
from fiber_data import AnswerVocabulary, FiberProcessor, GroundingProcessor, load_tokenizer, read_vqav2
from fiber_data.formats.samples import read_json
from fiber_heads import FiberForCaptioning, FiberForGrounding, Recognized, TaskModel, recognize_original

ORIGINAL_TOKENIZER = "FacebookAI/roberta-base"


def load_original(
    path: str | Path,
    *,
    kind: type[TaskModel] = TaskModel,
    tokenizer: str | Path | None = None,
    answers: str | Path | None = None,
    known: Mapping[str, Any] | None = None,
) -> tuple[TaskModel, Recognized]:
    """The model of an original checkpoint of either stage, in eval mode on the CPU, with its processor.

    Args:
        path: A `.ckpt`, `.pth`, `.pt` or `.safetensors` file.
        kind: The class that the model must be of.
        tokenizer: Folder or hub name of the tokenizer; by default roberta-base of the hub.
        answers: File of the answers of a question answering model, see `read_answers`.
        known: Fields of `FiberConfig` that are other than the file's tensors or the published models tell.

    Returns:
        The model, and what it was recognized as.

    Raises:
        FileNotFoundError: There is no such file, or no tokenizer and no network to load it by.
        ValueError: It is of another class; it is damaged, no checkpoint of the original, or of a task that is not
            known here; the answers are lacking or do not fit.
    """
    tensors = read_original_state_dict(path)
    found = recognize_original(tensors, str(path), **(known or {}))
    check_kind(path, found.kind, kind)
    given = read_answers(answers) if answers else None
    try:
        model = found.build(tensors, given)
    except ValueError as error:
        way = ""
        if found.num_answers not in (None, len(given or ())):
            way = f"; fiber convert {path} OUT --answers FILE, a JSON list of them in the order of its classes, or the "
            way += "folder of VQAv2's questions and annotations"
        raise ValueError(f"{path}: {error}{way}") from error
    model.processor = _make_processor(model, found, tokenizer)
    try:
        model.check_parts()
    except ValueError as error:
        raise ValueError(f"{path} with the tokenizer {tokenizer or ORIGINAL_TOKENIZER}: {error}") from error
    return model, found


def check_kind(origin: str | Path, found: type[TaskModel], kind: type[TaskModel]) -> None:
    """ValueError, in words of what each is for, if a model's class is not the one that is needed."""
    if not issubclass(found, kind):
        holds, needs = (each.__name__ + f" ({each.example})" * bool(each.example) for each in (found, kind))
        raise ValueError(
            f"{origin} holds a {holds}, but a {needs} is needed; give a checkpoint of that task, or train one (fiber "
            f"recipes lists what does) from this: model.checkpoint={origin}"
        )


def read_answers(path: str | Path) -> tuple[str, ...]:
    """The answers of a model in the order of its classes.

    Args:
        path: A JSON list, an object from answer to class, or the folder of VQAv2: of its train and val the answers that
            occur nine times, as they first appear, which is how the original numbered them.

    Raises:
        FileNotFoundError: There is no such file, or the folder holds no questions of train or val.
        ValueError: It holds no answers, or classes that are not 0, 1, 2, ...
    """
    if Path(path).is_dir():
        asked = (read_vqav2(path, split, check_images=False) for split in ("train", "val"))
        return AnswerVocabulary.from_annotations(chain.from_iterable(asked)).answers
    content = read_json(Path(path))
    if not isinstance(content, dict):
        return tuple(AnswerVocabulary.load(path).answers)
    classes = list(content.values())
    if not all(isinstance(each, int) for each in classes) or sorted(classes) != list(range(len(classes))):
        raise ValueError(f"{path}: expected an object from each answer to its class 0, 1, 2, ...; each class once")
    return tuple(sorted(content, key=content.__getitem__))


def describe(path: str | Path, found: Recognized) -> list[str]:
    """What a file is and what was taken for granted, a sentence each."""
    size = f"{found.backbone.image_size} px" if found.kind is not FiberForGrounding else "any shape of image"
    return [f"{path}: {found.title} ({found.kind.__name__}, {size})", *(f"assumed: {each}" for each in found.assumed)]


def _make_processor(model: TaskModel, found: Recognized, tokenizer: str | Path | None) -> Any:
    try:
        loaded = load_tokenizer(tokenizer or ORIGINAL_TOKENIZER)
    except FileNotFoundError as error:
        if tokenizer is not None:
            raise
        raise FileNotFoundError(
            f"the original's tokenizer, {ORIGINAL_TOKENIZER}, is not here and the hub cannot be reached; give a folder "
            "with its files: --tokenizer FOLDER"
        ) from error
    if isinstance(model, FiberForCaptioning):
        tokens = {"begin": loaded.cls_token_id, "end": loaded.sep_token_id, "pad": loaded.pad_token_id}
        forbidden = (loaded.unk_token_id, loaded.mask_token_id)
        named = {f"{name}_token_id": value for name, value in tokens.items()}
        model.config.generation = replace(model.config.generation, **named, forbidden_token_ids=forbidden)
    if isinstance(model, FiberForGrounding):
        return GroundingProcessor(loaded, max_length=found.max_length, size_divisor=model.backbone.strides[-1])
    return FiberProcessor(loaded, found.backbone.image_size, found.max_length)
