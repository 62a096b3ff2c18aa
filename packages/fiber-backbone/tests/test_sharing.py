"""Work done once serves many: states may be indexed, repeated, concatenated and padded without changing a number."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fiber_backbone import DecodingCache, FiberBackbone, ImageCache, ImageState, TextState, fiber_tiny
from torch import Tensor
from torch.nn.functional import pad


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def states(tiny: FiberBackbone, batch: dict[str, Tensor]) -> tuple[ImageState, TextState]:
    image = tiny.begin_image(batch["pixel_values"], return_pyramid=True)
    return image, tiny.begin_text(batch["input_ids"], batch["attention_mask"])


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_forward_is_begin_and_fuse(
    tiny: FiberBackbone, batch: dict[str, Tensor], states: tuple[ImageState, TextState]
) -> None:
    assert torch.equal(tiny(**batch).pooled, tiny.fuse(*states).pooled)


@pytest.mark.parametrize("index", [torch.tensor([2, 0, 0]), slice(1, 3), [1], torch.tensor([True, False, True])])
def test_indexing(tiny: FiberBackbone, batch: dict[str, Tensor], states: tuple[ImageState, TextState], index) -> None:
    image, text = states
    ours = tiny.fuse(image[index], text[index])
    theirs = tiny(**{name: value[index] for name, value in batch.items()})
    assert len(image[index]) == len(theirs.pooled)
    assert_same(ours.pooled, theirs.pooled)
    assert_same(ours.pyramid[-1], tiny.fuse(*states).pyramid[-1][index])


def test_one_picture_with_many_texts(
    tiny: FiberBackbone, batch: dict[str, Tensor], states: tuple[ImageState, TextState]
) -> None:
    image, text = states
    ours = tiny.fuse(image[:1].repeat_interleave(3), text)
    theirs = tiny(batch["pixel_values"][:1].expand(3, -1, -1, -1), batch["input_ids"], batch["attention_mask"])
    assert_same(ours.pooled, theirs.pooled)
    assert_same(ours.text_features, theirs.text_features)


def test_concatenation_pads_texts(
    tiny: FiberBackbone, batch: dict[str, Tensor], states: tuple[ImageState, TextState]
) -> None:
    image, text = states
    short = tiny.begin_text(batch["input_ids"][2:, :3], batch["attention_mask"][2:, :3])
    joined = TextState.cat([short, text])
    ours = tiny.fuse(ImageState.cat([image[2:], image]), joined)
    assert joined.attention_mask.shape == (4, 12)
    assert_same(ours.pooled[0], ours.pooled[3])
    assert_same(ours.pooled[1:], tiny.fuse(image, text).pooled)


def test_padding_a_text_changes_nothing(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    longer = batch | {
        "input_ids": pad(batch["input_ids"], (0, 9), value=1),
        "attention_mask": pad(batch["attention_mask"], (0, 9)),
    }
    ours, theirs = tiny(**longer), tiny(**batch)
    assert_same(ours.pooled, theirs.pooled)
    assert_same(ours.image_features, theirs.image_features)
    real = batch["attention_mask"].bool()
    assert_same(ours.text_features[:, :12][real], theirs.text_features[real])
    alone = tiny.finish_text(tiny.begin_text(longer["input_ids"], longer["attention_mask"]))
    assert_same(
        alone.hidden_state[:, :12][real],
        tiny.finish_text(tiny.begin_text(batch["input_ids"], batch["attention_mask"])).hidden_state[real],
    )


def test_a_batch_is_its_rows(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    rows = [tiny(**{name: value[row : row + 1] for name, value in batch.items()}).pooled for row in range(3)]
    assert_same(torch.cat(rows), tiny(**batch).pooled)


@pytest.mark.parametrize("policy", ["shrink", "pad"])
def test_any_multiple_of_the_stride(policy: str, batch: dict[str, Tensor]) -> None:
    model = fiber_tiny(window_policy=policy).eval()
    image = model.begin_image(torch.randn(3, 3, 48, 112), return_pyramid=True)
    fused = model.fuse(image, model.begin_text(batch["input_ids"], batch["attention_mask"]))
    assert [tuple(level.shape[1:]) for level in fused.pyramid] == [(48, 12, 28), (96, 6, 14), (192, 3, 7)]


def test_decoding_with_a_cache_is_decoding_the_whole(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    image = tiny.finish_image(tiny.begin_image(batch["pixel_values"])).unnormalized
    ids = batch["input_ids"]
    cache = DecodingCache()
    tiny.decode_text(ids[:, :4], image, cache=cache)
    steps = [tiny.decode_text(ids[:, i : i + 1], cache=cache).hidden_state for i in range(4, 12)]
    assert_same(torch.cat(steps, dim=1), tiny.decode_text(ids, image).hidden_state[:, 4:])


def test_a_cache_follows_its_beams(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    image = tiny.finish_image(tiny.begin_image(batch["pixel_values"])).unnormalized
    beams, ids = torch.tensor([2, 2, 0]), batch["input_ids"][:, :6]
    cache = DecodingCache()
    tiny.decode_text(ids[:, :5], image, cache=cache)
    ours = tiny.decode_text(ids[:, 5:], cache=cache[beams]).hidden_state
    theirs = tiny.decode_text(torch.cat([ids[beams, :5], ids[:, 5:]], dim=1), image[beams]).hidden_state[:, 5:]
    assert_same(ours, theirs)


def test_several_texts_read_one_picture(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    image = tiny.finish_image(tiny.begin_image(batch["pixel_values"])).unnormalized
    ids, rows = batch["input_ids"].repeat_interleave(2, dim=0).roll(1, dims=0), torch.tensor([0, 0, 1, 1, 2, 2])
    whole = tiny.decode_text(ids, image[rows]).hidden_state
    assert_same(tiny.decode_text(ids, image).hidden_state, whole)

    cache = DecodingCache()
    tiny.decode_text(ids[:, :5], image, cache=cache)
    assert len(cache.image[0].key) == 3  # held once a picture
    swapped = torch.tensor([1, 0, 2, 2, 5, 4])
    ours = tiny.decode_text(ids[swapped, 5:], cache=cache.select(swapped)).hidden_state
    theirs = tiny.decode_text(ids[swapped], image[rows]).hidden_state
    assert_same(ours, theirs[:, 5:])
    left = cache.select(torch.tensor([1, 0, 4, 5]), torch.tensor([0, 2]))
    assert_same(tiny.decode_text(ids[[1, 0, 4, 5], 5:], cache=left).hidden_state, whole[[1, 0, 4, 5], 5:])


def test_decoding_never_sees_the_future(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    image = tiny.finish_image(tiny.begin_image(batch["pixel_values"])).unnormalized
    ids = torch.full((3, 8), 7)
    changed = ids.clone()
    changed[:, 5:] = 9
    one, two = tiny.decode_text(ids, image).hidden_state, tiny.decode_text(changed, image).hidden_state
    assert_same(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:])


def test_an_image_cache_begins_each_image_once_within_its_bytes(tiny: FiberBackbone, batch: dict[str, Tensor]) -> None:
    plain, begun = tiny(**batch).pooled, []
    tiny.image_stream.patch_embed.register_forward_hook(lambda *_: begun.append(1))
    tiny.image_cache = ImageCache()
    assert torch.equal(tiny(**batch).pooled, plain)
    assert torch.equal(tiny(**batch).pooled, plain)
    assert len(begun) == 1
    tiny.begin_image(batch["pixel_values"], return_pyramid=True)
    assert len(begun) == 2, "with outputs of the stages it is another state"
    tiny.image_cache = ImageCache(max_bytes=3 * tiny.begin_image(batch["pixel_values"]).hidden_state.nbytes)
    for shift in range(9):
        tiny.begin_image(batch["pixel_values"] + shift)
        assert tiny.image_cache.num_bytes <= tiny.image_cache.max_bytes
    before = len(begun)
    for shift in (6, 7, 8, 0):
        tiny.begin_image(batch["pixel_values"] + shift)
    assert len(begun) == before + 1, "the newest are kept"
