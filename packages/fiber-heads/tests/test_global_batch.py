"""The global batch is the unit: losses, accuracies and gradients of one process, of several, and of accumulated parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny
from fiber_heads import FiberForCaptioning, FiberForGrounding, FiberForPretraining, GroundingConfig, PretrainingConfig
from fiber_heads.config import CaptioningConfig, GenerationConfig
from fiber_heads.draws import draw, uniform
from fiber_heads.task import TaskModel
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

SIZE = 8
RELATIVE = 1e-10  # in float64
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "drop_path_rate": 0.0}
SMALL = {"embed_dim": 8, "image_num_heads": (1, 2, 4), "hidden_size": 32, "intermediate_size": 64} | NO_DROPOUT
SMALL |= {"depths": (1, 1, 2), "num_fusion_blocks": 2, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"vocab_size": 60}
QUEUE = {"queue_size": 12, "queue_inputs": "float32"}


def spread(model: TaskModel) -> TaskModel:
    """All parameters random, so that nothing is zero; in float64."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "temperature" not in name:
            torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.1)
    return model.double().train()


def coarse(**config: Any) -> TaskModel:
    return spread(FiberForPretraining(fiber_tiny(**SMALL), PretrainingConfig(**{"queue_size": 0, **config})))


def captioning(objective: str) -> TaskModel:
    config = CaptioningConfig(objective, num_samples=2, generation=GenerationConfig(max_length=6))
    model = FiberForCaptioning(fiber_tiny(decoder_projections=True, **SMALL), config, reward=likes_even)
    return spread(model)


def likes_even(ids: Tensor, references: Sequence[Sequence[str]]) -> Tensor:
    lengths = torch.tensor([len(of_image[0]) for of_image in references]).repeat_interleave(len(ids) // len(references))
    return (ids[:, 1:3] % 2 == 0).double().mean(dim=1) + lengths / 10


def fine() -> TaskModel:
    config = replace(FiberConfig.from_preset("fiber_tiny", **SMALL).fine_stage(), **NO_DROPOUT)
    settings = GroundingConfig(
        channels=16, norm_groups=4, num_blocks=1, strides=(4, 8, 16, 32, 64), anchor_scale=4, drop_block=0
    )
    return spread(FiberForGrounding(FiberBackbone.from_config(config), settings))


MODELS: dict[str, Callable[[], TaskModel]] = {
    "coarse": coarse,
    "coarse with a queue": partial(coarse, **QUEUE),
    "contrast": partial(coarse, objectives=("itc",), gather_with_gradient=True),
    "matching": partial(coarse, objectives=("itm",)),
    "mle": partial(captioning, "mle"),
    "gold": partial(captioning, "gold"),
    "cider": partial(captioning, "cider"),
    "fine": fine,
}


def global_batch(kind: str) -> dict[str, Any]:
    """Eight samples of unlike lengths; of words and boxes the first part of four has none."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (SIZE, 12), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((12, 7, 3, 9, 5, 4, 8, 6)):
        ids[row, length:], mask[row, length:] = 1, 0
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "seeds": torch.arange(SIZE) * 977 + 5}
    side = 64
    batch["pixel_values"] = torch.randn(SIZE, 3, side, side, generator=generator).double()
    if kind == "fine":
        batch["image_sizes"] = torch.tensor([[64, 64], [48, 64]] * (SIZE // 2))
        boxes = torch.tensor([[4.0, 4, 30, 30], [10, 20, 40, 44], [1, 1, 20, 40]])
        maps = torch.arange(12)[None] == torch.tensor([[1], [2], [1]])
        counts = (0, 0, 1, 3, 2, 1, 1, 0)
        batch["targets"] = [{"boxes": boxes[:count] + row, "positive_map": maps[:count]} for row, count in enumerate(counts)]  # fmt: skip
        return batch
    labels = ids.where((torch.rand(ids.shape, generator=generator) < 0.4) & (mask > 0), -100)
    labels[:2] = -100
    batch |= {"mlm_labels": labels, "mlm_input_ids": ids.masked_fill(labels != -100, 4)}
    batch |= {"image_ids": torch.tensor([7, 7, 8, 9, 10, 11, 8, 12])}
    return batch | {"references": [["word " * row] for row in range(SIZE)]}


def rows(batch: dict[str, Any], part: slice) -> dict[str, Any]:
    """A part of a batch, its texts as short as they may be, or all of one length, as a queue of inputs needs them."""
    length = 12 if batch.get("queued") else int(batch["attention_mask"][part].sum(dim=1).max())
    found = {name: value[part] for name, value in batch.items() if name != "queued"}
    for name in ("input_ids", "attention_mask", "mlm_labels", "mlm_input_ids"):
        if name in found:
            found[name] = found[name][:, :length]
    if "targets" in found:
        found["targets"] = [{**each, "positive_map": each["positive_map"][:, :length]} for each in found["targets"]]
    return found


def step(model: Any, batch: dict[str, Any], own: slice, parts: int) -> dict[str, Tensor]:
    """The losses and accuracies of a step of this process's share, means over its parts; gradients stay in the model."""
    task: TaskModel = getattr(model, "module", model)
    size = (own.stop - own.start) // parts
    batches = [rows(batch, slice(start, start + size)) for start in range(own.start, own.stop, size)]
    passes, values = task.passes(batches), {}
    for number, each in enumerate(passes):
        if task is not model:
            model.require_backward_grad_sync = number + 1 == len(passes)
        output = model(**each)
        if output.loss.requires_grad:
            (output.loss / parts).backward()
        for name, value in {**output.losses, **output.metrics}.items():
            if not name.endswith("_count"):
                values[name] = values.get(name, 0) + value.detach() / parts
    return values


def two_steps(model: Any, kind: str, rank: int, world: int, parts: int) -> list[Tensor]:
    """Values of two steps, gradients of the second, and weights after it; a queue has something in it by then."""
    task, share = getattr(model, "module", model), SIZE // world
    own = slice(rank * share, (rank + 1) * share)
    found: list[Tensor] = []
    for backwards in (False, True):
        batch = global_batch(kind)
        if backwards:
            batch = {name: value[::-1] if isinstance(value, list) else value.flip(0) for name, value in batch.items()}
        task.zero_grad()
        values = step(model, batch | {"queued": "queue" in kind}, own, parts)
        means = torch.stack([value.double() for value in values.values()])
        if world > 1:
            dist.all_reduce(means)
        found += [means / world]
        with torch.no_grad():
            for parameter in task.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
    found += [torch.zeros_like(each) if each.grad is None else each.grad for each in task.parameters()]
    kept = [value for name, value in task.training_state().items() if name != "batches"]  # which counts parts
    return found + [each.detach() for each in task.parameters()] + kept


def member(rank: int, world: int, folder: str, cases: Sequence[tuple[str, int]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}", rank=rank, world_size=world)
    found = {}
    for kind, parts in cases:
        model = DistributedDataParallel(MODELS[kind](), find_unused_parameters=True)
        found[kind, parts] = two_steps(model, kind, rank, world, parts)
    if rank == 0:
        torch.save(found, Path(folder) / f"{world}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[tuple[str, int], list[Tensor]]]:
    """What two and four processes found."""
    folder, found = tmp_path_factory.mktemp("processes"), {}
    for world in (2, 4):
        cases = [(kind, parts) for kind in MODELS for parts in (1, 2, 4) if parts * world <= SIZE]
        mp.start_processes(member, (world, str(folder), cases), nprocs=world, start_method="fork")
        found[world] = torch.load(folder / f"{world}.pt")
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Tensor]]:
    """What one process found in one pass."""
    return {kind: two_steps(make(), kind, 0, 1, 1) for kind, make in MODELS.items()}


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        if not ours.is_floating_point():
            assert torch.equal(ours, theirs)
            continue
        scale = max(theirs.abs().max().item(), 1e-3)
        assert (ours - theirs).abs().max().item() < RELATIVE * scale


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_equal_the_large_batch(kind: str, parts: int, alone) -> None:
    assert_equal(two_steps(MODELS[kind](), kind, 0, 1, parts), alone[kind])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("world", "parts"), [(2, 1), (2, 2), (2, 4), (4, 1), (4, 2)])
def test_processes_equal_one(kind: str, world: int, parts: int, by_processes, alone) -> None:
    assert_equal(by_processes[world][kind, parts], alone[kind])


def test_dropout_of_the_second_begin_repeats_the_first() -> None:
    """Parts of one step with dropout: the gradient is that of the losses with the same masks, by central differences."""
    torch.manual_seed(0)
    dropout = {"hidden_dropout": 0.2, "attention_dropout": 0.1, "drop_path_rate": 0.2}
    model = spread(FiberForPretraining(fiber_tiny(**SMALL | dropout), PretrainingConfig(queue_size=0, objectives=("itm", "mlm"))))  # fmt: skip
    parameter = model.backbone.image_stream.patch_embed.proj.weight
    direction = torch.randn_like(parameter)

    def total(shift: float) -> float:
        with torch.no_grad():
            parameter.add_(direction, alpha=shift)
        torch.manual_seed(3)
        model.zero_grad()
        values = step(model, global_batch("coarse"), slice(0, SIZE), 2)
        with torch.no_grad():
            parameter.sub_(direction, alpha=shift)
        return (values["itm"] + values["mlm"]).item()

    difference = (total(1e-5) - total(-1e-5)) / 2e-5
    total(0.0)
    assert (parameter.grad * direction).sum().item() == pytest.approx(difference, rel=1e-6)


def test_activations_exist_of_one_part_at_a_time() -> None:
    most = {}
    for parts in (1, 4):
        model, size, sums = coarse(), SIZE // parts, [0]

        def note(tensor: Tensor, sums: list[int] = sums) -> Tensor:
            sums[-1] += tensor.numel()
            return tensor

        batches = [rows(global_batch("coarse"), slice(start, start + size)) for start in range(0, SIZE, size)]
        for each in model.passes(batches):
            sums.append(0)
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                output = model(**each)
            if output.loss.requires_grad:
                output.loss.backward()
        most[parts] = max(sums)
    assert most[4] < 0.4 * most[1]


def test_original_settings_compare_each_part_in_itself() -> None:
    model = coarse(original=True)
    parts = [rows(global_batch("coarse"), slice(start, start + 4)) for start in (0, 4)]
    assert len(model.passes(parts)) == 2
    assert len(coarse().passes(parts)) == 6


def test_draws_follow_weights_and_seeds() -> None:
    seeds = torch.arange(20000)
    numbers = uniform(seeds)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert torch.histc(numbers, 10, 0, 1).sub(2000).abs().max() < 200
    assert not torch.equal(numbers, uniform(seeds, 1))
    assert torch.equal(uniform(seeds[[7, 3]]), numbers[[7, 3]])
    weights = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0]).expand(20000, -1)
    shares = torch.bincount(draw(weights, numbers), minlength=6) / 20000
    assert torch.allclose(shares, weights[0], atol=0.015)
    edge = draw(weights[:3], torch.tensor([0.0, 0.5, 1 - 2**-23]))
    assert edge.tolist() == [1, 3, 4]
