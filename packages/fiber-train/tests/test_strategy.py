"""Runs in pieces: the numbers of one process, whatever they were before and become after, and what they leave."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from fiber_data.scenes import generate_scenes
from fiber_train.checkpoint import find_checkpoints, load_task_model, load_training_state
from fiber_train.config import TrainConfig, load_config
from fiber_train.run import train
from fiber_train.shards import put_together, take_apart, write_tensors
from fiber_train.strategy import Sharded, make_strategy
from fiber_train.tracking import read_metrics
from fiber_train.writing import replace_folder
from safetensors.torch import load_file

from .conftest import SMALL
from .kill import differing

RELATIVE = 1e-10
SINGLE = 1e-6  # of averages and of what is logged, which are float32
EXACT = ["model.overrides.hidden_dropout=0", "model.overrides.attention_dropout=0", "model.overrides.drop_path_rate=0"]
EXACT += [
    "trainer.precision=64-true",
    "trainer.accelerator=cpu",
    "optim.schedule=constant",
    "optim.ema_decay=0.6",
    "optim.eps=1e-4",
    "optim.warmup=0",
]
EXACT += [
    "data.eval_split=0.2",
    "optim.max_norm=0.5",
    "optim.frozen=[backbone.image_stream.patch_embed]",
    "trainer.accumulate=2",
]
EXACT += ["trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.keep_checkpoints=9", "trainer.threads=1"]
# What a tensor in pieces costs is paid for each parameter: few blocks have every kind of them.
EXACT += [
    "model.overrides.depths=[1,1]",
    "model.overrides.image_num_heads=[1,2]",
    "model.overrides.num_fusion_blocks=1",
]
EXACT += ["model.overrides.num_hidden_layers=2"]
BACKGROUND = "trainer.async_checkpoints=true"


def _member(rank: int, world: int, port: int, runs: list[list[str]]) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for options in runs:
        assert train(load_config("quickstart", [*options, f"trainer.devices={world}"])) is not None


def by_processes(world: int, runs: list[list[str]]) -> None:
    """Trains one run after the other in so many processes, as under torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_member, (world, port, runs), nprocs=world, start_method="fork")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of a run by one process, one in pieces, and one that every step goes on otherwise."""
    out = tmp_path_factory.mktemp("runs")
    data = generate_scenes(out / "scenes", {"train": 40, "val": 20}, progress=False)
    options = [f"data.root={data}", *SMALL, *EXACT]
    train(load_config("quickstart", [*options, f"out={out / 'one'}"]))
    changing = [*options, f"out={out / 'changing'}"]
    pieces = [*options, f"out={out / 'pieces'}", "trainer.strategy=fsdp", "model.gradient_checkpointing=true"]
    whole = [*changing, "trainer.strategy=ddp", "trainer.max_steps=1"]
    in_two = [*changing, "trainer.strategy=fsdp", "trainer.max_steps=2"]
    by_processes(2, [[*pieces, BACKGROUND], whole, in_two])
    by_processes(4, [[*changing, "trainer.strategy=fsdp", "trainer.max_steps=3", BACKGROUND]])
    train(load_config("quickstart", changing))
    return out


def assert_close(
    one: dict[str, Any], other: dict[str, Any], relative: float = RELATIVE, is_model: bool = False
) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_close(value, other[name], relative, is_model)
        elif isinstance(value, torch.Tensor):
            if value.ndim or is_model:  # the state of a scalar has one element where it was saved in pieces
                assert value.shape == other[name].shape, name
            scale = max(value.abs().max().item(), 1e-3) if value.numel() else 1.0
            assert (value - other[name].reshape(value.shape)).abs().max().item() < relative * scale, name


@pytest.mark.parametrize("name", ["pieces", "changing"])
def test_weights_and_training_state_are_those_of_one_process(runs: Path, name: str) -> None:
    one, other = (find_checkpoints(runs / run)[-1] for run in ("one", name))
    assert_close(load_file(one / "model.safetensors"), load_file(other / "model.safetensors"), is_model=True)
    finished = [load_file(runs / run / "model" / "model.safetensors") for run in ("one", name)]
    assert_close(*finished, SINGLE, is_model=True)
    states = [load_training_state(folder) for folder in (one, other)]
    assert_close(states[0]["optimizer"], states[1]["optimizer"])
    assert_close(states[0]["average"], states[1]["average"], SINGLE)
    assert load_task_model(other).contrastive_head.temperature.ndim == 0


def test_losses_and_norms_are_those_of_one_process(runs: Path) -> None:
    numbers = [
        {(step, key): value for step, key, value in read_metrics(runs / run) if key.startswith(("train/", "eval/"))}
        for run in ("one", "pieces")
    ]
    assert numbers[0].keys() == numbers[1].keys()
    assert {key for _, key in numbers[0]} >= {"train/loss", "train/gradient_norm"}
    for key, value in numbers[0].items():
        assert numbers[1][key] == pytest.approx(value, rel=SINGLE), key


def test_each_process_writes_its_share(runs: Path) -> None:
    shares = sorted((find_checkpoints(runs / "pieces")[-1] / "training").iterdir())
    sizes = [path.stat().st_size for path in shares]
    assert len(sizes) == 2
    assert min(sizes) > 0.5 * max(sizes)


def test_a_state_is_taken_apart_and_put_together(tmp_path: Path) -> None:
    state = {
        "a": {0: {"step": torch.tensor(3.0), "x": torch.arange(4).half()}},
        "n": [1, "b"],
        "e": {},
        "t": torch.ones(2),
    }
    plain, tensors = take_apart(state)
    assert set(tensors) == {"a.0.step", "a.0.x", "t"}
    write_tensors(tmp_path, tensors, None)
    found = put_together(plain, tmp_path, lambda path: None)
    assert found["n"] == state["n"]
    assert found["e"] == {}
    assert found["a"][0]["step"].shape == ()
    assert torch.equal(found["a"][0]["x"], state["a"][0]["x"])
    assert found["a"][0]["x"].dtype == torch.float16
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cannot be read: it is damaged, or not of this run"):
        put_together(take_apart(state)[0], tmp_path, lambda path: None)


def test_a_training_state_of_one_file_goes_on(small_run: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """As the version before wrote it, with all tensors in `training.pt`."""
    options = ("optim.ema_decay=0.9", "optim.schedule=constant", "optim.warmup=0", "trainer.max_steps=2")
    straight, run = small_run("straight", *options), small_run("run", *options)
    train(straight)
    train(small_run("run", *options, "trainer.max_steps=1"))
    newest = find_checkpoints(run.out)[-1]
    whole = load_training_state(newest)

    def write(folder: Path) -> None:
        for path in newest.iterdir():
            if path.is_file() and path.name not in ("fiber.json", "training.pt"):
                (folder / path.name).write_bytes(path.read_bytes())
        torch.save(whole, folder / "training.pt")

    replace_folder(newest, write, "checkpoint")
    assert not (newest / "training").exists()
    train(run)
    assert_close(load_training_state(find_checkpoints(straight.out)[-1])["optimizer"], load_training_state(find_checkpoints(run.out)[-1])["optimizer"])  # fmt: skip


def test_a_checkpoint_in_the_background(small_run: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """The same run to the bit; a callback hears of each checkpoint when it is whole."""
    heard = []

    class Hears:
        def on_checkpoint(self, *, step: int, folder: Path) -> None:
            heard.append((step, (folder / "fiber.json").is_file()))

    options = ("trainer.max_steps=3", "optim.ema_decay=0.9")
    train(small_run("one", *options))
    train(small_run("other", *options, "trainer.async_checkpoints=true"), callbacks=[Hears()])
    assert differing(tmp_path / "one", tmp_path / "other") == []
    assert heard == [(2, True), (3, True)]


def test_names_of_strategies() -> None:
    assert make_strategy("ddp", "32-true", several=True, unused=True) == "ddp_find_unused_parameters_true"
    assert make_strategy("auto", "32-true", several=True, unused=False) == "auto"
    assert isinstance(make_strategy("fsdp", "32-true", several=False, unused=True), Sharded)
