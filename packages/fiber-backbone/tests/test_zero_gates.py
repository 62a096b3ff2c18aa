"""A fresh fused model is its two pre-trained backbones, exactly."""

from __future__ import annotations

import pytest
import timm
import torch
from fiber_backbone import FiberBackbone, from_unimodal
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaModel


def randomised(module: nn.Module) -> nn.Module:
    """Weights that would show a missing bias, norm or relative position."""
    for name, parameter in module.named_parameters():
        nn.init.normal_(
            parameter,
            mean=1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0,
            std=0.2 if parameter.ndim < 2 else 0.05,
        )
    return module.eval()


def roberta(**settings: int) -> RobertaModel:
    sizes = {
        "vocab_size": 300,
        "hidden_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    return RobertaModel(
        RobertaConfig(**sizes, max_position_embeddings=40, type_vocab_size=1, pad_token_id=1, **settings)
    )


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    input_ids = torch.randint(5, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    input_ids[1, 12:] = 1
    return input_ids, (input_ids != 1).long()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error < 2e-6, f"{error:.1e}"


@pytest.mark.parametrize(
    ("window", "size", "content"),
    [
        (7, (224, 224), (224, 224)),
        (12, (384, 384), (384, 384)),
        (7, (224, 448), (190, 420)),  # not square, padded at the right and bottom
    ],
)
def test_image_equals_timm(
    window: int, size: tuple[int, int], content: tuple[int, int], texts: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    settings = {"num_classes": 0, "img_size": size, "window_size": window, "always_partition": True}
    swin = randomised(timm.create_model("swin_tiny_patch4_window7_224", **settings))
    backbone = from_unimodal(swin, roberta(), num_fusion_blocks=4, window_policy="pad").eval()
    pixel_values = pad(torch.randn(2, 3, *content), (0, size[1] - content[1], 0, size[0] - content[0]))
    with torch.no_grad():
        theirs = swin.forward_features(pixel_values).flatten(1, 2)
        alone = backbone.finish_image(backbone.begin_image(pixel_values))
        fused = backbone(pixel_values, *texts)
    assert_close(alone.hidden_state, theirs)
    assert torch.equal(fused.image_hidden_state, alone.unnormalized)


@pytest.mark.parametrize("size", [224, 384])
def test_image_equals_timm_as_released(size: int) -> None:
    torch.manual_seed(0)
    name = {224: "swin_tiny_patch4_window7_224", 384: "swin_base_patch4_window12_384"}[size]
    swin = randomised(timm.create_model(name, num_classes=0))
    backbone = from_unimodal(swin, roberta()).eval()
    pixel_values = torch.randn(1, 3, size, size)
    with torch.no_grad():
        ours = backbone.finish_image(backbone.begin_image(pixel_values))
        assert_close(ours.hidden_state, swin.forward_features(pixel_values).flatten(1, 2))


def test_text_equals_transformers(texts: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = randomised(roberta())
    backbone = from_unimodal(timm.create_model("swin_tiny_patch4_window7_224"), model, num_fusion_blocks=4).eval()
    with torch.no_grad():
        theirs = model(texts[0], attention_mask=texts[1]).last_hidden_state
        alone = backbone.finish_text(backbone.begin_text(*texts))
        fused = backbone(torch.randn(2, 3, 224, 224), *texts)
    real = texts[1].bool()
    assert_close(alone.hidden_state[real], theirs[real])
    norm = backbone.text_stream.encoder.layer[-1].output.LayerNorm  # the fused path ends before it
    assert_close(norm(fused.text_hidden_state)[real], theirs[real])


def test_a_model_with_a_head_gives_its_encoder(texts: tuple[Tensor, Tensor]) -> None:
    model = RobertaForMaskedLM(roberta().config).eval()
    backbone = from_unimodal("swin_tiny_patch4_window7_224", model, pretrained=False, num_fusion_blocks=4).eval()
    with torch.no_grad():
        ours = backbone.finish_text(backbone.begin_text(*texts)).hidden_state
        theirs = model.roberta(texts[0], attention_mask=texts[1]).last_hidden_state
    assert_close(ours[texts[1].bool()], theirs[texts[1].bool()])


def test_windows_are_resized_when_asked() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224")
    backbone = from_unimodal(swin, roberta(), num_fusion_blocks=2, image_size=448, window_size=14)
    table = backbone.image_stream.layers[0].blocks[0].attn.relative_position_bias_table
    assert table.shape == (27**2, 3)
    centre = swin.layers[0].blocks[0].attn.relative_position_bias_table[84]
    torch.testing.assert_close(table[364], centre)


@pytest.mark.parametrize(
    ("image", "text", "sentence"),
    [
        ("resnet18", roberta(), "the image stream is built from a swin_\\* or a plain vit_\\* of timm, got ResNet"),
        (
            "swin_tiny_patch4_window7_224",
            nn.Linear(2, 2),
            "the text stream is built from a RoBERTa or BERT of transformers, got Linear",
        ),
    ],
)
def test_other_families_are_refused(image: str, text: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        from_unimodal(image, text, pretrained=False)


def test_text_moves_only_fused_blocks(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    other = batch | {"input_ids": batch["input_ids"].roll(1, dims=0)}
    with torch.no_grad():
        one, two = (tiny.begin_image(item["pixel_values"], return_pyramid=True) for item in (batch, other))
        first = tiny.fuse(one, tiny.begin_text(batch["input_ids"], batch["attention_mask"]))
        second = tiny.fuse(two, tiny.begin_text(other["input_ids"], other["attention_mask"]))
    assert torch.equal(first.pyramid[0], second.pyramid[0])
    assert not torch.allclose(first.pyramid[-1], second.pyramid[-1], rtol=0.01)
