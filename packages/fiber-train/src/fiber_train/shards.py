"""The tensors of a training state in a folder of safetensors, each process's own pieces in a file of its own.

They are torch's distributed checkpoint (`torch.distributed.checkpoint`) in its safetensors form, which no unpickling
reads: a folder from elsewhere cannot execute anything. What several processes have alike is written once. Whoever reads
takes what pieces it needs, so that runs go on with another number of processes, and from whole to sharded and back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter, load, save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from fiber_train.writing import as_os_error

Keys = tuple[str | int, ...]  # the keys by which nested dictionaries lead to a value
Like = Callable[[Keys], Tensor | None]


def take_apart(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A state of nested dictionaries as what is not a tensor in them, and the tensors by names.

    The former has under "tensors" where each belongs, and whether it has no dimensions: the latter have one element.
    """
    plain: dict[str, Any] = {}
    places: dict[str, tuple[Keys, bool]] = {}
    tensors: dict[str, Tensor] = {}

    def walk(node: Mapping[Any, Any], into: dict[Any, Any], path: Keys) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                into[key] = {}
                walk(value, into[key], (*path, key))
            elif isinstance(value, Tensor):
                name = ".".join(map(str, (*path, key)))
                places[name] = (*path, key), value.ndim == 0
                tensors[name] = value.detach().reshape(1) if value.ndim == 0 else value.detach()
            else:
                into[key] = value

    walk(state, plain, ())
    return {**plain, "tensors": places}, tensors


def put_together(plain: dict[str, Any], folder: Path, like: Like) -> dict[str, Any]:
    """The state again.

    Args:
        plain: Of `take_apart`; it is changed.
        folder: With the tensors.
        like: By the path of a tensor one whose pieces, of whatever type, are asked for; others come whole, on the CPU.

    Raises:
        ValueError: The folder does not hold these tensors.
    """
    places = plain.pop("tensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            reader = HuggingFaceStorageReader(str(folder))
            found = reader.read_metadata().state_dict_metadata
            tensors = {name: _room(found[name], like(path), path, scalar) for name, (path, scalar) in places.items()}
            if tensors:
                load(tensors, storage_reader=reader, no_dist=True)  # each process reads its own pieces
        except Exception as error:  # of damaged files safetensors, json and torch raise almost anything
            raise ValueError(f"{folder} cannot be read: it is damaged, or not of this run ({error!s:.200})") from error
    for name, (path, scalar) in places.items():
        node = plain
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = _shaped(tensors[name], like(path), scalar)
    return plain


def cut(state: dict[str, Any], like: Like) -> dict[str, Any]:
    """A state of whole tensors with those in pieces that `put_together` would give in pieces."""
    plain, tensors = take_apart(state)
    for path, scalar in plain.pop("tensors").values():
        node = state
        for key in path[:-1]:
            node = node[key]
        value, model = tensors[".".join(map(str, path))], like(path)
        if _is_in_pieces(model, value.shape, path, scalar):
            assert isinstance(model, DTensor)
            node[path[-1]] = distribute_tensor(value, model.device_mesh, model.placements)
    return state


def _is_in_pieces(like: Tensor | None, shape: torch.Size, path: Keys, scalar: bool) -> bool:
    """Whether a tensor has its pieces where a parameter has: of a single element the number of steps has not."""
    return isinstance(like, DTensor) and like.shape == shape and not (scalar and path[-1] == "step")


def _shaped(tensor: Tensor, like: Tensor | None, scalar: bool) -> Tensor:
    """A whole tensor without dimensions if it was so, or is of a parameter that is so here."""
    if isinstance(tensor, DTensor):
        return tensor
    return tensor.reshape(()) if scalar or (like is not None and like.ndim == 0 and tensor.numel() == 1) else tensor


def _room(found: Any, like: Tensor | None, path: Keys, scalar: bool) -> Tensor:
    """Where a tensor is read to."""
    if like is not None and _is_in_pieces(like, found.size, path, scalar):
        return torch.empty_like(like, dtype=found.properties.dtype, requires_grad=False)
    return torch.empty(found.size, dtype=found.properties.dtype)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Writes them; of several processes all have to call it.

    Args:
        folder: Of all of them, which exists.
        tensors: Whole ones, alike on all processes, or pieces.
        group: Of the processes, on the CPU; None if there is only one.

    Raises:
        OSError: They cannot be written, here or elsewhere.
    """
    if group is None:  # a file like a process's of several, without what it takes to plan them
        path = folder / "tensors.safetensors"
        path.touch()
        mode = path.stat().st_mode
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        except SafetensorError as error:
            raise as_os_error(error) from error
        path.chmod(mode)  # safetensors writes for the owner alone, whatever the umask
        return
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            save(dict(tensors), storage_writer=writer, process_group=group)
        except CheckpointException as error:
            first = next(iter(error.failures.values()))[0]
            raise (first if isinstance(first, OSError) else OSError(str(first))) from error


def staged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, pieces of pieces, that later steps do not change."""
    return {name: value.to("cpu", copy=True) for name, value in tensors.items()}
