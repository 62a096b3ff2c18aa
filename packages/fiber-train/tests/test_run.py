"""A run: stopped and resumed it equals the uninterrupted one, on several processes the same, and it fails in words."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fiber_train.checkpoint import find_checkpoints, load_model
from fiber_train.config import load_config
from fiber_train.evaluation import read_evaluation
from fiber_train.loop import Loop, NonFiniteLossError
from fiber_train.run import train
from fiber_train.tasks.pretraining.task import Pretraining
from fiber_train.tracking import read_metrics
from safetensors.torch import load_file

from .conftest import SMALL

QUEUE = ("task.model.queue_size=12", "task.model.queue_inputs=uint8")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def losses(run: Path) -> list[tuple[int, str, float]]:
    return [row for row in read_metrics(run) if "loss" in row[1] or "gradient" in row[1]]


def assert_same(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_what_its_user_needs(small_run) -> None:
    results = train(small_run())
    out = Path(small_run().out)
    assert results.to_json() == json.loads((out / "evaluation.json").read_text())
    assert read_evaluation(out).numbers() == results.numbers()
    assert [path.name for path in find_checkpoints(out)] == ["step-000004", "step-000006"]
    assert load_config(out / "config.yaml") == small_run()
    logged = {name for _, name, _ in read_metrics(out)}
    assert {"train/loss", "train/itc_loss", "train/itm_loss", "train/mlm_loss", "train/itm_accuracy"} <= logged
    assert {"learning_rate/base", "learning_rate/gate", "eval/image_to_text_recall@1"} <= logged
    assert not list((out / "checkpoints").glob(".*")), "nothing half-written stays"


@pytest.mark.parametrize("options", [(), (*QUEUE, "trainer.accumulate=2", "data.captions=each", "data.num_workers=1")])
def test_resumed_equals_uninterrupted(small_run, options: tuple[str, ...]) -> None:
    """Stopped after three of six steps: in the middle of an epoch, with dropout, drop-path and random negatives."""
    straight, stopped = small_run("straight", *options), small_run("stopped", *options)
    train(straight)
    with asked_to_stop(after=3):
        assert train(stopped) is None
    assert find_checkpoints(stopped.out)[-1].name == "step-000003"
    assert train(stopped) is not None
    assert_same(Path(straight.out), Path(stopped.out))


@contextmanager
def asked_to_stop(after: int) -> Iterator[None]:
    """Sends SIGTERM to this very process once so many steps are done, as a cluster would."""
    original = Loop._step

    def step(loop: Loop, batches: Iterator) -> tuple:
        values = original(loop, batches)
        if loop.step == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        yield


WITHOUT_DROPOUT = ("model.overrides.hidden_dropout=0", "model.overrides.drop_path_rate=0", "trainer.max_steps=3")


def assert_equal_runs(one: Path, other: Path, tolerance: float) -> None:
    for (step, name, value), found in zip(losses(one), losses(other), strict=True):
        assert found == (step, name, pytest.approx(value, rel=tolerance)), (step, name)
    first, second = weights(one), weights(other)
    assert max((first[name] - second[name]).abs().max().item() for name in first) < tolerance


def test_two_processes_equal_one(small_run, scenes: Path, tmp_path: Path, train_by_two) -> None:
    """All objectives of the coarse stage with a queue, in parts too: losses, gradients' norms and weights."""
    options, parts = [*WITHOUT_DROPOUT, "task.model.queue_size=12"], "trainer.accumulate=2"
    one, out = small_run("one", *options), tmp_path / "two"
    results = train(one)
    train_by_two(["quickstart"], [f"data.root={scenes}", f"out={out}", *SMALL, *options, parts])
    assert_equal_runs(Path(one.out), out, 1e-3)
    again = read_evaluation(out)
    assert again.numbers().keys() == results.numbers().keys()
    assert again.counts["num_images"] == 30


def test_ddp_works_where_auto_does(scenes: Path, tmp_path: Path, train_by_two) -> None:
    """Contrast alone leaves the fused blocks without gradients, and some parts are frozen."""
    options = [f"data.root={scenes}", *SMALL, *WITHOUT_DROPOUT, "task.model.objectives=[itc]", "trainer.max_steps=2"]
    options.append("optim.frozen=[backbone.image_stream.*]")
    for strategy in ("auto", "ddp"):
        train_by_two(["quickstart"], [*options, f"out={tmp_path / strategy}", f"trainer.strategy={strategy}"])
    assert_same(tmp_path / "auto", tmp_path / "ddp")


@pytest.mark.parametrize("options", [(), (*QUEUE, "data.captions=each")])
def test_accumulated_parts_equal_the_large_batch(small_run, options: tuple[str, ...]) -> None:
    whole, parts = (
        small_run("whole", *WITHOUT_DROPOUT, *options),
        small_run("parts", *WITHOUT_DROPOUT, *options, "trainer.accumulate=4"),
    )
    train(whole), train(parts)
    assert_equal_runs(Path(whole.out), Path(parts.out), 1e-3)


def test_evaluations_do_not_hang_on_the_number_of_processes(small_run, scenes: Path, tmp_path: Path, train_by_two) -> None:  # fmt: skip
    """Held-out images in several batches, the last one not full, dealt to one process and to two."""
    options = [*WITHOUT_DROPOUT, "trainer.max_steps=1", "optim.warmup=1", "optim.learning_rate=0"]
    one, out = small_run("one", *options), tmp_path / "two"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "evaluation_batch_size", 7)
        results = train(one)
        train_by_two(["quickstart"], [f"data.root={scenes}", f"out={out}", *SMALL, *options])
    assert read_evaluation(out).numbers() == pytest.approx(results.numbers(), abs=1e-6)


def test_another_configuration_is_refused(small_run) -> None:
    train(small_run("run", "trainer.max_steps=2"))
    with pytest.raises(ValueError, match=r"other settings: optim.learning_rate \(was 0.001, is 0.1\)"):
        train(small_run("run", "trainer.max_steps=2", "optim.learning_rate=0.1"))
    assert train(small_run("run", "trainer.max_steps=2", "trainer.log_every=5", "data.num_workers=1")) is not None


def test_a_loss_that_is_not_finite_stops_the_run(small_run) -> None:
    config = small_run("run", "optim.learning_rate=1000", "optim.max_norm=null", "optim.warmup=0", "optim.eps=1e-30")
    with pytest.raises(NonFiniteLossError, match=r"not finite in steps \d to \d .*the last batch held \["):
        train(config)
    for path in find_checkpoints(config.out):
        assert all(torch.isfinite(value).all() for value in load_file(path / "model.safetensors").values())


def test_training_goes_on_from_other_weights(small_run) -> None:
    first = small_run("first")
    train(first)
    second = small_run("second", f"model.checkpoint={first.out}/model", "task.model.objectives=[itc]", "trainer.max_steps=1", "optim.warmup=1")  # fmt: skip
    train(second)  # the first step of a warm-up has a rate of zero
    before, after = weights(Path(first.out)), weights(Path(second.out))
    assert set(after) < set(before)
    assert all(torch.allclose(after[name], before[name]) for name in after)
    names = {path.name for path in (Path(second.out) / "model").iterdir()}
    assert "tokenizer.json" in names


def test_another_resolution(small_run) -> None:
    first = small_run("first", "trainer.max_steps=1")
    train(first)
    start = [f"model.checkpoint={first.out}", "trainer.max_steps=1"]
    config = small_run("second", *start, "model.overrides.image_size=96")
    train(config)
    model, processor = load_model(config.out)
    assert (model.backbone.config.image_size, model.backbone.config.window_size, processor.image_size) == (96, 6, 96)
    with pytest.raises(
        ValueError, match=r"model.overrides.hidden_size=64 does not fit the weights in .*first.* have 32"
    ):
        train(small_run("third", *start, "model.overrides.hidden_size=64"))


def test_published_weights_bring_their_tokenizer(small_run, tmp_path: Path) -> None:
    """A checkpoint file of the original and a tokenizer folder, as a user of the published weights has them."""
    first = small_run("first", "trainer.max_steps=1")
    train(first)
    model, processor = load_model(first.out)
    parameters, tensors = dict(model.named_parameters()), {}
    backbone = [(f"backbone.{ours}", names) for ours, names in model.backbone.original_map().pairs]
    for ours, names in [*backbone, *model.original_head_map().pairs]:
        value = parameters[ours].detach()
        tensors |= dict(zip(names, value.chunk(len(names)) if len(names) > 1 else [value], strict=True))
    torch.save({"state_dict": tensors}, tmp_path / "original.ckpt")
    processor.tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    overrides = [f"model.checkpoint={tmp_path / 'original.ckpt'}", f"data.tokenizer={tmp_path / 'tokenizer'}"]
    sizes = [f"model.overrides.vocab_size={len(processor.tokenizer)}", "optim.warmup=1", "trainer.max_steps=1"]
    config = small_run("second", *overrides, *sizes)
    train(config)  # the first step of a warm-up has a rate of zero
    before, after = weights(Path(first.out)), weights(Path(config.out))
    assert all(torch.allclose(after[name], before[name]) for name in before)


def test_mixed_precision(small_run) -> None:
    exact, mixed = small_run("exact"), small_run("mixed", "trainer.precision=bf16-mixed")
    train(exact), train(mixed)
    first = [value for _, name, value in read_metrics(exact.out) if name == "train/loss"]
    second = [value for _, name, value in read_metrics(mixed.out) if name == "train/loss"]
    assert first != second
    assert second == pytest.approx(first, rel=0.1)


def test_messages(small_run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        train(small_run("a", f"data.root={tmp_path / 'nowhere'}"))
    with pytest.raises(ValueError, match="no field 'hidden_sise'; did you mean 'hidden_size'"):
        train(small_run("b", "model.overrides.hidden_sise=3"))
    with pytest.raises(ValueError, match="give no batch of 4096: lower batch_size"):
        train(small_run("c", "trainer.batch_size=4096"))
