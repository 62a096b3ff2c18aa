"""Every kind of image becomes the same upright RGB tensor, and a broken one says why."""

import io

import numpy as np
import pytest
import torch
from fiber_data import BrokenImageError, load_image
from PIL import Image

GRADIENT = np.stack([np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))] * 3, axis=-1)
GRADIENT[..., 1] = 50
GRADIENT[:8, :, 2] = 200


def encode(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(source):
    return load_image(source).permute(1, 2, 0).numpy()


def test_paths_bytes_pil_arrays_and_tensors_agree(tmp_path):
    image = Image.fromarray(GRADIENT)
    image.save(tmp_path / "a.png")
    chw = torch.from_numpy(GRADIENT).permute(2, 0, 1)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), encode(image), image, GRADIENT, chw, chw / 255):
        loaded = load_image(source)
        assert loaded.dtype == torch.uint8 and loaded.shape == (3, 16, 24)
        assert np.array_equal(pixels(source), GRADIENT)


def test_gray_becomes_three_equal_channels():
    gray = GRADIENT[..., 0]
    for source in (gray, encode(Image.fromarray(gray)), torch.from_numpy(gray)[None]):
        assert np.array_equal(pixels(source), np.stack([gray] * 3, -1))


def test_sixteen_bit_gray_is_scaled_not_clipped():
    deep = GRADIENT[..., 0].astype(np.uint16) * 256 + 17
    assert np.array_equal(pixels(encode(Image.fromarray(deep)))[..., 0], GRADIENT[..., 0])


def test_transparent_becomes_white_and_opaque_stays():
    rgba = np.dstack([GRADIENT, np.full((16, 24), 255, np.uint8)])
    rgba[:, :12, 3] = 0
    for image in (Image.fromarray(rgba), Image.fromarray(rgba).quantize(64)):
        loaded = pixels(encode(image))
        assert (loaded[:, :12] == 255).all()
        assert np.abs(loaded[:, 12:].astype(int) - GRADIENT[:, 12:]).max() <= 16  # a palette of 64 colors


def test_palette_and_cmyk_keep_their_colors():
    image = Image.fromarray(GRADIENT)
    assert np.array_equal(pixels(encode(image.quantize(256))), np.asarray(image.quantize(256).convert("RGB")))
    cmyk = encode(image.convert("CMYK"), "JPEG", quality=95)
    assert np.abs(pixels(cmyk).astype(int) - GRADIENT).mean() < 6


def test_exif_orientation_is_applied():
    image = Image.fromarray(GRADIENT)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees, clockwise
    assert np.array_equal(pixels(encode(image, exif=exif)), np.rot90(GRADIENT, -1))


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "bomb"])
def test_a_broken_image_names_file_and_reason(tmp_path, monkeypatch, kind):
    path = tmp_path / "broken.png"
    whole = encode(Image.fromarray(GRADIENT.repeat(4, 0)))
    if kind != "missing":
        path.write_bytes({"empty": b"", "text": b"no image", "truncated": whole[:-60], "bomb": whole}[kind])
    if kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    reason = "no such file" if kind == "missing" else r"too many pixels .*PIL\.Image\.MAX_IMAGE_PIXELS" if kind == "bomb" else "cannot be read"
    with pytest.raises(BrokenImageError, match=rf"broken\.png: .*{reason}"):
        load_image(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), r"shape \(H, W, 3\) or \(H, W\), not \(2, 4, 4, 3\)"),
        (torch.zeros(4, 4, 3), r"shape \(3, H, W\) or \(1, H, W\), not \(4, 4, 3\)"),
        (np.zeros((4, 4), np.int64), "uint8 in 0..255 or floats"),
        (torch.full((3, 2, 2), 200.0), r"must lie in \[0, 1\]; .* goes from 200"),
        (torch.full((3, 2, 2), float("nan")), r"must lie in \[0, 1\]"),
    ],
)
def test_arrays_that_are_no_images_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        load_image(source)


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="path, URL, bytes, file object, PIL image, array or tensor, not int"):
        load_image(3)
