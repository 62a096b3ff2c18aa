"""The processor and the loaders of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import torch
from fiber_backbone import FiberConfig
from fiber_backbone.described import from_mapping, read_object
from fiber_data import (
    EpochSampler,
    ReplacingCollator,
    ReplacingDataset,
    load_processor,
    load_tokenizer,
    normalize_images,
    train_tokenizer,
)
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset, Sampler

from fiber_train.checkpoint import find_model
from fiber_train.config import DataConfig, ModelConfig, TrainConfig
from fiber_train.coverage import SAMPLED_TEXTS, covers
from fiber_train.original import ORIGINAL_TOKENIZER
from fiber_train.stopping import leave_signals_to_parent, say
from fiber_train.writing import replace_folder, restore

AUTO = "auto"  # as data.tokenizer


class Processor(Protocol):
    """The processors of fiber-data: images and texts to tensors."""

    tokenizer: Any
    max_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes it to a folder."""


Collate = Callable[[list[Any]], dict[str, Any]]
MakeProcessor = Callable[[Any, Any], Any]  # from a tokenizer and the processor of the weights to start from, if any


@dataclass
class TrainingData:
    """Batches of training items, and the sampler of whole steps whose position a checkpoint keeps."""

    loader: DataLoader
    sampler: EpochSampler

    def steps_of_epoch(self) -> int:
        """Whole optimizer steps of one epoch, at least one."""
        return max(1, len(self.sampler))


class Parts(Sampler[list[int]]):
    """The batches of a sampler, each in so many parts, loaded one after the other."""

    def __init__(self, sampler: EpochSampler, parts: int) -> None:
        self._sampler, self.parts = sampler, parts  # private: Fabric would set the epoch of a public one

    def __iter__(self) -> Iterator[list[int]]:
        """The parts; a batch has a multiple of as many samples."""
        for batch in self._sampler:
            size = len(batch) // self.parts
            yield from (batch[start : start + size] for start in range(0, len(batch), size))

    def __len__(self) -> int:
        return len(self._sampler) * self.parts


class Dealt(Sampler[list[int]]):
    """The batches of a sampler dealt to the processes in turn: the same batches, however many share them."""

    def __init__(self, sampler: EpochSampler, rank: int, world_size: int) -> None:
        self._sampler, self.rank, self.world_size = sampler, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        """Those of this process."""
        yield from islice(self._sampler, self.rank, None, self.world_size)

    def __len__(self) -> int:
        return len(range(self.rank, len(self._sampler), self.world_size))


def tokenizer_source(config: TrainConfig) -> str | None:
    """Where a run's tokenizer comes from if it is not trained by the run: named, or its start weights'."""
    original = ORIGINAL_TOKENIZER if config.model.checkpoint else None
    named = None if config.data.tokenizer == AUTO else config.data.tokenizer
    return named or config.model.text_weights or original


def image_overrides(model: ModelConfig) -> dict[str, Any]:
    """The overrides of the backbone with `image_size` among them, if it is set."""
    return model.overrides if model.image_size is None else {"image_size": model.image_size, **model.overrides}


def backbone_sizes(config: TrainConfig) -> FiberConfig:
    """The sizes that the run's model will have: those of the weights to start from, else the preset's.

    Raises:
        FileNotFoundError: The folder to start from holds no model.
        ValueError: Its description is damaged, or an override does not fit.
    """
    model = config.model
    start = FiberConfig.from_preset(model.preset)
    if model.checkpoint and Path(model.checkpoint).is_dir():
        path = find_model(model.checkpoint) / "config.json"
        try:
            start = from_mapping(FiberConfig, read_object(path).get("backbone"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return start.grown(**image_overrides(model))


def trusted_names(config: TrainConfig) -> list[str]:
    """What files of a run, and of the weights that it starts from, may import: what its own configuration names."""
    parts = (value for value in config.model.overrides.values() if isinstance(value, str))
    return [config.task.name, *config.model.trusted, *parts]


def build_processor(config: TrainConfig, make: MakeProcessor, texts: Iterable[str], fabric: Fabric) -> Any:
    """Tokenizer and image settings of a run: those of its start weights, else of its configuration.

    A tokenizer is trained once on `texts`, by the first process, and kept in the run's folder.
    """
    checkpoint, trusted, named = config.model.checkpoint, trusted_names(config), config.data.tokenizer
    start, listed = None, iter(texts)
    if checkpoint and Path(checkpoint).is_dir() and named in (None, AUTO):
        start = load_processor(find_model(checkpoint), trusted=trusted)
        first = list(islice(listed, SAMPLED_TEXTS)) if named == AUTO else []
        if covers(start.tokenizer, first):
            return make(start.tokenizer, start)
        listed = chain(first, listed)
    elif source := tokenizer_source(config):
        try:
            loaded = load_tokenizer(source)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; data.tokenizer=SOURCE names another") from error
        return make(loaded, None)
    folder = Path(config.out) / "processor"
    if fabric.is_global_zero:
        restore(folder)
        if not folder.is_dir():
            made = make(train_tokenizer(listed, config.data.vocab_size), start)
            if start is not None:
                size = len(made.tokenizer)
                say(
                    f"the tokenizer of {checkpoint} cuts these texts to bits: one of {size:,} pieces is trained on them"
                )
            replace_folder(folder, made.save_pretrained, "processor")
    fabric.barrier()
    return load_processor(folder, trusted=trusted)


def build_training_data(
    config: TrainConfig,
    dataset: Dataset,
    fabric: Fabric,
    collate: Collate,
    sampling: dict[str, Any],
) -> TrainingData:
    """Shuffled batches of a data set, `accumulate` for each step; `sampling` are options of `EpochSampler`."""
    trainer = config.trainer
    sampler = EpochSampler(
        len(dataset),  # type: ignore[arg-type]
        trainer.batch_size,
        seed=trainer.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        **sampling,
    )
    batches = Parts(sampler, trainer.accumulate)
    return TrainingData(_loader(dataset, sampler.seed, batches, collate, config.data, persistent=True), sampler)


def build_evaluation_loader(
    data: DataConfig,
    dataset: Dataset,
    fabric: Fabric,
    collate: Collate,
    batch_size: int = 50,
    shuffle: bool = False,
    seed: int = 0,
    share: bool = True,
    deal: bool = False,
) -> DataLoader:
    """Batches in order; every process gets equally many, the last ones repeat samples (metrics count ids once).

    With `share` false every process gets all samples, each once. With `deal` processes take the same batches in turn,
    however many they are, and each sample comes once, in the last batch fewer: for what depends on the others of a
    batch.
    """
    together = share and not deal
    sampler = EpochSampler(
        len(dataset),  # type: ignore[arg-type]
        batch_size * (fabric.world_size if together else 1),
        rank=fabric.global_rank if together else 0,
        world_size=fabric.world_size if together else 1,
        shuffle=shuffle,
        seed=seed,
        drop_last=False,
        pad_last=together,
    )
    batches = Dealt(sampler, fabric.global_rank, fabric.world_size) if deal else sampler
    return _loader(dataset, seed, batches, collate, data)


@dataclass
class Blindfold:
    """Makes batches whose images are all alike: what is learned without looking."""

    collate: Collate

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        """The batch, its images zero (the mean color)."""
        batch = self.collate(items)
        batch["pixel_values"] = torch.zeros_like(batch["pixel_values"], dtype=torch.float32)
        return batch


def _loader(
    dataset: Dataset,
    seed: int,
    batches: Sampler[list[int]],
    collate: Collate,
    data: DataConfig,
    persistent: bool = False,
) -> DataLoader:
    """Batches without what cannot be read: others are in its place, see `ReplacingCollator`.

    Of `persistent` loaders the processes stay from epoch to epoch; what changes between them comes with indices.
    """
    return DataLoader(
        ReplacingDataset(dataset, seed),
        batch_sampler=batches,
        collate_fn=ReplacingCollator(Blindfold(collate) if data.blind else collate),
        num_workers=data.num_workers,
        persistent_workers=persistent and data.num_workers > 0,
        worker_init_fn=leave_signals_to_parent,
        pin_memory=torch.cuda.is_available(),
    )


@dataclass
class OnDevice:
    """The batches of a loader on the process's device: images that come as uint8 normalized, in the run's precision."""

    loader: DataLoader
    fabric: Fabric
    processor: Processor

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches; the loader's sampler already knows the processes."""
        batches: Any = self.fabric.setup_dataloaders(self.loader, use_distributed_sampler=False)
        for batch in batches:
            pixels = batch.get("pixel_values")  # a batch of nothing that can be read has none
            if pixels is not None:
                if pixels.dtype == torch.uint8:
                    statistics = {"mean": self.processor.mean, "std": self.processor.std}
                    pixels = normalize_images(pixels, batch["image_sizes"], **statistics)
                batch["pixel_values"] = self.fabric.strategy.precision.convert_input(pixels)
            yield batch


def endless(data: TrainingData, fabric: Fabric, processor: Processor) -> Iterator[dict[str, Any]]:
    """Batches of epoch after epoch, from the sampler's position on; the caller advances the sampler."""
    batches = OnDevice(data.loader, fabric, processor)
    while True:
        epoch = data.sampler.epoch
        yield from batches
        data.sampler.set_epoch(epoch + 1)
