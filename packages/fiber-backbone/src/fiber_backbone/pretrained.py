"""Our own weight folders: `model.safetensors` and `config.json`, locally or on the Hugging Face hub."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fiber_backbone.described import read_object
from fiber_backbone.seams import name_of

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_WEIGHT_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class PretrainedModel(nn.Module, ModelHubMixin, library_name="fiber", tags=["vision-language", "fiber"]):
    """A module that saves itself to a folder, loads from one, and goes to the hub (`push_to_hub`).

    A subclass says how it is described (`to_config`) and how it is built from the description (`from_config`).
    """

    _given: Mapping[str, Tensor] | None = None  # weights to save in place of the model's own

    def to_config(self) -> dict[str, Any]:
        """A JSON-serializable description from which `from_config` builds the model."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Any, *, trusted: Collection[str] | None = None) -> Self:
        """A fresh model from its description.

        Args:
            config: What `to_config` gives.
            trusted: For a description from elsewhere, the import paths that it may name; see `seams.resolve`.
        """
        raise NotImplementedError

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        trusted: Collection[str] = (),
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a model that `save_pretrained` wrote, in eval mode.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the hub.
            trusted: Import paths (`package.module:Name`) that the model's configuration may name beside entry points:
                to import them runs them.
            dtype: Of the weights; by default that of the model that was saved, also where its weights were stored in
                another. As in transformers a model stays in the one that it was saved in, and a warning says so where
                that is not torch's default.
            revision: Branch, tag or commit on the hub.
            cache_dir: Where downloads are kept.
            token: Access token of the hub.
            local_files_only: Whether to use only what was downloaded before.
            force_download: Whether to download anew.

        Raises:
            FileNotFoundError: If the folder or one of its two files does not exist.
            ValueError: If the folder holds another model, a configuration that describes none, or weights that do not
                fit it or are not finite.
        """
        name = str(pretrained_model_name_or_path)
        hub = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        config, weights_path = read_config(name, **hub), _locate(name, WEIGHTS_FILE, hub)
        kind, own = config.pop("model_class", None), name_of(cls, "fiber.models")
        meant = _read_dtype(config.pop("dtype", None), name)
        dtype = meant if dtype is None else dtype
        if kind not in (own, f"{cls.__module__}:{cls.__qualname__}"):
            found = f"{kind!s:.120}"
            raise ValueError(f"{name} holds a {found}, not a {own}; load it with {found}.from_pretrained")
        tensors = read_tensors(weights_path)
        _check_sizes(cls, config, trusted, tensors, str(weights_path))
        try:
            model = cls.from_config(config, trusted=trusted)
        except Exception as error:  # what a library's parts raise of settings that they cannot have
            raise ValueError(f"{name}: {CONFIG_FILE} describes no {own}: {_one_line(error)}") from error
        model._load_strictly(tensors, str(weights_path))
        if dtype is not None:
            return model.to(dtype).eval()
        usual = torch.get_default_dtype()
        if others := {value.dtype for value in model.parameters() if value.is_floating_point()} - {usual}:
            found = ", ".join(sorted(map(str, others)))
            sentence = f"{name} holds weights in {found}, which stay so; give dtype={usual} to compute in that"
            warnings.warn(sentence, stacklevel=2)
        return model.eval()

    def _check_fit(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        """ValueError unless the tensors are those of this model, by names, shapes and types."""
        expected = self.state_dict()
        both = [(name, tensors[name], value) for name, value in expected.items() if name in tensors]
        problems = [
            f"{len(found)} {kind} (first: {found[0]})"
            for kind, found in (
                ("keys missing", sorted(expected.keys() - tensors.keys())),
                ("keys unknown", [f"{name:.200}" for name in sorted(tensors.keys() - expected.keys())]),
                (
                    "shapes that differ",
                    [
                        f"{name} {tuple(given.shape)!s:.200} for {tuple(own.shape)}"
                        for name, given, own in both
                        if given.shape != own.shape
                    ],
                ),
                (
                    "types that differ",
                    [
                        f"{name} {given.dtype} for {own.dtype}"
                        for name, given, own in both
                        if given.dtype not in (_WEIGHT_TYPES if own.is_floating_point() else (own.dtype,))
                    ],
                ),
            )
            if found
        ]
        if problems:
            raise ValueError(
                f"{origin} does not fit the {CONFIG_FILE} beside it: {', '.join(problems)}; save the model again"
            )

    def _load_strictly(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        self._check_fit(tensors, origin)
        if wrong := not_finite(tensors):
            raise ValueError(
                f"{origin} holds {len(wrong)} tensors with numbers that are not finite (first: {wrong[0]}); save the "
                "model again, or take one from before its training diverged"
            )
        for name, value in self.named_parameters():
            value.data = value.data.to(tensors[name].dtype)
        self.load_state_dict(dict(tensors))

    def save_pretrained(
        self, save_directory: str | Path, *, state_dict: Mapping[str, Tensor] | None = None, **hub: Any
    ) -> str | None:
        """Writes weights and description to a folder.

        Args:
            save_directory: Made if need be.
            state_dict: The weights, as in transformers; by default the model's own. Of a model whose weights lie in
                pieces on several processes, `fiber_heads.sharding.whole_state` gives them. Stored in another type, such
                as bfloat16 at half the size, they are loaded in the model's.
            **hub: As of `ModelHubMixin.save_pretrained`: `push_to_hub`, `repo_id`, ...

        Raises:
            OSError: It cannot be written.
        """
        self._given = state_dict
        try:
            return super().save_pretrained(save_directory, **hub)
        finally:
            self._given = None

    def _save_pretrained(self, save_directory: Path) -> None:
        kind = type(self)
        if kind.__bases__[0].__name__ == "FSDPModule":  # `fully_shard` puts a class of its own over the model's
            kind = kind.__bases__[1]
        config = {"model_class": name_of(kind, "fiber.models"), **self.to_config()}
        given = self.state_dict() if self._given is None else self._given
        tensors = {name: value.detach().contiguous() for name, value in given.items()}
        both = [(own.dtype, tensors[name].dtype) for name, own in self.named_parameters() if name in tensors]
        if len(meant := {own for own, _ in both}) == 1 and meant != {stored for _, stored in both}:
            config["dtype"] = str(meant.pop()).removeprefix("torch.")
        # Each file is written beside its target and renamed, so that a reader never meets half of one.
        described, weights = (save_directory / f".{name}.partial" for name in (CONFIG_FILE, WEIGHTS_FILE))
        described.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod(described.stat().st_mode)  # safetensors writes for the owner alone, whatever the umask
        weights.replace(save_directory / WEIGHTS_FILE)
        described.replace(save_directory / CONFIG_FILE)


def _read_dtype(word: Any, name: str) -> torch.dtype | None:
    """The type that a configuration names for weights that are stored in another.

    Raises:
        ValueError: It is none for weights.
    """
    known = {str(each).removeprefix("torch."): each for each in _WEIGHT_TYPES}
    if word is not None and word not in known:
        raise ValueError(f"{name}: {CONFIG_FILE}: dtype: expected {', '.join(sorted(known))}, found {word!r:.80}")
    return known.get(word)


def read_config(name: str | Path, **hub: Any) -> dict[str, Any]:
    """The configuration of a saved model.

    Args:
        name: A folder, or the name of a repository on the hub.
        **hub: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`.

    Returns:
        What `to_config` gave, and `model_class`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no JSON object.
    """
    return read_object(_locate(str(name), CONFIG_FILE, hub))


def read_tensors(path: Path, *, only_shapes: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU; with their shapes alone on the device meta.

    Raises:
        ValueError: It is none, or not whole.
    """
    try:
        if not only_shapes:
            return load_file(path)
        with safe_open(path, "pt") as file:
            return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # its header may hold anything: safetensors, torch and json each have their words
        raise ValueError(
            f"{path} is not a whole safetensors file ({_one_line(error)}); copy or save it again"
        ) from error


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]


class _Uninitialized(TorchFunctionMode):
    """Leaves out what fills tensors: on the device meta each call costs a hundred times what it does elsewhere."""

    _FILLING = frozenset({"normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_", "zero_", "fill_"})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_filling = func.__name__ in self._FILLING and args and args[0].is_meta
        return args[0] if is_filling else func(*args, **(kwargs or {}))


def _check_sizes(
    kind: type[PretrainedModel], config: Any, trusted: Collection[str], tensors: Mapping[str, Tensor], origin: str
) -> None:
    """ValueError if a configuration asks for other sizes than the weights have, before there is memory for them.

    A part that cannot be made without memory is not checked.
    """
    try:
        with torch.device("meta"), _Uninitialized():
            model = kind.from_config(config, trusted=trusted)
    except Exception:  # when it is made in earnest, it fails again or does not
        return
    model._check_fit(tensors, origin)


def _one_line(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return first[:300] if isinstance(error, ValueError) else f"{type(error).__name__}: {first:.200}"


def _locate(name: str, file: str, hub: Mapping[str, Any]) -> Path:
    """A file of a local folder, or of a repository on the hub."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} has no {file}; expected a folder written by save_pretrained")
        return folder / file
    if folder.exists() or folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise FileNotFoundError(
            f"{name} is not a folder; pass a folder written by save_pretrained or a hub name like 'owner/model'"
        )
    try:
        return Path(hf_hub_download(name, file, **hub))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{name} is neither a folder here nor a model that the hub gave ({file}: {reason})"
        ) from error
