"""Pictures of differing sizes in one batch: with `image_sizes` each gets what it would get alone."""

from __future__ import annotations

import pytest
import torch
from fiber_backbone import FiberBackbone, ImageState, fiber_tiny
from torch.nn.functional import pad

SIZES = [(96, 160), (64, 64), (128, 96)]


@pytest.fixture(scope="module")
def model() -> FiberBackbone:
    """Windows that do not tile the maps, every parameter random."""
    torch.manual_seed(0)
    model = fiber_tiny(window_policy="pad", window_size=6, pyramid_norms=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim < 2 else 0.1)
    return model.double().eval().requires_grad_(False)


@pytest.mark.parametrize("cut", [0, 7])  # the second: true sizes that are no multiple of the stride
def test_a_picture_in_a_batch_equals_the_picture_alone(model: FiberBackbone, cut: int) -> None:
    pictures = [torch.randn(3, height - cut, width - cut, dtype=torch.float64) for height, width in SIZES]
    input_ids = torch.randint(5, 500, (3, 7))
    text = model.begin_text(input_ids)
    batch = torch.stack([pad(picture, (0, 192 - picture.shape[2], 0, 160 - picture.shape[1])) for picture in pictures])
    image_sizes = torch.tensor([picture.shape[1:] for picture in pictures])
    together = model.begin_image(batch, return_pyramid=True, image_sizes=image_sizes)
    fused, single = model.fuse(together, text), model.finish_image(together)
    careless = model.fuse(model.begin_image(batch, return_pyramid=True), text)
    for row, (picture, (height, width)) in enumerate(zip(pictures, SIZES, strict=True)):
        canvas = pad(picture, (0, width - picture.shape[2], 0, height - picture.shape[1]))[None]
        alone = model.begin_image(canvas, return_pyramid=True)
        own, finished = model.fuse(alone, text[row : row + 1]), model.finish_image(alone)
        torch.testing.assert_close(fused.text_hidden_state[row], own.text_hidden_state[0], rtol=1e-9, atol=1e-9)
        for ours, theirs in ((fused.pyramid, own.pyramid), (single.pyramid, finished.pyramid)):
            for level, expected in zip(ours, theirs, strict=True):
                found = level[row, :, : expected.shape[2], : expected.shape[3]]
                torch.testing.assert_close(found, expected[0], rtol=1e-9, atol=1e-9)
        assert (careless.text_hidden_state[row] - own.text_hidden_state[0]).abs().max() > 1e-3


def test_states_with_sizes_are_indexed_and_joined(model: FiberBackbone) -> None:
    pixel_values, sizes = torch.randn(2, 3, 128, 128, dtype=torch.float64), torch.tensor([[64, 96], [128, 100]])
    state = model.begin_image(pixel_values, image_sizes=sizes)
    again = ImageState.cat([state[[1]], state[[0]]])
    assert again.sizes is not None
    assert again.sizes.tolist() == [[128, 112], [64, 96]]
    with pytest.raises(ValueError, match="must all have sizes, or none"):
        ImageState.cat([state, model.begin_image(pixel_values)])


def test_windows_that_shrink_cannot_ignore_the_batch() -> None:
    with pytest.raises(ValueError, match="window_policy='pad'"):
        fiber_tiny().begin_image(torch.randn(1, 3, 64, 64), image_sizes=torch.tensor([[64, 64]]))
