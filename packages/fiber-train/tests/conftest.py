"""A small data set, a small model, and where reference numbers and real data are."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_data import FiberProcessor, train_tokenizer
from fiber_data.scenes import generate_scenes
from fiber_heads import FiberForRetrieval
from fiber_train.config import TrainConfig, load_config
from fiber_train.run import train

ROOT = Path(__file__).resolve().parents[3].parent
# Signals, forks and full disks are tested where a system has them as Linux does.
collect_ignore = [] if Path("/proc/self/statm").is_file() else ["test_engines.py", "test_state.py", "test_stopping.py"]

SMALL = [
    "model.overrides.embed_dim=8",
    "model.overrides.image_num_heads=[1,2,4]",
    "model.overrides.hidden_size=32",
    "model.overrides.intermediate_size=64",
    "model.overrides.num_hidden_layers=3",
    "model.overrides.num_attention_heads=2",
    "model.overrides.hidden_dropout=0.1",
    "model.overrides.drop_path_rate=0.1",
    "data.num_workers=0",
    "trainer.batch_size=8",
    "trainer.max_steps=6",
    "trainer.log_every=1",
    "trainer.checkpoint_every=2",
    "trainer.tensorboard=false",
    "optim.warmup=2",
]


FEW = ["data.num_workers=0", "trainer.batch_size=8", "trainer.max_steps=3", "trainer.log_every=1", "optim.warmup=1"]
FEW += ["trainer.tensorboard=false", "trainer.eval_every=2"]
# Of the recipes that have them.
ANSWERS = ["task.min_count=2"]
CAPTIONS = ["task.model.generation.max_length=8", "task.model.generation.num_beams=2"]
OWN = {"vqa": ANSWERS, "caption_mle": CAPTIONS, "caption_gold": CAPTIONS, "caption_cider": CAPTIONS}


def _given(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / "shared" / default))
    if not folder.is_dir():
        reason = f"no folder {folder}; set {variable}"
        (pytest.fail if os.environ.get("FIBER_REQUIRE_REFERENCE") == "1" else pytest.skip)(reason)
    return folder


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What takes long runs only if it is asked for, see `nox -s export` and `nox -s demo`."""
    long = collection_path.name in ("export", "demo") and collection_path.is_dir()
    return True if long and not any(f"/{collection_path.name}" in str(arg) for arg in config.args) else None


@pytest.fixture
def reference() -> Path:
    return _given("FIBER_REFERENCE", "reference") / "coarse"


@pytest.fixture
def real_photos() -> Path:
    return _given("FIBER_DATA", "data") / "coco_mini"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_scenes(tmp_path_factory.mktemp("data") / "scenes", {"train": 60, "val": 30})


@pytest.fixture(scope="session")
def coarse(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coarse run of two steps, to start from."""
    out = tmp_path_factory.mktemp("coarse") / "run"
    train(load_config("quickstart", [f"data.root={scenes}", f"out={out}", *SMALL, "trainer.max_steps=2"]))
    return out


@pytest.fixture
def small_run(scenes: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Configurations of a run of seconds: `small_run("name", *overrides)`."""

    def make(name: str = "run", *overrides: str) -> TrainConfig:
        return load_config("quickstart", [f"data.root={scenes}", f"out={tmp_path / name}", *SMALL, *overrides])

    return make


def _member(rank: int, port: int, names: list[str], options: list[str]) -> None:
    """One of two processes that a launcher has started, as torchrun does."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(load_config(names, [*options, "trainer.accelerator=cpu", "trainer.devices=2"]))


@pytest.fixture
def train_by_two() -> Callable[[list[str], list[str]], None]:
    """Trains recipes with options in two processes; forked, they need not import everything again."""

    def run(names: list[str], options: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.start_processes(_member, (port, names, options), nprocs=2, start_method="fork")

    return run


@pytest.fixture(scope="session")
def search_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model of search with its processor."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "depths": (1, 1), "image_num_heads": (1, 1), "embed_dim": 8, "num_fusion_blocks": 1}
    sizes |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = FiberForRetrieval(FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny", **sizes)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.processor = FiberProcessor(
        train_tokenizer(["a red circle", "two blue squares beside a green cross", "a cross"], 300), 32, 16
    )
    target = tmp_path_factory.mktemp("model") / "model"
    model.save_pretrained(target)
    return target
