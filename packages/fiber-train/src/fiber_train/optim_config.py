"""The settings of the optimizer: its rates, their course, and what they are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fiber_backbone.ranges import Ranged, ranged

SCHEDULES = ("linear", "cosine", "step", "constant", "plateau")
LARGEST = 2**31 - 1  # tokens, pixels, threads: more than there are


@dataclass
class PlateauConfig(Ranged):
    """When the rate falls by `optim.schedule=plateau`, as torch's `ReduceLROnPlateau` counts."""

    patience: int = ranged(3, least=0, most=LARGEST)
    """Evaluations without gain in the measure of `task.monitor` that are let pass; at the next one the rate falls."""
    factor: float = ranged(0.1, above=0, below=1)
    """What it is multiplied by then."""


@dataclass
class LoraConfig(Ranged):
    """Adapters of low rank on linear layers, which learn in place of what they are put on (needs fiber-train[lora])."""

    rank: int = ranged(8, least=1, most=LARGEST)
    alpha: float = ranged(16.0, above=0, most=1_000_000)
    """What an adapter adds is multiplied by alpha / rank."""
    dropout: float = ranged(0.0, least=0, below=1)
    """Of what an adapter reads."""
    targets: list[str] = field(default_factory=lambda: ["backbone.*"])
    """The linear layers, by name or pattern, of a part that they are in too: "backbone.text_stream.*.query"."""
    whole: list[str] | None = None
    """What learns beside the adapters, by name or pattern; without a value the heads."""


@dataclass
class OptimConfig(Ranged):
    """An optimizer over groups of learning rates, each with and without weight decay."""

    learning_rate: float = ranged(1e-5, least=0, most=1000)
    optimizer: str = "torch.optim.AdamW"
    """Import path of an optimizer, built as `optimizer(groups, **options)`."""
    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the optimizer, such as `{momentum: 0.9}`."""
    fused: bool | None = None
    """Whether one kernel computes a step of the optimizer; without a value where torch's Adam or AdamW can."""
    cross_modal_multiplier: float = ranged(5.0, least=0, most=1_000_000)
    """For what lets the streams read each other and brings them together."""
    head_multiplier: float = ranged(5.0, least=0, most=1_000_000)
    """For the heads that start from nothing."""
    gate_multiplier: float = ranged(5.0, least=0, most=1_000_000)
    """For the fusion gates, which start at zero. The original counts them among the cross-modal parameters."""
    language_multiplier: float = ranged(1.0, least=0, most=1_000_000)
    """For the text stream, its cross-attention included, on top of the others."""
    bias_multiplier: float = ranged(1.0, least=0, most=1_000_000)
    """For biases and the bias tables of the windows, on top of the others."""
    layer_decay: float = ranged(1.0, above=0, most=1)
    """Of the rates from block to block, in each stream from its top downwards, on top of the others; heads keep theirs.
    The top block has this share of the rate, the next this share of that, as in BEiT; 1 for the same everywhere."""
    weight_decay: float = ranged(0.01, least=0, most=1000)
    betas: tuple[float, float] = ranged((0.9, 0.98), least=0, below=1)
    """For optimizers that have them, like `eps`."""
    eps: float = ranged(1e-8, least=0, most=1)
    original_decay: bool = False
    """Whether to decay gates, the temperature and the query norms, as the original does by oversight.

    Its detector, and with this ours, decays everything but biases: all norms and scales too."""
    frozen: list[str] = field(default_factory=list)
    """Parts that are not trained, such as "backbone.image_stream.patch_embed", or patterns: "backbone.*.bias"."""
    lora: LoraConfig | None = None
    """Train adapters of low rank and the heads only. Models are saved with the adapters in their weights."""
    schedule: str = "linear"
    """After the warm-up: "linear" or "cosine" to zero, "step" (falling at milestones), "constant", or
    "plateau" (falling where evaluations gain no more, see `plateau`).

    Or an import path: of a function `(step, max_steps, **schedule_options)` that gives the rate over its peak, applied
    after the warm-up; or of an `LRScheduler`, built as `scheduler(optimizer, **schedule_options)`, without warm-up."""
    schedule_options: dict[str, Any] = field(default_factory=dict)
    milestones: list[float] = ranged([0.67, 0.89], above=0, below=1)
    """Shares of all steps after which the rate falls ("step")."""
    milestone_factor: float = ranged(0.1, least=0, most=1)
    """What the rate is multiplied by at each milestone ("step")."""
    plateau: PlateauConfig = field(default_factory=PlateauConfig)
    decay_milestone_ratio: float | None = ranged(None, above=0, most=1)
    """The weight decay falls like the rate, once this share of the way to a milestone is done; none to keep it."""
    warmup: float = ranged(0.1, least=0, most=1e12)
    """Steps of linear warm-up: a share of all steps below 1, else a number of steps."""
    warmup_start: float = ranged(0.0, least=0, most=1)
    """Where the warm-up starts, as a share of the rate."""
    max_norm: float | None = ranged(None, above=0, most=1e30)
    """Largest norm of all gradients together; none for no clipping."""
    ema_decay: float | None = ranged(None, above=0, below=1)
    """Evaluate and keep an average of the weights over the steps, that at each keeps this share of itself (0.999)."""


def check_optim(optim: OptimConfig) -> None:
    """Refuses settings that contradict each other.

    Raises:
        ValueError: The message names the setting.
    """
    if optim.schedule not in SCHEDULES and optim.schedule.isidentifier():
        *most, last = map(repr, SCHEDULES)
        raise ValueError(f"optim.schedule must be {', '.join(most)} or {last}, is {optim.schedule!r:.80}")
    if optim.schedule_options and optim.schedule.isidentifier():
        raise ValueError(f"optim.schedule_options are for a schedule of yours, {optim.schedule!r:.80} takes none")
    if optim.decay_milestone_ratio is not None and optim.schedule != "step":
        raise ValueError("optim.decay_milestone_ratio needs optim.schedule=step, whose milestones it refers to")
