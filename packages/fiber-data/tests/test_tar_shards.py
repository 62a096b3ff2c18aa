"""Tar shards: packed by us, read by others, and the other way round."""

import io
import json
import tarfile
import warnings

import pytest
import webdataset
from fiber_data import load_image, read_captions, read_tar_shards
from fiber_data.cli import main
from fiber_data.pack import pack, verify
from fiber_data.scenes import generate_scenes
from PIL import Image


def jpeg(size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return read_captions(generate_scenes(tmp_path_factory.mktemp("scenes") / "s", {"train": 25}), "train")


def test_what_is_packed_is_read_again(samples, tmp_path):
    shards = pack(samples, tmp_path, "train", images_per_shard=10)
    assert [shard.num_images for shard in shards] == [10, 10, 5]
    again = read_tar_shards(tmp_path, "train")
    assert [(each["id"], each["captions"]) for each in again] == [(each["id"], each["captions"]) for each in samples]
    for ours, theirs in zip(again, samples, strict=True):
        assert ours["image"].read() == theirs["image"].read_bytes()
        assert load_image(ours["image"]).equal(load_image(theirs["image"]))
    assert verify(tmp_path, "train") == []


def test_webdataset_reads_them(samples, tmp_path):
    pack(samples, tmp_path, "train", images_per_shard=20)
    urls = sorted(map(str, tmp_path.glob("*.tar")))
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("png", "json"))
    assert [record["captions"] for _, record in found] == [sample["captions"] for sample in samples]
    assert {image.size for image, _ in found} == {(64, 64)}


def test_an_interrupted_packing_goes_on_and_keeps_what_is_whole(samples, tmp_path):
    pack(samples, tmp_path, "train", images_per_shard=10)
    first, second, third = sorted(tmp_path.glob("*.tar"))
    whole = [path.read_bytes() for path in (first, second, third)]
    written = first.stat().st_mtime_ns
    second.write_bytes(whole[1][:-5000])
    third.unlink()
    assert len(verify(tmp_path, "train")) == 2
    pack(samples, tmp_path, "train", images_per_shard=10, num_workers=2)
    assert [path.read_bytes() for path in (first, second, third)] == whole
    assert first.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"holds shards of other images_per_shard; choose another folder"):
        pack(samples, tmp_path, "train", images_per_shard=5)
    with pytest.raises(ValueError, match="holds shards of other samples"):
        pack(samples[:-1], tmp_path, "train", images_per_shard=10)
    write_tar(tmp_path / "val-00000.tar", {})
    with pytest.raises(ValueError, match=r"val-00000.tar: a file that no manifest names"):
        pack(samples, tmp_path, "val")


def test_large_images_are_resized_and_broken_ones_left_out(tmp_path):
    (tmp_path / "large.jpg").write_bytes(jpeg((400, 200)))
    (tmp_path / "small.png").write_bytes(jpeg((50, 20)))  # another suffix than its format
    (tmp_path / "cut.jpg").write_bytes(jpeg((400, 200))[:300])
    given = [
        {"image": tmp_path / name, "captions": ["a"], "id": name} for name in ("large.jpg", "cut.jpg", "small.png")
    ]
    [shard] = pack(given, tmp_path / "out", "train", max_side=100)
    assert shard.num_images == 2
    assert "cut.jpg" in shard.left_out[0]
    large, small = read_tar_shards(tmp_path / "out", "train")
    assert load_image(large["image"]).shape == (3, 50, 100)
    assert small["image"].read() == (tmp_path / "small.png").read_bytes()


def test_shards_of_img2dataset(tmp_path):
    success = {"status": "success", "key": "000000000", "caption": "a cat", "url": "http://x/1.jpg", "width": 40}
    failed = {"status": "failed_to_download", "key": "000000001", "caption": "gone", "url": "http://x/2.jpg"}
    files = {"000000000.jpg": jpeg(), "000000000.txt": b"a cat", "000000000.json": json.dumps(success).encode()}
    write_tar(tmp_path / "00000.tar", {**files, "000000001.json": json.dumps(failed).encode()})
    write_tar(tmp_path / "00001.tar", {"000010000.txt": "ein Bär\n".encode(), "000010000.webp": jpeg()})
    with pytest.warns(UserWarning, match=r"of the samples 1 have no image \(the first: .*000000001\); these are left"):
        found = read_tar_shards(tmp_path)
    assert [(each["id"], each["captions"]) for each in found] == [
        ("00000/000000000", ["a cat"]),
        ("00001/000010000", ["ein Bär"]),
    ]
    assert load_image(found[0]["image"]).shape == (3, 30, 40)
    with pytest.warns(UserWarning, match="are held out as 'val'"):
        held = [read_tar_shards(tmp_path, split, hold_out=0.5) for split in ("train", "val")]
    assert sorted(sample["id"] for part in held for sample in part) == [sample["id"] for sample in found]
    with pytest.raises(ValueError, match=r"no shards of split 'test'.*2 shards without a split in their names"):
        read_tar_shards(tmp_path, "test")


def test_splits_are_folders_too(tmp_path):
    for split in ("train", "val"):
        write_tar(tmp_path / split / "0.tar", {f"{split}.jpg": jpeg(), f"{split}.txt": b"a cat"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [each["id"] for each in read_tar_shards(tmp_path, "val")] == ["0/val"]
    with pytest.raises(ValueError, match=r"no shards of split 'test'.*there are shards of 'train', 'val'"):
        read_tar_shards(tmp_path, "test")


def test_damaged_shards_are_named(tmp_path):
    whole = write_tar(tmp_path / "train-0.tar", {"a.jpg": jpeg(), "a.json": b"{}", "b.jpg": jpeg(), "b.txt": b"b"})
    with pytest.warns(UserWarning, match="of the samples 1 have no caption"):
        [sample] = read_tar_shards(tmp_path, "train")
    content = whole.read_bytes()
    whole.write_bytes(content[: sample["image"].offset + 100])
    with pytest.raises(ValueError, match=r"train-0.tar: ends inside of b.jpg; copy the shard again"):
        read_tar_shards(tmp_path, "train")
    with pytest.raises(ValueError, match=r"train-0.tar ends inside of b.jpg; copy the shard again"):
        load_image(sample["image"])
    whole.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match=r"train-0.tar: expected a tar without compression"):
        read_tar_shards(tmp_path, "train")
    write_tar(whole, {"a.jpg": jpeg(), "a.json": b"[1]"})
    with pytest.raises(ValueError, match=r"train-0.tar: a: expected an object, found list"):
        read_tar_shards(tmp_path, "train")


def test_the_command(tmp_path, capsys):
    scenes = generate_scenes(tmp_path / "scenes", {"train": 20, "val": 20})
    shards = tmp_path / "shards"
    assert main(["pack", str(scenes), "--out", str(shards), "--images-per-shard", "8", "--verify"]) == 0
    assert "20 images, 20 samples in 3 shards" in capsys.readouterr().out
    assert main(["check", str(shards)]) == 0
    assert "tar_shards, split 'train', 20 samples" in capsys.readouterr().out
    assert len(read_captions(shards, "train")) == 20
