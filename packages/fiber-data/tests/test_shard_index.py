"""Indices of shards: a tar is scanned once, and again when it was changed."""

import gzip
import io
import json
import os
import tarfile
import warnings

import pytest
from fiber_data import BrokenImageError, CaptionDataset, build_evaluation_transform, load_image, read_tar_shards
from fiber_data.dataset import BrokenSample
from fiber_data.formats import shard_index
from fiber_data.pack import pack, verify
from PIL import Image


def jpeg(color="red", size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path, files, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def files_of(*numbers, caption="a cat"):
    files = {}
    for number in numbers:
        files |= {f"{number:09}.jpg": jpeg(), f"{number:09}.json": json.dumps({"caption": caption}).encode()}
    return files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIBER_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def no_scan(monkeypatch):
    """From when it is called, no tar is scanned any more."""

    def forbid():
        monkeypatch.setattr(shard_index.tarfile, "open", lambda *_, **__: pytest.fail("a tar was scanned"))

    return forbid


def texts(samples):
    return [sample["captions"] for sample in samples]


def test_a_packed_shard_is_not_scanned(tmp_path, cache, no_scan):
    given = [{"image": jpeg(size=(20 + number, 30)), "id": number, "captions": [f"{number}"]} for number in range(5)]
    pack(given, tmp_path / "s", "train", images_per_shard=2)
    scanned = {path: path.read_bytes() for path in (tmp_path / "s").glob("*.tar")}
    no_scan()
    found = read_tar_shards(tmp_path / "s", "train")
    assert texts(found) == texts(given)
    assert [sample["image"].read() for sample in found] == [sample["image"] for sample in given]
    assert len(scanned) == 3
    assert not cache.exists()


def test_an_index_that_is_damaged_or_of_another_shard_is_not_used(tmp_path, cache):
    given = [{"image": jpeg(), "id": number, "captions": [f"{number}"]} for number in range(4)]
    pack(given, tmp_path, "train", images_per_shard=2)
    first, second = sorted(tmp_path.glob("*.jsonl"))
    content = first.read_bytes()
    for damaged in (content.replace(b'"0"', b'"9"'), content[:-3], b"\xff", b"[]\n", content.replace(b"{", b"[", 1)):
        assert damaged != content
        first.write_bytes(damaged)
        assert texts(read_tar_shards(tmp_path, "train")) == texts(given)
        assert len(verify(tmp_path, "train")) == 1
    first.write_bytes(content)
    first.write_bytes(second.read_bytes())
    (tmp_path / "train-00000.tar").write_bytes((tmp_path / "train-00000.tar").read_bytes() + bytes(512))
    assert texts(read_tar_shards(tmp_path, "train")) == texts(given)


def test_a_foreign_tar_is_scanned_once(tmp_path, cache, no_scan):
    path = write_tar(tmp_path / "s" / "train-0.tar", files_of(1, 2))
    first = read_tar_shards(tmp_path / "s", "train")
    [kept] = cache.iterdir()
    assert [entry.name for entry in (tmp_path / "s").iterdir()] == ["train-0.tar"]  # nothing is put beside it
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    path.write_bytes(path.read_bytes().replace(b"a cat", b"a dog"))
    assert texts(read_tar_shards(tmp_path / "s", "train")) == [["a dog"], ["a dog"]]
    assert [kept] == list(cache.iterdir())
    no_scan()
    again = read_tar_shards(tmp_path / "s", "train")
    assert [(each["id"], each["image"]) for each in again] == [(each["id"], each["image"]) for each in first]


def test_what_is_wrong_is_said_again_from_the_index(tmp_path, cache, no_scan):
    files = {**files_of(1), "b.txt": b"no image", "c.jpg": jpeg(), "c.json": b"[1]", "d.jpg": jpeg(), "d.txt": b"\xff"}
    write_tar(tmp_path / "s" / "train-0.tar", files)
    said = []
    for _ in range(2):
        with pytest.warns(UserWarning) as warned:
            found = read_tar_shards(tmp_path / "s", "train", bad_entries="count")
        said.append((str(warned[0].message), found.faults, len(found)))
        with pytest.raises(ValueError, match=r"train-0.tar: c: expected an object, found list"):
            read_tar_shards(tmp_path / "s", "train")
        no_scan()
    assert said[0] == said[1]
    assert said[0][2] == 1
    assert "are refused" in said[0][0]
    assert "have no image" in said[0][0]


def test_a_cache_that_cannot_be_written_is_gone_without(tmp_path, monkeypatch):
    monkeypatch.setenv("FIBER_DATA_CACHE", os.devnull)
    write_tar(tmp_path / "train-0.tar", files_of(1))
    assert texts(read_tar_shards(tmp_path, "train")) == [["a cat"]]


def test_compressed_shards_are_named(tmp_path):
    plain = write_tar(tmp_path / "plain", files_of(1)).read_bytes()
    (tmp_path / "train-0.tar").write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=r"train-0.tar: expected a tar without compression.*by gzip: unpack it"):
        read_tar_shards(tmp_path, "train")


def test_names_as_tar_writes_a_folder(tmp_path):
    """`tar cf x.tar .` begins every name with ./, and lists folders; a Mac adds files that begin with a dot."""
    files = files_of(1, 2)
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, content in [
            ("./", b""),
            ("./._1.jpg", b"x"),
            *((f"./a.b/{name}", each) for name, each in files.items()),
        ]:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = read_tar_shards(tmp_path, "train")
    assert [sample["id"] for sample in found] == ["train-0/000000001", "train-0/000000002"]


def test_folders_of_several_downloads_are_read_together(tmp_path):
    """What an image downloader writes beside its tars is no sample; numbers begin anew in each folder."""
    for part in ("cc3m", "cc12m"):
        write_tar(tmp_path / part / "00000.tar", files_of(0, 1))
        (tmp_path / part / "00000.parquet").write_bytes(b"PAR1")
        (tmp_path / part / "00000_stats.json").write_text('{"count": 2}')
    (tmp_path / "_tmp").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_tar_shards(tmp_path, "cc3m+cc12m")
        every = read_tar_shards(tmp_path)
    assert [sample["id"] for sample in found] == [
        f"{part}/00000/{key:09}" for part in ("cc3m", "cc12m") for key in (0, 1)
    ]
    assert found.blocks == [2, 2]
    assert sorted(sample["id"] for sample in every) == sorted(sample["id"] for sample in found)


def test_shards_by_name(tmp_path):
    for number in range(8, 12):
        write_tar(tmp_path / f"shard-{number:03}.tar", files_of(number))
    named = f"{tmp_path}/shard-{{008..010}}.tar"
    assert [sample["id"] for sample in read_tar_shards(named)] == [f"shard-{n:03}/{n:09}" for n in (8, 9, 10)]
    with pytest.warns(UserWarning, match="are held out as 'val'"):
        assert len(read_tar_shards(named, "train")) == 2
    assert len(read_tar_shards(named, "shard")) == 3
    with pytest.raises(FileNotFoundError, match=r"shard-012.tar: no such shard"):
        read_tar_shards(f"{tmp_path}/shard-{{011..012}}.tar")
    with pytest.raises(ValueError, match=r"expected a range that counts up, found \{3..1\}"):
        read_tar_shards(f"{tmp_path}/shard-{{3..1}}.tar")
    with pytest.raises(ValueError, match="stands for more than 1,000,000 shards"):
        read_tar_shards(f"{tmp_path}/shard-{{0..99999999}}.tar")


def test_a_shard_that_vanishes_or_changes_costs_its_samples(tmp_path):
    write_tar(tmp_path / "train-0.tar", {"0.jpg": jpeg(size=(90, 90)), "0.txt": b"a", "1.jpg": jpeg(), "1.txt": b"b"})
    write_tar(tmp_path / "train-1.tar", files_of(2))
    samples = read_tar_shards(tmp_path, "train")
    dataset = CaptionDataset(samples, build_evaluation_transform(32))
    assert not any(isinstance(dataset[index], BrokenSample) for index in range(3))
    write_tar(tmp_path / "train-0.tar", {"7.jpg": jpeg(), "7.txt": b"b", "8.jpg": jpeg(), "8.txt": b"b"})
    (tmp_path / "train-1.tar").unlink()
    reasons = [dataset[index].reason for index in range(3)]
    assert "0.jpg is not where it was when the shard was indexed" in reasons[0]
    assert "1.jpg is not where it was" in reasons[1]
    assert "train-1.tar" in reasons[2]
    with pytest.raises(BrokenImageError, match="No such file"):
        load_image(samples[2]["image"])
