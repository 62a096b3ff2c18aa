"""Shards behind URLs: of an S3 server and of a plain web server, both on this machine."""

import io
import json
import logging
import multiprocessing
import re
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import methodcaller
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fiber_data import (
    BrokenImageError,
    CaptionDataset,
    SplitNotFoundError,
    build_evaluation_transform,
    load_image,
    read_captions,
    read_detection,
    read_tar_shards,
    remote,
)
from fiber_data.blocks import BlockCache
from fiber_data.dataset import BrokenSample
from fiber_data.pack import pack
from fiber_data.scenes import generate_scenes
from moto.server import ThreadedMotoServer
from PIL import Image
from torch.utils.data import DataLoader


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No proxy, no waiting, and a cache of indices that is empty."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "WAIT", 0.01)
    monkeypatch.setenv("FIBER_DATA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Captions and boxes in shards."""
    root = tmp_path_factory.mktemp("remote")
    scenes = generate_scenes(root / "scenes", {"train": 24})
    pack(read_captions(scenes, "train"), root / "captions", "train", images_per_shard=10, progress=False)
    pack(read_detection(scenes, "train"), root / "boxes", "train", images_per_shard=10, progress=False)
    return root


def without_images(samples):
    return [{key: value for key, value in sample.items() if key != "image"} for sample in samples]


def counted(call):
    """What a call gives, and the requests that it made."""
    before = remote.num_requests()
    return call(), remote.num_requests() - before


def foreign(path, count, size=(40, 30)):
    """A tar as img2dataset writes it, of images of noise."""
    random = np.random.default_rng(count)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "PNG")
            record = json.dumps({"caption": f"image {number}", "url": "http://x", "key": f"{number:09}"})
            for ending, content in (("png", buffer.getvalue()), ("json", record.encode())):
                member = tarfile.TarInfo(f"{number:09}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


# A store that can be listed


@pytest.fixture(scope="module")
def bucket():
    """Puts folders into the bucket of an S3 server, and gives their URL."""
    patch = pytest.MonkeyPatch()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("NO_PROXY", "127.0.0.1,0.0.0.0,localhost"),
    ):
        patch.setenv(name, value)
    import s3fs

    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir("shards")

    def put(folder, name):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                store.put_file(str(path), f"shards/{name}/{path.relative_to(folder).as_posix()}")
        return f"s3://shards/{name}"

    yield put
    server.stop()
    patch.undo()


def test_a_bucket_is_read_as_its_folder(packed, bucket):
    for name in ("captions", "boxes"):
        url = bucket(packed / name, name)
        here = read_tar_shards(packed / name, "train")
        there, at_first = counted(lambda url=url: read_tar_shards(url, "train"))
        if name == "boxes":
            assert there.categories == here.categories
            here, there = here.samples, there.samples
        assert without_images(there) == without_images(here)
        assert there.blocks == here.blocks == [10, 10, 4]
        assert at_first == 1 + 1 + 3  # the listing, the manifest, three indices
        assert counted(lambda url=url: read_tar_shards(url, "train"))[1] == 2
        image, asked = counted(there[13]["image"].read)
        assert (image, asked) == (here[13]["image"].read(), 1)
        assert load_image(there[13]["image"]).equal(load_image(here[13]["image"]))
    assert len(read_captions("s3://shards/captions/", "train")) == 24
    with pytest.raises(SplitNotFoundError, match=r"s3://shards/captions: no shards of split 'val'; .*of 'train'"):
        read_captions("s3://shards/captions", "val")
    with pytest.raises(SplitNotFoundError, match=r"s3://nowhere/x: no shards of split 'train'.*there is no tar"):
        read_tar_shards("s3://nowhere/x", "train")


def test_a_path_made_of_a_url_is_one(packed, bucket):
    bucket(packed / "captions", "as-path")
    assert len(read_tar_shards(Path("s3://shards/as-path"), "train")) == 24


def test_foreign_shards_are_indexed_by_their_headers(tmp_path, bucket, monkeypatch):
    foreign(tmp_path / "s" / "00000.tar", 6, size=(400, 400))  # 480 KB each: most of a shard is not read
    foreign(tmp_path / "s" / "00001.tar", 3)
    (tmp_path / "s" / "00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "s" / "00000_stats.json").write_text("{}")
    url = bucket(tmp_path / "s", "foreign")
    found, at_first = counted(lambda: read_tar_shards(url))
    assert [sample["captions"] for sample in found] == [[f"image {n}"] for n in (*range(6), *range(3))]
    assert at_first <= 1 + (6 + 2) + 2
    again, later = counted(lambda: read_tar_shards(url))
    assert ([sample["image"] for sample in again], later) == ([sample["image"] for sample in found], 1)
    here = read_tar_shards(tmp_path / "s")
    assert [sample["id"] for sample in found] == [sample["id"] for sample in here]
    assert load_image(found[4]["image"]).equal(load_image(here[4]["image"]))
    foreign(tmp_path / "s" / "00001.tar", 5)
    bucket(tmp_path / "s", "foreign")
    assert len(read_tar_shards(url)) == 11


def test_worker_processes_read_them(packed, bucket):
    samples = read_tar_shards(bucket(packed / "captions", "workers"), "train")
    load_image(samples[0]["image"])  # the parent has connections of its own by now
    dataset = CaptionDataset(samples, build_evaluation_transform(32), captions="all")
    items = list(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork"))
    assert [item["id"] for item in items] == [sample["id"] for sample in samples]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        contents = pool.map(methodcaller("read"), [sample["image"] for sample in samples])
    assert contents == [sample["image"].read() for sample in samples]


def test_blocks_of_a_window_are_asked_for_once(packed, bucket, tmp_path, monkeypatch):
    """Shards in random order, their samples mixed: requests are as many as blocks, and the folder never grows."""
    foreign(tmp_path / "s" / "a-0.tar", 12, size=(100, 100))  # 30 KB each
    for number in range(1, 4):
        foreign(tmp_path / "s" / f"a-{number}.tar", 12, size=(100, 100))
    samples = read_tar_shards(bucket(tmp_path / "s", "window"), "a")
    block, limit = 2**16, 5 * 10**5  # of 4 shards of 370 KB
    cache = BlockCache(tmp_path / "blocks", limit, block)
    monkeypatch.setattr("fiber_data.blocks.read", cache.read)
    here = [sample["image"].read() for sample in read_tar_shards(tmp_path / "s", "a")]
    random = np.random.default_rng(0)
    starts = np.cumsum([0, *samples.blocks])
    before, largest = remote.num_requests(), 0
    for shard in random.permutation(len(samples.blocks)):
        for place in random.permutation(np.arange(starts[shard], starts[shard + 1])):
            assert samples[place]["image"].read() == here[place]
            held = sum(path.stat().st_size for path in (tmp_path / "blocks").glob("*/*"))
            largest = max(largest, held)
    blocks = sum(-(-path.stat().st_size // block) for path in (tmp_path / "s").iterdir())
    assert remote.num_requests() - before <= blocks < len(samples)
    assert 0 < largest <= limit


def test_the_cache_is_set_by_the_environment(packed, bucket, tmp_path, monkeypatch):
    samples = read_tar_shards(bucket(packed / "captions", "cached"), "train")
    monkeypatch.setenv("FIBER_DATA_CACHE_GB", "0.1")
    assert counted(lambda: [sample["image"].read() for sample in samples])[1] == 3  # a block holds a shard
    monkeypatch.setattr(remote, "_filesystem", lambda url: pytest.fail(f"{url} was asked for"))
    assert len({sample["image"].read() for sample in samples}) == 24
    [path] = [path for path in (tmp_path / "cache" / "blocks").glob("*/*") if path.name == "000000"][:1]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])  # as a crash may leave it
    monkeypatch.undo()
    monkeypatch.setenv("FIBER_DATA_CACHE_GB", "0.1")
    monkeypatch.setenv("FIBER_DATA_CACHE", str(tmp_path / "cache"))
    assert len({sample["image"].read() for sample in samples}) == 24
    assert path.read_bytes() == whole
    monkeypatch.setenv("FIBER_DATA_CACHE_GB", "much")
    with pytest.raises(BrokenImageError, match=r"FIBER_DATA_CACHE_GB: expected a number of 10\^9 bytes"):
        load_image(samples[0]["image"])


# A plain web server


class Server(ThreadingHTTPServer):
    """One that says nothing of clients that leave."""

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    """Files of a folder, by ranges."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        server = self.server
        server.asked[self.path] += 1
        path, _, _ = self.path.partition("?")
        if path.startswith("/moved/"):
            return self.answer(302, b"", Location=path.removeprefix("/moved"))
        if server.failures:
            return self.answer(server.failures.pop(), b"")
        file = server.folder / path.lstrip("/")
        if not file.is_file():
            return self.answer(404, b"")
        content = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or not server.has_ranges:
            return self.answer(200, content)
        first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        if first >= len(content):
            return self.answer(416, b"")
        about = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "ETag": f'"{file.stat().st_mtime_ns}"'}
        return self.answer(206, content[first : last + 1], **about)

    def answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(packed):
    server = Server(("127.0.0.1", 0), Handler)
    server.folder, server.asked, server.failures, server.has_ranges = packed, Counter(), [], True
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_web_server_is_read_by_the_manifest(packed, web):
    for name in ("captions", "boxes"):
        here = read_tar_shards(packed / name, "train")
        there = read_tar_shards(f"{web.url}/{name}/", "train")
        if name == "boxes":
            assert there.categories == here.categories
            here, there = here.samples, there.samples
        assert without_images(there) == without_images(here)
        assert there[23]["image"].read() == here[23]["image"].read()
        assert there.blocks == [10, 10, 4]
    assert all(count == 1 for path, count in web.asked.items() if path.endswith(".jsonl"))
    with pytest.raises(SplitNotFoundError, match=r"val.manifest.json is not there; name the shards, such as http://"):
        read_captions(f"{web.url}/captions", "val")


def test_a_web_server_is_read_by_names(packed, web):
    here = read_tar_shards(packed / "captions", "train")
    named = f"{web.url}/captions/train-{{00000..00002}}.tar"
    assert without_images(read_tar_shards(named, "train")) == without_images(here)
    moved = read_captions(f"{web.url}/moved/captions/train-{{00000..00002}}.tar", "train")
    assert moved[20]["image"].read() == here[20]["image"].read()
    signed = read_tar_shards(f"{web.url}/captions/train-00001.tar?signature=x", "train")
    assert without_images(signed) == without_images(here)[10:20]
    with pytest.raises(FileNotFoundError, match=r"train-00003.tar: no such file"):
        read_tar_shards(f"{web.url}/captions/train-{{00000..00003}}.tar", "train")


def test_failures_that_pass_are_tried_again(packed, web):
    web.failures = [500, 503, 429]
    samples = read_tar_shards(f"{web.url}/captions/", "train")
    web.failures = [500]
    image, asked = counted(samples[5]["image"].read)
    assert asked == 2
    assert image == read_tar_shards(packed / "captions", "train")[5]["image"].read()


def test_failures_that_last_cost_a_sample(packed, web):
    samples = read_tar_shards(f"{web.url}/captions/", "train")
    dataset = CaptionDataset(samples, build_evaluation_transform(32), captions="all")
    web.failures = [500] * remote.TRIES
    broken = dataset[0]
    assert isinstance(broken, BrokenSample)
    assert re.search(rf"{web.url}/captions/train-00000.tar: no answer in {remote.TRIES} tries \(.*500", broken.reason)
    assert dataset[0]["id"] == samples[0]["id"]
    web.failures = [403]
    with pytest.raises(BrokenImageError, match=r"train-00000.tar: may not be read \(the server answers 403\)"):
        load_image(samples[0]["image"])
    web.folder = packed / "scenes"
    with pytest.raises(BrokenImageError, match=r"captions/train-00000.tar: no such file"):
        load_image(samples[0]["image"])
    with pytest.raises(OSError, match=r"x.tar: no answer in 4 tries \(ClientConnectorError"):
        read_tar_shards("http://127.0.0.1:9/x.tar")


def test_a_server_without_ranges_is_named(packed, web):
    samples = read_tar_shards(f"{web.url}/captions/", "train")
    web.has_ranges = False
    for root in (f"{web.url}/captions/", f"{web.url}/captions/train-00000.tar"):
        with pytest.raises(
            OSError, match=r"the server sends whole files where a part is asked for \(no Range requests"
        ):
            read_tar_shards(root, "train")
    with pytest.raises(BrokenImageError, match="the server sends whole files"):
        load_image(samples[0]["image"])


def test_a_shard_that_was_changed_is_noticed(packed, web, tmp_path):
    web.folder = tmp_path
    foreign(tmp_path / "train-0.tar", 3)
    samples = read_tar_shards(f"{web.url}/train-0.tar", "train")
    foreign(tmp_path / "train-0.tar", 4, size=(41, 31))
    with pytest.raises(BrokenImageError, match=r"000000002.png is not where it was when the shard was indexed"):
        load_image(samples[2]["image"])
    assert len(read_tar_shards(f"{web.url}/train-0.tar", "train")) == 4
    content = (tmp_path / "train-0.tar").read_bytes()
    (tmp_path / "train-0.tar").write_bytes(content[:9000])
    with pytest.raises(ValueError, match=r"http://.*train-0.tar: ends inside of 000000001.png; copy the shard again"):
        read_tar_shards(f"{web.url}/train-0.tar", "train")


def test_what_is_not_installed_is_named(monkeypatch):
    def missing(scheme, **_):
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(ImportError, match=r"nothing://b/: what reads nothing:// is not installed"):
        read_tar_shards("nothing://b", "train")
    monkeypatch.setattr(remote, "_filesystems", {})
    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(
        ImportError, match=r's3://b/x/: what reads s3:// is not installed .*; pip install "fiber-data\[s3\]"'
    ):
        read_tar_shards("s3://b/x", "train")
