"""Images of every format that the installed Pillow writes, and of those that it only reads but that are easily made."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fuzz.target import Target

_NO_IMAGES = {"PDF", "PALM", "EPS", "BUFR", "GRIB", "HDF5", "WMF"}  # Pillow writes but does not read them
_MODES = ("RGB", "RGBA", "P", "L", "1", "CMYK", "I;16", "F", "LA")
_SIZE = (9, 6)
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "PNG": [{"interlace": 1}],
    "TIFF": [{"compression": kind} for kind in ("tiff_lzw", "tiff_deflate", "packbits")],
    "JPEG": [{"progressive": True}, {"exif": True}],
    "WEBP": [{"lossless": True}],
    "TGA": [{"compression": "tga_rle"}],
    "ICO": [{"sizes": [_SIZE]}, {"sizes": [_SIZE], "bitmap_format": "bmp"}],
}


class ImageTarget(Target):
    """Images of one format.

    Args:
        format: Pillow's name of it.
    """

    def __init__(self, format: str) -> None:
        super().__init__(f"image_{format.lower()}", self._made, share=0.25)
        self.format = format

    def _made(self) -> Mapping[str, bytes]:
        from fiber_data import load_image

        contents: dict[bytes, str] = {}
        for options in ({}, *_OPTIONS.get(self.format, ())):
            for mode in _MODES if self.format != "ICNS" else ("RGB",):  # which holds ten sizes
                file, image = io.BytesIO(), _image(mode)
                chosen = {**options, "exif": _exif()} if "exif" in options else options
                try:
                    image.save(file, self.format, **chosen)
                    load_image(file.getvalue())
                except (OSError, ValueError, KeyError):  # not every format has every mode
                    continue
                contents.setdefault(file.getvalue(), f"{len(contents)}_{mode.replace(';', '')}.{self.format.lower()}")
        return {name: content for content, name in contents.items()}

    def form(self, name: str) -> str | None:
        return None

    def read(self, folder: Path) -> Any:
        from fiber_data import load_image

        changed = [name for name, content in self.files.items() if (folder / name).read_bytes() != content]
        return {name: load_image(folder / name) for name in changed or self.files}

    def parts(self, result: Any) -> Counter[str]:
        return Counter(f"{name} {image.flatten().tolist()}" for name, image in result.items() if image.numel() < 1000)

    def breaches(self, result: Any) -> list[str]:
        import torch

        return [
            f"no RGB of 8 bits: {name} is {tuple(image.shape)} of {image.dtype}"
            for name, image in result.items()
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape
        ]


class PacketTarget(ImageTarget):
    """Formats that Pillow reads and does not write, in one target."""

    def _made(self) -> Mapping[str, bytes]:
        width, height = _SIZE
        rows = [bytes(3 * column * (row + 1) % 256 for column in range(width)) for row in range(height)]
        gray = b"".join(rows)
        rgb = bytes(value for value in gray for _ in range(3))
        head = [width.to_bytes(4, "big"), height.to_bytes(4, "big")]
        xpm = [f'"{width} {height} 2 1"', '"a c #FF0000"', '"b c #0000FF"', *['"' + "ab" * 4 + 'a"'] * height]
        psd = b"8BPS\0\x01" + bytes(6) + b"\0\x03" + head[1] + head[0] + b"\0\x08\0\x03" + bytes(12) + b"\0\0"
        fits = [f"{key:8}= {value:>20}".ljust(80) for key, value in _FITS.items()]
        sun = b"\x59\xa6\x6a\x95" + head[0] + head[1] + b"\0\0\0\x18" + len(rgb).to_bytes(4, "big") + b"\0\0\0\x01"
        return {
            "a.psd": psd + rgb,
            "a.ras": sun
            + bytes(8)
            + b"".join(rgb[3 * width * row : 3 * width * (row + 1)] + b"\0" for row in range(height)),
            "a.xpm": ("/* XPM */\nstatic char *a[] = {\n" + ",\n".join(xpm) + "\n};\n").encode(),
            "a.fits": ("".join(fits) + "END".ljust(80)).ljust(2880).encode() + gray,
            "a.p7": b"P7 332\n#END_OF_COMMENTS\n%d %d 255\n" % _SIZE + gray,
        }


_FITS = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 2, "NAXIS1": _SIZE[0], "NAXIS2": _SIZE[1]}


def _image(mode: str) -> Any:
    import numpy as np
    from PIL import Image

    values = np.arange(_SIZE[0] * _SIZE[1] * 3, dtype=np.uint8).reshape(_SIZE[1], _SIZE[0], 3)
    if mode in ("I", "I;16", "F"):
        gray = values[..., 0]
        kinds: dict[str, Any] = {
            "I": gray.astype(np.int32),
            "I;16": gray.astype(np.uint16),
            "F": gray / np.float32(255),
        }
        return Image.fromarray(kinds[mode])
    image = Image.fromarray(values)
    return image.convert("RGBA").convert("LA") if mode == "LA" else image.convert(mode)


def _exif() -> Any:
    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


_FORMATS = ("avif", "blp", "bmp", "dds", "dib", "gif", "icns", "ico", "im", "jpeg", "jpeg2000", "mpo", "msp")
_OTHERS = ("pcx", "png", "ppm", "qoi", "sgi", "spider", "tga", "tiff", "webp", "xbm")
TARGETS = [*(ImageTarget(name.upper()) for name in (*_FORMATS, *_OTHERS)), PacketTarget("OTHERS")]
