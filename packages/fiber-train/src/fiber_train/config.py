"""Configuration is data: a YAML recipe, then dotted overrides, checked against these dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException


@dataclass
class DataConfig:
    """What to learn from."""

    root: str = MISSING
    """Folder of a data set: COCO captions, Karpathy's splits, or `images/` with `captions.jsonl`."""
    train_split: str = "train"
    eval_split: str = "val"
    captions: str = "each"
    """An item for every caption ("each", an epoch passes all captions), or every picture ("random", one of its)."""
    augment: bool = False
    """Whether to crop, flip and colour training pictures; the original does not in pre-training."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer; without one, a byte-level BPE is trained on the training captions."""
    vocab_size: int = 512
    """Largest vocabulary of a tokenizer trained here."""
    max_length: int = 40
    """Tokens that a text is cut to, special ones included."""
    mlm_probability: float = 0.15
    num_workers: int = 2
    """Loading processes beside each training process."""
    blind: bool = False
    """Whether every picture is replaced by one grey one: what is learned without looking, to compare with."""


@dataclass
class ModelConfig:
    """What to train."""

    preset: str = "fiber_base"
    """Sizes of a fresh model; weights to start from bring their own."""
    image_size: int | None = None
    """Side of the pictures in pixels, to which windows grow; without one, the preset's or that of the weights."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of `fiber_backbone.FiberConfig` that differ from the preset."""
    image_weights: str | None = None
    """A `swin_*` of timm to start the image stream from; needs `text_weights` too."""
    text_weights: str | None = None
    """A RoBERTa of transformers, hub name or folder, to start the text stream from."""
    checkpoint: str | None = None
    """Weights to start from: a folder that we wrote, of this or another task, or a checkpoint file of the original."""
    gradient_checkpointing: bool = False
    """Whether to recompute blocks in the backward pass: about a third more time, far less memory."""


@dataclass
class ObjectivesConfig:
    """What to optimise; see `fiber_heads.PretrainingConfig`."""

    objectives: list[str] = field(default_factory=lambda: ["itc", "itm", "mlm"])
    temperature: float = 0.07
    queue_size: int = 4096
    queue_inputs: str = "none"
    original: bool = False


@dataclass
class AnsweringConfig:
    """Which answers a question answering model chooses from."""

    answers: str | None = None
    """File of the answers; without one they are the frequent ones of the training questions."""
    min_count: int = 9
    """How many training questions an answer must answer; 9 gives the usual 3,129 of VQAv2."""


@dataclass
class RetrievalConfig:
    """How retrieval is evaluated."""

    rerank: int = 16
    """With matching: how many of the best by contrast are looked at together with the query; 0 for every pair."""


@dataclass
class CaptioningConfig:
    """What captioning optimises, and how captions are searched for; see `fiber_heads.CaptioningConfig`."""

    objective: str = "mle"
    """"mle" (likelihood), "gold" (off-policy weights of a frozen copy) or "cider" (self-critical)."""
    refresh_every: int = 1000
    """Optimiser steps after which the frozen copy is renewed ("gold")."""
    num_samples: int = 5
    """Sampled captions a picture ("cider")."""
    reward_weight: float = 0.7
    """Weight of the reward's loss; the likelihood's is 1 minus this ("cider")."""
    baseline: str = "constant"
    """What a reward is compared with: the "constant" 1, or the other "samples" of the picture ("cider")."""
    num_beams: int = 5
    generated_length: int = 50
    """Most tokens of a generated caption."""
    min_length: int = 1
    """Fewest tokens of a generated caption, special ones not counted."""


@dataclass
class BoxFilesConfig:
    """Which annotation files of `data.root` boxes come from."""

    detection: bool = False
    """Boxes by category: COCO, LVIS, Objects365, ODinW; measured by COCO's AP, of LVIS by its fixed AP."""
    captions: list[str] = field(default_factory=list)
    """Names of MDETR's files of captions, `final_<name>_<split>.json`, such as mixed; measured by recall of phrases."""
    expressions: list[str] = field(default_factory=list)
    """Names of its files of expressions, `finetune_<name>_<split>.json`, such as refcoco+; measured by accuracy."""


@dataclass
class PromptsConfig:
    """How categories are put into prompts; see `fiber_data.PromptSampler`."""

    max_negatives: int = 85
    one_negative: float = 0.05
    no_negatives: float = 0.05
    all_negatives: float = 0.5
    separator: str = ". "
    wording: dict[str, str] = field(default_factory=dict)
    """Other words for a category, its name in braces: `{pothole: "there are {holes} in the road"}`."""
    chunk_size: int | None = None
    """Categories that an evaluation asks for at once; as many as fit by default."""


@dataclass
class GroundingConfig:
    """Grounding and detection, the fine stage."""

    train: BoxFilesConfig = field(default_factory=BoxFilesConfig)
    evaluate: BoxFilesConfig = field(default_factory=BoxFilesConfig)
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    shots: int | None = None
    """Few-shot: learn from so many pictures of each category; which ones, `trainer.seed` decides."""
    entities: str | None = None
    """Flickr30k Entities' own folder (Annotations, Sentences): recall then comes by types of phrases too."""
    shorter: list[int] = field(default_factory=lambda: [480, 560, 640, 720, 800])
    """Pixels of a training picture's shorter side, of which one is drawn."""
    longest: int = 1333
    """Bound of the longer side."""
    shorter_in_evaluation: int = 800
    evaluation_batch_size: int = 8
    """Pictures looked at together in evaluations, in each process."""
    flip: float = 0.5
    """Chance of a mirrored picture; never where the text names a side."""
    head: dict[str, Any] = field(default_factory=dict)
    """Fields of `fiber_heads.GroundingConfig` that differ from its defaults."""
    original: bool = False
    """Whether the head computes as the original does, which the original's own detectors need."""
    score_threshold: float = 0.05
    """What a category or phrase must be more probable than, in evaluations; expressions take the best box anyway."""
    max_detections: int = 100
    """Detections of a picture in evaluations, with several prompts of each prompt."""
    empty_expressions: bool = False
    """Whether an evaluation also asks with empty expressions: what is right without reading."""


@dataclass
class OptimConfig:
    """AdamW in three groups of learning rates, each with and without weight decay."""

    learning_rate: float = 1e-5
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
    eps: float = 1e-8
    original_decay: bool = False
    """Whether to decay gates, the temperature and the query norms, as the original does by oversight.

    Its detector, and with this ours, decays everything but biases: all norms and scales too."""
    frozen: list[str] = field(default_factory=list)
    """Parts that are not trained, such as "backbone.image_stream.patch_embed"."""
    schedule: str = "linear"
    """After the warm-up: "linear" or "cosine" to zero, "step" (falling at milestones), or "constant"."""
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
    """Pairs of one optimiser step, over all devices and accumulated batches."""
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
class TrainConfig:
    """A whole run."""

    out: str = MISSING
    """Folder of the run: checkpoints, logs, the finished model and the best one."""
    task: str = "pretraining"
    """What to train for: pretraining, answering, reasoning, retrieval, captioning or grounding."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    answering: AnsweringConfig = field(default_factory=AnsweringConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    captioning: CaptioningConfig = field(default_factory=CaptioningConfig)
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


TASKS = ("pretraining", "answering", "reasoning", "retrieval", "captioning", "grounding")
RECIPES = resources.files("fiber_train") / "recipes"


def load_config(recipe: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads a recipe, or several laid over each other, and applies overrides.

    Args:
        recipe: Name of a recipe that comes with the package, such as ``"coarse"``, or path of a YAML file; of several,
            such as ``["vqa", "small"]``, later ones win.
        overrides: Such as ``"trainer.max_steps=100"``; later ones win.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: There is no such recipe or file.
        ValueError: A key does not exist (the message names the nearest), a value has another type, or one that
            has no default is missing.
    """
    recipes = [recipe] if isinstance(recipe, str | Path) else list(recipe)
    layers = [(str(each), OmegaConf.create(_find_recipe(each).read_text(encoding="utf-8"))) for each in recipes]
    if malformed := [word for word in overrides if "=" not in word]:
        raise ValueError(f"overrides are written key=value, such as trainer.max_steps=100; got {malformed[0]!r}")
    config = OmegaConf.structured(TrainConfig)
    try:
        for source, layer in (*layers, ("the command line", OmegaConf.from_dotlist(list(overrides)))):
            _check_keys(layer, TrainConfig, source)
            config = OmegaConf.merge(config, layer)
        made = OmegaConf.to_object(config)
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key} is not set; give it as {error.full_key}=...") from error
    except (ConfigKeyError, OmegaConfBaseException) as error:
        raise ValueError(f"{error.full_key or recipe}: {str(error).splitlines()[0]}") from error
    assert isinstance(made, TrainConfig)
    _check_values(made)
    return made


def _find_recipe(recipe: str | Path) -> Path:
    own = Path(str(RECIPES / f"{recipe}.yaml"))
    path = own if own.is_file() else Path(recipe)
    if not path.is_file():
        names = sorted(Path(item.name).stem for item in RECIPES.iterdir() if item.name.endswith(".yaml"))
        raise FileNotFoundError(f"{recipe}: no such recipe or file; the recipes are {', '.join(names)}")
    return path


def _check_keys(layer: Any, schema: type, source: str, prefix: str = "") -> None:
    known = {item.name: item for item in fields(schema)}
    for key in layer:
        if key not in known:
            everything = _all_keys(TrainConfig)
            guess = [name for name in everything if name.rpartition(".")[2] == key]
            guess += [prefix + near for near in get_close_matches(str(key), known, n=1)]
            guess += get_close_matches(f"{prefix}{key}", everything, n=1, cutoff=0.5)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise ValueError(f"{source}: no setting is called {prefix + str(key)!r}{hint}")
        default = known[key].default_factory
        if isinstance(default, type) and is_dataclass(default):
            if not OmegaConf.is_dict(layer[key]):
                raise ValueError(f"{source}: {prefix}{key} is a group of settings, not one; write {prefix}{key}.NAME=")
            _check_keys(layer[key], default, source, f"{prefix}{key}.")


def _all_keys(schema: type, prefix: str = "") -> list[str]:
    keys = []
    for item in fields(schema):
        default = item.default_factory
        if isinstance(default, type) and is_dataclass(default):
            keys += _all_keys(default, f"{prefix}{item.name}.")
        else:
            keys.append(f"{prefix}{item.name}")
    return keys


def _check_values(config: TrainConfig) -> None:
    trainer, optim = config.trainer, config.optim
    if trainer.batch_size % (trainer.accumulate * trainer.devices * trainer.num_nodes):
        raise ValueError(
            f"trainer.batch_size ({trainer.batch_size}) must be a multiple of trainer.accumulate x trainer.devices x "
            f"trainer.num_nodes ({trainer.accumulate} x {trainer.devices} x {trainer.num_nodes})"
        )
    if config.task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, is {config.task!r}")
    _check_optim(optim)
    for key in ("max_steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
        if getattr(trainer, key) < 1:
            raise ValueError(f"trainer.{key} must be at least 1, is {getattr(trainer, key)}")
    if bool(config.model.image_weights) != bool(config.model.text_weights):
        raise ValueError("model.image_weights and model.text_weights go together; set both or none")


def _check_optim(optim: OptimConfig) -> None:
    if optim.schedule not in ("linear", "cosine", "step", "constant"):
        raise ValueError(f"optim.schedule must be 'linear', 'cosine', 'step' or 'constant', is {optim.schedule!r}")
    if not all(0 < share < 1 for share in optim.milestones):
        raise ValueError(f"optim.milestones must be shares of all steps between 0 and 1, are {optim.milestones}")
    if optim.decay_milestone_ratio is not None and optim.schedule != "step":
        raise ValueError("optim.decay_milestone_ratio needs optim.schedule=step, whose milestones it refers to")
    if optim.ema_decay is not None and not 0 < optim.ema_decay < 1:
        raise ValueError(f"optim.ema_decay must be between 0 and 1, is {optim.ema_decay}; null for no average")


def to_yaml(config: TrainConfig) -> str:
    """The configuration as YAML, which `load_config` reads again."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
