"""peft puts LoRA on the linear layers of the backbone, and takes it back into them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fiber_heads import TaskModel
from torch.utils.data import DataLoader

from .conftest import SIZE, STEPS, RandomData, changed, collate, weights

peft = pytest.importorskip("peft")


def test_three_steps(case: tuple[TaskModel, RandomData], tmp_path: Path) -> None:
    model, data = case
    linear = [
        name
        for name, module in model.named_modules()
        if name.startswith("backbone.") and isinstance(module, torch.nn.Linear) and not name.endswith("cross_attention")
    ]
    before = weights(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=linear)).train()
    learned = [name for name, value in adapted.named_parameters() if value.requires_grad]
    assert learned
    assert all("lora_" in name for name in learned)
    optimizer = torch.optim.AdamW((value for value in adapted.parameters() if value.requires_grad), 1e-3)
    for _, batch in zip(range(STEPS), DataLoader(data, SIZE, collate_fn=collate), strict=False):
        output = adapted(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.isfinite(output.loss)
    adapted.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model)
    differ = changed(before, merged)
    assert differ
    assert all(name.removesuffix(".weight") in linear for name in differ)
