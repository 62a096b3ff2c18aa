"""HEIC, what iPhones write, is read where the extra is installed; else a sentence says what to install."""

import numpy as np
import pytest
from fiber_data import BrokenImageError, image_suffixes, load_image
from fiber_data.suffixes import HEIF
from PIL import Image

PHOTO = Image.fromarray(np.linspace(0, 255, 48 * 32 * 3).reshape(32, 48, 3).astype(np.uint8))


@pytest.mark.skipif(not HEIF, reason="pillow-heif is installed")
def test_without_the_extra_what_to_install_is_said(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(BrokenImageError, match=r'IMG_1.HEIC: cannot be .*; .*pip install "fiber-data\[heif\]"'):
        load_image(tmp_path / "IMG_1.HEIC")


def test_with_the_extra_photos_of_phones_are_read(tmp_path):
    pytest.importorskip("pillow_heif")
    PHOTO.save(tmp_path / "a.heic", quality=95)
    assert ".heic" in image_suffixes()
    found = load_image(tmp_path / "a.heic").permute(1, 2, 0).numpy()
    assert found.shape == (32, 48, 3)
    assert np.abs(found.astype(int) - np.asarray(PHOTO)).mean() < 8
