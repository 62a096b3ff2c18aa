"""Every kind of image becomes the same upright RGB tensor, and a broken one says why."""

import io
import os
import socket
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from fiber_data import BrokenImageError, find_missing, load_image, urls
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


@pytest.mark.parametrize("file_format", ["TIFF", None])
def test_gray_of_32_bits_is_scaled(file_format):
    """Modes "I" (0..65535) and "F" (0..1), in a file or in memory."""
    gray = GRADIENT[..., 0]
    for values in (gray.astype(np.int32) * 256 + 17, gray.astype(np.float32) / 255):
        image = Image.fromarray(values)
        assert image.mode in ("I", "F")
        source = image if file_format is None else encode(image, file_format)
        assert np.array_equal(pixels(source), np.stack([gray] * 3, -1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 65536]], np.int32), r"mode 'I' go from 0 to 65536; expected 0 to 65535"),
        (np.array([[-1, 5]], np.int32), r"mode 'I' go from -1 to 5"),
        (np.array([[0, 255]], np.float32), r"mode 'F' go from 0\.0 to 255\.0; expected 0 to 1"),
        (np.array([[0, np.nan]], np.float32), r"mode 'F' go from nan"),
    ],
)
def test_gray_out_of_the_range_of_its_mode_is_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for source, name in ((tmp_path / "deep.tif", r"deep\.tif"), (Image.fromarray(values), "image in memory")):
        with pytest.raises(BrokenImageError, match=rf"{name}: cannot be read as an image .*{message}"):
            load_image(source)


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


def test_without_a_size_the_setting_decides_of_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    for file_format in ("PNG", "TIFF"):
        content = encode(Image.fromarray(GRADIENT), file_format, exif=exif)
        displayed = load_image(content, exif="displayed").permute(1, 2, 0).numpy()
        assert np.array_equal(displayed, np.rot90(GRADIENT, -1)) and np.array_equal(displayed, pixels(content))
        assert np.array_equal(load_image(content, exif="stored").permute(1, 2, 0).numpy(), GRADIENT)


@pytest.mark.parametrize("block", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", "orientation 9"])
def test_damaged_exif_counts_as_none(block):
    if isinstance(block, str):
        exif = Image.Exif()
        exif[0x0112] = 9
        block = exif.tobytes()
    assert load_image(encode(Image.fromarray(GRADIENT), "JPEG", exif=block)).shape == (3, 16, 24)


def test_every_mode_keeps_its_colors():
    image = Image.fromarray(GRADIENT)
    for mode, bound in (("1", 0), ("YCbCr", 3), ("HSV", 6), ("RGBX", 0), ("CMYK", 0)):
        converted = image.convert(mode)
        expected = np.asarray(converted.convert("RGB")) if mode == "1" else GRADIENT
        assert np.abs(pixels(converted).astype(int) - expected).max() <= bound, mode
    half = np.dstack([np.full((4, 4), 100, np.uint8), np.repeat(np.uint8([[0], [0], [255], [255]]), 4, 1)])
    expected = np.where(half[..., 1:] == 0, 255, 100).repeat(3, -1)
    gray = Image.fromarray(half, "LA")
    for mode in ("LA", "La", "RGBA", "RGBa"):
        converted = gray if mode == "LA" else gray.convert("RGBA" if mode in ("RGBA", "RGBa") else mode)
        assert np.array_equal(pixels(converted.convert(mode)), expected), mode


def test_deep_gray_of_either_byte_order_and_with_a_transparent_value():
    deep = GRADIENT[..., 0].astype(np.uint16) * 256 + 17
    for mode, order in (("I;16L", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, (24, 16), deep.astype(order).tobytes())
        assert np.array_equal(pixels(image)[..., 0], GRADIENT[..., 0])
    loaded = pixels(encode(Image.fromarray(deep), transparency=17))[..., 0]
    assert (loaded[deep == 17] == 255).all() and np.array_equal(loaded[deep != 17], GRADIENT[..., 0][deep != 17])


def test_the_first_frame_of_what_moves():
    frames = [Image.fromarray(GRADIENT), Image.new("RGB", (24, 16))]
    for file_format, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        content = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(pixels(content), GRADIENT), file_format


def test_postscript_is_no_image(tmp_path):
    """To Pillow it is one, which it has Ghostscript compute, whatever the file's name."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(BrokenImageError, match=r"a.jpg: cannot be read as an image \(UnidentifiedImageError"):
        load_image(tmp_path / "a.jpg")


def test_an_image_without_pixels_is_broken():
    with pytest.raises(BrokenImageError, match="it has 0 x 5 pixels"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("dtype", ["float16", "float64", "longdouble", ">f4", ">f8"])
def test_floats_of_any_precision_and_byte_order(dtype):
    assert np.array_equal(pixels((GRADIENT / 255).astype(dtype)), GRADIENT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float_tensors_of_any_precision(dtype):
    white = torch.ones(3, 2, 2, dtype=dtype, requires_grad=True)
    assert (load_image(white) == 255).all() and (load_image(white / 2).int() - 128).abs().max() <= 1


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "bomb"])
def test_a_broken_image_names_file_and_reason(tmp_path, monkeypatch, kind):
    path = tmp_path / "broken.png"
    whole = encode(Image.fromarray(GRADIENT.repeat(4, 0)))
    if kind != "missing":
        path.write_bytes({"empty": b"", "text": b"no image", "truncated": whole[:-60], "bomb": whole}[kind])
    if kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    reason = (
        "no such file"
        if kind == "missing"
        else r"too many pixels .*PIL\.Image\.MAX_IMAGE_PIXELS"
        if kind == "bomb"
        else "cannot be read"
    )
    with pytest.raises(BrokenImageError, match=rf"broken\.png: .*{reason}"):
        load_image(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), r"shape \(H, W, 3\) or \(H, W\), not \(2, 4, 4, 3\)"),
        (torch.zeros(4, 4, 3), r"shape \(3, H, W\) or \(1, H, W\), not \(4, 4, 3\)"),
        (np.zeros((4, 4), np.int64), "uint8 in 0..255 or floats"),
        (np.zeros((4, 4), ">u2"), "uint8 in 0..255 or floats"),
        (np.zeros((4, 4), object), "uint8 in 0..255 or floats"),
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


def test_file_objects_and_dictionaries_of_datasets(tmp_path):
    content = encode(Image.fromarray(GRADIENT))
    (tmp_path / "a.png").write_bytes(content)

    class Stream:
        """Can do nothing but read, as an answer of a web server."""

        read = io.BytesIO(content).read

    with (tmp_path / "a.png").open("rb") as file:
        used = io.BytesIO(content)
        used.read()
        sources = [file, io.BytesIO(content), used, Stream(), bytearray(content), memoryview(content)]
        sources += [{"bytes": content, "path": None}, {"bytes": content, "path": "gone.png"}]
        sources += [{"bytes": None, "path": str(tmp_path / "a.png")}]
        for source in sources:
            assert np.array_equal(pixels(source), GRADIENT)
        assert not file.closed


def test_broken_file_objects_and_dictionaries_say_so(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with (tmp_path / "bad.png").open("rb") as file, pytest.raises(BrokenImageError, match=r"bad\.png: cannot be read"):
        load_image(file)
    with pytest.raises(BrokenImageError, match="image in memory: cannot be read"):
        load_image(io.BytesIO(b"nothing"))
    with pytest.raises(BrokenImageError, match=r"x\.png: cannot be read"):
        load_image({"bytes": b"nothing", "path": "x.png"})
    with pytest.raises(BrokenImageError, match=r"gone\.png: no such file"):
        load_image({"bytes": None, "path": "gone.png"})
    with pytest.raises(ValueError, match="a dictionary needs 'bytes' or 'path', but has 'image'"):
        load_image({"image": 1})


def test_a_cut_image_that_pillow_opened_lazily_is_broken(tmp_path):
    (tmp_path / "cut.png").write_bytes(encode(Image.fromarray(GRADIENT.repeat(4, 0)))[:-60])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(BrokenImageError, match=r"cut\.png: cannot be read"):
        load_image(image)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a named pipe")
def test_folders_and_pipes_are_refused_at_once(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, kind in (("folder", "a folder"), ("pipe", "a pipe")):
        with pytest.raises(BrokenImageError, match=rf"{name}\.jpg: is {kind}; expected an image file"):
            load_image(tmp_path / f"{name}.jpg")
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(BrokenImageError, match="cannot be read as an image"):
            load_image(name)


def test_more_pixels_than_pillows_setting_are_refused(monkeypatch):
    """Pillow itself only warns up to twice its setting: 13000 x 13000 pixels in 20 KB took 1.8 GB."""
    large = encode(Image.new("1", (13000, 13000)))
    assert len(large) < 25_000
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(BrokenImageError, match=r"too many pixels .*13000 x 13000 pixels, at most 89,478,485"):
            load_image(large)
    assert not shown
    small = encode(Image.new("1", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert load_image(small).shape == (3, 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(small).shape == (3, 100, 100)


@pytest.mark.parametrize("pillow", [1_000, 100_000, None])
def test_a_limit_of_pixels_of_ones_own(monkeypatch, pillow):
    """It counts above and below Pillow's."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
    content = encode(Image.new("1", (100, 100)))
    assert load_image(content, max_pixels=10_000).shape == (3, 100, 100)
    with pytest.raises(BrokenImageError, match=r"100 x 100 pixels, at most 9,999.*data\.max_pixels"):
        load_image(content, max_pixels=9_999)


# Addresses


class Handler(BaseHTTPRequestHandler):
    """Serves one image, and faults."""

    content = encode(Image.fromarray(GRADIENT))

    def do_GET(self):
        if self.path in ("/moved.png", "/gone.png"):
            self.send_response(302 if self.path == "/moved.png" else 404)
            self.send_header("Location", "/a.png")
            self.end_headers()
            return
        self.send_response(200)
        body = b"<html>" if self.path == "/page.png" else self.content
        if self.path != "/endless.png":
            self.send_header("Content-Length", str(len(body) + 10 * (self.path == "/cut.png")))
        self.end_headers()
        for _ in range(400 if self.path == "/endless.png" else 0):
            self.wfile.write(bytes(1000))
        if self.path == "/slow.png":
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        self.wfile.write(body)

    def log_message(self, *_):
        """Keeps quiet."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_an_image_behind_an_address(server):
    for source in (f"{server}/a.png", f"{server}/moved.png", f"HTTP{server[4:]}/a.png"):
        assert np.array_equal(pixels(source), GRADIENT)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gone.png", r"the server answers 404 \(Not Found\)"),
        ("page.png", "cannot be read as an image"),
        ("cut.png", "the connection ended 10 bytes before the end of the file"),
        ("endless.png", "the file is larger than 100,000 bytes"),
        ("slow.png", "no whole file within 0.3 seconds"),
        ("a b.png", "no answer"),
    ],
)
def test_an_address_without_an_image_is_one_sentence(server, monkeypatch, path, reason):
    monkeypatch.setattr(urls, "MAX_BYTES", 100_000)
    if path == "slow.png":
        monkeypatch.setattr(urls, "TIMEOUT", 0.3)
    started = time.monotonic()
    with pytest.raises(BrokenImageError, match=reason) as error:
        load_image(f"{server}/{path}")
    assert str(error.value).startswith(f"{server}/{path}: ") and "\n" not in str(error.value)
    assert time.monotonic() - started < 5


def test_nobody_answers(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(urls, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the connection and says nothing
        address = f"http://127.0.0.1:{mute.getsockname()[1]}/a.png"
        with pytest.raises(BrokenImageError, match=r"a\.png: no (whole file|answer) within 0.3 seconds"):
            load_image(address)
    with pytest.raises(BrokenImageError, match=r"a\.png: no answer \(.*refused"):
        load_image(address)


def test_images_behind_addresses_are_not_missing_on_disk():
    assert find_missing([{"image": "https://example.org/a.png"}, {"image": Path("a.png")}]) == [Path("a.png")]
