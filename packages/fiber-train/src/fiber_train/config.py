"""Configuration is data: YAML recipes, then dotted overrides, checked against these dataclasses and the task's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fiber_backbone.ranges import Ranged, ranged
from fiber_backbone.seams import available, name_of, resolve, stated
from omegaconf import MISSING, DictConfig, OmegaConf

from fiber_train.optim_config import LARGEST, OptimConfig, check_optim
from fiber_train.recipe_files import (
    RECIPES,
    as_yaml,
    find_recipes,
    one_sentence,
    own_recipes,
    read_recipe,
    recipe_files,
    task_name,
)
from fiber_train.schema import check_layer, check_ranges, names, schema_of
from fiber_train.sources import SourceConfig, check_sources
from fiber_train.typed_words import SOURCE, read_words

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


@dataclass
class DataConfig(Ranged):
    """What to learn from."""

    root: str = MISSING
    """Folder of a data set, in a layout that the task's reader or `format` knows."""
    format: str | None = None
    """What reads the samples in place of the task's own reader: an entry point of `fiber.formats`, or an import path,
    of a callable `(root, split, **format_options)` that gives samples as the task's own reader does."""
    format_options: dict[str, Any] = field(default_factory=dict)
    index: str = "auto"
    """Where samples are kept that were read once, to be mapped by all processes from then on: beside the data, or in
    the user's cache where that cannot be written ("auto"); in a folder of yours; or nowhere ("off")."""
    train_split: str = "train"
    eval_split: str = "val"
    """The held-out split; or a share of the training split that is held out, such as 0.1: about so many images, chosen
    by their ids alone, which training then leaves out."""
    test_split: str | None = None
    """A split that the best weights are measured on once, at the end of the run; with its predictions in `test/`."""
    sources: list[SourceConfig] = field(default_factory=list)
    """Several data sets to learn from in place of the one in `root`. An epoch draws its exact number of samples from
    each; of which part, follows from where the epochs before it ended."""
    held_out: SourceConfig | None = None
    """What to measure on, where it is not in `root`."""
    captions: str = "each"
    """An item for every caption ("each", an epoch passes all captions), or every image ("random", one of its)."""
    augment: bool = False
    """Whether to crop, flip and color training images; the original does not in pre-training."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer; without one, that of the weights to start from, else a byte-level BPE trained
    on the training texts. "auto" trains one also where that of the weights cuts these texts to bits."""
    vocab_size: int = ranged(512, least=1, most=LARGEST)
    """Largest vocabulary of a tokenizer trained here."""
    max_length: int = ranged(40, least=3, most=LARGEST)
    """Tokens that a text is cut to, special ones included."""
    mlm_probability: float = ranged(0.15, least=0, most=1)
    num_workers: int = ranged(2, least=0, most=1024)
    """Loading processes beside each training process."""
    exif: str | None = None
    """Images as they are "stored", or turned by EXIF as they are "displayed"; without it displayed, and stored where
    there are boxes. Boxes whose image has their annotated size in one of these ways only, decide themselves."""
    max_pixels: int | None = ranged(None, least=1)
    """Images of more pixels count as unreadable; without it the limit is Pillow's, 89,478,485."""
    max_unreadable: float = ranged(0.01, least=0, most=1)
    """Share of the training samples that may be unreadable, each replaced by another; more end the run. Judged after
    100 samples; a single image ends a run only at 0."""
    blind: bool = False
    """Whether every image is replaced by one gray one: what is learned without looking, to compare with."""


@dataclass
class ModelConfig(Ranged):
    """What to train."""

    preset: str = "fiber_base"
    """Sizes of a fresh model; weights to start from bring their own."""
    image_size: int | None = ranged(None, least=1, most=LARGEST)
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
class TrainerConfig(Ranged):
    """How to run."""

    max_steps: int = ranged(100_000, least=1)
    max_epochs: int | None = ranged(None, least=1)
    """Passes over the training data, in place of `max_steps`."""
    batch_size: int = ranged(4096, least=1)
    """Samples of one optimizer step, over all devices and accumulated batches."""
    accumulate: int = ranged(1, least=1)
    """Parts in which each process computes its share of a step: less memory, the same step.

    Contrast and matching then begin every image and text twice (`fiber_heads.grad_cache`)."""
    seed: int = ranged(0, least=0, below=2**63)
    accelerator: str = "auto"
    devices: int = ranged(1, least=1)
    num_nodes: int = ranged(1, least=1)
    strategy: str = "auto"
    """How processes share the work: "auto" and "ddp", each has all of the model; "fsdp", each has a piece of all that
    training keeps (weights, gradients, optimizer, average), "hsdp", so inside each host; or another of Fabric's."""
    precision: str = "32-true"
    """Of Fabric: one of `PRECISIONS`."""
    compile: bool = False
    """Whether the blocks of both streams are computed by `torch.compile` in training; the first steps take minutes."""
    threads: int | None = ranged(None, least=1, most=LARGEST)
    """CPU threads of each process; none leaves it to torch."""
    log_every: int = ranged(20, least=1)
    eval_every: float = ranged(0, least=0, most=1e12)
    """Steps between evaluations, or a share of all steps below 1; 0 for one at the end."""
    patience: int | None = ranged(None, least=1, most=LARGEST)
    """Evaluations without gain in the measure of `task.monitor` after which the run ends; none to do all steps."""
    checkpoint_every: int = ranged(1000, least=1)
    keep_checkpoints: int = ranged(2, least=1)
    """How many of the newest checkpoints to keep, beside the best by the task's measure."""
    async_checkpoints: bool = False
    """Whether checkpoints are written while training goes on, from a copy in the memory of the host."""
    tensorboard: bool = True
    loggers: list[Any] = field(default_factory=list)
    """More loggers of Lightning Fabric: `wandb`, `mlflow` or import paths; with arguments `{class: PATH, ...}`."""
    profile: str | None = None
    """Steps of which to write a trace to `profile/` in the run's folder, such as `10:15`."""


@dataclass
class TaskSettings(Ranged):
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
    recipe: str | Path | Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    task: type | None = None,
    below: Sequence[tuple[str, Any]] = (),
) -> TrainConfig:
    """Reads a recipe, or several laid over each other, and applies overrides.

    Args:
        recipe: Name of a recipe that comes with the package or with a task, such as ``"coarse"``, or path of a YAML
            file; of several, such as ``["vqa", "small"]``, later ones win.
        overrides: Such as ``"trainer.max_steps=100"``; later ones win. Text, such as paths, is taken to the letter,
            other values are YAML; where a setting may be None, ``null`` is.
        task: A subclass of `Task`, in place of the one that `task.name` names.
        below: Layers of settings as `read_recipe` gives them, which lie below the recipes; each with what messages call
            it.

    Returns:
        The configuration; `config.task` is an instance of the task's `settings_class`.

    Raises:
        FileNotFoundError: There is no such recipe or file.
        ValueError: A key does not exist (the message names the nearest), a value has another type, one that
            has no default is missing, or there is no such task.
    """
    with one_sentence(recipe):
        made = OmegaConf.to_object(_merge(recipe, overrides, task, below))
        assert isinstance(made, TrainConfig)
        _check_values(made)
        return made


def resolved_yaml(recipe: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> str:
    """All settings as `load_config` would give them, in YAML; what has no value yet, such as `out`, is `???`.

    Raises:
        FileNotFoundError: As of `load_config`.
        ValueError: As there.
    """
    with one_sentence(recipe):
        return as_yaml(OmegaConf.to_container(_merge(recipe, overrides), resolve=True))  # type: ignore[arg-type]


def _merge(
    recipe: str | Path | Sequence[str | Path],
    words: Sequence[str],
    task: type | None = None,
    below: Sequence[tuple[str, Any]] = (),
) -> DictConfig:
    """All layers over each other, checked by themselves."""
    recipes = [recipe] if isinstance(recipe, str | Path) else list(recipe)
    known, read = find_recipes(), cache(read_recipe)
    first_look = [*below]
    first_look += [(str(each), read(path)) for each in recipes for path in recipe_files(each, known, RECIPES)]
    name, source = task_name([*first_look, (SOURCE, read_words(words, schema_of(TrainConfig)))])
    _check_before_import(first_look, words, name if task is None else None)
    try:
        kind = resolve(name, "fiber.tasks") if task is None else task
    except ValueError as error:
        raise ValueError(f"{source}: task.name: {error}") from error
    layers = [*below]
    layers += [(str(each), read(path)) for each in recipes for path in recipe_files(each, known, own_recipes(kind))]
    settings = _settings_class(kind)
    schema = schema_of(TrainConfig, task=settings)
    everything = names(schema)
    config: Any = OmegaConf.structured(TrainConfig)
    config.task = OmegaConf.structured(settings)
    for source, layer in (*layers, (SOURCE, read_words(words, schema))):
        check_layer(layer, schema, source, everything)
        try:
            config = OmegaConf.unsafe_merge(config, layer)  # which copies neither
        except TypeError as error:  # of a dictionary in place of a tuple
            raise ValueError(f"{source}: a setting has another type than it should: {error!s:.300}") from error
    check_ranges(config, schema)
    if task is not None or OmegaConf.is_missing(config.task, "name"):
        config.task.name = name_of(kind, "fiber.tasks")
    return config


def _check_before_import(layers: Sequence[tuple[str, Any]], words: Sequence[str], task_name: str | None) -> None:
    """Misspelled settings are told before the task, and torch with it, is imported; its own if its source names them.

    `task_name` is None for a task that was handed over.
    """
    entry = available("fiber.tasks").get(task_name or "")
    settings = None if entry is None else stated(entry, "settings_class")
    schema = schema_of(TrainConfig, **({} if settings is None else {"task": settings}))
    everything = names(schema)
    for source, layer in (*layers, (SOURCE, read_words(words, schema))):
        groups = [key for key in layer if isinstance(schema.get(key), dict) and (key != "task" or settings is not None)]
        check_layer(OmegaConf.masked_copy(layer, groups), schema, source, everything)


def _settings_class(task: type) -> type:
    """The dataclass of a task's settings."""
    settings = getattr(task, "settings_class", None)
    if not (isinstance(settings, type) and issubclass(settings, TaskSettings) and is_dataclass(settings)):
        raise ValueError(
            f"{task.__module__}:{task.__qualname__} is no task; it needs settings_class, a dataclass that derives from "
            "fiber_train.TaskSettings"
        )
    return settings


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


def share_of_lines(data: DataConfig) -> float | None:
    """As `hold_out` of readers: none where the task itself takes a share of all samples."""
    return None if as_share(data.eval_split) is None else 0.0


def _check_values(config: TrainConfig) -> None:
    trainer, optim = config.trainer, config.optim
    for key, folder in (("out", config.out), ("data.root", config.data.root)):
        if not folder:
            raise ValueError(f"{key} is empty; give the path of a folder, or . for this one")
    if trainer.batch_size % (trainer.accumulate * trainer.devices * trainer.num_nodes):
        raise ValueError(
            f"trainer.batch_size ({trainer.batch_size}) must be a multiple of trainer.accumulate x trainer.devices x "
            f"trainer.num_nodes ({trainer.accumulate} x {trainer.devices} x {trainer.num_nodes})"
        )
    check_optim(optim)
    if optim.fused and trainer.precision == "16-mixed" and optim.max_norm is not None:
        raise ValueError(
            "optim.fused computes a step and undoes the scale of float16 in one, with no place between for "
            "optim.max_norm; set one of the two to null, or trainer.precision=bf16-mixed"
        )
    _check_followed(config)
    if trainer.precision not in PRECISIONS:
        raise ValueError(f"trainer.precision must be one of {', '.join(PRECISIONS)}, is {trainer.precision!r:.80}")
    _check_data(config.data)
    if bool(config.model.image_weights) != bool(config.model.text_weights):
        raise ValueError("model.image_weights and model.text_weights go together; set both or none")


def _check_followed(config: TrainConfig) -> None:
    """What follows from evaluations on the way needs some."""
    trainer, is_plateau = config.trainer, config.optim.schedule == "plateau"
    if (is_plateau or trainer.patience is not None) and not trainer.eval_every:
        follower = "optim.schedule=plateau" if is_plateau else "trainer.patience"
        raise ValueError(f"{follower} follows evaluations on the way, and trainer.eval_every is 0; set it")


def _check_data(data: DataConfig) -> None:
    if data.format_options and data.format is None:
        raise ValueError("data.format_options are those of data.format, which is not set")
    check_sources(data.sources, data.held_out)
    split = data.held_out.split if data.held_out and data.held_out.split else data.eval_split
    if (data.sources or data.held_out) and as_share(split) is not None:
        raise ValueError(
            f"data.eval_split: {split} is a share of data.train_split, but data.sources and data.held_out have splits "
            "of their own; name a held-out split, such as val"
        )
    if data.exif not in ("stored", "displayed", None):
        raise ValueError(f"data.exif must be 'stored', 'displayed' or null, is {data.exif!r:.80}")


def to_yaml(config: TrainConfig) -> str:
    """The configuration as YAML, which `load_config` reads again."""
    return as_yaml(asdict(config))
