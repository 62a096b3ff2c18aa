"""AdamW's step over the parameters of a full-size model: torch's default and the fused kernel, interleaved medians.

python packages/fiber-train/benchmarks/optimizer_step.py [--preset fiber_base] [--repeats 7] [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads import FiberForPretraining, PretrainingConfig
from fiber_train.config import OptimConfig
from fiber_train.optim import build_optimizer


def make(preset: str, device: torch.device, fused: bool) -> torch.optim.Optimizer:
    """An optimizer whose parameters have gradients."""
    with torch.device("meta"):
        backbone = FiberBackbone.from_config(FiberConfig.from_preset(preset))
        model = FiberForPretraining(backbone, PretrainingConfig(queue_size=0))
    model.to_empty(device=device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.full_like(parameter, 1e-3)
    return build_optimizer(model, OptimConfig(fused=fused))


def seconds(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """Of one step."""
    began = time.perf_counter()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Prints milliseconds of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fiber_base")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    optimizers = {name: make(options.preset, options.device, name == "fused") for name in ("default", "fused")}
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(options.repeats + 1):
        for name, optimizer in optimizers.items():
            times[name].append(seconds(optimizer, options.device))
    found = {name: 1000 * median(each[1:]) for name, each in times.items()}  # the first one makes the state
    count = sum(parameter.numel() for group in optimizers["fused"].param_groups for parameter in group["params"])
    print(f"{options.preset}, {count / 1e6:.0f} M parameters, {options.device}, {torch.get_num_threads()} threads")
    print("   ".join(f"{name} {each:.0f} ms" for name, each in found.items()))


if __name__ == "__main__":
    main()
