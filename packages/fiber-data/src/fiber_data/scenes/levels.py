"""Levels of difficulty: what scenes hold, what is said and asked of them, and which combinations training never sees.

`easy` is version 2 of the data set to the byte: what it draws and says is stored with numbers that were measured on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Protocol

SIZES = ("small", "large")
UNSEEN = "unseen"  # the split whose scenes all hold a combination that no other split shows or names
_COLORS = ("red", "green", "blue", "yellow", "purple", "black")
_SHAPES = ("circle", "square", "triangle", "cross")

Attributes = tuple[str, ...]


class Looks(Protocol):
    """What has a shape, color and texture."""

    @property
    def shape(self) -> str:
        """Its shape."""
        ...


@dataclass(frozen=True)
class Level:
    """What a generator of scenes draws and says.

    Attributes:
        name: What people call it.
        colors: Colors of things; `fiber_data.scenes.draw.RGB` has their values.
        shapes: Shapes of things.
        textures: Surfaces of things.
        diameters: Of each size, as a share of the image's side.
        num_objects: How many things a scene may hold.
        num_objects_weights: How often it holds so many.
        themed: Share of the scenes in which several things have one attribute in common, so that counting goes far.
        overlaps: Whether things may cover others in part.
        held_out: Pairs of a color or texture and a shape that only the split `UNSEEN` shows or names.
        is_unseen: Whether this is the level of that split: one thing of each scene is of a held-out pair, and is what
            questions, expressions and sentences are about.
        image_size: Side of the images in pixels, unless another is asked for.
        oversampling: Times larger, in each direction, that images are drawn before they are averaged.
        image_word: How sentences call an image.
        pair_keys: Attributes that are said together with a shape.
        tellings: Sets of attributes that may tell a thing from others, each tried before a longer one.
        captions: Forms of captions, see `fiber_data.scenes.captions`.
        questions: Kinds of questions but for counting, see `fiber_data.scenes.questions`.
        counted: Families of counting questions and the answers that each has equally often.
        claims: Forms of sentences about two images, see `fiber_data.scenes.pairs`.
    """

    name: str
    image_size: int
    num_objects: tuple[int, ...]
    num_objects_weights: tuple[float, ...]
    diameters: Mapping[str, float]
    captions: tuple[str, ...]
    questions: tuple[str, ...]
    counted: Mapping[str, tuple[str, ...]]
    claims: tuple[str, ...]
    tellings: tuple[Attributes, ...]
    colors: tuple[str, ...] = _COLORS
    shapes: tuple[str, ...] = _SHAPES
    textures: tuple[str, ...] = ("plain",)
    pair_keys: Attributes = ("color",)
    themed: float = 0.0
    overlaps: bool = False
    held_out: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    is_unseen: bool = False
    oversampling: int = 2
    image_word: str = "image"

    def of_split(self, split: str) -> Level:
        """The level as a split has it.

        Raises:
            ValueError: If the split is `UNSEEN` and the level holds nothing out.
        """
        if split == UNSEEN and not self.held_out:
            raise ValueError(
                f"level {self.name!r} holds no combinations out, so it has no split {UNSEEN!r}; "
                f"leave it out or choose another level ({', '.join(n for n, x in LEVELS.items() if x.held_out)})"
            )
        return replace(self, is_unseen=split == UNSEEN)

    def values(self, key: str) -> tuple[str, ...]:
        """The values of an attribute: "color", "shape", "size" or "texture"."""
        return {"color": self.colors, "shape": self.shapes, "size": SIZES, "texture": self.textures}[key]

    @property
    def all_keys(self) -> Attributes:
        """The attributes in which things of this level differ, as they are said."""
        return ("size", *(("texture",) if len(self.textures) > 1 else ()), "color", "shape")

    def may_pair(self, value: str, shape: str) -> bool:
        """Whether a text of this split may ask for a color or texture together with a shape."""
        return ((value, shape) in self.held_out) is self.is_unseen

    def is_subject(self, item: Looks) -> bool:
        """Whether a text of this split may be about a thing: in the unseen split only about what is unseen."""
        return not self.is_unseen or any(self.is_told(item, key) for key in self.pair_keys)

    def is_told(self, item: Looks, key: str) -> bool:
        """Whether a thing's color or texture may be asked for together with its shape."""
        return self.may_pair(getattr(item, key), item.shape)

    @cached_property
    def kinds(self) -> tuple[tuple[str, str, str, str], ...]:
        """Every (color, shape, size, texture) of training."""
        return tuple(kind for kind in self._all_kinds if not self._is_held_out(kind))

    @cached_property
    def held_out_kinds(self) -> tuple[tuple[str, str, str, str], ...]:
        """Every (color, shape, size, texture) of `UNSEEN` alone."""
        return tuple(kind for kind in self._all_kinds if self._is_held_out(kind))

    @property
    def _all_kinds(self) -> product[tuple[str, str, str, str]]:
        return product(self.colors, self.shapes, SIZES, self.textures)

    def _is_held_out(self, kind: tuple[str, str, str, str]) -> bool:
        color, shape, _, texture = kind
        return (color, shape) in self.held_out or (texture, shape) in self.held_out


_TELLINGS: tuple[Attributes, ...] = (
    ("shape",),
    ("color",),
    ("color", "shape"),
    ("size", "shape"),
    ("size", "color"),
)
_MORE_TELLINGS: tuple[Attributes, ...] = (
    *_TELLINGS,
    ("texture", "shape"),
    ("texture", "color"),
    ("size", "texture"),
    ("size", "color", "shape"),
    ("texture", "color", "shape"),
    ("size", "texture", "shape"),
    ("size", "texture", "color"),
)
_TO_FIVE = ("0", "1", "2", "3", "4", "5")

EASY = Level(
    name="easy",
    image_size=64,
    num_objects=(1, 2, 3),
    num_objects_weights=(0.2, 0.35, 0.45),
    diameters={"small": 0.24, "large": 0.37},  # 15 and 24 pixels of 64
    tellings=_TELLINGS,
    captions=("list", "counted", "related", "placed", "shown"),
    questions=("exist", "colour", "shape", "size", "relation"),
    counted={"all": ("1", "2", "3"), "color": ("0", "1", "2"), "shape": ("0", "1", "2"), "size": ("0", "1", "2")},
    claims=("both", "only one", "neither", "left alone", "more", "equal"),
    oversampling=4,
    image_word="picture",
)
MEDIUM = Level(
    name="medium",
    image_size=96,
    num_objects=(2, 3, 4, 5),
    num_objects_weights=(0.1, 0.2, 0.25, 0.45),
    diameters={"small": 0.17, "large": 0.27},  # 16 and 26 pixels of 96
    colors=(*_COLORS, "orange", "pink"),
    shapes=(*_SHAPES, "star", "diamond", "heart", "crescent"),
    textures=("plain", "striped", "dotted", "checkered"),
    pair_keys=("color", "texture"),
    tellings=_MORE_TELLINGS,
    themed=0.7,
    held_out=frozenset(
        {
            ("red", "star"),
            ("blue", "heart"),
            ("green", "circle"),
            ("yellow", "cross"),
            ("purple", "triangle"),
            ("orange", "square"),
            ("striped", "diamond"),
            ("dotted", "crescent"),
            ("checkered", "heart"),
        }
    ),
    captions=("alike", "grouped", "beside", "between", "without"),
    questions=("exist", "negation", "color", "shape", "size", "texture", "relation", "between"),
    counted={
        "all": ("2", "3", "4", "5"),
        "color": _TO_FIVE,
        "shape": _TO_FIVE,
        "size": _TO_FIVE,
        "texture": _TO_FIVE,
        "not color": _TO_FIVE,
        "not texture": _TO_FIVE,
    },
    claims=("both", "only one", "neither", "left alone", "more", "equal", "more of", "together", "at least", "not"),
)
HARD = replace(
    MEDIUM,
    name="hard",
    num_objects=(3, 4, 5, 6),
    num_objects_weights=(0.1, 0.2, 0.3, 0.4),
    diameters={"small": 0.18, "large": 0.3},  # 17 and 29 pixels of 96
    overlaps=True,
    questions=(*MEDIUM.questions, "front"),
    counted={**MEDIUM.counted, "all": ("3", "4", "5", "6")},
)
LEVELS: dict[str, Level] = {level.name: level for level in (EASY, MEDIUM, HARD)}
