"""Packs images with captions into tar shards that `fiber_data.read_tar_shards`, webdataset and ``tar`` read.

A million small files are slow to list, to copy and to read over a network; a thousand shards are not. Shards are made
side by side, each written beside its name and renamed when it is whole, so that a packing that was interrupted
goes on where it stopped. ``<split>.manifest.json`` holds what was packed, with the SHA-256 of every shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from fiber_data.formats.samples import CaptionSample
from fiber_data.formats.tar_shards import ShardImage, to_json
from fiber_data.images import BrokenImageError, load_image
from fiber_data.suffixes import image_suffixes
from fiber_data.urls import fetch, is_url

_FORMAT = "fiber-data shards 1"
_QUALITY = 95  # of JPEG


@dataclass(frozen=True)
class PackedShard:
    """One shard of a manifest.

    Attributes:
        name: Its file.
        num_images: Images in it.
        num_captions: Captions in it.
        num_bytes: Its size.
        sha256: Of the whole file.
        left_out: Images that could not be decoded, each with the reason.
    """

    name: str
    num_images: int
    num_captions: int
    num_bytes: int
    sha256: str
    left_out: list[str] = field(default_factory=list)


def pack(
    samples: Sequence[CaptionSample],
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
        samples: What a reader of captions gives.
        out: Folder of the shards; it is made.
        split: What the shards are called by.
        images_per_shard: Samples of a shard; the last one has what is left.
        max_side: Images with a longer side, in pixels, are resized to it, turned as EXIF says and kept as JPEG; None
            keeps every file as it is.
        num_workers: Threads that pack.
        progress: Whether to show a bar.

    Returns:
        What each shard holds. An image that cannot be decoded is left out, and named there.

    Raises:
        ValueError: An argument is out of its range, or the folder holds shards of other samples or settings.
    """
    if images_per_shard < 1 or num_workers < 1 or (max_side is not None and max_side < 1):
        raise ValueError("images_per_shard, num_workers and max_side must be at least 1")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / f"{split}.manifest.json"
    settings = {
        "format": _FORMAT,
        "images_per_shard": images_per_shard,
        "max_side": max_side,
        "samples": _hash(samples),
    }
    done = _read_manifest(manifest, settings)
    parts = {
        f"{split}-{number:05}.tar": samples[first : first + images_per_shard]
        for number, first in enumerate(range(0, len(samples), images_per_shard))
    }
    if manifest.exists():
        done = {name: shard for name, shard in done.items() if _has_size(folder / name, shard.num_bytes)}
    elif taken := [name for name in parts if (folder / name).exists()]:
        raise ValueError(f"{folder / taken[0]}: a file that no manifest names; choose another folder")
    _write_manifest(manifest, settings, done)
    todo = [(folder / name, part) for name, part in parts.items() if name not in done]
    with tqdm(total=len(samples), desc=f"packing {split}", unit="image", disable=None if progress else True) as bar:
        bar.update(sum(len(parts[name]) for name in done))
        with ThreadPoolExecutor(num_workers) as pool:  # decoding, resizing and writing hold no lock of Python's
            for shard in pool.map(partial(_write_shard, max_side=max_side), todo):
                done[shard.name] = shard
                _write_manifest(manifest, settings, done)
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
    manifest = Path(out) / f"{split}.manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file; expected what `fiber-data pack` writes beside its shards")
    wrong = []
    for name, shard in _read_manifest(manifest, None).items():
        path = Path(out) / name
        if not path.is_file():
            wrong.append(f"{path}: no such file; pack again, or copy it again")
        elif _sha256(path) != shard.sha256:
            wrong.append(f"{path}: its content is not what was packed; delete it and pack again, or copy it again")
    return wrong


def _write_shard(todo: tuple[Path, Sequence[CaptionSample]], *, max_side: int | None) -> PackedShard:
    path, samples = todo
    part = path.with_name(f".{path.name}.part")
    left_out, num_images, num_captions = [], 0, 0
    with part.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for position, sample in enumerate(samples):
                try:
                    ending, content = _encode(sample["image"], max_side)
                except BrokenImageError as error:
                    left_out.append(str(error))
                    continue
                key = f"{path.stem.rpartition('-')[2]}{position:06}"
                _add(tar, f"{key}{ending}", content)
                _add(tar, f"{key}.json", to_json(sample).encode())
                num_images += 1
                num_captions += len(sample["captions"])
        file.flush()
        os.fsync(file.fileno())
    shard = PackedShard(path.name, num_images, num_captions, part.stat().st_size, _sha256(part), left_out)
    part.replace(path)
    return shard


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without owner and time: equal samples make equal shards
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _encode(source: Any, max_side: int | None) -> tuple[str, bytes]:
    """An image's file, as it is or resized, with its ending.

    Raises:
        BrokenImageError: It cannot be decoded.
    """
    image = load_image(source)  # also where its file is kept: what cannot be decoded is found here, once
    height, width = image.shape[-2:]
    original = _file_of(source)
    if original is not None and (max_side is None or max(height, width) <= max_side):
        return original
    if max_side is not None and max(height, width) > max_side:
        size = [max(1, round(side * max_side / max(height, width))) for side in (height, width)]
        image = F.resize(image, size, antialias=True)
    buffer = io.BytesIO()
    if max_side is None:
        F.to_pil_image(image).save(buffer, "PNG")
        return ".png", buffer.getvalue()
    F.to_pil_image(image).save(buffer, "JPEG", quality=_QUALITY)
    return ".jpg", buffer.getvalue()


def _file_of(source: Any) -> tuple[str, bytes] | None:
    """The file of an image, if it has one."""
    if isinstance(source, ShardImage):
        return f".{source.member.rpartition('.')[2]}", source.read()
    if is_url(source):
        content, name = fetch(source), source.partition("?")[0]
    elif isinstance(source, str | Path):
        content, name = Path(source).read_bytes(), str(source)
    elif isinstance(source, bytes):
        content, name = source, ""
    else:
        return None
    ending = f".{name.rpartition('.')[2].lower()}"
    if ending not in image_suffixes():
        with Image.open(io.BytesIO(content)) as opened:
            ending = f".{(opened.format or 'png').lower()}"
    return ending, content


def _hash(samples: Iterable[CaptionSample]) -> str:
    """What tells other samples from these: ids, captions and images by name."""
    found = hashlib.sha256()
    for sample in samples:
        image = sample["image"]
        name = image.name if isinstance(image, ShardImage) else image if isinstance(image, str | Path) else ""
        found.update(f"{Path(name).name}\0{to_json(sample)}\n".encode())
    return found.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _read_manifest(path: Path, settings: dict[str, Any] | None) -> dict[str, PackedShard]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["settings"]
        shards = {each["name"]: PackedShard(**each) for each in content["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected what `fiber-data pack` writes ({type(error).__name__}: {error})") from error
    if settings is not None and found != settings:
        differing = ", ".join(name for name in settings if found.get(name) != settings[name])
        raise ValueError(f"{path}: the folder holds shards of other {differing}; choose another folder, or delete them")
    return shards


def _write_manifest(path: Path, settings: dict[str, Any], shards: dict[str, PackedShard]) -> None:
    content = {"settings": settings, "shards": [asdict(shards[name]) for name in sorted(shards)]}
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
