"""Kills small runs at random moments and resumes them: each must end in the bits of the uninterrupted run.

    python packages/fiber-train/tests/kill.py 100                # of each kind: one process, two by DDP, two by FSDP
    python packages/fiber-train/tests/kill.py 100 7 fsdp         # with seed 7, of this kind

A run is a fork of this process, so that its seconds are those of training: building, steps, saves, evaluations. Two
processes are killed together, and write their checkpoints in the background.
"""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from fiber_data.scenes import generate_scenes
from fiber_train.config import load_config
from fiber_train.run import train
from fiber_train.tracking import CSV_FILE, read_metrics

SETTINGS = [
    "model.overrides.embed_dim=8",
    "model.overrides.depths=[1,1]",
    "model.overrides.image_num_heads=[1,2]",
    "model.overrides.num_fusion_blocks=1",
    "model.overrides.hidden_size=32",
    "model.overrides.intermediate_size=64",
    "model.overrides.num_hidden_layers=2",
    "model.overrides.num_attention_heads=2",
    "model.overrides.hidden_dropout=0.1",
    "task.model.queue_size=12",
    "data.num_workers=0",
    "data.eval_split=0.2",
    "trainer.batch_size=4",
    "trainer.max_steps=7",
    "trainer.log_every=3",
    "trainer.eval_every=2",
    "trainer.checkpoint_every=3",
    "trainer.threads=1",
    "trainer.tensorboard=false",
    "optim.warmup=2",
    "optim.ema_decay=0.9",
]
TWO = ["trainer.devices=2", "trainer.async_checkpoints=true", "trainer.max_steps=4", "trainer.checkpoint_every=2"]
KINDS: dict[str, list[str]] = {
    "one": [],
    "ddp": ["trainer.strategy=ddp", *TWO],
    "fsdp": ["trainer.strategy=fsdp", *TWO],
}
KEPT = ("model", "best", "evaluation.json")


def make_data(folder: Path) -> Path:
    """A few scenes."""
    return generate_scenes(folder, {"train": 30, "val": 20}, progress=False)


def start(data: Path, out: Path, kind: str) -> list[int]:
    """The ids of the processes that train in `out`, printing nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(1 if kind == "one" else 2):
        if (child := os.fork()) == 0:
            if kind != "one":  # as torchrun has it
                os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            _train(data, out, [*SETTINGS, "trainer.accelerator=cpu", *KINDS[kind]], rank)
        children.append(child)
    return children


def _train(data: Path, out: Path, settings: list[str], rank: int) -> None:
    status = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        with (out.parent / f"{out.name}.{rank}.log").open("w") as log:
            os.dup2(log.fileno(), 2)
            torch.set_num_threads(1)
            train(load_config("quickstart", [f"data.root={data}", f"out={out}", *settings]))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(data: Path, out: Path, kind: str = "one") -> None:
    """Trains to the end."""
    children = start(data, out, kind)
    for rank, child in enumerate(children):
        _, status = os.waitpid(child, 0)
        if status:
            for other in children[rank + 1 :]:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
            raise SystemExit(f"a run failed:\n{(out.parent / f'{out.name}.{rank}.log').read_text()}")


def kill_and_resume(data: Path, out: Path, seconds: float, kind: str = "one") -> str:
    """Kills a run after so many seconds and resumes it; gives what it was at, by what it left."""
    children = start(data, out, kind)
    time.sleep(seconds)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    left = sorted(path.name for path in (*out.glob(".*"), *out.glob("checkpoints/*")) if path.name != ".fiber.lock")
    finish(data, out, kind)
    return ", ".join(left)


def differing(one: Path, other: Path) -> list[str]:
    """Names of files, of those that a run is for, that are not the same in two runs."""
    names = {
        path.relative_to(run).as_posix()
        for run in (one, other)
        for kept in KEPT
        for path in ([run / kept] if (run / kept).is_file() else (run / kept).rglob("*"))
        if path.is_file()
    }
    _, unequal, missing = filecmp.cmpfiles(one, other, sorted(names), shallow=False)
    rows = ([row for row in read_metrics(run) if not row[1].startswith("time/")] for run in (one, other))
    return [*unequal, *missing, *([] if next(rows) == next(rows) else [CSV_FILE])]


def main(kills: int, seed: int, kinds: list[str]) -> int:
    """Kills so many runs of each kind; 0 if all ended as they should."""
    moments, bad = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as name:
        data = make_data(Path(name) / "data")
        finish(data, Path(name) / "first")  # which also loads what the others find loaded
        for kind in kinds:
            straight, out = (Path(name) / part / kind for part in ("straight", "killed"))
            for folder in (straight, out):
                folder.parent.mkdir(exist_ok=True)
            began = time.monotonic()
            finish(data, straight, kind)
            length = time.monotonic() - began
            for number in range(1, kills + 1):
                seconds = moments.uniform(0, length)
                left = kill_and_resume(data, out, seconds, kind)
                wrong = differing(straight, out)
                bad += bool(wrong)
                verdict = f"DIFFERS in {', '.join(wrong)}" if wrong else "same bits"
                sys.stdout.write(
                    f"{kind} {number:3} of {kills}: killed after {seconds:.2f} of {length:.2f} s ({left}): {verdict}\n"
                )
                sys.stdout.flush()
                shutil.rmtree(out)
    return int(bad > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else 100, int(given[1]) if len(given) > 1 else 0, given[2:] or list(KINDS)))
