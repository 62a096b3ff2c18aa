"""Image-text contrast (ITC) and the hard negatives that it finds for matching (FIBER, section 3.2; ALBEF).

    Shapes: S images and texts of this process, B of them anchors, N candidates, D channels.

The similarities of a process are those of its own anchors with all candidates, (B, N): no process computes another's.
Candidates are the global batch, so the mean of the processes' losses is the loss of one process with all samples.

Differences from the original, each undone by `original=True`:
    * slots of the queue that are not filled yet take no part in the loss (there they are noise of norm sqrt(D));
    * a candidate of the anchor's own image, when ids tell, is no negative, neither in the loss nor for matching;
    * negatives are drawn from a softmax without the anchor's own pair (there it is set to zero afterwards, which
      leaves nothing to draw from when the pair is easy, and 1e-9 is added to everything);
    * features of all processes are candidates in the same step (there one step later, through the queue).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fiber_heads.distributed import all_gather, rank
from fiber_heads.draws import draw
from fiber_heads.initialization import initialize
from fiber_heads.sharding import local


@dataclass
class Contrast:
    """What one contrastive step gives.

    Attributes:
        loss: Scalar, the mean over both directions.
        image_to_text: (B, N) weights with which a negative text is drawn for each image; rows need not sum to one.
        text_to_image: (B, N) weights with which a negative image is drawn for each text.
        sample_losses: (B,) the losses whose mean it is, without gradient.
    """

    loss: Tensor
    image_to_text: Tensor
    text_to_image: Tensor
    sample_losses: Tensor


class ContrastiveHead(nn.Module):
    """Brings both finished streams to unit vectors in one space and compares them.

    Args:
        text_dim: Channels of the finished text stream, the width of the common space (D).
        image_dim: Channels of the finished image stream.
        temperature: Initial temperature; it is learned, and kept in [0.001, 1].
        pooler: Whether a tanh layer follows the projection.
        gather_with_gradient: Whether gradients also reach features as candidates, across processes too, as in CLIP;
            by default they reach anchors only, as in the original.
        original: Whether to compute exactly what the original computes, with the defects listed above.
    """

    def __init__(
        self,
        text_dim: int,
        image_dim: int,
        *,
        temperature: float = 0.07,
        pooler: bool = True,
        gather_with_gradient: bool = False,
        original: bool = False,
    ) -> None:
        super().__init__()
        self.gather_with_gradient = gather_with_gradient
        self.original = original
        self.text_transform = nn.Linear(text_dim, text_dim)
        self.image_transform = nn.Linear(image_dim, text_dim)
        self.text_pooler = nn.Linear(text_dim, text_dim) if pooler else None
        self.image_pooler = nn.Linear(text_dim, text_dim) if pooler else None
        initialize(self)
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def encode_texts(self, hidden_state: Tensor) -> Tensor:
        """Unit vectors (B, D) of finished text tokens (B, L, text_dim); the first token stands for the text."""
        return _unit(self.text_transform(hidden_state[:, 0]), self.text_pooler)

    def encode_images(self, hidden_state: Tensor) -> Tensor:
        """Unit vectors (B, D) of finished, normalized image tokens (B, N, image_dim)."""
        return _unit(self.image_transform(hidden_state.mean(dim=1)), self.image_pooler)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        queue: FeatureQueue | None = None,
        image_ids: Tensor | None = None,
        part: slice = slice(None),
    ) -> Contrast:
        """Compares pairs with each other, with those of other processes and with the queue.

        Args:
            image_features: (S, D) unit vectors.
            text_features: (S, D) unit vectors; row s belongs to image s.
            queue: Candidates of earlier steps.
            image_ids: (S,) int64, equal for pairs of the same image.
            part: Which rows are anchors; all are candidates.

        Returns:
            Loss, and sampling weights over what can be encoded for matching: the global batch, process after process,
            followed by the filled slots of the queue if it keeps inputs. With `original` this process's batch stands
            for the global one.
        """
        self.limit()
        with torch.autocast(image_features.device.type, enabled=False):
            at_least_float32 = torch.promote_types(image_features.dtype, torch.float32)
            image, text = image_features.to(at_least_float32), text_features.to(at_least_float32)
            ids = None if image_ids is None or self.original else image_ids
            texts = self._candidates(text, None if queue is None else queue.text[: self._used(queue)])
            images = self._candidates(image, None if queue is None else queue.image[: self._used(queue)])
            to_text, to_image = (
                self._compare(anchors, candidates, queue, ids, part)
                for anchors, candidates in ((image, texts), (text, images))
            )
        of_samples = (to_text[2] + to_image[2]) / 2
        return Contrast((to_text[0] + to_image[0]) / 2, to_text[1], to_image[1], of_samples)

    @torch.no_grad()
    def limit(self) -> None:
        """Keeps the temperature in its range."""
        local(self.temperature).clamp_(0.001, 1.0)

    def _used(self, queue: FeatureQueue) -> int:
        """How many slots of the queue take part in the loss."""
        return queue.size if self.original else queue.filled

    def _candidates(self, others: Tensor, queued: Tensor | None) -> Tensor:
        """(N, D): the other side of the batch, of all processes, and of the queue."""
        gathered = others.detach() if self.original else all_gather(others, with_gradient=self.gather_with_gradient)
        return gathered if queued is None else torch.cat([gathered, queued.to(gathered)])

    def _compare(
        self, features: Tensor, candidates: Tensor, queue: FeatureQueue | None, ids: Tensor | None, part: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, sampling weights and the loss of each anchor in one direction."""
        logits = features[part] @ candidates.T / self.temperature
        filled = 0 if queue is None else queue.filled
        own = torch.arange(len(features), device=logits.device)[part]
        own = own + (0 if self.original else len(features) * rank())
        own_pair = nn.functional.one_hot(own, len(candidates)).bool()
        same_image = own_pair
        if ids is not None:
            others = all_gather(ids) if queue is None else torch.cat([all_gather(ids), queue.image_ids[:filled]])
            same_image = own_pair | (ids[part, None] == others)
        of_samples = cross_entropy(logits.masked_fill(same_image & ~own_pair, -torch.inf), own, reduction="none")
        loss, of_samples = of_samples.mean(), of_samples.detach()

        in_batch = len(candidates) - (0 if queue is None else self._used(queue))
        drawable = in_batch + (0 if queue is None or queue.inputs == "none" else filled)
        logits, own_pair, same_image = (each[:, :drawable] for each in (logits.detach(), own_pair, same_image))
        if self.original:
            return loss, logits.softmax(dim=1).masked_fill(own_pair, 0.0), of_samples
        # A row without any candidate would be softmax over nothing: NaN, which here means weight zero everywhere.
        return loss, logits.masked_fill(same_image, -torch.inf).softmax(dim=1).nan_to_num(0.0), of_samples


class FeatureQueue(nn.Module):
    """Candidates of earlier steps: features, and by choice the inputs, so that a negative can be encoded again.

    Features live where the model lives. Inputs stay on the host: images as uint8 (exact for images that were
    resized as uint8), or as float32. None of it is part of the model's weights; `training_state` is for checkpoints.

    Args:
        size: Number of slots.
        dim: Channels of a feature.
        inputs: `"none"`, `"uint8"` or `"float32"`: what to keep of the images, and whether to keep texts.
        mean: Mean of the color channels by which `pixel_values` are normalized, on the scale [0, 1].
        std: Their standard deviation.
    """

    image: Tensor
    text: Tensor
    image_ids: Tensor

    def __init__(
        self, size: int, dim: int, *, inputs: str = "none", mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
    ) -> None:
        super().__init__()
        self.size, self.inputs = size, inputs
        self.filled = self.pointer = 0
        self.register_buffer("image", torch.randn(size, dim), persistent=False)
        self.register_buffer("text", torch.randn(size, dim), persistent=False)
        self.register_buffer("image_ids", torch.full((size,), -1), persistent=False)
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self.pixels: Tensor | None = None
        self.input_ids: Tensor | None = None
        self.attention_mask: Tensor | None = None

    @torch.no_grad()
    def push(
        self,
        image_features: Tensor,
        text_features: Tensor,
        image_ids: Tensor | None = None,
        inputs: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        """Stores the batches of all processes over the oldest slots.

        Args:
            image_features: (B, D).
            text_features: (B, D).
            image_ids: (B,); without them no slot is known to be of a given image.
            inputs: `pixel_values` (B, 3, H, W), `input_ids` and `attention_mask` (B, L); needed if inputs are kept.

        Raises:
            ValueError: If the images or texts differ in shape from those already kept.
        """
        if image_ids is None:
            image_ids = torch.full((len(image_features),), -1, device=image_features.device)
        rows = [all_gather(tensor) for tensor in (image_features, text_features, image_ids)]
        count = len(rows[0])
        slots = (torch.arange(count) + self.pointer) % self.size
        keep = slice(max(0, count - self.size), None)  # of a batch larger than the queue, the last rows
        for buffer, values in zip((self.image, self.text, self.image_ids), rows, strict=True):
            buffer[slots[keep].to(buffer.device)] = values[keep].to(buffer)
        if self.inputs != "none":
            if inputs is None:
                raise ValueError("this queue keeps inputs; push needs pixel_values, input_ids and attention_mask")
            self._push_inputs(slots, keep, *(all_gather(tensor) for tensor in inputs))
        self.pointer = (self.pointer + count) % self.size
        self.filled = min(self.filled + count, self.size)

    def _push_inputs(self, slots: Tensor, keep: slice, pixels: Tensor, ids: Tensor, mask: Tensor) -> None:
        pixels, ids, mask = (tensor[keep].cpu() for tensor in (pixels, ids, mask))
        if self.inputs == "uint8":
            pixels = ((pixels.float() * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        else:
            pixels = pixels.float()
        if self.pixels is None or self.input_ids is None or self.attention_mask is None:
            self.pixels = pixels.new_zeros(self.size, *pixels.shape[1:])
            self.input_ids, self.attention_mask = (ids.new_zeros(self.size, ids.shape[1]) for _ in range(2))
        if pixels.shape[1:] != self.pixels.shape[1:] or ids.shape[1:] != self.input_ids.shape[1:]:
            raise ValueError(
                f"the queue keeps images of shape {tuple(self.pixels.shape[1:])} and texts of "
                f"{self.input_ids.shape[1]} tokens, got {tuple(pixels.shape[1:])} and {ids.shape[1]}; resize images "
                "to one square and pad texts to one length, or keep no inputs"
            )
        self.pixels[slots[keep]], self.input_ids[slots[keep]], self.attention_mask[slots[keep]] = pixels, ids, mask

    def get_inputs(self, slots: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs of some slots as `pixel_values` (of `like`'s type and device), `input_ids`, `attention_mask`.

        Raises:
            ValueError: If no inputs are kept, or none were pushed yet.
        """
        if self.pixels is None or self.input_ids is None or self.attention_mask is None:
            raise ValueError("the queue has no inputs; build it with inputs='uint8' and push some")
        slots = slots.cpu()
        pixels = self.pixels[slots].to(like.device, non_blocking=True)
        if self.inputs == "uint8":
            pixels = (pixels.float() / 255 - self.mean.to(like.device)) / self.std.to(like.device)
        ids, mask = (tensor[slots].to(like.device) for tensor in (self.input_ids, self.attention_mask))
        return pixels.to(like.dtype), ids, mask

    def training_state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, on the host."""
        state = {"image": self.image, "text": self.text, "image_ids": self.image_ids}
        for name in ("pixels", "input_ids", "attention_mask"):
            if (value := getattr(self, name)) is not None:
                state[name] = value
        state |= {"filled": torch.tensor(self.filled), "pointer": torch.tensor(self.pointer)}
        return {name: value.detach().cpu() for name, value in state.items()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from `training_state`.

        Raises:
            ValueError: If the state is of a queue of another size.
        """
        if state["image"].shape != self.image.shape:
            raise ValueError(
                f"the state is of a queue of {tuple(state['image'].shape)} (slots, channels), this one has "
                f"{tuple(self.image.shape)}; set the queue_size that the run began with"
            )
        for name in ("image", "text", "image_ids"):
            getattr(self, name).copy_(state[name])
        for name in ("pixels", "input_ids", "attention_mask"):
            setattr(self, name, state[name].clone() if name in state else None)
        self.filled, self.pointer = int(state["filled"]), int(state["pointer"])


def sample_negatives(
    weights: Tensor, numbers: Tensor | None = None, *, original: bool = False
) -> tuple[Tensor, Tensor]:
    """Draws one negative for every anchor in one call, without waiting for the device.

    Args:
        weights: (B, N) non-negative, see `Contrast`.
        numbers: (B,) in [0, 1) that decide the draw, see `draws`; by default torch's generator does.
        original: Whether to add 1e-9 to every weight as the original does, the anchor's own pair included.

    Returns:
        The drawn columns (B,) int64, and whether the anchor had any candidate at all (B,) bool; where it had not,
        the column is arbitrary.
    """
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    exists = weights.sum(dim=1) > 0
    weights = weights + 1e-9 if original else torch.where(exists[:, None], weights, torch.ones_like(weights))
    columns = torch.multinomial(weights, 1).squeeze(1) if numbers is None else draw(weights, numbers)
    return columns, exists | original


def _unit(x: Tensor, pooler: nn.Linear | None) -> Tensor:
    x = x if pooler is None else pooler(x).tanh()
    return x / x.norm(dim=-1, keepdim=True)
