"""Write the numbers that `test_regression.py` compares with. Run it only when a change of the numbers is meant."""

from __future__ import annotations

from pathlib import Path

import torch
from fiber_backbone import FiberBackbone, FiberConfig
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent
CONFIG = FiberConfig.from_preset("fiber_tiny", embed_dim=16, hidden_size=32, intermediate_size=64, vocab_size=64)
CONFIGS = {
    "coarse": CONFIG,
    "fine": CONFIG.fine_stage(),
    "fine_referring": CONFIG.fine_stage(normalize_image_query=True),
}


def wave(shape: torch.Size | tuple[int, ...], phase: float) -> Tensor:
    """Numbers that look random and are the same with every version of every library."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * 12.9898 + phase).sin().mul(43758.5453).sin().view(shape)


def outputs(config: FiberConfig) -> dict[str, Tensor]:
    """All that a model of waves computes from a picture of 48 x 80 pixels and two texts, in float64."""
    model = FiberBackbone.from_config(config).double().eval()
    with torch.no_grad():
        for index, (_, parameter) in enumerate(sorted(model.named_parameters())):  # libraries differ in their order
            parameter.copy_(wave(parameter.shape, index) * (0.5 if parameter.ndim < 2 else 0.2))
        input_ids = (wave((2, 9), 3).abs() * 60 + 4).long()
        mask = torch.ones_like(input_ids)
        input_ids[1, 5:], mask[1, 5:] = 1, 0
        image = model.begin_image(wave((2, 3, 48, 80), 5), return_pyramid=True)
        text = model.begin_text(input_ids, mask)
        fused = model.fuse(image, text)
        made = {f"pyramid{level}": value for level, value in enumerate(fused.pyramid)}
        made |= {"text": fused.text_hidden_state, "image_alone": model.finish_image(image).hidden_state}
        made |= {"text_alone": model.finish_text(text).hidden_state}
        if fused.pooled is not None:
            made["pooled"] = fused.pooled
    return {name: value.contiguous() for name, value in made.items()}


if __name__ == "__main__":
    for name, config in CONFIGS.items():
        save_file({key: value.float() for key, value in outputs(config).items()}, FOLDER / f"{name}.safetensors")
