"""The checks, one function each."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import transformers
from fiber_backbone import FiberBackbone
from fiber_heads import FiberForCaptioning, TaskModel
from fiber_heads.config import GenerationConfig
from fiber_heads.grounding.config import DeformablePath
from fiber_heads.grounding.deformable import DeformableConv
from torch import Tensor, nn
from torch import distributed as dist

from device_checks.bench import Bench, adamw, difference, largest, train_step
from device_checks.models import FULL, STAGES, TINY, backbone_config, coarse_batch, coarse_model
from device_checks.rows import Skip
from device_checks.throughput import check_throughput

BF16_TOLERANCE = 0.02  # of a loss, over float32's


def outputs(stage: str, model: TaskModel, batch: dict[str, Any]) -> list[Tensor]:
    """What a forward pass gives."""
    if stage == "coarse":
        found = model.backbone(batch["pixel_values"], batch["input_ids"], batch["attention_mask"])
        return [found.text_hidden_state, found.image_hidden_state, found.pooled]
    found = model(**batch, return_loss=False).predictions
    return [found.token_logits, found.deltas, found.centerness]


def check_card(bench: Bench) -> None:
    """What is here."""
    kind, name, memory = bench.device.type, bench.device.type.upper(), None
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory / 2**30
    others = {"torchvision": torchvision, "transformers": transformers, "timm": timm}
    versions = {each: module.__version__ for each, module in others.items()}
    bench.row(name, device=kind, torch=str(torch.__version__), GiB=memory, **versions)


def check_forward(bench: Bench) -> None:
    """Float32 on the device against the CPU, both stages."""
    for stage, (make, make_batch) in STAGES.items():
        model = make(bench.sizes).eval()
        batch = make_batch(model, bench.sizes, 2 if stage == "coarse" else 1)
        with torch.no_grad():
            wanted = outputs(stage, model, batch)
            model, batch = model.to(bench.device), bench.moved(batch)
            worst = largest(list(map(difference, outputs(stage, model, batch), wanted)))
            seconds = bench.seconds(partial(outputs, stage, model, batch))
        bench.compare(f"{stage}, float32, batch {len(wanted[0])}", worst, 1e-3, s=seconds)


def check_step(bench: Bench) -> None:
    """A step in bf16 with fused AdamW: finite, and of float32's loss."""
    for stage, (make, make_batch) in STAGES.items():
        model = make(bench.sizes).to(bench.device).train()
        batch = bench.moved(make_batch(model, bench.sizes, 4 if stage == "coarse" else 1))
        with torch.no_grad():
            wanted = model(**batch).loss
        loss = train_step(model, batch, adamw(model), bench.autocast())
        with torch.no_grad():
            after = float(model(**batch).loss)
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        if not all(bool(part.isfinite().all()) for part in (*gradients, *model.parameters())):
            raise ValueError(f"{stage}: gradients or weights after the step are not finite")
        numbers = {"loss": float(loss), "loss_in_float32": float(wanted), "after_the_step": after}
        bench.compare(f"{stage}, bf16, fused AdamW", difference(loss, wanted), BF16_TOLERANCE, **numbers)


def check_compile(bench: Bench) -> None:
    """The fused pairs of blocks by `torch.compile`."""
    if bench.device.type == "cuda" and find_spec("triton") is None:
        raise Skip("Triton is missing")
    if not any(map(shutil.which, ("c++", "g++", "clang++", "gcc", "clang"))):
        raise Skip("there is no C compiler")
    model = coarse_model(bench.sizes).to(bench.device).eval()
    batch, fuse = bench.moved(coarse_batch(model, bench.sizes, bench.sizes.batches[0])), model.backbone.fuse
    for name, tolerance in (("float32", 1e-3), ("bf16", 0.05)):
        compiled = torch.compile(fuse, dynamic=False)
        with torch.no_grad(), bench.autocast(enabled=name == "bf16"):
            image = model.backbone.begin_image(batch["pixel_values"])
            text = model.backbone.begin_text(batch["input_ids"], batch["attention_mask"])
            wanted = fuse(image, text).image_hidden_state
            bench.synchronize()
            began = time.perf_counter()
            found = compiled(image, text).image_hidden_state
            bench.synchronize()
            compiling = time.perf_counter() - began
            eager, fast = (bench.seconds(partial(call, image, text)) for call in (fuse, compiled))
        numbers = {"s_without": eager, "s_with": fast, "times_as_fast": eager / fast, "s_to_compile": compiling}
        bench.compare(f"fused pairs, {name}, batch {len(wanted)}", difference(found, wanted), tolerance, **numbers)


def check_deformable(bench: Bench) -> None:
    """The deformable convolution of torchvision against the plain one, forward and backward."""
    torch.manual_seed(0)
    batch, channels, height, width = bench.sizes.deformable
    x, offsets = torch.randn(batch, channels, height, width), torch.randn(batch, 18, height, width)
    x, offsets, modulation = bench.moved([x, offsets, torch.rand(batch, 9, height, width)])
    conv = DeformableConv(channels).to(bench.device)
    x.requires_grad_()

    def run(path: DeformablePath) -> tuple[Tensor, Tensor]:
        conv.path = path
        y = conv(x, offsets, modulation)
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    plain = run("plain")
    try:
        worst = largest(list(map(difference, run("operator"), plain)))
    except NotImplementedError as error:
        raise Skip(f"torchvision's operator does not run on {bench.device.type}") from error
    operator_seconds, plain_seconds = bench.seconds(lambda: run("operator")), bench.seconds(lambda: run("plain"))
    ratio = plain_seconds / operator_seconds
    numbers = {"s_operator": operator_seconds, "s_plain": plain_seconds, "operator_times_as_fast": ratio}
    bench.compare(f"{batch} x {channels} x {height} x {width}", worst, 1e-4, **numbers)


def check_captioning(bench: Bench) -> None:
    """Captions of a fixed length, greedy and by five beams."""
    torch.manual_seed(0)
    sizes = bench.sizes
    backbone = FiberBackbone.from_config(backbone_config(sizes, decoder_projections=True))
    model = FiberForCaptioning(backbone).to(bench.device).eval()
    images = torch.randn(sizes.batches[0], 3, sizes.side, sizes.side, device=bench.device)
    for name, beams in (("greedy", 1), ("5 beams", 5)):
        config = GenerationConfig(num_beams=beams, max_length=sizes.tokens, forbidden_token_ids=(2,))  # never ends
        with bench.autocast():
            seconds = bench.seconds(partial(model.generate, images, config))
        rate = len(images) / seconds
        numbers: dict[str, Any] = {"tokens/s": rate * sizes.tokens, "images/s": rate, "s": seconds}
        bench.row(f"{name}, {len(images)} images, {sizes.tokens} tokens, bf16", **numbers)


def check_distributed(bench: Bench) -> None:
    """DDP and FSDP in a single process: losses of the first two steps as without."""
    backends = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}
    if not dist.is_available() or bench.device.type not in backends:
        raise Skip(f"torch.distributed does not run on {bench.device.type}")
    if sys.platform == "linux":  # there may be no network
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, "lo")
    if bench.device.type != "cpu":
        torch.accelerator.set_device_index(0)
    store = f"file://{bench.rows.with_suffix('.store')}"
    dist.init_process_group(backends[bench.device.type], init_method=store, rank=0, world_size=1)
    wanted = two_losses(bench, lambda model: model)
    for name, wrap in (("DDP", torch.nn.parallel.DistributedDataParallel), ("FSDP", fully_sharded)):
        found = two_losses(bench, wrap)
        worst = largest([abs(one - other) / abs(other) for one, other in zip(found, wanted, strict=True)])
        bench.compare(f"{name}, coarse, float32", worst, 1e-4, loss=found[0], after_the_step=found[1])
    dist.destroy_process_group()


def two_losses(bench: Bench, wrap: Callable[[nn.Module], nn.Module]) -> list[float]:
    """Of the coarse stage, the second one after a step."""
    model = coarse_model(bench.sizes).to(bench.device).train()
    batch, wrapped = bench.moved(coarse_batch(model, bench.sizes, 2)), wrap(model)
    optimizer = adamw(wrapped)
    return [float(train_step(wrapped, batch, optimizer, nullcontext())) for _ in range(2)]


def fully_sharded(model: nn.Module) -> Any:
    """As a whole: the blocks' own `forward` is not what runs. A scalar such as the temperature cannot be sharded."""
    from torch.distributed.fsdp import fully_shard  # not in every build

    return fully_shard(model, ignored_params={each for each in model.parameters() if each.ndim == 0})


CHECKS: dict[str, Callable[[Bench], None]] = {
    "card": check_card,
    "forward": check_forward,
    "step": check_step,
    "compile": check_compile,
    "deformable": check_deformable,
    "coarse": partial(check_throughput, stage="coarse"),
    "fine": partial(check_throughput, stage="fine"),
    "captioning": check_captioning,
    "distributed": check_distributed,
}


def run(check: str, rows: Path, until: float, on_cpu: bool) -> None:
    """A check, on the accelerator that is here, else on the CPU; on the latter if that is asked for, at tiny sizes.

    Raises:
        Skip: It cannot be run here.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    found = None if on_cpu or not torch.accelerator.is_available() else torch.accelerator.current_accelerator()
    CHECKS[check](Bench(found or torch.device("cpu"), TINY if on_cpu else FULL, until, rows, check))
