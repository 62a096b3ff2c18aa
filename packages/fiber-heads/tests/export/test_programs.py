"""Exported programs against the model: other batch sizes, lengths and image sizes than they were traced with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig
from fiber_heads import (
    AnsweringConfig,
    CaptioningConfig,
    FiberForCaptioning,
    FiberForGrounding,
    FiberForQuestionAnswering,
    FiberForRetrieval,
    FiberForVisualReasoning,
    GroundingConfig,
)
from fiber_heads.export import export_onnx, export_program, quantize_onnx
from fiber_heads.exported import Axis, ExportPart
from torch import Tensor

TOLERANCE = 1e-4
SIZES = {
    "image_size": 32,
    "depths": (1, 2),
    "image_num_heads": (1, 2),
    "embed_dim": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_fusion_blocks": 1,
}


def random(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.2)
    return model.eval()


def backbone(**overrides: object) -> FiberBackbone:
    return FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny", **{**SIZES, **overrides}))


def pixels(batch: int, height: int, width: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 3, height, width)}


def texts(batch: int, length: int) -> dict[str, Tensor]:
    real = torch.arange(length) < torch.randint(1, length + 1, (batch, 1))
    return {"input_ids": torch.randint(5, 500, (batch, length)).where(real, 1), "attention_mask": real.long()}


def step(batch: int, each: int, past: int) -> dict[str, Tensor]:
    image = [torch.randn(1, batch, 2, 4 * batch, 8) for _ in range(2)]
    before = [torch.randn(2, batch, each, 2, past, 8) for _ in range(2)]
    names = ("image_keys", "image_values", "keys", "values")
    return {"tokens": torch.randint(5, 500, (batch, each)), **dict(zip(names, [*image, *before], strict=True))}


def detection(batch: int, height: int, width: int, length: int) -> dict[str, Tensor]:
    sides = [torch.randint(side // 2, side + 1, (batch,)) for side in (height, width)]
    return {**pixels(batch, height, width), "image_sizes": torch.stack(sides, dim=1), **texts(batch, length)}


def pairs(batch: int, height: int, width: int, length: int) -> dict[str, Tensor]:
    return {**pixels(batch, height, width), **texts(batch, length)}


def couples(batch: int, height: int, width: int, length: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(batch, 2, 3, height, width), **texts(batch, length)}


def search_model() -> FiberForRetrieval:
    return random(FiberForRetrieval(backbone()))


def captioner() -> FiberForCaptioning:
    return random(FiberForCaptioning(backbone(decoder_projections=True), CaptioningConfig()))


def answerer() -> FiberForQuestionAnswering:
    return random(FiberForQuestionAnswering(backbone(), AnsweringConfig(("yes", "no", "two"))))


def judge() -> FiberForVisualReasoning:
    return random(FiberForVisualReasoning(backbone()))


def detector() -> FiberForGrounding:
    sizes = {"image_size": 64, "depths": (1, 1, 2), "image_num_heads": (1, 1, 2)}
    config = GroundingConfig(channels=8, norm_groups=2, num_blocks=1, strides=(4, 8, 16, 32, 64))
    return random(FiberForGrounding(FiberBackbone.from_config(backbone(**sizes).config.fine_stage()), config))


# smaller than a window, as large as one, and larger
MAPS = [pixels(1, 8, 8), pixels(3, 32, 32), pixels(1, 40, 8), pixels(2, 72, 56)]
CASES: dict[str, tuple[Callable[[], torch.nn.Module], str, list[dict[str, Tensor]]]] = {
    "image": (search_model, "image", MAPS),
    "text": (search_model, "text", [texts(1, 1), texts(3, 64), texts(2, 2)]),
    "fused": (search_model, "fused", [pairs(1, 8, 16, 1), pairs(3, 40, 32, 33)]),
    "answers": (answerer, "fused", [pairs(1, 8, 16, 1), pairs(3, 40, 32, 33)]),
    "reasoning": (judge, "fused", [couples(1, 8, 16, 1), couples(3, 40, 32, 33)]),
    "decoder_image": (captioner, "decoder_image", MAPS),
    "decoder_step": (captioner, "decoder_step", [step(1, 1, 0), step(1, 3, 1), step(3, 2, 63)]),
    "detector": (detector, "detector", [detection(1, 64, 64, 1), detection(3, 64, 128, 9), detection(2, 192, 64, 64)]),
}


@pytest.mark.parametrize("name", CASES)
def test_programs_give_what_the_model_gives(name: str, tmp_path: Path) -> None:
    build, part_name, inputs = CASES[name]
    part: ExportPart = build().export_parts()[part_name]
    program = export_program(part)
    export_onnx(part, tmp_path / "part.onnx", program)
    torch.export.save(program, tmp_path / "part.pt2")
    module = torch.export.load(tmp_path / "part.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "part.onnx")
    assert [each.name for each in session.get_outputs()] == list(part.outputs)
    for given in inputs:
        with torch.no_grad():
            expected, again = part.module(**given), module(**given)
        found = session.run(None, {key: value.numpy() for key, value in given.items()})
        for ours, program_, onnx_ in zip(expected, again, found, strict=True):
            torch.testing.assert_close(program_, ours, atol=TOLERANCE, rtol=TOLERANCE)
            torch.testing.assert_close(torch.from_numpy(onnx_), ours, atol=TOLERANCE, rtol=TOLERANCE)


def test_eight_bits_are_smaller_and_nearly_the_same(tmp_path: Path) -> None:
    part = search_model().export_parts()["text"]
    export_onnx(part, tmp_path / "part.onnx")
    quantize_onnx(tmp_path / "part.onnx", tmp_path / "part.int8.onnx")
    given = {key: value.numpy() for key, value in texts(2, 9).items()}
    first, second = (
        onnxruntime.InferenceSession(tmp_path / f"part{kind}.onnx").run(["unit_vectors"], given)[0]
        for kind in ("", ".int8")
    )
    assert (first * second).sum(axis=1).min() > 0.98
    assert np.abs(first - second).max() > 0  # or nothing was quantized


class Projected(torch.nn.Module):
    """A matrix, and a vector, times what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.vector = torch.nn.Linear(64, 64), torch.nn.Parameter(torch.randn(64))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.matrix(x) @ self.vector,)


def test_eight_bits_leave_vectors_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    part = ExportPart(Projected(), {"x": torch.randn(2, 64)}, {"x": {0: Axis("batch")}}, ("y",))
    export_onnx(part, tmp_path / "part.onnx")
    quantize_onnx(tmp_path / "part.onnx", tmp_path / "part.int8.onnx")
    x = torch.randn(5, 64)
    (found,) = onnxruntime.InferenceSession(tmp_path / "part.int8.onnx").run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), part.module(x)[0], atol=0.2, rtol=0.02)
