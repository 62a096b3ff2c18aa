"""The two transforms: geometry, normalization, and texts that stay true."""

import numpy as np
import pytest
import torch
from fiber_data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    FlipUnlessSided,
    RandAugment,
    ResizeShorterSide,
    build_detection_evaluation_transform,
    build_detection_training_transform,
    build_evaluation_transform,
    build_training_transform,
    fit_size,
    mentions_side,
    normalize_images,
    pad_images,
)
from fiber_data.seeding import seeded
from PIL import Image
from torchvision import tv_tensors

MEAN, STD = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))


def photo(height=90, width=120):
    """Smooth colors, as in a photograph, with an edge."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 2 % 256, y * 2 % 256, (x + y) % 256], -1).astype(np.uint8)
    image[20:40, 30:60] = (250, 20, 20)
    return Image.fromarray(image)


def test_evaluation_squeezes_the_whole_image_as_pillow_does():
    image = photo()
    ours = build_evaluation_transform(32)(image)
    pillow = torch.from_numpy(np.array(image.resize((32, 32), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 255
    assert ours.shape == (3, 32, 32) and ours.dtype == torch.float32
    assert ((ours * STD + MEAN) - pillow).abs().max() <= 2.01 / 255


def test_evaluation_normalizes_with_the_given_numbers():
    image = Image.new("RGB", (10, 20), (255, 0, 51))
    ours = build_evaluation_transform(4, mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0))(image)
    assert torch.allclose(ours[:, 0, 0], torch.tensor([1.0, -2.0, 0.0]), atol=1e-6)
    assert (ours == ours[:, :1, :1]).all()


def test_evaluation_of_a_dict_leaves_the_rest_alone():
    out = build_evaluation_transform(8)({"image": photo(), "text": "a cat", "boxes_note": torch.ones(2)})
    assert out["image"].shape == (3, 8, 8)
    assert out["text"] == "a cat" and torch.equal(out["boxes_note"], torch.ones(2))


def test_training_depends_on_the_seed_alone():
    transform = build_training_transform(24)
    image = photo()

    def draw(seed):
        with seeded(seed):
            return transform(image)

    assert torch.equal(draw(1), draw(1))
    assert len({draw(seed).numpy().tobytes() for seed in range(8)}) == 8
    assert all(draw(seed).shape == (3, 24, 24) for seed in range(40))


def test_training_crops_at_least_half_of_the_area():
    """An image whose pixel values are positions tells which part of it a crop shows."""
    y, x = np.mgrid[:100, :100]
    image = Image.fromarray(np.stack([x * 2, y * 2, x * 0], -1).astype(np.uint8))
    transform = build_training_transform(50, mean=(0, 0, 0), std=(1, 1, 1), flip_probability=0, num_operations=0)
    areas = []
    for seed in range(200):
        with seeded(seed):
            crop = transform(image) * 255 / 2
        width, height = (float(crop[channel].max() - crop[channel].min()) for channel in (0, 1))
        areas.append(width * height / 99**2)
    assert 0.44 < min(areas) < 0.55 and 0.9 < max(areas) <= 1.01


def test_half_of_the_images_are_flipped_but_none_whose_text_names_a_side():
    flip = FlipUnlessSided(0.5)
    image = tv_tensors.Image(torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4).expand(3, 3, 4))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[0, 0, 1, 2]]), format="XYXY", canvas_size=(3, 4))
    flipped = 0
    for seed in range(400):
        with seeded(seed):
            out = flip({"image": image, "boxes": boxes, "text": "a cat on a mat"})
        with seeded(seed):
            sided = flip({"image": image, "texts": ["a mat", "the cat on the left"]})
        was_flipped = torch.equal(out["image"], image.flip(-1))
        assert was_flipped or torch.equal(out["image"], image)
        assert out["boxes"].tolist() == ([[3, 0, 4, 2]] if was_flipped else [[0, 0, 1, 2]])
        assert torch.equal(sided["image"], image)
        flipped += was_flipped
    assert 160 < flipped < 240


@pytest.mark.parametrize(
    "text",
    [
        *("Left of it", "the rightmost dog", "on the right-hand side", "turns anticlockwise", "counter-clockwise"),
        *(
            "turnLeft",
            "turn_left",
            "topleft",
            "leftside",
            "upperleft",
            "left2",
            "2left",
            "LEFT",
            "TURNLEFT",
            "TurnRight",
        ),
        *("left-hand", "left\u2011hand", "left\u2013right", "leftmost", "lefts", "lefty", "leftwards", "lefthanded"),
        *(
            "bottom_right_corner",
            "thumbRight",
            "brightLeft",
            "thumbright",
            "upright",
            "topRIGHT",
            "arrow.right",
            "ｌｅｆｔ",
        ),
        *(
            "左边的狗",
            "a bright dog on the left",
            "éLeft",
            "right's",
            "brightleft",
            "rightedge",
            "leftoverright",
            "a-right",
        ),
    ],
)
def test_words_that_name_a_side(text):
    assert mentions_side(text)


@pytest.mark.parametrize(
    "text",
    [
        *("a bright cleft", "she righted it", "a cat", "copyright", "Copyrighted", "leftovers", "BRIGHT", "brightRed"),
        *("a playwright", "frightened", "theft", "outright", "bright_red", "Leftover food", "", "2"),
    ],
)
def test_words_that_name_none(text):
    assert not mentions_side(text)


def test_randaugment_is_applied_with_its_probability():
    image = photo()
    changed = 0
    for seed in range(300):
        with seeded(seed):
            changed += not torch.equal(RandAugment(1, 7)(tv_tensors.Image(image)), tv_tensors.Image(image))
    assert 100 < changed < 150  # half of the draws; a tenth of these is the identity, auto-contrast may change nothing


def test_randaugment_moves_boxes_with_the_pixels():
    """A white square on black: after any operation its bright pixels lie in its box."""
    pixels = torch.zeros(3, 64, 64, dtype=torch.uint8)
    pixels[:, 24:40, 20:36] = 255
    moved = 0
    for seed in range(120):
        sample = {
            "image": tv_tensors.Image(pixels),
            "boxes": tv_tensors.BoundingBoxes(torch.tensor([[20.0, 24, 36, 40]]), format="XYXY", canvas_size=(64, 64)),
        }
        with seeded(seed):
            out = RandAugment(1, 10, probability=1)(sample)
        bright = (out["image"][0] > 200).nonzero().float()
        (left, top, right, bottom) = out["boxes"][0].tolist()
        assert bright[:, 1].min() >= left - 1.5 and bright[:, 1].max() <= right + 0.5
        assert bright[:, 0].min() >= top - 1.5 and bright[:, 0].max() <= bottom + 0.5
        moved += out["boxes"].tolist() != [[20, 24, 36, 40]]
    assert moved > 30


def test_randaugment_without_magnitude_changes_no_shape():
    image = tv_tensors.Image(photo())
    for seed in range(60):
        with seeded(seed):
            out = RandAugment(3, 0)(image)
        assert out.shape == image.shape and out.dtype == torch.uint8


def test_a_magnitude_off_the_scale_is_refused():
    with pytest.raises(ValueError, match="from 0 to 10, not 11"):
        RandAugment(2, 11)


def boxes(corners, height, width):
    return tv_tensors.BoundingBoxes(torch.tensor(corners), format="XYXY", canvas_size=(height, width))


@pytest.mark.parametrize("shorter", [800, 480])
def test_images_for_detection_have_the_originals_sizes(fine_goldens, shorter):
    for (width, height), expected in fine_goldens[f"resize_{shorter}_1333_wh_to_hw"]:
        assert list(fit_size(height, width, shorter, 1333)) == expected


def test_the_longer_side_never_exceeds_its_bound():
    assert max(max(fit_size(30, width, 800, 1333)) for width in range(30, 3000, 7)) == 1333
    assert fit_size(1, 100_000, 800, 1333) == (1, 1333)


def test_every_side_is_drawn_and_boxes_follow():
    transform = build_detection_training_transform((48, 56, 64), 100, flip_probability=0.0)
    sample = {"image": photo(90, 120), "boxes": boxes([[30.0, 20.0, 60.0, 40.0]], 90, 120)}
    heights = set()
    with seeded(0):
        for _ in range(40):
            made = transform(sample)
            height, width = made["image"].shape[-2:]
            heights.add(height)
            expected = torch.tensor([30 / 120 * width, 20 / 90 * height, 60 / 120 * width, 40 / 90 * height])
            assert torch.allclose(made["boxes"][0].as_subclass(torch.Tensor), expected)
            assert made["boxes"].canvas_size == (height, width)
            x1, y1, x2, y2 = expected.round().int().tolist()
            red = made["image"][0] > made["image"][1] + 1.5
            assert red[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all()
    assert heights == {48, 56, 64}


def test_a_flip_mirrors_boxes_as_the_original_does_in_its_convention(fine_goldens):
    golden = fine_goldens["boxes"]
    width, height = golden["image_size_wh"]
    half_open = torch.tensor(golden["input_xyxy"]) + torch.tensor([0, 0, 1, 1])
    flipped = FlipUnlessSided(1.0)({"boxes": boxes(half_open.tolist(), height, width), "text": "a cat"})["boxes"]
    assert torch.allclose(flipped - torch.tensor([0.0, 0, 1, 1]), torch.tensor(golden["flip_lr"]))
    kept = FlipUnlessSided(1.0)({"boxes": boxes(half_open.tolist(), height, width), "text": "the left cat"})["boxes"]
    assert torch.equal(kept, half_open)


def test_images_are_normalized_as_the_originals_but_in_the_order_of_colors(fine_goldens):
    golden = fine_goldens["normalize_bgr255"]
    pixels = (torch.tensor(golden["rgb01"]) * 255).round().to(torch.uint8)
    ours = build_detection_evaluation_transform(1, 10)(tv_tensors.Image(pixels))
    assert torch.allclose(ours.flip(0), torch.tensor(golden["out"]), atol=0.01)  # of uint8: half a step is 0.0088


def test_sides_without_length_are_refused():
    with pytest.raises(ValueError, match=r"positive length, not shorter=\(\)"):
        ResizeShorterSide((), 100)


def test_a_batch_is_normalized_to_the_bit_as_its_images_are():
    """With padding that is 0 beside them, and pairs."""
    images = [photo(90, 120), photo(60, 130)]
    statistics = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
    whole = build_detection_evaluation_transform(40, 100, **statistics)
    plain = build_detection_evaluation_transform(40, 100, normalize=False)
    expected, sizes = pad_images([whole(image).as_subclass(torch.Tensor) for image in images], size_divisor=32)
    pixels, _ = pad_images([plain(image).as_subclass(torch.Tensor) for image in images], size_divisor=32)
    assert pixels.dtype == torch.uint8 and len(sizes.unique(dim=0)) == 2
    made = normalize_images(pixels, sizes, **statistics)
    assert made.dtype == torch.float32 and torch.equal(made, expected)
    pairs = normalize_images(torch.stack([pixels, pixels.flip(-1)], 1), sizes, **statistics)
    assert torch.equal(pairs[:, 0], expected) and pixels.dtype == torch.uint8
