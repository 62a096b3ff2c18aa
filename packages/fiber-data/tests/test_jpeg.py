"""simplejpeg, an extra, gives the same as Pillow, and leaves to it what is no plain JPEG."""

import io
from pathlib import Path

import numpy as np
import pytest
from fiber_data import BrokenImageError, images, load_image
from PIL import Image

GRADIENT = np.stack([np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))] * 3, axis=-1)
GRADIENT[..., 1] = 50
GRADIENT[:8, :, 2] = 200
pytest.importorskip("simplejpeg")


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pixels(source):
    return load_image(source).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"quality": 30}])
@pytest.mark.parametrize("held", [bytes, Path])
def test_simplejpeg_gives_pillows_pixels(tmp_path, monkeypatch, options, held):
    """Within 1 of 255, should the two bring different versions of libjpeg-turbo."""
    image = Image.fromarray(np.tile(GRADIENT, (4, 5, 1))[:61, :99])  # sides that no block of 8 or 16 divides
    source = encode(image, **options)
    if held is Path:
        (tmp_path / "a.jpg").write_bytes(source)
        source = tmp_path / "a.jpg"
    sooner = pixels(source)
    monkeypatch.setattr(images, "decode_jpeg", None)
    expected = pixels(source)
    assert expected.shape == (61, 99, 3) and np.abs(sooner.astype(int) - expected).max() <= 1


def test_simplejpeg_leaves_other_jpegs_to_pillow(tmp_path):
    """Turned, gray and CMYK ones; what is wrong with a broken one Pillow says, or the size of the annotations."""
    image, exif = Image.fromarray(GRADIENT.repeat(2, 0)), Image.Exif()
    exif[0x0112] = 6
    assert load_image(encode(image, exif=exif)).shape == (3, 24, 32)
    for mode, bound in (("L", 0), ("CMYK", 0)):
        content = encode(image.convert(mode))
        assert (
            np.abs(pixels(content).astype(int) - np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).max()
            <= bound
        )
    (tmp_path / "cut.jpg").write_bytes(encode(image)[:-40])
    with pytest.raises(BrokenImageError, match=r"cut\.jpg: cannot be read as an image \(OSError: .*truncated"):
        load_image(tmp_path / "cut.jpg")
    with pytest.raises(BrokenImageError, match=r"the image is 32 x 24 pixels .* annotations are for 5 x 5"):
        load_image(encode(image), size=(5, 5))
    with pytest.raises(BrokenImageError, match=r"32 x 24|24 x 32 pixels, at most 700"):
        load_image(encode(image), max_pixels=700)
