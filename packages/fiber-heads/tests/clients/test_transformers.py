"""transformers.Trainer drives every task model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_heads import AnsweringConfig, FiberForQuestionAnswering, TaskModel

from .conftest import CASES, SIZE, STEPS, RandomData, changed, collate, weights

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def arguments(folder: Path, **options: Any) -> Any:
    given = {"max_steps": STEPS, "per_device_train_batch_size": SIZE, "learning_rate": 1e-3, "report_to": "none"}
    given |= {"use_cpu": True, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "seed": 0}
    return transformers.TrainingArguments(str(folder), **given | options)


def test_three_steps(case: tuple[TaskModel, RandomData], tmp_path: Path) -> None:
    model, data = case
    before = weights(model)
    trainer = transformers.Trainer(model, arguments(tmp_path), collate, data, data)
    done = trainer.train()
    assert done.global_step == STEPS
    assert 0 < done.training_loss < 1e4
    assert any(name.startswith("backbone.") for name in changed(before, model))
    assert trainer.evaluate()["eval_loss"] > 0
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert not changed(weights(model), again)


def test_accumulated_batches_are_averaged(tmp_path: Path) -> None:
    """The loss is a mean, so that two batches of two teach what one of four does."""
    losses = []
    for size, parts in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        make, sample = CASES["reasoning"]
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts, "max_steps": 1}
        trainer = transformers.Trainer(make(), arguments(tmp_path, **options), collate, RandomData(sample))
        trainer.train()
        losses.append(trainer.state.log_history[0])
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-2)
    assert losses[0]["grad_norm"] == pytest.approx(losses[1]["grad_norm"], rel=0.2)


def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    losses = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        make, sample = CASES["reasoning"]
        options = arguments(tmp_path, max_steps=2, gradient_checkpointing=checkpointing)
        trainer = transformers.Trainer(make(), options, collate, RandomData(sample))
        trainer.train()
        losses.append([(each["loss"], each["grad_norm"]) for each in trainer.state.log_history[:2]])
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="leave use_reentrant, every_n_layers and offload at their defaults"):
        make().gradient_checkpointing_enable({"use_reentrant": True})


def test_metrics_see_logits_and_labels(tmp_path: Path) -> None:
    seen: list[tuple[Any, Any]] = []
    model, data = FiberForQuestionAnswering(CASES["reasoning"][0]().backbone, AnsweringConfig(("a", "b", "c"))), None
    data = RandomData(CASES["answering"][1], 4)
    options = arguments(tmp_path, label_names=["answer_targets"])

    def measure(found: Any) -> dict[str, float]:
        seen.append((found.predictions, found.label_ids))
        return {"share": float((found.predictions.argmax(1) == found.label_ids.argmax(1)).mean())}

    trainer = transformers.Trainer(model, options, collate, None, data, compute_metrics=measure)
    found = trainer.evaluate(ignore_keys=["losses", "metrics"])
    assert 0 <= found["eval_share"] <= 1
    assert seen[0][0].shape == seen[0][1].shape == (4, 3)
