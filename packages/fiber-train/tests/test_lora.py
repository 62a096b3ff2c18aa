"""Adapters of low rank: few weights learn, a run resumes to the same bits, and its models are plain ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_heads import TaskModel
from fiber_train.callbacks import Callback
from fiber_train.checkpoint import load_task_model
from fiber_train.lora import add_adapters, merged
from fiber_train.optim_config import LoraConfig
from fiber_train.run import train
from safetensors.torch import load_file

from .test_run import asked_to_stop, assert_same

pytest.importorskip("peft")
LORA = "optim.lora={rank: 2, targets: [backbone.text_stream.encoder.*, backbone.image_stream.*.qkv], dropout: 0.1}"
OPTIONS = ("trainer.max_steps=4", LORA, "optim.learning_rate=1e-2")


class Kept(Callback):
    """The model of a run as it was trained."""

    def on_train_start(self, *, model: TaskModel, **_: Any) -> None:
        self.model = model


def test_a_run_resumes_and_leaves_a_plain_model(small_run: Callable, coarse: Path) -> None:
    options = (*OPTIONS, f"model.checkpoint={coarse}")
    straight, stopped, kept = small_run("straight", *options), small_run("stopped", *options), Kept()
    train(straight, callbacks=[kept])
    with asked_to_stop(after=3):
        assert train(stopped) is None
    assert train(stopped) is not None
    assert_same(Path(straight.out), Path(stopped.out))

    before, after = (load_file(run / "model" / "model.safetensors") for run in (coarse, Path(straight.out)))
    assert before.keys() == after.keys()
    learned = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {name for name in learned if name.startswith("backbone.")}
    assert adapted and all(".encoder." in name or name.endswith("qkv.weight") for name in adapted)
    assert all(name.endswith(".weight") for name in adapted) and learned - adapted

    plain, model = load_task_model(straight.out), kept.model.eval()
    torch.manual_seed(0)
    sizes = model.backbone
    pixels, ids = torch.randn(2, 3, *[sizes.image_size] * 2), torch.randint(5, sizes.vocab_size, (2, 9))
    with torch.no_grad():
        one, other = (each.backbone(pixels, ids).text_hidden_state for each in (plain, model))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    with pytest.raises(ValueError, match=r"optim.lora.rank \(was 2, is None\)"):
        train(small_run("straight", f"model.checkpoint={coarse}", "trainer.max_steps=4", "optim.learning_rate=1e-2"))


def test_what_learns(coarse: Path) -> None:
    model = load_task_model(coarse)
    names, heads = list(model.state_dict()), model.head_parameter_names()
    queries = [
        layer
        for name, layer in model.named_modules()
        if name.startswith("backbone.text_stream.") and name.endswith(".query")
    ]
    add_adapters(model, LoraConfig(rank=3, targets=["backbone.text_stream.*.query"], whole=["matching_head", "*.gate"]))
    learns = {name: value for name, value in model.named_parameters() if value.requires_grad}
    adapters = {name: value for name, value in learns.items() if "lora_" in name}
    assert sum(value.numel() for value in adapters.values()) == sum(
        3 * (layer.in_features + layer.out_features) for layer in queries
    )
    assert learns.keys() - adapters.keys() == {
        name for name in names if name.startswith("matching_head.") or name.endswith(".gate")
    }
    assert heads & learns.keys() < heads
    with merged(model):
        assert list(model.state_dict()) == names
    assert list(model.state_dict()) != names


def test_a_pattern_that_means_no_linear_layer(coarse: Path) -> None:
    model = load_task_model(coarse)
    with pytest.raises(
        ValueError, match=r"optim.lora.targets: the model has no part 'backbone.text.*'; did you mean 'b"
    ):
        add_adapters(model, LoraConfig(targets=["backbone.text.*.query"]))
