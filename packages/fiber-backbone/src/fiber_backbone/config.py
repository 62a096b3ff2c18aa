"""The configuration of the backbone: which parts it is made of, their sizes, and every switch of the two stages."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from fiber_backbone.ranges import Ranged, ranged

WindowPolicy = Literal["shrink", "pad"]
MOST_LAYERS = 1000  # of both streams together
LARGEST = 2**31 - 1  # of a size


@dataclass
class FiberConfig(Ranged):
    """Parts, sizes and switches of a `FiberBackbone`; the defaults are FIBER-Base in the coarse stage.

    Args:
        image_stream: The image stream: `"swin"`, `"vit"`, another entry point of `fiber.streams`, or the import path
            (`package.module:Name`) of an `ImageStream`.
        text_stream: The text stream: `"roberta"`, `"bert"`, another entry point, or the import path of a `TextStream`.
        fusion: What is inserted into the pairs of blocks: `"gated"` (FIBER), `"late"`, `"merged"`, another entry point
            of `fiber.fusions`, or the import path of a `Fusion`.
        image_settings: What the image stream takes beside the fields below; all that one of your own has.
        text_settings: The same of the text stream.
        fusion_settings: The same of the fusion.
        image_size: Nominal side of an image in pixels. Other sizes run too (see `window_policy`).
        patch_size: Side of a patch in pixels.
        embed_dim: Channels of the first image stage; each stage doubles them.
        depths: Number of blocks of each image stage.
        image_num_heads: Attention heads of each image stage.
        window_size: Side of an attention window in tokens. In the coarse stage it is `image_size / 32`.
        image_mlp_ratio: Width of an image block's MLP over its channels.
        drop_path_rate: Stochastic depth of the last image block; earlier blocks get linearly less.
        vocab_size: Number of tokens of the vocabulary.
        hidden_size: Width of the text stream.
        num_hidden_layers: Number of text layers.
        num_attention_heads: Attention heads of a text layer, in self- and in cross-attention.
        intermediate_size: Width of a text layer's MLP.
        max_position_embeddings: Rows of the position table; the first `pad_token_id + 1` serve padding.
        type_vocab_size: Rows of the token type table (always read at row 0).
        pad_token_id: Id of the padding token.
        layer_norm_eps: Epsilon of the text stream's layer norms.
        hidden_act: Activation of the text stream's MLPs, by transformers' name.
        hidden_dropout: Dropout after embeddings and after every dense output of the text stream, in [0, 1).
        attention_dropout: Dropout on the text stream's attention probabilities, in [0, 1).
        initializer_range: Standard deviation of new linear weights. 0.02 suits widths of 768 and more; in narrow models
            it makes every layer start as almost nothing, and they learn far slower than from about width ** -0.5.
        initial_gate: A fresh model's gates. 0 leaves two pre-trained streams exactly as they were; a model that
            starts from nothing learns to read the other stream sooner from 0.5.
        num_fusion_blocks: How many of the top blocks of each stream read the other stream (K).
        normalize_image_query: Whether a layer norm precedes the image stream's cross-attention query. True in
            the coarse stage and in the fine models for referring expressions, False in the other fine models.
        fused_text_norm: Whether the last text layer keeps its final layer norm in the fused path. False in the
            coarse stage, True in the fine stage.
        window_policy: `"shrink"` (coarse stage, timm): a window is never larger than the map, and a dimension
            with one window is not shifted. `"pad"` (fine stage): windows always have full size; the map is padded.
        pyramid_norms: Whether the pyramid's levels above the first get a layer norm of their own (fine stage). The
            single final norm of the coarse stage then does not exist.
        joint_projection: Whether linear maps and poolers bring the fused streams to one width (coarse stage).
        decoder_projections: Whether the linear maps exist through which `decode_text` reads image features whose
            width is not the one that a fused text layer expects (captioning).

    Raises:
        ValueError: If two sizes do not fit together; the sentence names both.
    """

    image_stream: str = "swin"
    text_stream: str = "roberta"
    fusion: str = "gated"
    image_settings: dict[str, Any] = field(default_factory=dict)
    text_settings: dict[str, Any] = field(default_factory=dict)
    fusion_settings: dict[str, Any] = field(default_factory=dict)
    image_size: int = ranged(384, least=1, most=LARGEST)
    patch_size: int = ranged(4, least=1, most=LARGEST)
    embed_dim: int = ranged(128, least=1, most=LARGEST)
    depths: tuple[int, ...] = ranged((2, 2, 18, 2), least=1)
    image_num_heads: tuple[int, ...] = ranged((4, 8, 16, 32), least=1)
    window_size: int = ranged(12, least=1, most=LARGEST)
    image_mlp_ratio: float = ranged(4.0, above=0, most=1000)
    drop_path_rate: float = ranged(0.1, least=0, below=1)
    vocab_size: int = ranged(50265, least=1, most=LARGEST)
    hidden_size: int = ranged(768, least=1, most=LARGEST)
    num_hidden_layers: int = ranged(12, least=1, most=10_000)
    num_attention_heads: int = ranged(12, least=1)
    intermediate_size: int = ranged(3072, least=1, most=LARGEST)
    max_position_embeddings: int = ranged(514, least=1, most=LARGEST)
    type_vocab_size: int = ranged(1, least=1, most=LARGEST)
    pad_token_id: int = ranged(1, least=0)
    layer_norm_eps: float = ranged(1e-5, least=0, most=1)
    hidden_act: str = "gelu"
    hidden_dropout: float = ranged(0.1, least=0, below=1)
    attention_dropout: float = ranged(0.1, least=0, below=1)
    initializer_range: float = ranged(0.02, least=0, most=100)
    initial_gate: float = ranged(0.0, least=-100, most=100)
    num_fusion_blocks: int = ranged(6, least=1)
    normalize_image_query: bool = True
    fused_text_norm: bool = False
    window_policy: WindowPolicy = "shrink"
    pyramid_norms: bool = False
    joint_projection: bool = True
    decoder_projections: bool = False

    def __post_init__(self) -> None:
        self.depths, self.image_num_heads = tuple(self.depths), tuple(self.image_num_heads)
        super().__post_init__()
        self._check_sizes()
        if len(self.depths) != len(self.image_num_heads):
            raise ValueError(
                f"depths {self.depths} and image_num_heads {self.image_num_heads} must name the same number of stages"
            )
        for dim, heads in zip(self.stage_dims, self.image_num_heads, strict=True):
            if dim % heads:
                raise ValueError(
                    f"an image stage of {dim} channels cannot be split into {heads} heads; change image_num_heads"
                )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be divisible by "
                f"num_attention_heads ({self.num_attention_heads})"
            )
        if self.window_policy not in ("shrink", "pad"):
            raise ValueError(f"window_policy must be 'shrink' or 'pad', is {self.window_policy!r}")

    def _check_sizes(self) -> None:
        for name in ("depths", "image_num_heads"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be numbers of at least 1, is empty")
        if (layers := sum(self.depths) + self.num_hidden_layers) > MOST_LAYERS:
            raise ValueError(f"depths and num_hidden_layers make {layers:,} layers, more than {MOST_LAYERS}")
        rows = min(self.vocab_size, self.max_position_embeddings - 1)
        if self.pad_token_id >= rows:
            raise ValueError(
                f"pad_token_id must be from 0 to {rows - 1}, of vocab_size ({self.vocab_size}) and "
                f"max_position_embeddings ({self.max_position_embeddings}), is {self.pad_token_id}"
            )

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each image stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def image_dim(self) -> int:
        """Channels of the last image stage."""
        return self.stage_dims[-1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per token of each image stage; an image's sides must be multiples of the last."""
        return tuple(self.patch_size * 2**stage for stage in range(len(self.depths)))

    @property
    def block_stages(self) -> tuple[int, ...]:
        """Stage of each image block, bottom to top."""
        return tuple(stage for stage, depth in enumerate(self.depths) for _ in range(depth))

    def fine_stage(self, normalize_image_query: bool = False) -> FiberConfig:
        """The same sizes with the switches of the fine stage.

        Args:
            normalize_image_query: True for the models trained for referring expressions.
        """
        return replace(
            self,
            normalize_image_query=normalize_image_query,
            fused_text_norm=True,
            window_policy="pad",
            pyramid_norms=True,
            joint_projection=False,
            drop_path_rate=0.4,
        )

    def coarse_stage(self) -> FiberConfig:
        """The same sizes with the switches of the coarse stage, for weights of the fine stage.

        The query norm stays as it is: weights that were trained without it would mean something else behind a fresh
        one.
        """
        return replace(
            self,
            fused_text_norm=False,
            window_policy="shrink",
            pyramid_norms=False,
            joint_projection=True,
            drop_path_rate=min(self.drop_path_rate, FiberConfig.drop_path_rate),
        )

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> FiberConfig:
        """A named size: `"fiber_base"`, `"fiber_small"` or `"fiber_tiny"`.

        Args:
            name: The preset.
            **overrides: Fields to replace.

        Raises:
            ValueError: If the preset or a field does not exist.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[name].replaced(**overrides)

    def replaced(self, **overrides: Any) -> FiberConfig:
        """The same with other values.

        Raises:
            ValueError: A field does not exist; the message names the nearest.
        """
        known = {each.name for each in fields(self)}
        for key in overrides.keys() - known:
            guess = get_close_matches(key, known, n=1)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise ValueError(f"FiberConfig has no field {key!r}{hint}")
        return replace(self, **overrides)

    def grown(self, **overrides: Any) -> FiberConfig:
        """The same with other values; unless they name the window, it grows with the image.

        In the coarse stage 384 px with windows of 12 tokens become 576 px with windows of 18.

        Raises:
            ValueError: A field does not exist, or the window would not be a whole number of tokens.
        """
        given = self.replaced(**overrides)
        if given.image_size == self.image_size or "window_size" in overrides or self.image_stream != "swin":
            return given
        if self.window_size * given.image_size % self.image_size:
            raise ValueError(
                f"windows of {self.window_size} tokens at {self.image_size} px do not become whole windows at "
                f"{given.image_size} px; pass window_size"
            )
        return replace(given, window_size=self.window_size * given.image_size // self.image_size)

    def misfit(self, other: FiberConfig) -> str | None:
        """The first field because of which weights of another configuration cannot serve this one, None if they can."""
        differing = (each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name))
        return next((name for name in differing if name not in FREE_FIELDS), None)


# Resolution, switches, dropout and how fresh weights start may differ from those that weights were made under.
FREE_FIELDS = frozenset(
    {
        "image_size",
        "window_size",
        "window_policy",
        "normalize_image_query",
        "fused_text_norm",
        "pyramid_norms",
        "joint_projection",
        "decoder_projections",
        "hidden_dropout",
        "attention_dropout",
        "drop_path_rate",
        "initializer_range",
        "initial_gate",
    }
)


PRESETS = {
    # Swin-B/12 + RoBERTa-base, the published model.
    "fiber_base": FiberConfig(),
    # Swin-T/7 + the sizes of DistilRoBERTa, for one small GPU.
    "fiber_small": FiberConfig(
        image_size=224,
        embed_dim=96,
        depths=(2, 2, 6, 2),
        image_num_heads=(3, 6, 12, 24),
        window_size=7,
        num_hidden_layers=6,
        num_fusion_blocks=4,
    ),
    # For tests and for learning on a CPU. Three stages: at 64 px, text reads an 8 x 8 map, then two of 4 x 4.
    "fiber_tiny": FiberConfig(
        image_size=64,
        embed_dim=48,
        depths=(2, 2, 2),
        image_num_heads=(2, 4, 8),
        window_size=4,
        drop_path_rate=0.0,
        vocab_size=512,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=66,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        initializer_range=0.08,
        num_fusion_blocks=3,
    ),
}
