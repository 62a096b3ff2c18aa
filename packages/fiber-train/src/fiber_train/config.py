"""Configuration is data: YAML recipes, then dotted overrides, checked against these dataclasses and the task's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from fiber_backbone.seams import available, name_of, resolve, stated
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from fiber_train.recipe_files import RECIPES, find_recipes, own_recipes, parse_yaml, read_recipe, recipe_files

DEFAULT_TASK = "pretraining"
LONGEST_NAME = 200  # characters of a task's
_OVERRIDE = re.compile(r"[^=\[\]]+=")


@dataclass
class DataConfig:
    """What to learn from."""

    root: str = MISSING
    """Folder of a data set, in a layout that the task's reader or `format` knows."""
    format: str | None = None
    """What reads the samples in place of the task's own reader: an entry point of `fiber.formats`, or an import path,
    of a callable `(root, split, **format_options)` that gives samples as the task's own reader does."""
    format_options: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    eval_split: str = "val"
    """The held-out split; or a share of the training split that is held out, such as 0.1: about so many images, chosen
    by their ids alone, which training then leaves out."""
    captions: str = "each"
    """An item for every caption ("each", an epoch passes all captions), or every image ("random", one of its)."""
    augment: bool = False
    """Whether to crop, flip and color training images; the original does not in pre-training."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer; without one, a byte-level BPE is trained on the training captions."""
    vocab_size: int = 512
    """Largest vocabulary of a tokenizer trained here."""
    max_length: int = 40
    """Tokens that a text is cut to, special ones included."""
    mlm_probability: float = 0.15
    num_workers: int = 2
    """Loading processes beside each training process."""
    exif: str | None = None
    """Images as they are "stored", or turned by EXIF as they are "displayed"; without it displayed, and stored where
    there are boxes. Boxes whose image has their annotated size in one of these ways only, decide themselves."""
    max_pixels: int | None = None
    """Images of more pixels count as unreadable; without it the limit is Pillow's, 89,478,485."""
    max_unreadable: float = 0.01
    """Share of the training samples that may be unreadable, each replaced by another; more end the run. Judged after
    100 samples; a single image ends a run only at 0."""
    blind: bool = False
    """Whether every image is replaced by one gray one: what is learned without looking, to compare with."""


@dataclass
class ModelConfig:
    """What to train."""

    preset: str = "fiber_base"
    """Sizes of a fresh model; weights to start from bring their own."""
    image_size: int | None = None
    """Side of the images in pixels, to which windows grow; without one, the preset's or that of the weights."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of `fiber_backbone.FiberConfig` that differ from the preset; streams and fusion are among them."""
    image_weights: str | None = None
    """A `swin_*` of timm to start the image stream from; needs `text_weights` too."""
    text_weights: str | None = None
    """A RoBERTa of transformers, hub name or folder, to start the text stream from."""
    checkpoint: str | None = None
    """Weights to start from: a folder that we wrote, of this or another task, or a checkpoint file of the original."""
    trusted: list[str] = field(default_factory=list)
    """Import paths that the folder `checkpoint` may name its parts by; entry points it always may."""
    gradient_checkpointing: bool = False
    """Whether to recompute blocks in the backward pass: about a third more time, far less memory."""


@dataclass
class OptimConfig:
    """An optimizer over groups of learning rates, each with and without weight decay."""

    learning_rate: float = 1e-5
    optimizer: str = "torch.optim.AdamW"
    """Import path of an optimizer, built as `optimizer(groups, **options)`."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the optimizer, such as `{momentum: 0.9}`."""
    cross_modal_multiplier: float = 5.0
    """For what lets the streams read each other and brings them together."""
    head_multiplier: float = 5.0
    """For the heads that start from nothing."""
    gate_multiplier: float = 5.0
    """For the fusion gates, which start at zero. The original counts them among the cross-modal parameters."""
    language_multiplier: float = 1.0
    """For the text stream, its cross-attention included, on top of the others."""
    bias_multiplier: float = 1.0
    """For biases and the bias tables of the windows, on top of the others."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    """For optimizers that have them, like `eps`."""
    eps: float = 1e-8
    original_decay: bool = False
    """Whether to decay gates, the temperature and the query norms, as the original does by oversight.

    Its detector, and with this ours, decays everything but biases: all norms and scales too."""
    frozen: list[str] = field(default_factory=list)
    """Parts that are not trained, such as "backbone.image_stream.patch_embed"."""
    schedule: str = "linear"
    """After the warm-up: "linear" or "cosine" to zero, "step" (falling at milestones), or "constant".

    Or an import path: of a function `(step, max_steps, **schedule_options)` that gives the rate over its peak, applied
    after the warm-up; or of an `LRScheduler`, built as `scheduler(optimizer, **schedule_options)`, without warm-up."""
    schedule_options: dict[str, Any] = field(default_factory=dict)
    milestones: list[float] = field(default_factory=lambda: [0.67, 0.89])
    """Shares of all steps after which the rate falls ("step")."""
    milestone_factor: float = 0.1
    """What the rate is multiplied by at each milestone ("step")."""
    decay_milestone_ratio: float | None = None
    """The weight decay falls like the rate, once this share of the way to a milestone is done; none to keep it."""
    warmup: float = 0.1
    """Steps of linear warm-up: a share of all steps below 1, else a number of steps."""
    warmup_start: float = 0.0
    """Where the warm-up starts, as a share of the rate."""
    max_norm: float | None = None
    """Largest norm of all gradients together; none for no clipping."""
    ema_decay: float | None = None
    """Evaluate and keep an average of the weights over the steps, that at each keeps this share of itself (0.999)."""


@dataclass
class TrainerConfig:
    """How to run."""

    max_steps: int = 100_000
    max_epochs: int | None = None
    """Passes over the training data, in place of `max_steps`."""
    batch_size: int = 4096
    """Samples of one optimizer step, over all devices and accumulated batches."""
    accumulate: int = 1
    """Batches whose gradients are summed for one step."""
    seed: int = 0
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    """Fabric's names: "32-true", "bf16-mixed", "16-mixed"."""
    threads: int | None = None
    """CPU threads of each process; none leaves it to torch."""
    log_every: int = 20
    eval_every: float = 0
    """Steps between evaluations, or a share of all steps below 1; 0 for one at the end."""
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep, beside the best by the task's measure."""
    tensorboard: bool = True


@dataclass
class TaskSettings:
    """What every task's settings have; a task's own are a subclass (see `fiber_train.tasks.base`)."""

    name: str = MISSING
    """An entry point of `fiber.tasks` or an import path, `package.module:Name`."""
    monitor: str | None = None
    """The measure by which the best weights are kept; the task's own choice by default, `none` to keep no best."""
    metrics: list[str] = field(default_factory=list)
    """Import paths of what to measure beside the task's own: of callables `(predictions, samples)`, numbers by name.

    Predictions are by sample id; see `Evaluation.outputs`. The numbers appear as `FUNCTION/NAME`."""


@dataclass
class TrainConfig:
    """A whole run."""

    out: str = MISSING
    """Folder of the run: checkpoints, logs, the finished model and the best one."""
    task: TaskSettings = field(default_factory=TaskSettings)
    """What to train for, and the task's settings."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def load_config(
    recipe: str | Path | Sequence[str | Path], overrides: Sequence[str] = (), *, task: type | None = None
) -> TrainConfig:
    """Reads a recipe, or several laid over each other, and applies overrides.

    Args:
        recipe: Name of a recipe that comes with the package or with a task, such as ``"coarse"``, or path of a YAML
            file; of several, such as ``["vqa", "small"]``, later ones win.
        overrides: Such as ``"trainer.max_steps=100"``; later ones win.
        task: A subclass of `Task`, in place of the one that `task.name` names.

    Returns:
        The configuration; `config.task` is an instance of the task's `settings_class`.

    Raises:
        FileNotFoundError: There is no such recipe or file.
        ValueError: A key does not exist (the message names the nearest), a value has another type, one that
            has no default is missing, or there is no such task.
    """
    recipes = [recipe] if isinstance(recipe, str | Path) else list(recipe)
    if malformed := [word for word in overrides if not _OVERRIDE.match(word)]:
        raise ValueError(f"overrides are written key=value, such as trainer.max_steps=100; got {malformed[0]!r:.80}")
    last = ("the command line", parse_yaml(OmegaConf.from_dotlist, list(overrides), "the command line"))
    known = find_recipes()
    with _one_sentence(recipe):
        return _load(recipes, last, known, task)


def _load(
    recipes: Sequence[str | Path], last: tuple[str, Any], known: dict[str, list[Path]], task: type | None
) -> TrainConfig:
    read = cache(read_recipe)
    first_look = [(str(each), read(path)) for each in recipes for path in recipe_files(each, known, RECIPES)]
    name, source = _task_name([*first_look, last])
    _check_before_import([*first_look, last], name if task is None else None)
    try:
        kind = resolve(name, "fiber.tasks") if task is None else task
    except ValueError as error:
        raise ValueError(f"{source}: task.name: {error}") from error
    layers = [(str(each), read(path)) for each in recipes for path in recipe_files(each, known, own_recipes(kind))]
    config: Any = _schema(kind)
    everything = _all_keys(config)
    for source, layer in (*layers, last):
        _check_keys(layer, config, source, everything)
        try:
            config = OmegaConf.unsafe_merge(config, layer)  # which copies neither
        except TypeError as error:  # of a dictionary in place of a tuple
            raise ValueError(f"{source}: a setting has another type than it should: {error!s:.300}") from error
    if task is not None or OmegaConf.is_missing(config.task, "name"):
        config.task.name = name_of(kind, "fiber.tasks")
    made = OmegaConf.to_object(config)
    assert isinstance(made, TrainConfig)
    _check_values(made)
    return made


@contextmanager
def _one_sentence(recipe: object) -> Iterator[None]:
    """Turns what OmegaConf raises into a ValueError of one line that names the setting, or else the recipe."""
    try:
        yield
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key} is not set; give it as {error.full_key}=...") from error
    except (ConfigKeyError, OmegaConfBaseException) as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{f'{error.full_key or recipe}':.200}: {first:.300}") from error
    except RecursionError as error:
        raise ValueError(f"{recipe}: settings are nested too deep, or refer to each other in a circle") from error


def _check_before_import(layers: Sequence[tuple[str, Any]], task_name: str | None) -> None:
    """Misspelled settings are told before the task, and torch with it, is imported; its own if its source names them.

    `task_name` is None for a task that was handed over.
    """
    entry = available("fiber.tasks").get(task_name or "")
    settings = None if entry is None else stated(entry, "settings_class")
    schema = _shared_schema(settings or TaskSettings)
    everything = _all_keys(schema)
    for source, layer in layers:
        groups = [key for key in layer if key in schema and (key != "task" or settings is not None)]
        for key in groups:
            if OmegaConf.is_dict(layer[key]) and _is_group(schema, key):
                _check_keys(layer[key], schema[key], source, everything, f"{key}.")


def _task_name(layers: Sequence[tuple[str, Any]]) -> tuple[str, str]:
    """The task of the last layer that names any, and what errors call that layer."""
    name, named = DEFAULT_TASK, ""
    for source, layer in layers:
        group = layer.get("task")
        if group is not None and not OmegaConf.is_dict(group):
            raise ValueError(f"{source}: task is a group of settings, not one; write task.NAME=")
        own = (group or {}).get("name")
        if own is not None and (not isinstance(own, str) or len(own) > LONGEST_NAME):
            raise ValueError(f"{source}: task.name must be the name of a task or an import path, is {own!r:.80}")
        name, named = (own, source) if own else (name, named)
    return name, named


def _schema(task: type) -> DictConfig:
    """All settings of a run of a task, at their defaults."""
    settings = getattr(task, "settings_class", None)
    if not (isinstance(settings, type) and issubclass(settings, TaskSettings) and is_dataclass(settings)):
        raise ValueError(
            f"{task.__module__}:{task.__qualname__} is no task; it needs settings_class, a dataclass that derives from "
            "fiber_train.TaskSettings"
        )
    return deepcopy(_shared_schema(settings))  # type: ignore[arg-type]  # takes the class for an instance


@cache
def _shared_schema(settings: type[TaskSettings]) -> DictConfig:
    """All settings of a run of a task with these of its own; to be read only, since making it takes longest."""
    schema: DictConfig = OmegaConf.structured(TrainConfig)
    schema.task = OmegaConf.structured(settings)
    return schema


def _check_keys(layer: Any, schema: DictConfig, source: str, everything: list[str], prefix: str = "") -> None:
    known = list(schema.keys())
    for key in layer:
        if key not in known:
            guess = [name for name in everything if name.rpartition(".")[2] == key]
            guess += [f"{prefix}{near}" for near in get_close_matches(str(key), map(str, known), n=1)]
            guess += get_close_matches(f"{prefix}{key}", everything, n=1, cutoff=0.5)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise ValueError(f"{source}: no setting is called {prefix + str(key)!r:.120}{hint}")
        if _is_group(schema, key):
            if not OmegaConf.is_dict(layer[key]):
                raise ValueError(f"{source}: {prefix}{key} is a group of settings, not one; write {prefix}{key}.NAME=")
            _check_keys(layer[key], schema[key], source, everything, f"{prefix}{key}.")


def _all_keys(schema: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in map(str, schema):
        keys += _all_keys(schema[key], f"{prefix}{key}.") if _is_group(schema, key) else [f"{prefix}{key}"]
    return keys


def _is_group(schema: DictConfig, key: Any) -> bool:
    """Whether a setting is a dataclass of settings."""
    return not OmegaConf.is_missing(schema, key) and is_dataclass(OmegaConf.get_type(schema, key))


def has_setting(config: TrainConfig, key: str) -> bool:
    """Whether a configuration has a setting of this name, such as `"task.rerank"`."""
    node: Any = config
    for part in key.split("."):
        if isinstance(node, dict):
            return True
        if not hasattr(node, part):
            return False
        node = getattr(node, part)
    return True


def as_share(split: str) -> float | None:
    """The share of the training split that `data.eval_split` means; None where it names a split."""
    try:
        share = float(split)
    except ValueError:
        return None
    return share if 0 < share < 1 else None


def _check_values(config: TrainConfig) -> None:
    trainer, optim = config.trainer, config.optim
    if trainer.batch_size % (trainer.accumulate * trainer.devices * trainer.num_nodes):
        raise ValueError(
            f"trainer.batch_size ({trainer.batch_size}) must be a multiple of trainer.accumulate x trainer.devices x "
            f"trainer.num_nodes ({trainer.accumulate} x {trainer.devices} x {trainer.num_nodes})"
        )
    _check_optim(optim)
    if config.data.format_options and config.data.format is None:
        raise ValueError("data.format_options are those of data.format, which is not set")
    if config.data.exif not in ("stored", "displayed", None):
        raise ValueError(f"data.exif must be 'stored', 'displayed' or null, is {config.data.exif!r:.80}")
    if config.data.max_pixels is not None and config.data.max_pixels < 1:
        raise ValueError(f"data.max_pixels must be at least 1, is {config.data.max_pixels}")
    if not 0 <= config.data.max_unreadable <= 1:
        raise ValueError(f"data.max_unreadable must be a share from 0 to 1, is {config.data.max_unreadable}")
    for key in ("max_steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
        if getattr(trainer, key) < 1:
            raise ValueError(f"trainer.{key} must be at least 1, is {getattr(trainer, key)}")
    if bool(config.model.image_weights) != bool(config.model.text_weights):
        raise ValueError("model.image_weights and model.text_weights go together; set both or none")


def _check_optim(optim: OptimConfig) -> None:
    if optim.schedule not in ("linear", "cosine", "step", "constant") and optim.schedule.isidentifier():
        raise ValueError(f"optim.schedule must be 'linear', 'cosine', 'step' or 'constant', is {optim.schedule!r:.80}")
    if optim.schedule_options and optim.schedule.isidentifier():
        raise ValueError(f"optim.schedule_options are for a schedule of yours, {optim.schedule!r:.80} takes none")
    betas: Sequence[object] = optim.betas  # OmegaConf checks neither number nor type of a tuple's elements
    if len(betas) != 2 or not all(isinstance(beta, float | int) and 0 <= beta < 1 for beta in betas):
        raise ValueError(f"optim.betas must be two numbers from 0 on and below 1, are {list(betas)!s:.80}")
    if not all(isinstance(share, int | float) and 0 < share < 1 for share in optim.milestones):
        raise ValueError(f"optim.milestones must be shares of all steps between 0 and 1, are {optim.milestones!s:.80}")
    if optim.decay_milestone_ratio is not None and optim.schedule != "step":
        raise ValueError("optim.decay_milestone_ratio needs optim.schedule=step, whose milestones it refers to")
    if optim.ema_decay is not None and not 0 < optim.ema_decay < 1:
        raise ValueError(f"optim.ema_decay must be between 0 and 1, is {optim.ema_decay}; null for no average")


def to_yaml(config: TrainConfig) -> str:
    """The configuration as YAML, which `load_config` reads again."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
