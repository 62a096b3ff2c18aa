"""The average of the weights: what it is, and that runs evaluate, keep and resume it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fiber_train.checkpoint import find_checkpoints, load_model, load_training_state
from fiber_train.ema import WeightAverage
from fiber_train.run import train
from fiber_train.tracking import read_metrics
from safetensors.torch import load_file
from torch import nn

from .test_run import asked_to_stop, assert_same

SETTINGS = ("optim.ema_decay=0.7", "trainer.eval_every=2")


def test_rule() -> None:
    model = nn.BatchNorm1d(3)  # has parameters, and buffers of floats and of an integer
    model.weight.requires_grad_(False)
    average = WeightAverage(model, 0.9)
    expected = model.bias.detach().clone()
    for value in (1.0, 5.0, -2.0):
        with torch.no_grad():
            model.bias.copy_(torch.tensor([value, 2 * value, 0.0]))
            model.weight.fill_(value)
            model.num_batches_tracked.fill_(600)
        expected = 0.9 * expected + 0.1 * model.bias.detach()
        average.update()
    with average.applied():
        assert torch.allclose(model.bias, expected)
        assert (model.weight == -2).all(), "frozen: its own"
        assert model.num_batches_tracked == 600
    assert torch.equal(model.bias, torch.tensor([-2.0, -4.0, 0.0]))


def test_weights_come_back_after_an_error() -> None:
    model = nn.Linear(2, 2)
    average, before = WeightAverage(model, 0.5), model.weight.detach().clone() + 1
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert torch.equal(model.weight, before)


def test_half_precision_weights_have_a_float32_average() -> None:
    """Steps too small for the weights' type add up."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(2.0)
    for _ in range(100):
        average.update()
    assert average.state_dict()["weight"].item() == pytest.approx(2 - 0.999**100, rel=1e-4)


def test_another_models_averages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in 1 names \(first: bias\).*optim.frozen"):
        WeightAverage(nn.Linear(1, 1), 0.5).load_state_dict({"weight": torch.zeros(1, 1)})


def test_a_run_keeps_the_average(small_run) -> None:
    """`model/` has the average of all steps' weights; the checkpoints have the weights themselves to go on from."""
    config = small_run("run", "optim.ema_decay=0.7", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=6")
    train(config)
    steps = [load_file(path / "model.safetensors") for path in find_checkpoints(config.out)]
    kept = load_file(Path(config.out) / "model" / "model.safetensors")
    name = "backbone.text_stream.embeddings.word_embeddings.weight"
    expected = steps[0][name]  # the first step of the warm-up has a rate of zero: these are the initial weights
    for weights in steps[1:]:
        expected = 0.7 * expected + 0.3 * weights[name]
    assert torch.allclose(kept[name], expected, atol=1e-7)
    assert not torch.allclose(kept[name], steps[-1][name], atol=1e-5)


def test_averaging_does_not_change_training(small_run) -> None:
    plain, averaged = small_run("plain"), small_run("averaged", *SETTINGS)
    train(plain), train(averaged)
    rows = [[row for row in read_metrics(run.out) if row[1].startswith("train/")] for run in (plain, averaged)]
    assert rows[0] == rows[1]
    last = [load_file(find_checkpoints(run.out)[-1] / "model.safetensors") for run in (plain, averaged)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_best_is_of_the_average(small_run) -> None:
    config = small_run("run", *SETTINGS, "trainer.eval_every=0")
    train(config)  # one evaluation, at the end: the best is the finished model
    best, finished = (load_file(Path(config.out) / name / "model.safetensors") for name in ("best", "model"))
    assert all(torch.equal(best[name], finished[name]) for name in finished)
    model, _ = load_model(config.out)
    assert all(torch.equal(value, finished[name]) for name, value in model.state_dict().items() if name in finished)


def test_resumed_equals_uninterrupted(small_run) -> None:
    straight, stopped = small_run("straight", *SETTINGS), small_run("stopped", *SETTINGS)
    train(straight)
    with asked_to_stop(after=3):
        assert train(stopped) is None
    assert train(stopped) is not None
    assert_same(Path(straight.out), Path(stopped.out))
    one, other = (load_training_state(find_checkpoints(run.out)[-1])["average"] for run in (straight, stopped))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row for row in read_metrics(straight.out) if row[1].startswith("eval/")] == [
        row for row in read_metrics(stopped.out) if row[1].startswith("eval/")
    ]
