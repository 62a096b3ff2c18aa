"""The data sets and loaders of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fiber_backbone import FiberConfig
from fiber_data import (
    CaptionDataset,
    CaptionSample,
    EpochSampler,
    FiberProcessor,
    ImageTextCollator,
    build_evaluation_transform,
    build_training_transform,
    load_tokenizer,
    read_captions,
    train_tokenizer,
)
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from fiber_train.checkpoint import find_model, replace_folder
from fiber_train.config import DataConfig, TrainConfig
from fiber_train.objectives import tokenizer_source


@dataclass
class TrainingData:
    """Batches of training pairs, and the sampler whose position a checkpoint keeps."""

    loader: DataLoader
    sampler: EpochSampler


def build_processor(config: TrainConfig, samples: list[CaptionSample], fabric: Fabric) -> FiberProcessor:
    """Tokenizer and image settings of a run: those of its start weights, else of its configuration.

    A tokenizer is trained once, by the first process, and kept in the run's folder.
    """
    checkpoint, overrides = config.model.checkpoint, config.model.overrides
    if checkpoint and Path(checkpoint).is_dir() and config.data.tokenizer is None:
        own = FiberProcessor.from_pretrained(find_model(checkpoint))
        size = overrides.get("image_size", own.image_size)
        return FiberProcessor(own.tokenizer, size, config.data.max_length, own.mean, own.std)
    size = FiberConfig.from_preset(config.model.preset, **overrides).image_size
    if source := tokenizer_source(config):
        return FiberProcessor(load_tokenizer(source), size, config.data.max_length)
    folder = Path(config.out) / "processor"
    if fabric.is_global_zero and not folder.is_dir():
        tokenizer = train_tokenizer(
            (caption for sample in samples for caption in sample["captions"]), config.data.vocab_size
        )
        made = FiberProcessor(tokenizer, size, config.data.max_length)
        replace_folder(folder, made.save_pretrained)
    fabric.barrier()
    return FiberProcessor.from_pretrained(folder)


def build_training_data(
    config: TrainConfig, samples: list[CaptionSample], processor: FiberProcessor, fabric: Fabric
) -> TrainingData:
    """Shuffled batches; no two captions of one picture meet in a batch."""
    data, trainer = config.data, config.trainer
    build = build_training_transform if data.augment else build_evaluation_transform
    dataset = CaptionDataset(
        samples,
        build(processor.image_size, processor.mean, processor.std),
        captions=data.captions,  # type: ignore[arg-type]
        seed=trainer.seed,
    )
    sampler = EpochSampler(
        len(dataset),
        trainer.batch_size // trainer.accumulate,
        seed=trainer.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        unique_groups=dataset.image_ids if data.captions == "each" else None,
    )
    collate = ImageTextCollator(
        processor.tokenizer,
        processor.max_length,
        data.mlm_probability if "mlm" in config.objectives.objectives else None,
        fill_broken=True,  # processes that gather features need equal batches
        pad_to_max_length=config.objectives.queue_inputs != "none",  # the queue stores texts of one length
    )
    return TrainingData(_loader(dataset, sampler, collate, data), sampler)


def build_evaluation_loader(
    data: DataConfig,
    samples: list[CaptionSample],
    processor: FiberProcessor,
    fabric: Fabric,
    batch_size: int = 50,
    captions: str = "all",
    seed: int = 0,
) -> DataLoader:
    """Batches in order; every process gets equally many, the last ones repeat samples (metrics count ids once)."""
    dataset = CaptionDataset(
        samples,
        build_evaluation_transform(processor.image_size, processor.mean, processor.std),
        captions=captions,  # type: ignore[arg-type]
        seed=seed,
    )
    sampler = EpochSampler(
        len(dataset),
        batch_size * fabric.world_size,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        shuffle=captions != "all",
        seed=seed,
        drop_last=False,
        pad_last=True,
    )
    collate = ImageTextCollator(processor.tokenizer, processor.max_length, data.mlm_probability, fill_broken=True)
    return _loader(dataset, sampler, collate, data)


def _loader(dataset: CaptionDataset, sampler: EpochSampler, collate: ImageTextCollator, data: DataConfig) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=data.num_workers,
        persistent_workers=False,
        pin_memory=torch.cuda.is_available(),
    )


def on_device(loader: DataLoader, fabric: Fabric) -> Iterable[dict[str, Any]]:
    """The loader's batches on the process's device; its sampler already knows the processes."""
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)  # type: ignore[return-value]


def endless(data: TrainingData, fabric: Fabric) -> Iterator[dict[str, Any]]:
    """Batches of epoch after epoch, from the sampler's position on; the caller advances the sampler."""
    batches = on_device(data.loader, fabric)
    while True:
        epoch = data.sampler.epoch
        yield from batches
        data.sampler.set_epoch(epoch + 1)


def read_split(data: DataConfig, split: str) -> list[CaptionSample]:
    """The samples of one split of the run's data set."""
    return read_captions(data.root, split)
