"""Loading beside training: images as bytes until they are on the device, processes that stay, the wait for them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fiber_data import MappedSamples, build_training_transform, read_captions, train_tokenizer
from fiber_train.data import OnDevice, TrainingData, build_training_data, endless
from fiber_train.run import train
from fiber_train.tasks.base import make_task
from fiber_train.tracking import WAITING, read_metrics
from lightning_fabric import Fabric
from torch.utils.data import get_worker_info


class WithWorker(torch.utils.data.Dataset):
    """Adds to each item the process that made it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: Any) -> dict[str, Any]:
        info = get_worker_info()
        return {**self.dataset[index], "worker": -1 if info is None else info.seed - info.id}


def training_data(config: Any, transform: Any = None) -> tuple[TrainingData, Fabric, Any]:
    task, fabric = make_task(config), Fabric(accelerator="cpu", devices=1)
    samples = task.samples("train", training=True)
    processor = task.make_processor(train_tokenizer(task.texts(samples), 300))
    dataset = task.make_dataset(samples, transform or task.make_transform(processor, True), True, None)
    collate = task.make_collator(processor, True)
    return build_training_data(config, WithWorker(dataset), fabric, collate, {}), fabric, processor


@pytest.mark.parametrize("blind", [False, True])
def test_images_are_bytes_until_they_are_on_the_device(small_run, blind: bool) -> None:
    config = small_run("run", "data.augment=true", f"data.blind={blind}")
    data, fabric, processor = training_data(config)
    loaded = next(iter(data.loader))["pixel_values"]
    assert loaded.dtype == (torch.float32 if blind else torch.uint8)
    given = next(iter(OnDevice(data.loader, fabric, processor)))["pixel_values"]
    floats = build_training_transform(processor.image_size, mean=processor.mean, std=processor.std)
    expected = next(iter(training_data(config, floats)[0].loader))["pixel_values"]
    assert given.dtype == torch.float32 and torch.equal(given, expected)
    assert blind == (not given.any())


def test_processes_stay_from_epoch_to_epoch(small_run) -> None:
    """And what they make is that of the epoch, as without them."""
    batches = {}
    for workers in (0, 1):
        config = small_run(f"run{workers}", f"data.num_workers={workers}", "trainer.batch_size=4", "data.augment=true")
        data, fabric, processor = training_data(config)
        made = endless(data, fabric, processor)
        batches[workers] = [next(made) for _ in range(6)]  # three epochs
        made.close()
    assert len({worker for batch in batches[1] for worker in batch["worker"]}) == 1
    for alone, beside in zip(batches[0], batches[1], strict=True):
        assert alone["ids"] == beside["ids"] and torch.equal(alone["pixel_values"], beside["pixel_values"])
    first, again = (torch.cat([batch["pixel_values"] for batch in batches[1][at : at + 2]]) for at in (0, 2))
    assert not torch.equal(first, again), "drawn anew"


def slow(sample: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.15)
    return sample


def test_the_wait_for_data_is_logged_and_printed(scenes: Path, small_run, capsys) -> None:
    shares = {}
    for name, make in (("quick", dict), ("slow", slow)):
        samples = {
            split: MappedSamples(found, make, columns={"captions": [one["captions"] for one in found], "id": ids})
            for split in ("train", "val")
            for found in [read_captions(scenes, split)]
            for ids in [[one["id"] for one in found]]
        }
        config = small_run(name, "trainer.max_steps=2", "trainer.log_every=1", "trainer.batch_size=4")
        train(config, samples={**samples, "val": list(samples["val"].rows)})
        shares[name] = [value for _, row, value in read_metrics(config.out) if row == WAITING]
        assert len(shares[name]) == 2 and all(0 <= share <= 1 for share in shares[name])
        printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
        assert printed[-1].endswith(f"waiting for data {shares[name][-1]:.0%}")
    assert min(shares["slow"]) > max(0.3, *shares["quick"])
