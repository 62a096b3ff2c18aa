"""Streams of other kinds: equal to their library's own features, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from fiber_backbone import (
    BertStream,
    FiberBackbone,
    FiberConfig,
    GatedFusion,
    RobertaStream,
    SwinStream,
    VitStream,
    from_unimodal,
)
from torch import Tensor, nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

SIZES = {
    "vocab_size": 300,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
VIT = FiberConfig(
    image_stream="vit",
    text_stream="bert",
    image_size=32,
    patch_size=8,
    embed_dim=48,
    depths=(4,),
    image_num_heads=(4,),
    vocab_size=300,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=40,
    type_vocab_size=2,
    pad_token_id=0,
    layer_norm_eps=1e-12,
    num_fusion_blocks=2,
    initial_gate=0.5,
)


def randomized(module: nn.Module) -> nn.Module:
    """Weights that would show a missing bias, norm, scale or position."""
    for name, parameter in module.named_parameters():
        around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=around, std=0.2 if parameter.ndim < 2 else 0.05)
    return module.eval()


def bert(**settings: object) -> nn.Module:
    return randomized(BertModel(BertConfig(**SIZES, max_position_embeddings=40, **settings)))


def roberta(**settings: object) -> nn.Module:
    return randomized(RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=1, **settings)))


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    input_ids = torch.randint(5, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(input_ids)
    mask[1, 12:] = 0
    return input_ids, mask


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error < 3e-6, f"{error:.1e}"


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",  # registers, scales of layers
        "vit_small_patch16_224.dino",
        "deit3_small_patch16_224",  # no position for the class token
        "vit_base_patch16_clip_224.laion2b",  # a norm before the blocks
        "vit_base_patch16_224_miil",  # no biases of the attention
    ],
)
def test_a_vit_equals_timm(name: str) -> None:
    torch.manual_seed(0)
    vit = randomized(timm.create_model(name, num_classes=0, img_size=112))
    backbone = from_unimodal(vit, bert()).eval()
    pixel_values = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        alone = backbone.finish_image(backbone.begin_image(pixel_values))
        assert_close(alone.hidden_state, vit.forward_features(pixel_values))
    assert backbone.config.num_fusion_blocks == 3  # as many as the text has


def test_a_vit_runs_at_other_sizes() -> None:
    """Positions are interpolated as timm interpolates them."""
    torch.manual_seed(0)
    vit = randomized(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, dynamic_img_size=True))
    backbone = from_unimodal(vit, bert()).eval()
    pixel_values = torch.randn(2, 3, 96, 48)
    larger = from_unimodal(vit, bert(), image_size=96).eval()
    square = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        alone = backbone.finish_image(backbone.begin_image(pixel_values)).hidden_state
        assert_close(alone, vit.forward_features(pixel_values))
        built, grown = (model.finish_image(model.begin_image(square)) for model in (larger, backbone.resize(96)))
        assert_close(built.hidden_state, vit.forward_features(square))
        assert torch.equal(built.hidden_state, grown.hidden_state)


@pytest.mark.parametrize("hidden_act", ["gelu", "relu", "gelu_new"])
@pytest.mark.parametrize("make", [bert, roberta])
def test_text_equals_transformers(make: object, hidden_act: str, texts: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = make(hidden_act=hidden_act)  # type: ignore[operator]
    backbone = from_unimodal("swin_tiny_patch4_window7_224", model, pretrained=False).eval()
    with torch.no_grad():
        theirs = model(texts[0], attention_mask=texts[1]).last_hidden_state
        ours = backbone.finish_text(backbone.begin_text(*texts)).hidden_state
    real = texts[1].bool()
    assert_close(ours[real], theirs[real])


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("swin_s3_tiny_224", {}, r"square windows of one size, got windows of \[\(7, 7\), \(14, 14\)\] tokens"),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": (224, 448), "window_size": (7, 14)},
            r"square windows of one size",
        ),
        ("vit_base_patch16_clip_quickgelu_224", {}, "standard blocks only, got QuickGELU"),
        ("vit_base_patch16_siglip_gap_224", {}, None),
        ("deit_tiny_distilled_patch16_224", {}, "standard blocks only, got VisionTransformerDistilled"),
        ("eva02_tiny_patch14_224", {}, "the image stream is built from a swin_.* or a plain vit_.* of timm, got Eva"),
        ("vit_base_patch32_plus_256", {}, None),
        ("vit_relpos_small_patch16_224", {}, "got VisionTransformerRelPos"),
        ("vit_small_patch16_18x2_224", {}, "standard blocks only, got ParallelThingsBlock"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(name: str, settings: dict, sentence: str | None) -> None:
    with torch.device("meta"):
        image = timm.create_model(name, num_classes=0, **settings)
        text = RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=40))
        if sentence is None:
            from_unimodal(image, text)
            return
        with pytest.raises(ValueError, match=sentence):
            from_unimodal(image, text)


def test_streams_are_handed_in(texts: tuple[Tensor, Tensor]) -> None:
    """Weights that streams bring stay as they are, whatever the configuration says of fresh ones."""
    torch.manual_seed(0)
    text, tiny = bert(), FiberConfig.from_preset("fiber_tiny", drop_path_rate=0.1)
    own = BertStream(FiberConfig(**BertStream.describe(text)))
    own.load_state_dict(text.state_dict(), strict=False)
    backbone = FiberBackbone(
        SwinStream(tiny), own, GatedFusion(initial_gate=0.5), FiberConfig(num_fusion_blocks=2)
    ).eval()
    assert (backbone.text_dim, backbone.image_dim, backbone.vocab_size, backbone.max_text_length) == (96, 192, 300, 40)
    assert backbone.has_pyramid
    with torch.no_grad():
        theirs = text(texts[0], attention_mask=texts[1]).last_hidden_state
        ours = backbone.finish_text(backbone.begin_text(*texts)).hidden_state
        assert_close(ours[texts[1].bool()], theirs[texts[1].bool()])
        fused = backbone(torch.randn(2, 3, 64, 64), *texts)
    assert fused.pooled is not None
    assert fused.pooled.shape == (2, 192)
    with pytest.raises(
        ValueError, match="between 1 and 3, since 4 image blocks may be fused and there are 3 text layers"
    ):
        FiberBackbone(SwinStream(tiny), own, GatedFusion(), FiberConfig(num_fusion_blocks=4))


def test_other_streams_are_saved_and_loaded(tmp_path: Path, texts: tuple[Tensor, Tensor]) -> None:
    backbone = FiberBackbone.from_config(VIT).eval()
    assert isinstance(backbone.image_stream, VitStream)
    assert isinstance(backbone.text_stream, BertStream)
    backbone.save_pretrained(tmp_path)
    loaded = FiberBackbone.from_pretrained(tmp_path)
    assert loaded.config == VIT
    pixel_values = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(pixel_values, *texts).pooled, backbone(pixel_values, *texts).pooled)


def test_a_stream_without_a_pyramid_says_so() -> None:
    backbone = FiberBackbone.from_config(VIT)
    assert not backbone.has_pyramid
    with pytest.raises(ValueError, match="VitStream with GatedFusion has no fused pyramid; take an image stream with"):
        backbone.begin_image(torch.zeros(1, 3, 32, 32), return_pyramid=True)
    with pytest.raises(ValueError, match="the original's checkpoints have image_stream='swin', this model has 'vit'"):
        backbone.load_original_checkpoint({"vit_model.norm.weight": torch.zeros(1)})


def test_names_that_files_hold_run_nothing(tmp_path: Path) -> None:
    """Entry points only; an import path loads where the user repeats it."""
    (tmp_path / "stranger_stream.py").write_text(
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'executed')!r}).touch()\n"
        "from fiber_backbone import RobertaStream\n"
        "class Own(RobertaStream):\n    pass\n"
    )
    name = "stranger_stream:Own"
    FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny")).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"roberta"', f'"{name}"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(
            ValueError, match="a file from elsewhere names 'stranger_stream:Own', which to load would run"
        ):
            FiberBackbone.from_pretrained(tmp_path / "model")
        assert not (tmp_path / "executed").exists()
        loaded = FiberBackbone.from_pretrained(tmp_path / "model", trusted=[name])
        assert isinstance(loaded.text_stream, RobertaStream)
        assert loaded.to_config()["text_stream"] == name


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"image_stream": "swim"}, "fiber.streams has no 'swim', only .*swin.*did you mean 'swin'"),
        ({"fusion": "no.such.module:Fusion"}, "'no.such.module:Fusion' cannot be imported"),
        ({"image_stream": "vit"}, "a ViT has one stage"),
        ({**vars(VIT), "image_settings": {"regs": 4}}, r"image_settings \{'regs': 4\} do not fit VitStream"),
    ],
)
def test_names_and_settings_that_do_not_exist(overrides: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FiberBackbone.from_config(FiberConfig.from_preset("fiber_tiny", **overrides))
