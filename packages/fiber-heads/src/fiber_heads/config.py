"""Settings of the heads: dataclasses alone, so that a configuration is checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fiber_backbone.ranges import Ranged, ranged

CAPTION_OBJECTIVES = ("mle", "gold", "cider")
PRETRAINING_OBJECTIVES = ("itc", "itm", "mlm")


@dataclass
class PretrainingConfig(Ranged):
    """What the coarse stage optimizes, and how.

    Args:
        objectives: Any of `"itc"` (contrast), `"itm"` (matching) and `"mlm"` (masked tokens).
        temperature: Initial temperature of the contrast.
        itc_pooler: Whether a tanh layer follows the contrast's projections.
        queue_size: Features of earlier steps to contrast with; 0 for none. The original has 4096.
        queue_inputs: What the queue keeps so that its entries can be hard negatives of matching: `"none"` (negatives
            come from the batch, and cost no encoding), `"uint8"` images on the host (442 KB each at 384 px), or
            `"float32"`.
        gather_with_gradient: Whether the contrast's gradients also reach features as candidates, as in CLIP; by default
            they reach anchors only, as in the original.
        image_mean: Normalization of `pixel_values`, to store images as uint8.
        image_std: Likewise.
        original: Whether to compute exactly what the original computes, with its defects; see `contrastive`.

    Raises:
        ValueError: If an objective or kind of input is unknown.
    """

    objectives: tuple[str, ...] = PRETRAINING_OBJECTIVES
    temperature: float = ranged(0.07, above=0, most=1000)
    itc_pooler: bool = True
    queue_size: int = ranged(4096, least=0)
    queue_inputs: Literal["none", "uint8", "float32"] = "none"
    gather_with_gradient: bool = False
    image_mean: tuple[float, ...] = ranged((0.485, 0.456, 0.406), least=0, most=1)
    image_std: tuple[float, ...] = ranged((0.229, 0.224, 0.225), above=0, most=1_000_000)
    original: bool = False

    def __post_init__(self) -> None:
        self.objectives = tuple(self.objectives)  # lists, when they come from a file
        self.image_mean, self.image_std = tuple(self.image_mean), tuple(self.image_std)
        super().__post_init__()
        if not self.objectives or set(self.objectives) - set(PRETRAINING_OBJECTIVES):
            raise ValueError(f"objectives must be some of {', '.join(PRETRAINING_OBJECTIVES)}, are {self.objectives}")
        if self.queue_inputs not in ("none", "uint8", "float32"):
            raise ValueError(f"queue_inputs must be 'none', 'uint8' or 'float32', is {self.queue_inputs!r}")

    @classmethod
    def as_original(cls, **overrides: Any) -> PretrainingConfig:
        """The settings that reproduce the original step by step, defects included."""
        return cls(**{"queue_inputs": "float32", "original": True, **overrides})


@dataclass
class GenerationConfig(Ranged):
    """How captions are generated.

    Args:
        num_beams: Hypotheses kept at each step; 1 is greedy search.
        max_length: Most tokens of a caption, the end token included; the original's is its text length minus 1.
        min_length: Fewest tokens before the end token.
        num_return_sequences: Captions of each image, best first; at most `num_beams` unless they are sampled.
        do_sample: Whether to draw tokens instead of searching.
        temperature: Divides the logits before drawing; below 1 sharpens.
        top_k: Draw only from so many likeliest tokens; 0 for all.
        top_p: Draw only from the likeliest tokens that together have this probability.
        length_penalty: Power of the length that a hypothesis' log-probability is divided by; above 0 favors long ones.
        exhaustive: Whether to search on as long as any live hypothesis could, at any length, still enter the
            best `num_beams`. Otherwise an image is done when `num_beams` hypotheses have ended and no live one is
            better than the worst of them as it stands.
        begin_token_id: First token of a text, given, not generated.
        end_token_id: Last token of a text.
        pad_token_id: Fills texts up.
        forbidden_token_ids: Never generated; by default roberta-base's unknown and mask tokens. Those outside the
            vocabulary are ignored.
        original: Whether to search as the original did, defects included.

    Raises:
        ValueError: If a value is out of range, or more captions are wanted than beams.
    """

    num_beams: int = ranged(5, least=1)
    max_length: int = ranged(49, least=1)
    min_length: int = ranged(1, least=0)
    num_return_sequences: int = ranged(1, least=1)
    do_sample: bool = False
    temperature: float = ranged(1.0, above=0, most=1e6)
    top_k: int = ranged(0, least=0)
    top_p: float = ranged(1.0, above=0, most=1)
    length_penalty: float = ranged(1.0, least=-100, most=100)
    exhaustive: bool = False
    begin_token_id: int = ranged(0, least=0)
    end_token_id: int = ranged(2, least=0)
    pad_token_id: int = ranged(1, least=0)
    forbidden_token_ids: tuple[int, ...] = ranged((3, 50264), least=0)
    original: bool = False

    def __post_init__(self) -> None:
        self.forbidden_token_ids = tuple(self.forbidden_token_ids)  # lists, when they come from a file
        super().__post_init__()
        if self.min_length >= self.max_length:
            raise ValueError(f"min_length must be less than max_length ({self.max_length}), is {self.min_length}")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences ({self.num_return_sequences}) must be at most num_beams ({self.num_beams}); "
                "search with more beams or set do_sample"
            )


@dataclass
class CaptioningConfig(Ranged):
    """What captioning optimizes, and how it writes.

    Args:
        objective: `"mle"`, likelihood of the given captions; `"gold"`, the same weighted by how likely a frozen
            earlier copy of the model finds them; `"cider"`, likelihood of the model's own samples weighted by a reward,
            beside that of the given captions.
        refresh_every: Training batches after which GOLD's frozen copy takes over the model's weights.
        num_samples: Samples of an image for the reward.
        reward_weight: Of the reward's loss; the likelihood's is 1 minus this.
        baseline: What a reward is compared with: the `"constant"` 1, or the mean reward of the image's other
            `"samples"`, which has less variance.
        generation: How captions are written, and which tokens begin and end them.
        original: Whether to compute exactly what the original computes; see the module.

    Raises:
        ValueError: If a value is unknown or out of range.
    """

    objective: Literal["mle", "gold", "cider"] = "mle"
    refresh_every: int = ranged(1000, least=1)
    num_samples: int = ranged(5, least=1)
    reward_weight: float = ranged(0.7, least=0, most=1)
    baseline: Literal["constant", "samples"] = "constant"
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    original: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.generation, Mapping):  # comes from a file
            self.generation = GenerationConfig(**self.generation)
        super().__post_init__()
        if self.objective not in CAPTION_OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(CAPTION_OBJECTIVES)}, is {self.objective!r}")
        if self.baseline not in ("constant", "samples"):
            raise ValueError(f"baseline must be 'constant' or 'samples', is {self.baseline!r}")
        if self.baseline == "samples" and self.num_samples < 2:
            raise ValueError(f"num_samples must be at least 2 with baseline='samples', is {self.num_samples}")
