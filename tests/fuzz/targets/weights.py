"""Weights and what lies beside them: model folders, checkpoints of runs, and files of the original's kind."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fuzz import documents
from fuzz.target import Documents, Target

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_LARGE = 1e3  # a weight beyond this may make outputs that are not finite
_SIZES: dict[str, Any] = {
    **{"image_size": 16, "embed_dim": 8, "depths": (1, 1, 1), "image_num_heads": (1, 1, 2), "window_size": 2},
    **{"vocab_size": 300, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    **{"max_position_embeddings": 18, "num_fusion_blocks": 1, "drop_path_rate": 0.0, "image_mlp_ratio": 1.0},
}


class BuiltTarget(Target):
    """Files that our own code writes, when they are first asked for.

    Args:
        name: As of `Target`, like `covers` and `share`.
        covers: See there.
        share: See there.
    """

    def __init__(self, name: str, *, covers: tuple[str, ...] = (), share: float = 0.05) -> None:
        super().__init__(name, self._build, covers=covers, share=share)

    def _build(self) -> Mapping[str, bytes]:
        import torch

        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
            torch.manual_seed(0)
            self.build(Path(folder))
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def build(self, folder: Path) -> None:
        """Writes the files to an empty folder."""
        raise NotImplementedError


class WeightsTarget(BuiltTarget):
    """A model in a folder, loaded and used once: what it cannot use it has to refuse when it is loaded."""

    weights = _WEIGHTS

    def read(self, folder: Path) -> Any:
        import torch

        model = self.load(folder)
        with torch.no_grad():
            return model, self.use(model)

    def load(self, folder: Path) -> Any:
        """The model."""
        raise NotImplementedError

    def use(self, model: Any) -> list[Any]:
        """Tensors that the model makes."""
        raise NotImplementedError

    def parts(self, result: Any) -> Counter[str]:
        import torch

        model, _ = result
        state = {name: value.contiguous().flatten() for name, value in model.state_dict().items()}
        return Counter(
            f"{name} {value.dtype} {hash(value.view(torch.uint8).numpy().tobytes())}" for name, value in state.items()
        )

    def breaches(self, result: Any) -> list[str]:
        model, made = result
        weights = [value for value in model.state_dict().values() if value.is_floating_point()]
        if not all(value.isfinite().all() for value in weights):
            return ["weights that are not finite: "]
        is_tame = all(value.abs().max() < _LARGE for value in weights)
        return ["outputs that are not finite: "] if is_tame and not all(each.isfinite().all() for each in made) else []

    def budget(self, documents: Documents, touched: int) -> int | None:
        return None if touched and documents.get(self.weights) != self._valid_weights else 0

    @cached_property
    def _valid_weights(self) -> Any:
        form = self.form(self.weights)
        return None if form is None else documents.parse(self.files[self.weights], form)


class BackboneTarget(WeightsTarget):
    """A backbone alone."""

    def build(self, folder: Path) -> None:
        _backbone().save_pretrained(folder)
        (folder / "README.md").unlink()

    def load(self, folder: Path) -> Any:
        from fiber_backbone import FiberBackbone

        return FiberBackbone.from_pretrained(folder)

    def use(self, model: Any) -> list[Any]:
        return [model(*_inputs(model)).pooled]


class OriginalTarget(WeightsTarget):
    """A checkpoint of the original's."""

    weights = "original.ckpt"

    def build(self, folder: Path) -> None:
        import torch

        model = _backbone()
        state, values = {}, model.state_dict()
        for ours, originals in model.original_map().pairs:
            state |= dict(zip(originals, values[ours].chunk(len(originals)), strict=True))
        content = {"state_dict": {name: value.clone() for name, value in state.items()}, "epoch": 3}
        torch.save(content, folder / self.weights)

    def load(self, folder: Path) -> Any:
        model = _backbone()
        model.load_original_checkpoint(folder / self.weights)
        return model.eval()

    use = BackboneTarget.use


class TaskModelTarget(WeightsTarget):
    """A model of a task with its processor.

    Args:
        task: "answering", "captioning" or "grounding".
    """

    def __init__(self, task: str) -> None:
        super().__init__(f"model_{task}")
        self.task = task

    def build(self, folder: Path) -> None:
        _task_model(self.task).save_pretrained(folder)
        (folder / "README.md").unlink()

    def load(self, folder: Path) -> Any:
        from fiber_heads import AutoFiber

        return AutoFiber.from_pretrained(folder)

    def use(self, model: Any) -> list[Any]:
        return _use(self.task, model)


class CheckpointTarget(WeightsTarget):
    """A checkpoint of a run, which lists its files with their checksums: whatever differs is noticed."""

    def build(self, folder: Path) -> None:
        from fiber_train.checkpoint import save_checkpoint

        model = _task_model("answering")
        state = {"step": 1, "optimizer": {"state": {0: {"exp_avg": model.answer_head.dense.weight.detach()}}}}
        save_checkpoint(folder, 1, model.save_pretrained, state, keep=1)

    def load(self, folder: Path) -> Any:
        from fiber_train.checkpoint import load_task_model, load_training_state, newest_checkpoint

        checkpoint = newest_checkpoint(folder)
        assert checkpoint is not None
        load_training_state(checkpoint)
        return load_task_model(checkpoint)

    def use(self, model: Any) -> list[Any]:
        return _use("answering", model)

    def budget(self, documents: Documents, touched: int) -> int | None:
        return 0


class TrainingStateTarget(BuiltTarget):
    """The training state of a checkpoint by itself."""

    def build(self, folder: Path) -> None:
        CheckpointTarget(self.name).build(folder)
        checkpoint = folder / "checkpoints" / "step-000001"
        for name in ("training.pt", "training"):
            (checkpoint / name).rename(folder / name)
        shutil.rmtree(checkpoint)

    def read(self, folder: Path) -> Any:
        from fiber_train.checkpoint import load_training_state

        return load_training_state(folder)

    def parts(self, result: Any) -> Counter[str]:
        return Counter(map(str, result.items()))


@cache
def _backbone(**overrides: Any) -> Any:
    from fiber_backbone import FiberBackbone, FiberConfig

    return FiberBackbone.from_config(FiberConfig(**{**_SIZES, **overrides}))


def _inputs(model: Any) -> tuple[Any, Any]:
    import torch

    side = model.image_stream.stride
    return torch.zeros(1, 3, side, side), torch.tensor([[0, 5, 2]])


_LARGEST_SIDE = 1024


def _task_model(task: str) -> Any:
    from fiber_backbone import FiberBackbone, FiberConfig
    from fiber_data import FiberProcessor, GroundingProcessor, train_tokenizer
    from fiber_heads import (
        AnsweringConfig,
        CaptioningConfig,
        FiberForCaptioning,
        FiberForGrounding,
        FiberForQuestionAnswering,
        GenerationConfig,
        GroundingConfig,
    )

    tokenizer = train_tokenizer(["a dog runs", "a cat"], 300)
    if task == "grounding":
        head = GroundingConfig(channels=4, norm_groups=2, num_blocks=1, strides=(4, 8, 16, 32, 64), max_tokens=16)
        model: Any = FiberForGrounding(FiberBackbone.from_config(FiberConfig(**_SIZES).fine_stage()), head)
        model.processor = GroundingProcessor(tokenizer, shorter=16, longest=32, max_length=16, size_divisor=16)
        return model
    if task == "captioning":
        writing = CaptioningConfig(generation=GenerationConfig(num_beams=2, max_length=4))
        model = FiberForCaptioning(_backbone(decoder_projections=True), writing)
    else:
        model = FiberForQuestionAnswering(_backbone(), AnsweringConfig(("yes", "no", "überall")))
    model.processor = FiberProcessor(tokenizer, 16, 12)
    return model


def _use(task: str, model: Any) -> list[Any]:
    import numpy as np
    import torch

    image = np.zeros((16, 16, 3), np.uint8)
    if model.processor is None:  # said in a warning
        return []
    sides = [getattr(model.processor, name, 0) for name in ("image_size", "shorter", "size_divisor")]
    if max(sides) > _LARGEST_SIDE:  # right to ask for, but of more memory than is let to a case
        return []
    if task == "answering":
        return [torch.tensor([answer.probability for each in model.answer(image, "a dog") for answer in each])]
    if task == "captioning":
        return [torch.tensor([caption.score for each in model.caption(image) for caption in each])]
    (found,) = model.detect([image], ["dog", "cat"])
    return [found.boxes, found.scores]


TARGETS = [
    BackboneTarget("backbone"),
    OriginalTarget("original"),
    *(TaskModelTarget(task) for task in ("answering", "captioning", "grounding")),
    CheckpointTarget("checkpoint"),
    TrainingStateTarget("training_state"),
]
