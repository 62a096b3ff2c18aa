"""Sizes of a run that a launcher decides: how many processes it started, on how many hosts."""

from __future__ import annotations

import os
from dataclasses import replace

from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

from fiber_train.config import TrainerConfig


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
