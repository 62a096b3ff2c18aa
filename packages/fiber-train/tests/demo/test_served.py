"""The served page, asked by programs: several people at once, what may not be read, and what may not be uploaded."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fiber_backbone import FiberBackbone, fiber_tiny
from fiber_data import FiberProcessor, GroundingProcessor, train_tokenizer
from fiber_heads import (
    AnsweringConfig,
    FiberForGrounding,
    FiberForQuestionAnswering,
    FiberForRetrieval,
    GroundingConfig,
    TaskModel,
)
from fiber_train.demo.asked import load_asked
from fiber_train.demo.folder import Folder
from PIL import Image

pytest.importorskip("gradio")
import httpx
from fiber_train.demo.page import build_page, launch
from gradio_client import Client, handle_file

MOST_PIXELS = 100_000
QUESTION = "how many shapes are there?"


@dataclass
class Served:
    """A page at work."""

    url: str
    images: Path
    models: list

    def client(self) -> Client:
        return Client(self.url, verbose=False, analytics_enabled=False, download_files=False)


def made(model: TaskModel, processor: object) -> TaskModel:
    model.processor = processor
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.constant_(parameter, 0.5)
    return model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Three tiny models of random weights over a folder called secret."""
    root = tmp_path_factory.mktemp("secret")
    torch.manual_seed(0)
    tokenizer = train_tokenizer([QUESTION, "a red circle and a blue square"], vocab_size=300)
    config = GroundingConfig(channels=16, num_blocks=1, norm_groups=4, strides=(4, 8, 16, 32, 64))
    fine = FiberForGrounding(FiberBackbone.from_config(fiber_tiny().config.fine_stage()), config)
    asked = FiberForQuestionAnswering(fiber_tiny(), AnsweringConfig(("red", "blue", "3")))
    made(fine, GroundingProcessor(tokenizer, 64, 64, 20)).save_pretrained(root / "fine")
    made(asked, FiberProcessor(tokenizer, 64, 20)).save_pretrained(root / "vqa")
    made(FiberForRetrieval(fiber_tiny()), FiberProcessor(tokenizer, 64, 20)).save_pretrained(root / "coarse")
    (root / "photos").mkdir()
    for number in range(8):
        photo(number).save(root / "photos" / f"{number}.png")
    photo(99).save(root / "outside.png")
    (root / "photos" / "link.png").symlink_to(root / "outside.png")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    models = [load_asked(root / name) for name in ("fine", "vqa", "coarse")]
    page = build_page(models, Folder.open(root / "photos", root), MOST_PIXELS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch(page, "127.0.0.1", port, 1)
    yield Served(f"http://127.0.0.1:{port}", root / "photos", models)
    page.close(verbose=False)
    monkeypatch.undo()


def photo(seed: int) -> Image.Image:
    pixels = torch.randint(0, 255, (40, 60, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def shown_image(html: str) -> str:
    return re.search(r'(?:href|src)="(data:image/[^"]+)"', html)[1]


def test_people_who_ask_at_once_get_what_each_gets_alone(served: Served, tmp_path: Path) -> None:
    """Each with an image and a threshold of their own, their questions in between each other's."""
    paths = []
    for number in range(4):
        photo(200 + number).save(tmp_path / f"{number}.png")
        paths.append(tmp_path / f"{number}.png")
    start = threading.Barrier(len(paths))

    def ask(number: int, together: bool) -> list[str]:
        client, image = served.client(), handle_file(str(paths[number]))
        said = []
        for turn in range(2):
            if together:
                start.wait(timeout=60)
            said.append(str(client.predict(image, QUESTION, api_name="/ask")[0]))
            said.append(client.predict(image, "a red circle", "phrases of a sentence", 0.05, api_name="/find"))
            # of its session's boxes, without the image
            said.append(client.predict(0.05 + 0.05 * number + 0.01 * turn, api_name="/boxes_html"))
            said.append(client.predict(image, "a red circle", "circle", api_name="/look"))  # on the tab of boxes
        return said

    alone = [ask(number, together=False) for number in range(len(paths))]
    with ThreadPoolExecutor(len(paths)) as pool:
        together = list(pool.map(lambda number: ask(number, together=True), range(len(paths))))
    assert together == alone
    assert len({shown_image(each[2]) for each in alone}) == len(paths), "a moved slider shows one's own image"


def test_a_new_session_has_no_one_s_boxes(served: Served) -> None:
    served.client().predict(
        handle_file(str(served.images / "0.png")), "a red circle", "categories", 0.05, api_name="/find"
    )
    assert "data:image" not in served.client().predict(0.05, api_name="/boxes_html")


def test_images_of_many_people_take_no_more_memory_than_those_of_a_few(served: Served, tmp_path: Path) -> None:
    client, cache = served.client(), served.models[1].model.backbone.image_cache
    cache.max_bytes, before = 50_000, cache.max_bytes
    try:
        for number in range(12):
            photo(300 + number).save(tmp_path / f"{number}.png")
            client.predict(handle_file(str(tmp_path / f"{number}.png")), QUESTION, api_name="/ask")
        assert 0 < cache.num_bytes <= 50_000
    finally:
        cache.max_bytes = before


def files(folder: Path) -> dict[str, Path]:
    """What people upload that is no photo, or a strange one."""
    photo(0).save(folder / "photo.jpg")
    Image.new("L", (1000, 101)).save(folder / "many.png")
    Image.new("P", (20_000, 20_000)).save(folder / "bomb.png")  # above Pillow's own limit, in 50 KB
    (folder / "words.png").write_text("no image")
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
    (folder / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (folder / "cut.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:1500])
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "lime", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    return {path.name: path for path in folder.iterdir()}


TOO_MANY = "the image has more than 0.1 million pixels, the most of this page; make it smaller"
NO_IMAGE = "the file is no image that can be read here; save it as JPEG or PNG (a HEIC photo, too)"
SENTENCES = {
    "many.png": TOO_MANY,
    "bomb.png": TOO_MANY,
    "words.png": NO_IMAGE,
    "photo.heic": NO_IMAGE,
    "drawing.svg": NO_IMAGE,
    "cut.jpg": "the image is damaged or cut short; upload it again, or save it anew as JPEG or PNG",
}


def test_what_is_no_image_is_refused_in_one_sentence_without_a_path(served: Served, tmp_path: Path) -> None:
    client, given = served.client(), files(tmp_path)
    for name, sentence in SENTENCES.items():
        image = handle_file(str(given[name]))
        error = f'<p class="fiber-error" role="alert">{sentence}</p>'
        assert client.predict(image, api_name="/checked") == error, f"as soon as {name} is uploaded"
        assert client.predict(image, QUESTION, api_name="/ask")[0] == error
    assert client.predict(handle_file(str(given["moving.gif"])), api_name="/checked") == ""
    moving = client.predict(handle_file(str(given["moving.gif"])), "red", "one thing", 0.05, api_name="/find")
    shown = shown_image(moving)
    assert center(shown)[0] > 200 > 100 > center(shown)[2], "of an animation the first image"
    with pytest.raises(Exception, match=r"413|exceeds|too large|File size"):
        (tmp_path / "big.png").write_bytes(bytes(1_100_000))
        client.predict(handle_file(str(tmp_path / "big.png")), api_name="/checked")


def center(address: str) -> tuple[int, int, int]:
    from base64 import b64decode
    from io import BytesIO

    image = Image.open(BytesIO(b64decode(address.partition(",")[2]))).convert("RGB")
    return image.getpixel((image.width // 2, image.height // 2))


def test_no_file_of_the_server_s_can_be_read(served: Served, tmp_path: Path) -> None:
    photo(5).save(tmp_path / "own.png")
    for path in (served.images / "0.png", served.images.parent / "outside.png", "/etc/passwd", tmp_path / "own.png"):
        for form in (path, f"{served.images}/../photos/0.png"):
            assert httpx.get(f"{served.url}/gradio_api/file={form}").status_code in (403, 404)
        told = {"path": str(path), "orig_name": "0.png", "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(Exception, match=r"(?i)error|not.*allowed|cannot"):
            served.client().predict(told, QUESTION, api_name="/ask")


def test_a_search_shows_what_is_in_the_folder_alone(served: Served) -> None:
    found = served.client().predict("a red circle", api_name="/found")
    assert "of 8 images" in found, "a link that leads out of it is left out"
    assert "link.png" not in found
    assert "secret" not in found


def test_no_folder_is_on_the_page(served: Served) -> None:
    for place in ("", "config", "gradio_api/info"):
        content = httpx.get(f"{served.url}/{place}").text
        assert "secret" not in content
        assert str(served.images) not in content
