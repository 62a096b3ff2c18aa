"""Packs the samples of any reader into tar shards that `fiber_data.read_tar_shards`, webdataset and ``tar`` read.

A million small files are slow to list, to copy and to read over a network; a thousand shards are not. Shards are made
side by side, each written beside its name and renamed when it is whole, so that a packing that was interrupted goes on
where it stopped. An image that several samples share (questions, captions with boxes) is packed once, with all of
them. Beside each shard lies its index, so that nobody has to scan it; ``<split>.manifest.json`` holds what was packed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from fiber_data.formats.detection import DetectionData
from fiber_data.formats.shard_index import Entry, ShardImage, index_beside, parse_index, write_index
from fiber_data.formats.shard_places import MANIFEST
from fiber_data.formats.shard_records import fits_flat, to_record
from fiber_data.images import BrokenImageError
from fiber_data.pack_images import Encoded, check_scalable, encode, scale
from fiber_data.pack_manifest import PackedShard, read_manifest, write_manifest

_FORMAT = "fiber-data shards 2"


class _Plan(NamedTuple):
    """What goes into the shards.

    Attributes:
        groups: For each image (or images of one sample) the positions of its samples.
        flat: Whether each image has one sample, of captions alone.
        sha256: What tells other samples from these.
    """

    groups: list[list[int]]
    flat: bool
    sha256: str


def pack(
    samples: Sequence[Mapping[str, Any]] | DetectionData,
    out: str | Path,
    split: str,
    *,
    images_per_shard: int = 5000,
    max_side: int | None = None,
    num_workers: int = 1,
    progress: bool = True,
) -> list[PackedShard]:
    """Writes samples to ``<split>-00000.tar`` and so on. Called again, it goes on with what is missing.

    Args:
        samples: What a reader gives, of whatever kind: mappings with ``id`` and ``image`` (or ``images``), of which
            JSON can hold all else.
        out: Folder of the shards; it is made.
        split: What the shards are called by.
        images_per_shard: Images of a shard (of NLVR2 pairs), in the order in which samples first name them; the last
            shard has what is left.
        max_side: Images with a longer side, in pixels, are resized to it, turned as EXIF or their annotated size says,
            and kept as JPEG; sizes, boxes and areas of their samples are scaled with them. None keeps every file.
        num_workers: Threads that pack.
        progress: Whether to show a bar.

    Returns:
        What each shard holds. An image that cannot be decoded, or has not its annotated size, is left out, and named
        there.

    Raises:
        ValueError: An argument is out of its range, the folder holds shards of other samples or settings, a sample has
            no id or image, a value that JSON cannot hold, or, with `max_side`, boxes that cannot be scaled.
    """
    if images_per_shard < 1 or num_workers < 1 or (max_side is not None and max_side < 1):
        raise ValueError("images_per_shard, num_workers and max_side must be at least 1")
    rows = samples.samples if isinstance(samples, DetectionData) else samples
    plan = _plan(rows, max_side)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / f"{split}{MANIFEST}"
    settings = {"format": _FORMAT, "images_per_shard": images_per_shard, "max_side": max_side, "samples": plan.sha256}
    if isinstance(samples, DetectionData):
        names = {"categories": samples.categories, "frequencies": samples.frequencies}
        settings |= {key: {str(number): name for number, name in of.items()} for key, of in names.items()}
    done = read_manifest(manifest, settings)
    parts = {
        f"{split}-{number:05}.tar": plan.groups[first : first + images_per_shard]
        for number, first in enumerate(range(0, len(plan.groups), images_per_shard))
    }
    if manifest.exists():
        done = {name: shard for name, shard in done.items() if _is_whole(folder / name, shard)}
    elif taken := [name for name in parts if (folder / name).exists()]:
        raise ValueError(f"{folder / taken[0]}: a file that no manifest names; choose another folder")
    write_manifest(manifest, settings, done)
    todo = [(folder / name, part) for name, part in parts.items() if name not in done]
    with tqdm(total=len(plan.groups), desc=f"packing {split}", unit="image", disable=None if progress else True) as bar:
        bar.update(sum(len(parts[name]) for name in done))
        with ThreadPoolExecutor(num_workers) as pool:  # decoding, resizing and writing hold no lock of Python's
            for shard in pool.map(partial(_write_shard, rows, max_side=max_side, flat=plan.flat), todo):
                done[shard.name] = shard
                write_manifest(manifest, settings, done)
                bar.update(len(parts[shard.name]))
    return [done[name] for name in parts]


def verify(out: str | Path, split: str) -> list[str]:
    """What differs between shards and their manifest, each in a sentence.

    Args:
        out: Folder of the shards.
        split: What they are called by.

    Raises:
        FileNotFoundError: There is no manifest.
        ValueError: It is none.
    """
    manifest = Path(out) / f"{split}{MANIFEST}"
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file; expected what `fiber-data pack` writes beside its shards")
    wrong = []
    for name, shard in read_manifest(manifest, None).items():
        path = Path(out) / name
        if not path.is_file():
            wrong.append(f"{path}: no such file; pack again, or copy it again")
        elif _sha256(path) != shard.sha256:
            wrong.append(f"{path}: its content is not what was packed; delete it and pack again, or copy it again")
        elif (index := Path(index_beside(path))).exists() and _entries(index, shard) is None:
            wrong.append(f"{index}: it does not belong to {name}; copy it again, or delete it and pack again")
    return wrong


def _plan(samples: Sequence[Mapping[str, Any]], max_side: int | None) -> _Plan:
    """Which samples share an image, and that all of them can be packed."""
    groups: dict[Any, list[int]] = {}
    flat, found = True, hashlib.sha256()
    for position in range(len(samples)):
        sample = samples[position]
        if "id" not in sample or not ({"image", "images"} & sample.keys()):
            raise ValueError(f"sample {position}: expected 'id' and 'image' (or 'images'), found {', '.join(sample)}")
        if max_side is not None:
            check_scalable(sample)
        names = [_name_of(image) for image in _images_of(sample)]
        size = tuple(sample["size"]) if "size" in sample else None
        groups.setdefault((*names, size) if all(names) else position, []).append(position)
        flat = flat and fits_flat(sample)
        short = [Path(name).name for name in names]
        found.update(f"{short}\0{to_record([sample], short, flat=False)}\n".encode("utf-8", "replace"))
    return _Plan(list(groups.values()), flat and len(groups) == len(samples), found.hexdigest())


def _images_of(sample: Mapping[str, Any]) -> Sequence[Any]:
    return sample["images"] if "images" in sample else (sample["image"],)


def _name_of(image: Any) -> str:
    """What is the same for the same image only; empty for one that is held in memory."""
    return image.name if isinstance(image, ShardImage) else str(image) if isinstance(image, str | Path) else ""


def _write_shard(
    samples: Sequence[Mapping[str, Any]], todo: tuple[Path, list[list[int]]], *, max_side: int | None, flat: bool
) -> PackedShard:
    path, groups = todo
    part = path.with_name(f".{path.name}.part")
    left_out: list[str] = []
    entries, num_samples = [], 0
    with part.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for position, group in enumerate(groups):
                own: list[Mapping[str, Any]] = [samples[each] for each in group]
                try:
                    images = [encode(image, max_side, own[0].get("size")) for image in _images_of(own[0])]
                except BrokenImageError as error:
                    left_out.append(str(error))
                    continue
                if images[0].resized is not None and "images" not in own[0]:
                    own = [scale(sample, *images[0].resized) for sample in own]
                key = f"{path.stem.rpartition('-')[2]}{position:06}"
                entries.append(_add_record(tar, key, images, own, flat))
                num_samples += len(own)
        file.flush()
        os.fsync(file.fileno())
    num_images = sum(len(entry.images) for entry in entries)
    shard = PackedShard(path.name, num_images, num_samples, part.stat().st_size, _sha256(part), left_out)
    write_index(Path(index_beside(path)), entries, num_bytes=shard.num_bytes)
    part.replace(path)
    return shard


def _add_record(
    tar: tarfile.TarFile, key: str, images: list[Encoded], samples: list[Mapping[str, Any]], flat: bool
) -> Entry:
    """Writes the files of one image, or of the images of one sample, and gives their entry of the index."""
    several = "images" in samples[0]
    endings = [f"{number}{image.ending}" if several else image.ending[1:] for number, image in enumerate(images)]
    places = []
    for ending, image in zip(endings, images, strict=True):
        places.append((f"{key}.{ending}", _add(tar, f"{key}.{ending}", image.content), len(image.content)))
    text = to_record(samples, endings, flat=flat)
    _add(tar, f"{key}.json", text.encode("utf-8", "replace"))
    return Entry(key, places, json.loads(text))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Writes a file, and says where its content begins."""
    member = tarfile.TarInfo(name)  # without owner and time: equal samples make equal shards
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path, shard: PackedShard) -> bool:
    has_size = path.is_file() and path.stat().st_size == shard.num_bytes
    return has_size and _entries(Path(index_beside(path)), shard) is not None


def _entries(index: Path, shard: PackedShard) -> list[Entry] | None:
    return parse_index(index.read_bytes(), num_bytes=shard.num_bytes) if index.is_file() else None
