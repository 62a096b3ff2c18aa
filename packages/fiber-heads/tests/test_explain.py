"""Where words look: maps are the probabilities of the layers, in image order, and Grad-CAM finds what was read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fiber_backbone import FiberBackbone, FiberConfig, fiber_tiny
from fiber_heads import (
    AnsweringConfig,
    FiberForCaptioning,
    FiberForGrounding,
    FiberForQuestionAnswering,
    FiberForVisualReasoning,
    GroundingConfig,
    TaskModel,
)
from fiber_heads.explain import attention_maps, grad_cam, look
from torch import Tensor, nn

from .conftest import make_model

COARSE = fiber_tiny().config
VIT = replace(COARSE, image_stream="vit", patch_size=8, depths=(4,), image_num_heads=(4,), num_fusion_blocks=2)
MODELS = {
    "retrieval": lambda: make_model(),
    "answering": lambda: FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("yes", "no", "red"))),
    "reasoning": lambda: FiberForVisualReasoning(fiber_tiny()),
    "captioning": lambda: FiberForCaptioning(FiberBackbone.from_config(replace(COARSE, decoder_projections=True))),
    "grounding": lambda: FiberForGrounding(
        FiberBackbone.from_config(COARSE.fine_stage()),
        GroundingConfig(channels=16, num_blocks=1, norm_groups=4, strides=(4, 8, 16, 32, 64)),
    ),
    "vit": lambda: FiberForQuestionAnswering(FiberBackbone.from_config(VIT), AnsweringConfig(("yes", "no"))),
}


def made(name: str) -> TaskModel:
    torch.manual_seed(0)
    model = MODELS[name]()
    for path, parameter in model.named_parameters():
        if path.endswith(".gate"):
            nn.init.constant_(parameter, 0.5)
    return model.eval()


def batch_for(name: str, width: int = 96) -> dict[str, Tensor]:
    """Two texts of 6 and 4 tokens, with images of 64 x `width` px."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, *([2] if name == "reasoning" else []), 3, 64, width, generator=generator)
    input_ids = torch.randint(5, 500, (2, 6), generator=generator)
    mask = torch.ones_like(input_ids)
    input_ids[1, 4:], mask[1, 4:] = 1, 0
    batch = {"pixel_values": pixels, "input_ids": input_ids, "attention_mask": mask}
    return batch | ({"image_sizes": torch.tensor([[64, width], [48, 70]])} if name == "grounding" else {})


@pytest.mark.parametrize("name", MODELS)
def test_maps_of_every_task_model(name: str) -> None:
    model, batch = made(name), batch_for(name, 64 if name == "vit" else 96)
    before = model.explained_score(batch["attention_mask"].bool(), **batch)
    maps = attention_maps(model, **batch)
    images = 4 if name == "reasoning" else 2
    blocks = len(model.backbone.pairs)
    assert len(maps.text_to_image) == blocks
    assert len(maps.image_to_text) == (0 if name == "captioning" else blocks)
    height, width = batch["pixel_values"].shape[-2:]
    for each in (*maps.text_to_image, *maps.image_to_text):
        assert each.shape[0] == images
        assert each.shape[2] == 6
        assert each.shape[3] * width == each.shape[4] * height, "cells in the image's proportions"
    if name != "vit":  # whose token of the class is read too
        for each in maps.text_to_image:
            torch.testing.assert_close(each.sum(dim=(3, 4)), torch.ones(each.shape[:3]))
    padded = batch["attention_mask"].repeat_interleave(images // 2, dim=0)[:, None, :, None, None] == 0
    for each in maps.image_to_text:
        torch.testing.assert_close(each.sum(dim=2), torch.ones_like(each[:, :, 0]))
        assert not each.masked_select(padded).any(), "nobody reads padding"

    heat = grad_cam(model, **batch)
    assert heat.shape == (images, height, width)
    assert heat.min() >= 0
    assert heat.flatten(1).amax(dim=1).min() > 0
    after = model.explained_score(batch["attention_mask"].bool(), **batch)
    assert torch.equal(before, after), "explaining leaves the model as it was"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_maps_are_the_softmax_of_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed from what each layer was given, head by head, in plain arithmetic."""
    model, batch = made("answering"), batch_for("answering")
    given: list[tuple[nn.Module, Tensor, Tensor, Tensor | None]] = []

    def keep(layer: nn.Module, arguments: tuple, named: dict) -> None:
        values = {**dict(zip(("hidden", "context", "mask"), arguments, strict=False)), **named}
        given.append((layer, values["hidden"], values["context"], values["mask"]))

    backbone = model.backbone
    for layer in (*backbone.image_stream.cross_attention, *backbone.text_stream.cross_attention):
        layer.register_forward_pre_hook(keep, with_kwargs=True)
    maps = attention_maps(model, **batch)
    by_layer = {id(layer): rest for layer, *rest in given}
    for own, side in (
        (maps.text_to_image, backbone.text_stream),
        (maps.image_to_text, backbone.image_stream),
    ):
        for found, layer in zip(own, side.cross_attention, strict=True):
            hidden, context, mask = by_layer[id(layer)]
            width = hidden.shape[-1] // layer.num_heads
            for head in range(layer.num_heads):
                part = slice(head * width, (head + 1) * width)
                query = layer.query(layer.norm(hidden))[..., part]
                key = layer.key_value(context)[..., : hidden.shape[-1]][..., part]
                scores = torch.einsum("bnc,bmc->bnm", query, key) / width**0.5
                if mask is not None:
                    scores = scores + mask[:, 0]
                expected = scores.softmax(dim=-1)
                expected = expected if side is backbone.text_stream else expected.transpose(1, 2)
                torch.testing.assert_close(found[:, head].flatten(2), expected)


@pytest.mark.parametrize("cell", [(0, 0), (1, 4), (3, 5)])
def test_shifted_windows_are_put_back_into_image_order(cell: tuple[int, int]) -> None:
    """One fused block, a shifted one: what one cell of it becomes hangs on what that cell read, and on no other's."""
    torch.manual_seed(0)
    backbone = FiberBackbone.from_config(replace(COARSE, num_fusion_blocks=1, initial_gate=0.5))
    assert backbone.image_stream.depths[-1] == 2, "its last block is shifted"
    model = FiberForQuestionAnswering(backbone, AnsweringConfig(("yes", "no"))).eval()
    batch = batch_for("answering")

    def score(**given: Tensor) -> Tensor:
        fused = backbone(given["pixel_values"], given["input_ids"], given["attention_mask"]).image_hidden_state
        return fused.unflatten(1, (4, 6))[:, cell[0], cell[1], 0]

    heat = grad_cam(model, score=score, by="image", **batch)
    places = zip((64, 96), cell, strict=True)
    rows, columns = (torch.arange(side).add(0.5).div(16).sub(where + 0.5).abs() for side, where in places)
    far = (rows[:, None] >= 1) | (columns[None] >= 1)
    assert not heat[:, far].any(), "bilinear interpolation reaches one cell further"
    assert heat[:, ~far].amax(dim=1).min() > 0


def test_words_answers_and_frozen_models() -> None:
    model, batch = made("answering"), batch_for("answering")
    words = torch.zeros(2, 6, dtype=torch.bool)
    words[:, 1] = True
    others = batch["attention_mask"].bool() & ~words
    everything = grad_cam(model, **batch)
    parts = [grad_cam(model, tokens=each, by="image", **batch) for each in (words, others)]
    torch.testing.assert_close(sum(parts), grad_cam(model, by="image", **batch))
    padding = batch["attention_mask"] == 0
    assert not grad_cam(model, tokens=padding, **batch).any()
    assert not torch.equal(grad_cam(model, target="yes", **batch), grad_cam(model, target="red", **batch))
    with pytest.raises(ValueError, match="'blue' is none of the model's 3 answers"):
        grad_cam(model, target="blue", **batch)
    asked = made("answering")
    with torch.inference_mode():
        asked(**batch)
        torch.testing.assert_close(grad_cam(asked.requires_grad_(False), **batch), everything)


def test_a_written_word_is_explained_by_what_came_before_it() -> None:
    model, batch = made("captioning"), batch_for("captioning")
    words = torch.zeros(2, 6, dtype=torch.bool)
    words[:, 2] = True
    heat = grad_cam(model, tokens=words, **batch)
    later = {**batch, "input_ids": batch["input_ids"].clone()}
    later["input_ids"][:, 3] = 7
    torch.testing.assert_close(grad_cam(model, tokens=words, **later), heat)
    later["input_ids"][:, 1] = 7
    assert not torch.allclose(grad_cam(model, tokens=words, **later), heat)


class Letters:
    """A tokenizer of letters, as far as words are sought by it."""

    def __call__(self, text: str, **_: object) -> dict[str, list]:
        return {
            "input_ids": [0, *(5 + ord(each) % 400 for each in text), 2],
            "offset_mapping": [(0, 0), *((place, place + 1) for place in range(len(text))), (0, 0)],
        }


class OfLetters:
    """A processor whose images keep their shapes, padded to a multiple of 16."""

    tokenizer, max_length = Letters(), 50

    def __call__(self, images: Tensor | None = None, text: list[str] | None = None) -> dict[str, Tensor]:
        if text is not None:
            ids = torch.tensor([self.tokenizer(each)["input_ids"] for each in text])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        height, width = images.shape[1:]
        padded = torch.zeros(1, 3, -(-height // 16) * 16, -(-width // 16) * 16)
        padded[0, :, :height, :width] = images / 255
        return {"pixel_values": padded, "image_sizes": torch.tensor([[height, width]])}


@pytest.mark.parametrize("way", ["grad_cam", "attention"])
def test_images_and_words_as_they_come(way: str) -> None:
    model = made("grounding")
    model.processor = OfLetters()
    image = torch.randint(0, 255, (3, 56, 90), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (heat,) = look(model, image, "a red dog", word="red", way=way)
    assert heat.shape == (56, 90)
    assert heat.max() == 1
    assert torch.equal(look(model, image, "a red dog", word=(2, 5), way=way)[0], heat)
    assert not torch.equal(look(model, image, "a red dog", word="dog", way=way)[0], heat)
    for word, message in (("cat", "'cat' is not in 'a red dog'"), ((9, 12), "no token is of characters 9 to 12")):
        with pytest.raises(ValueError, match=message):
            look(model, image, "a red dog", word=word, way=way)


def test_what_cannot_be_explained_says_why() -> None:
    batch = batch_for("answering", 64)
    late = FiberBackbone.from_config(FiberConfig(**{**vars(COARSE), "fusion": "late"}))
    stranger = FiberForQuestionAnswering(late, AnsweringConfig(("yes", "no"))).eval()
    with pytest.raises(ValueError, match="this model's fusion is LateFusion; train one with"):
        attention_maps(stranger, **batch)
    with pytest.raises(ValueError, match=r"in training mode.*call model.eval\(\)"):
        grad_cam(made("answering").train(), **batch)
    with pytest.raises(ValueError, match="the score does not depend on what image and text read"):
        grad_cam(made("answering"), score=lambda **given: given["pixel_values"].sum(dim=(1, 2, 3)), **batch)


@pytest.mark.parametrize("cell", [(0, 0), (1, 4), (3, 5)])
def test_an_answer_lights_up_what_alone_can_be_seen(cell: tuple[int, int]) -> None:
    """The words read values of nothing but one cell, so that an answer hangs on what they read there."""
    torch.manual_seed(0)
    model = FiberForQuestionAnswering(
        FiberBackbone.from_config(replace(COARSE, num_fusion_blocks=1, initial_gate=0.5)),
        AnsweringConfig(("yes", "no")),
    ).eval()
    batch = batch_for("answering")
    place = 6 * cell[0] + cell[1]

    def hide(layer: nn.Module, given: Tensor, values: Tensor) -> Tensor:
        width = values.shape[-1] // 2
        seen = torch.zeros(values.shape[1])[:, None].index_fill(0, torch.tensor([place]), 1.0)
        return torch.cat([values[..., :width], values[..., width:] * seen], dim=-1)

    model.backbone.text_stream.cross_attention[0].key_value.register_forward_hook(hide)
    for_it, against = (
        grad_cam(model, score=lambda sign=sign, **given: sign * model(**given).logits[:, 0], **batch)
        for sign in (1, -1)
    )
    rows, columns = (
        torch.arange(side).add(0.5).div(16).sub(where + 0.5).abs() for side, where in zip((64, 96), cell, strict=True)
    )
    far = (rows[:, None] >= 1) | (columns[None] >= 1)
    assert not (for_it + against)[:, far].any(), "bilinear interpolation reaches one cell further"
    assert (for_it + against)[:, ~far].amax(dim=1).min() > 0
    assert not (for_it * against).any(), "what speaks for it does not speak against it"
