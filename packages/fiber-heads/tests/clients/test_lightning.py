"""Lightning drives every task model by three lines of module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_heads import TaskModel, TaskOutput
from torch.utils.data import DataLoader

from .conftest import SIZE, STEPS, RandomData, changed, collate, weights

lightning = pytest.importorskip("lightning")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_three_steps(case: tuple[TaskModel, RandomData], precision: str, tmp_path: Path) -> None:
    model, data = case

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, Any], index: int) -> TaskOutput:
            output = self.model(**batch)
            self.log_dict(output.losses)
            return output

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.model.parameters(), 1e-3)

    before = weights(model)
    options = {"accelerator": "cpu", "max_steps": STEPS, "logger": False, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path}
    trainer = lightning.Trainer(precision=precision, **options)
    trainer.fit(Module(), DataLoader(data, SIZE, collate_fn=collate))
    assert trainer.global_step == STEPS
    assert all(torch.isfinite(value) for value in trainer.logged_metrics.values())
    assert any(name.startswith("backbone.") for name in changed(before, model))
