"""Processes that torchrun or SLURM started: their number is the launcher's, and they end together, with one message."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_train import TrainConfig
from fiber_train.checkpoint import find_checkpoints
from fiber_train.cli import main
from fiber_train.config import TrainerConfig, to_yaml
from fiber_train.console import run_command
from fiber_train.launch import as_launched, environment
from fiber_train.run import train
from fiber_train.stopping import STATUS
from fiber_train.tasks.base import make_task

SCRIPT = Path(__file__).parents[1] / "examples" / "train.sbatch"
Settings = Callable[[int, int], dict[str, str]]


def torchrun(rank: int, port: int) -> dict[str, str]:
    """What `torchrun --nproc-per-node 2` sets."""
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    return own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}


def srun(rank: int, port: int) -> dict[str, str]:
    """What `srun --ntasks 2` sets."""
    own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1"}
    sizes = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2"}
    return own | sizes | {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "MASTER_PORT": str(port)}


class Member:
    """A process that a launcher started: a fork, which need not import everything again."""

    def __init__(self, variables: dict[str, str], log: Path, work: Callable[[], int]) -> None:
        self.log = log
        self.id = os.fork()
        if self.id == 0:
            status = 1
            try:
                with log.open("w") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                    sys.stdout = sys.stderr = file
                    os.environ |= variables
                    torch.set_num_threads(1)
                    status = work()
            except SystemExit as error:
                status = int(error.code or 0)
            finally:
                os._exit(status)

    def wait(self) -> int:
        """Its exit status; negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[Settings, Callable[[], int]], list[Member]]]:
    """Starts two processes; what is left of them is killed."""
    started: list[Member] = []

    def start(launcher: Settings, work: Callable[[], int]) -> list[Member]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        logs = [tmp_path / f"{rank}.log" for rank in range(2)]
        members = [Member(launcher(rank, port), log, work) for rank, log in enumerate(logs)]
        started.extend(members)
        return members

    yield start
    for member in started:
        try:
            os.kill(member.id, signal.SIGKILL)
            os.waitpid(member.id, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def words(config: TrainConfig, *more: str) -> list[str]:
    """The command of a configuration of `small_run`, which names no number of devices."""
    path = Path(config.out).with_suffix(".yaml")
    path.write_text(to_yaml(config))
    return ["train", str(path), "trainer.accelerator=cpu", *more]


def wait_for(there: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def told(member: Member) -> list[str]:
    """What a process said, without what says that it begins."""
    lines = member.log.read_text().splitlines()
    return [line for line in lines if line.startswith(("fiber", "Traceback", "RuntimeError", "ValueError"))]


def long_run(small_run: Callable[..., TrainConfig]) -> TrainConfig:
    return small_run("long", "trainer.max_steps=100000", "trainer.checkpoint_every=2", "data.num_workers=1")


@pytest.mark.parametrize(("killed", "teller"), [(1, 0), (0, 1)])
def test_the_death_of_one_process_ends_all(
    launch: Callable, small_run: Callable[..., TrainConfig], killed: int, teller: int
) -> None:
    config = long_run(small_run)
    command = words(config)
    members = launch(torchrun, lambda: main(command))
    wait_for(lambda: find_checkpoints(config.out))
    os.kill(members[killed].id, signal.SIGKILL)
    began = time.monotonic()
    assert members[killed].wait() == -signal.SIGKILL
    assert members[teller].wait() == 1
    assert time.monotonic() - began < 15
    (message,) = told(members[teller])
    assert message.startswith(f"fiber: process {killed}: gone; it was killed")


@pytest.mark.parametrize("kind", [ValueError, KeyError])
@pytest.mark.parametrize("failing", [(0,), (1,), (0, 1)])
def test_a_failure_is_told_once(
    launch: Callable, small_run: Callable[..., TrainConfig], failing: tuple[int, ...], kind: type[Exception]
) -> None:
    config = small_run()

    def samples(split: str) -> Any:
        if int(os.environ["RANK"]) in failing:
            raise kind("this-one")
        return make_task(config).read(split)

    def work() -> int:
        config.trainer.accelerator = "cpu"
        try:
            return run_command("fiber", lambda: train(config, samples=samples) is None)
        except KeyError:
            traceback.print_exc()
            return 1

    members = launch(torchrun, work)
    assert [member.wait() for member in members] == [1, 1]
    said = "".join(member.log.read_text() for member in members)
    if kind is ValueError:
        assert said.count("this-one") == 1
        assert "Traceback" not in said
    else:
        assert said.count("\nKeyError: 'this-one'\n") == said.count("Traceback") == 1


def test_a_job_that_is_asked_to_stop_goes_on_when_it_is_queued_again(
    launch: Callable, small_run: Callable[..., TrainConfig]
) -> None:
    config = small_run("job", "trainer.max_steps=400", "trainer.checkpoint_every=2")
    command = words(config)
    members = launch(srun, lambda: main(command))
    wait_for(lambda: find_checkpoints(config.out))
    for member in members:  # as srun does
        os.kill(member.id, signal.SIGUSR1)
    assert [member.wait() for member in members] == [STATUS, 0]
    reached = find_checkpoints(config.out)[-1].name
    again = words(config, "trainer.max_steps=" + str(int(reached.removeprefix("step-")) + 1))
    members = launch(srun, lambda: main(again))
    assert [member.wait() for member in members] == [0, 0]
    assert f"going on from {find_checkpoints(config.out)[0].parent / reached}" in members[0].log.read_text()


@pytest.mark.parametrize(
    ("run", "asked", "status", "queued"),
    [("exit 0", False, 0, False), ("exit 1", False, 1, False), ("trap 'exit 3' USR1; sleep 20 & wait", True, 3, True)],
)
def test_the_job_file_queues_again_what_was_stopped(
    tmp_path: Path, run: str, asked: bool, status: int, queued: bool
) -> None:
    """With commands in the place of SLURM's that write down how they were called."""
    calls = tmp_path / "calls"
    for name, work in (("srun", run), ("scontrol", "exit 0")):
        path = tmp_path / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {calls}\n{work}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen(["bash", str(SCRIPT), "coarse", "out=a b"], env=variables)
    if asked:
        wait_for(calls.exists)
        job.send_signal(signal.SIGUSR1)
    assert job.wait(15) == status
    first, *others = calls.read_text().splitlines()
    assert first.endswith("fiber train coarse out=a b")
    assert others == (["scontrol requeue 7"] if queued else [])


@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_the_launcher_decides_how_many_there_are(launcher: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = TrainerConfig(batch_size=8)
    assert as_launched(alone) is alone
    for name, value in launcher(1, 29500).items():
        monkeypatch.setenv(name, value)
    found = as_launched(alone)
    assert (found.devices, found.num_nodes) == (2, 1)
    assert as_launched(found) is found
    with pytest.raises(ValueError, match="launcher started 2 processes on each of 1 hosts; leave both out"):
        as_launched(TrainerConfig(batch_size=8, devices=4))
    with pytest.raises(ValueError, match=r"batch_size \(7\) must be a multiple"):
        as_launched(TrainerConfig(batch_size=7))


def test_in_a_job_without_srun_the_processes_are_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment() == []
    monkeypatch.setenv("SLURM_NTASKS", "2")
    trainer = TrainerConfig(batch_size=8, devices=4)
    assert as_launched(trainer) is trainer
    assert not environment()[0].creates_processes_externally
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert environment() == []
