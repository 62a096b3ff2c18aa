"""accelerate drives every task model as it is."""

from __future__ import annotations

import pytest
import torch
from fiber_heads import TaskModel, TaskOutput
from torch.utils.data import DataLoader

from .conftest import SIZE, STEPS, RandomData, changed, collate, weights

accelerate = pytest.importorskip("accelerate")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_three_steps(case: tuple[TaskModel, RandomData], precision: str) -> None:
    model, data = case
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    before = weights(model)
    loader = DataLoader(data, SIZE, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    driven, optimizer, loader = accelerator.prepare(model.train(), optimizer, loader)
    for _, batch in zip(range(STEPS), loader, strict=False):
        output = driven(**batch)
        assert isinstance(output, TaskOutput)
        assert torch.equal(output["loss"], output.loss)
        assert output[0] is output.loss
        accelerator.backward(output.loss)
        optimizer.step()
        optimizer.zero_grad()
        assert torch.isfinite(output.loss)
    assert any(name.startswith("backbone.") for name in changed(before, accelerator.unwrap_model(driven)))
