"""Images and texts as they come: what may be given, what prepares and opens them, where a folder's processor is."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypedDict, runtime_checkable

import numpy as np
from fiber_backbone.described import read_object
from fiber_backbone.seams import resolve
from huggingface_hub import snapshot_download
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor, from_numpy
from torchvision.transforms.functional import to_pil_image
from transformers.image_utils import load_image

Image = str | Path | bytes | BinaryIO | PILImage.Image | np.ndarray | Tensor
Images = Image | Sequence[Image]
Texts = str | Sequence[str]

PROCESSOR_FILE = "preprocessor_config.json"
# What a processor may have written, beside weights and whatever else a repository holds.
PROCESSOR_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


class HubOptions(TypedDict, total=False):
    """How a model comes from the hub; see `fiber_backbone.PretrainedModel.from_pretrained`."""

    revision: str | None
    cache_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool
    force_download: bool


class Processor(Protocol):
    """Images and texts to tensors, as `fiber_data`'s and transformers' processors do."""

    def __call__(self, images: Any = None, text: Any = None) -> Mapping[str, Tensor]:
        """`pixel_values` (B, 3, H, W) of images, `input_ids` and `attention_mask` (T, L) of texts.

        Where images keep their shapes, also `image_sizes` and `original_sizes` (B, 2), heights and widths before they
        were padded and as they came.
        """


@runtime_checkable
class PromptProcessor(Processor, Protocol):
    """A processor that also writes prompts to ask for boxes by, as `fiber_data.GroundingProcessor`."""

    def category_prompts(self, categories: Sequence[str], chunk_size: int | None = None) -> Mapping[str, Any]:
        """N prompts that name all categories.

        `input_ids` and `attention_mask` (N, L), and for each prompt `phrase_maps` (P, L) bool, the tokens of each of
        its categories, and `phrase_labels` (P,) int64, their indices.
        """

    def phrase_prompts(
        self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]] | None] | None = None
    ) -> Mapping[str, Any]:
        """The same of sentences and the phrases at `spans` of their characters, by default their noun phrases.

        Beside them `phrase_texts`, for each sentence the phrases.
        """


def as_list(texts: Texts) -> list[str]:
    """One text or several as a list."""
    return [texts] if isinstance(texts, str) else list(texts)


def image_list(images: Images) -> list[Image]:
    """One image or several as a list; none of images that are prepared, which nobody can look at."""
    if is_prepared(images):
        return []
    several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
    return list(images) if several or getattr(images, "ndim", 3) == 4 else [images]  # type: ignore[arg-type, list-item]


def image_name(image: Image) -> str:
    """The path or address of an image; empty if it has none."""
    return str(image) if isinstance(image, str | Path) else str(getattr(image, "filename", None) or "")


def open_image(image: Image | None) -> PILImage.Image:
    """An image as PIL has it, RGB and upright.

    Raises:
        OSError: It cannot be read.
        ValueError: It is nothing that can be opened.
    """
    if isinstance(image, Tensor):
        opened = to_pil_image(image.cpu())
    elif isinstance(image, np.ndarray):
        opened = to_pil_image(from_numpy(image[..., None] if image.ndim == 2 else image).movedim(-1, 0))
    elif isinstance(image, PILImage.Image):
        opened = image
    elif isinstance(image, bytes):
        opened = PILImage.open(BytesIO(image))
    elif isinstance(image, str | Path):  # a path or an address
        opened = load_image(str(image))
    elif image is not None and hasattr(image, "read"):
        image.seek(0)  # the processor has read it
        opened = PILImage.open(image)
    else:
        raise ValueError(
            f"there is no image to draw on in {image!r}; give draw a path, a URL, a PIL image, an array or a tensor"
        )
    return ImageOps.exif_transpose(opened).convert("RGB")


def is_prepared(images: object) -> bool:
    """Whether images are `pixel_values` already: a float tensor (B, 3, H, W)."""
    return isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4


def load_processor(name: str | Path, *, trusted: Collection[str] = (), hub: HubOptions | None = None) -> Any:
    """The processor that was saved beside a model, of the class that its file names in `fiber.processors`.

    Args:
        name: A folder, or the name of a repository on the hub.
        trusted: Import paths that the file may name beside entry points.
        hub: How it comes from the hub.

    Returns:
        The processor; None where there is none, and, with a warning, where its class is not installed or not trusted.

    Raises:
        ValueError: Its file is no JSON object; or what the class raises.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = Path(snapshot_download(str(name), allow_patterns=PROCESSOR_FILES, **(hub or {})))
    if not (folder / PROCESSOR_FILE).is_file():
        return None
    kind = read_object(folder / PROCESSOR_FILE).get("processor_class")
    try:
        found = resolve(f"{kind!s:.120}", "fiber.processors", trusted=trusted)
    except ValueError as error:
        warnings.warn(f"{name} is loaded without its processor: {error}", stacklevel=4)
        return None
    return found.from_pretrained(folder)


def check_processor(processor: Any, vocab_size: int, stride: int) -> None:
    """ValueError if a processor has a tokenizer with ids for which a model has no embedding, or images of other sizes.

    Args:
        processor: Of any kind, or None.
        vocab_size: Embeddings of the model.
        stride: What the sides of its images are multiples of.
    """
    vocabulary: dict[str, int] = getattr(getattr(processor, "tokenizer", None), "get_vocab", dict)()
    if vocabulary and (largest := max(vocabulary.values())) >= vocab_size:
        raise ValueError(
            f"holds a tokenizer with ids up to {largest}, but a model of {vocab_size} tokens; use the tokenizer that "
            "the model was trained with"
        )
    for name in ("image_size", "size_divisor"):
        if (size := getattr(processor, name, stride)) % stride:
            raise ValueError(
                f"{name} of {PROCESSOR_FILE} is {size}; the backbone takes images whose sides are multiples of "
                f"{stride}; set it to {-(-size // stride) * stride}"
            )
