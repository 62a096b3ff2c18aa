"""Checkpoints are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fiber_train.checkpoint import (
    find_checkpoints,
    find_model,
    load_training_state,
    newest_checkpoint,
    replace_folder,
    save_checkpoint,
)

GOOD = {"size": 2, "sha256": ""}


def write_model(folder: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (folder / name).write_text("{}")


def test_the_newest_stay(tmp_path: Path) -> None:
    for step in (2, 4, 10, 1_000_000):
        save_checkpoint(tmp_path, step, write_model, {"step": step, "values": torch.arange(3)}, keep=2)
    names = [path.name for path in find_checkpoints(tmp_path)]
    assert names == ["step-000010", "step-1000000"]
    assert load_training_state(find_checkpoints(tmp_path)[-1])["step"] == 1_000_000


@pytest.mark.parametrize(
    "files", [None, 5, [], {"config.json": None}, {"config.json": {"size": "2", "sha256": ""}}, {"x" * 300: GOOD}]
)
def test_a_marker_that_is_none(tmp_path: Path, files: object) -> None:
    checkpoint = save_checkpoint(tmp_path, 1, write_model, {"step": 1}, keep=1)
    (checkpoint / "fiber.json").write_text(json.dumps({"format": 1, "kind": "checkpoint", "files": files}))
    with pytest.raises(
        ValueError, match=r"step-000001 is damaged \((it has no fiber.json that can be read|x+ is miss)"
    ):
        newest_checkpoint(tmp_path)


def test_training_state_that_is_none(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, 1, write_model, {"step": 1}, keep=1)
    whole = (checkpoint / "training.pt").read_bytes()
    for content in (b"", b"{}", whole[:-100], whole[: len(whole) // 2]):
        (checkpoint / "training.pt").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"training.pt cannot be read safely: it is damaged, .* use another checkpoint of the run"
        ):
            load_training_state(checkpoint)


def test_a_crash_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, write_model, {"step": 1}, keep=1)

    def crash(folder: Path) -> None:
        (folder / "config.json").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, crash, {"step": 2}, keep=1)
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-000001"]
    save_checkpoint(tmp_path, 2, write_model, {"step": 2}, keep=1)  # what the crash left is in nobody's way
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-000002"]

    replace_folder(tmp_path / "model", write_model)
    with pytest.raises(OSError, match="disk full"):
        replace_folder(tmp_path / "model", crash)
    assert (tmp_path / "model" / "config.json").read_text() == "{}"


def test_a_model_is_found_from_any_of_its_folders(tmp_path: Path) -> None:
    made = save_checkpoint(tmp_path, 5, write_model, {}, keep=1)
    assert find_model(tmp_path) == find_model(made) == made
    replace_folder(tmp_path / "model", write_model)
    assert find_model(tmp_path) == tmp_path / "model"
    with pytest.raises(FileNotFoundError, match="nowhere holds no model; expected the folder of a run"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no training.pt; a run resumes from a checkpoint of its own"):
        load_training_state(tmp_path / "model")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "owned").write_text, ("x",))

    made = save_checkpoint(tmp_path, 1, write_model, {}, keep=1)
    torch.save({"step": Evil()}, made / "training.pt")
    with pytest.raises(Exception, match="cannot be read safely"):
        load_training_state(made)
    assert not (tmp_path / "owned").exists()
