"""What the training libraries drive: small task models and random data.

Not part of the ordinary run: `nox -s clients` installs the libraries and runs this folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fiber_backbone import FiberBackbone, fiber_tiny
from fiber_heads import (
    AnsweringConfig,
    CaptioningConfig,
    FiberForCaptioning,
    FiberForGrounding,
    FiberForPretraining,
    FiberForQuestionAnswering,
    FiberForRetrieval,
    FiberForVisualReasoning,
    GroundingConfig,
    PretrainingConfig,
    TaskModel,
)
from torch import Tensor

STEPS, SIZE, LENGTH = 3, 2, 12


def text_of(generator: torch.Generator) -> dict[str, Tensor]:
    input_ids = torch.randint(5, 500, (LENGTH,), generator=generator)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def pair(generator: torch.Generator, number: int) -> dict[str, Any]:
    text = text_of(generator)
    labels = torch.full((LENGTH,), -100)
    labels[1] = text["input_ids"][1]
    own = {"mlm_input_ids": text["input_ids"].clone(), "mlm_labels": labels, "image_ids": torch.tensor(number)}
    return {"pixel_values": torch.randn(3, 64, 64, generator=generator), **text, **own}


def question(generator: torch.Generator, number: int) -> dict[str, Any]:
    image = {"pixel_values": torch.randn(3, 64, 64, generator=generator)}
    return {**image, **text_of(generator), "answer_targets": torch.rand(3, generator=generator)}


def statement(generator: torch.Generator, number: int) -> dict[str, Any]:
    images = {"pixel_values": torch.randn(2, 3, 64, 64, generator=generator)}
    return {**images, **text_of(generator), "labels": torch.tensor(number % 2)}


def boxes(generator: torch.Generator, number: int) -> dict[str, Any]:
    target = {"boxes": torch.tensor([[5.0, 8, 40, 60]]), "positive_map": torch.arange(LENGTH)[None] == 3}
    image = {"pixel_values": torch.randn(3, 64, 64, generator=generator), "image_sizes": torch.tensor([64, 64])}
    return {**image, **text_of(generator), "targets": target}


def grounding() -> FiberForGrounding:
    config = GroundingConfig(channels=16, num_blocks=1, norm_groups=4, strides=(4, 8, 16, 32, 64))
    return FiberForGrounding(FiberBackbone.from_config(fiber_tiny().config.fine_stage()), config)


Case = tuple[Callable[[], TaskModel], Callable[[torch.Generator, int], dict[str, Any]]]
CASES: dict[str, Case] = {
    "pretraining": (lambda: FiberForPretraining(fiber_tiny(), PretrainingConfig(queue_size=4)), pair),
    "retrieval": (lambda: FiberForRetrieval(fiber_tiny()), pair),
    "captioning": (lambda: FiberForCaptioning(fiber_tiny(decoder_projections=True), CaptioningConfig()), pair),
    "answering": (lambda: FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("a", "b", "c"))), question),
    "reasoning": (lambda: FiberForVisualReasoning(fiber_tiny()), statement),
    "grounding": (grounding, boxes),
}


class RandomData(torch.utils.data.Dataset):
    """Samples of a kind, drawn anew for each index."""

    def __init__(self, sample: Callable[[torch.Generator, int], dict[str, Any]], size: int = 2 * STEPS * SIZE) -> None:
        self.sample, self.size = sample, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.sample(torch.Generator().manual_seed(index), index)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: tensors stacked, the rest in lists; and keys that no model reads, as our own batches have."""
    batch = {
        key: torch.stack([sample[key] for sample in samples])
        if isinstance(value, Tensor)
        else [sample[key] for sample in samples]
        for key, value in samples[0].items()
    }
    return {**batch, "ids": [str(number) for number in range(len(samples))]}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[TaskModel, RandomData]:
    """A task model, and data that it learns from."""
    torch.manual_seed(0)
    make, sample = CASES[request.param]
    return make(), RandomData(sample)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def changed(before: dict[str, Tensor], model: torch.nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if not torch.equal(before[name], value.detach().cpu())}
