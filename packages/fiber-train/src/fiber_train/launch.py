"""Devices, processes and precision of a run; a launcher that started the processes says how many there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_fabric import Fabric
from lightning_fabric.loggers import Logger
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException

from fiber_train.config import TrainerConfig
from fiber_train.stopping import StopRequest
from fiber_train.strategy import make_strategy

if TYPE_CHECKING:
    from fiber_train.tasks.base import Task

FIRST_PROCESS = "FIBER_FIRST_PROCESS"  # its id, in the environment of those that it starts


def build_fabric(
    task: Task[Any],
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Logger] = (),
    stop: StopRequest | None = None,
    *,
    launch: bool = True,
) -> Fabric:
    """Devices, processes and precision, launched; processes launched here are told of `stop`, and tell of theirs.

    Where a launcher started the process, the task's configuration gets its devices and hosts.
    """
    trainer = task.config.trainer = as_launched(task.config.trainer)
    several = trainer.devices * trainer.num_nodes > 1
    unused = several and task.needs_unused_parameters()
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=make_strategy(trainer.strategy, trainer.precision, several=several, unused=unused),
            precision=trainer.precision,  # type: ignore[arg-type]
            plugins=environment(),  # type: ignore[arg-type]
            callbacks=list(callbacks),
            loggers=list(loggers),
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator}, devices={trainer.devices}, strategy={trainer.strategy}, "
            f"precision={trainer.precision} cannot be had here: {error!s:.300}"
        ) from error
    if stop is not None:
        _tell_each_other(fabric, stop)
    if launch:
        fabric.launch()
    return fabric


def _tell_each_other(fabric: Fabric, stop: StopRequest) -> None:
    """The process that Fabric starts others from tells them that it was asked to stop, and they tell it."""
    if os.environ.get(FIRST_PROCESS) == str(os.getppid()):
        stop.peers, stop.status = [os.getppid()], 0  # with another status, Fabric would kill the first process
    elif (launcher := getattr(fabric.strategy, "launcher", None)) is not None:
        stop.launched = getattr(launcher, "procs", [])
        os.environ[FIRST_PROCESS] = str(os.getpid())


def as_launched(trainer: TrainerConfig) -> TrainerConfig:
    """The same with the devices and hosts of `torchrun` or of SLURM's `srun`, where one of these started the process.

    Raises:
        ValueError: Others were asked for, or the batch cannot be shared by so many processes.
    """
    sizes = _launched()
    if sizes is None or (trainer.devices, trainer.num_nodes) == sizes:
        return trainer
    devices, hosts = sizes
    if (trainer.devices, trainer.num_nodes) != (1, 1):
        raise ValueError(
            f"trainer.devices={trainer.devices} and trainer.num_nodes={trainer.num_nodes}, but the launcher started "
            f"{devices} processes on each of {hosts} hosts; leave both out, and they are taken from the launcher"
        )
    if trainer.batch_size % (trainer.accumulate * devices * hosts):
        raise ValueError(
            f"trainer.batch_size ({trainer.batch_size}) must be a multiple of trainer.accumulate x the launcher's "
            f"processes ({trainer.accumulate} x {devices * hosts})"
        )
    return replace(trainer, devices=devices, num_nodes=hosts)


def _launched() -> tuple[int, int] | None:
    """Processes on each host, and hosts; None where no launcher started this process."""
    if TorchElasticEnvironment.detect():
        processes, on_each = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        return on_each, processes // on_each
    if SLURMEnvironment.detect() and _by_srun():
        processes = int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ["SLURM_NTASKS"]))
        hosts = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", 1)))
        return processes // hosts, hosts
    return None


def environment() -> list[LightningEnvironment]:
    """For Fabric: in a job of SLURM but not started by `srun`, it has to start the processes of this host itself."""
    plain = SLURMEnvironment.detect() and not _by_srun() and not TorchElasticEnvironment.detect()
    return [LightningEnvironment()] if plain else []


def _by_srun() -> bool:
    return "SLURM_STEP_ID" in os.environ
