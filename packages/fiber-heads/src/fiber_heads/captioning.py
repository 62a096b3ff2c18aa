"""Captions: a text written token by token over a finished image, by three objectives (spec: coarse, section 2.7).

Where the original has a defect, `CaptioningConfig(original=True)` keeps it. Otherwise:

    * GOLD averages over the tokens of the batch; the original divides by the number of pads
    * samples for the reward are drawn without dropout; the original left it on
    * one encoding of the image serves sampling, reward and likelihood; the original encodes every sample's image anew
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from fiber_backbone import DecodingCache, FiberBackbone
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fiber_heads.config import CaptioningConfig, GenerationConfig
from fiber_heads.distributed import BatchMean
from fiber_heads.exported import ExportPart, decoder_parts
from fiber_heads.generation import Caption, generate, sample
from fiber_heads.masked_lm import MaskedLMHead
from fiber_heads.processing import Images, image_list, image_name
from fiber_heads.results import Results
from fiber_heads.sharding import copy_weights, whole
from fiber_heads.task import TaskModel, TaskOutput

Reward = Callable[[Tensor, Sequence[Sequence[str]]], Tensor]


LEAST_WEIGHT = 0.1  # of a token in GOLD
REWARD_SCALE, BASELINE = 100.0, 1.0  # of CIDEr-D, whose values lie between 0 and 10


class CachedDecoder:
    """A `Decoder` of the model that computes every image and every token once.

    Args:
        backbone: With decoder projections.
        word_head: Over its text features.
        image_features: (B, N, C), see `FiberBackbone.decode_text`.
    """

    def __init__(self, backbone: FiberBackbone, word_head: MaskedLMHead, image_features: Tensor) -> None:
        self.num_images, self.device = len(image_features), image_features.device
        self._backbone, self._word_head, self._image_features = backbone, word_head, image_features
        self._cache = DecodingCache()

    def step(self, tokens: Tensor) -> Tensor:
        """See `Decoder`."""
        features = self._backbone.decode_text(tokens[:, None], self._image_features, cache=self._cache).text_features
        assert features is not None
        return self._word_head.next_token(features[:, -1])

    def select(self, rows: Tensor, images: Tensor | None = None) -> None:
        """See `Decoder`."""
        self._cache = self._cache.select(rows, images)


class FiberForCaptioning(TaskModel):
    """Captioning: image in, text out.

    Args:
        backbone: Any backbone with a joint projection and decoder projections.
        config: Objective and generation.
        reward: What `"cider"` rewards; also an attribute to be set later. It is called once a training batch with
            the ids (B num_samples, 1 + T), int64 on the model's device, samples of one image one after the other, each
            the begin token, the text, the end token unless it was cut at T tokens, and padding; and with the batch's
            `references`, one list of texts for each of the B images. It decodes the ids itself and gives one reward
            a row, (B num_samples,), CIDEr-D times 10 in the original. It is not saved.

    Raises:
        ValueError: If the backbone lacks one of the projections.
    """

    example = 'model.caption("photo.jpg")'
    config_class = CaptioningConfig
    config: CaptioningConfig

    def __init__(
        self, backbone: FiberBackbone, config: CaptioningConfig | None = None, *, reward: Reward | None = None
    ) -> None:
        super().__init__(backbone, config)
        if not (backbone.config.joint_projection and backbone.config.decoder_projections):
            raise ValueError(
                "captioning needs a backbone with FiberConfig(joint_projection=True, decoder_projections=True)"
            )
        self.reward = reward
        self.word_head = MaskedLMHead(backbone.text_dim, backbone.vocab_size)
        # In a tuple, so that the copy is no part of the module: neither saved, nor trained, nor synchronized.
        self._frozen: tuple[nn.ModuleDict] | None = None
        self._batches = 0

    def needed_keys(self) -> tuple[str, ...]:
        """Also the references, for a reward."""
        return (*super().needed_keys(), *(["references"] if self._rewarded() else []))

    def _rewarded(self) -> bool:
        return self.config.objective == "cider" and self.training

    def forward(
        self,
        *,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        references: Sequence[Sequence[str]] = (),
        samples: Tensor | None = None,
        seeds: Tensor | None = None,
        mean: BatchMean | None = None,
        return_loss: bool = True,
        **_: Any,
    ) -> TaskOutput:
        """One step of the objective; in eval mode the likelihood of the given captions.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids: (B, L).
            attention_mask: (B, L).
            references: B lists of texts, for `"cider"` in training.
            samples: (B num_samples, at least T) tokens to reward instead of drawn ones, without the begin token.
            seeds: (B,) int64, of each image one of its own, from which its samples follow; by default torch's generator
                draws them.
            mean: Of the number of tokens over the parts of the global batch, see `TaskModel.passes`.
            return_loss: Whether to compute losses if the batch has what they need; transformers' Trainer looks for it.
            **_: Other keys of the batch.

        Returns:
            `logits` (B, L, V) of the tokens after each given one, and the losses `"mle"`, `"gold"` or `"cider"`, whose
            means over processes are those of the global batch.

        Raises:
            ValueError: If there is no reward, or it does not give one number a sample.
        """
        features = self.encode_images(pixel_values)
        logits = _logits(self.backbone, self.word_head, features, input_ids, attention_mask)
        if not return_loss:
            return TaskOutput(logits.new_zeros(()), logits=logits)
        labels, mean = next_tokens(input_ids, self.backbone.pad_token_id), mean or BatchMean()
        original_gold = self.config.objective == "gold" and self.config.original  # which averages batch by batch
        own = self.totals(input_ids=input_ids)
        count = (own if original_gold else mean(own)).clamp(min=1 if original_gold else mean.least)
        if self.config.objective == "gold" and self.training:
            weights = self._gold_weights(pixel_values, input_ids, attention_mask, labels)
            loss = weighted_loss(logits, labels, weights, count, original=self.config.original)
            return TaskOutput(loss, {"gold": loss}, logits=logits)
        loss = MaskedLMHead.loss(logits, labels, count)
        if original_gold:
            loss = loss * own / labels.numel()
            return TaskOutput(loss, {"gold": loss}, logits=logits)
        if not self._rewarded():
            return TaskOutput(loss, {"mle": loss}, logits=logits)
        cider, reward = self._reward_loss(features, references, samples, seeds)
        weight = self.config.reward_weight
        total = (1 - weight) * loss + weight * cider
        return TaskOutput(total, {"mle": loss, "cider": cider}, {"reward": reward}, logits)

    def totals(self, **batch: Any) -> Tensor:
        """The number of tokens to predict; rewards are means over images."""
        count = (next_tokens(batch["input_ids"], self.backbone.pad_token_id) != -100).sum()
        return count.to(torch.promote_types(self.dtype, torch.float32))

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """What texts read, (B, N, C), of images (B, 3, H, W)."""
        return _encode(self.backbone, pixel_values)

    def generate(self, images: Images, config: GenerationConfig | None = None) -> list[list[Caption]]:
        """Captions of images, without dropout.

        Args:
            images: Images as the processor takes them, or `pixel_values` (B, 3, H, W).
            config: How; the model's own by default.

        Returns:
            For each image its captions with scores, best first; with `text` if the processor has a tokenizer.

        Raises:
            ValueError: If `max_length` exceeds the position table, or the padding tokens differ.
        """
        config = config or self.config.generation
        self._check_generation(config)
        pixel_values = self.prepare(images)["pixel_values"]
        with torch.no_grad(), _without_dropout(self):
            captions = generate(CachedDecoder(self.backbone, self.word_head, self.encode_images(pixel_values)), config)
        tokenizer: Any = getattr(self.processor, "tokenizer", None)
        if tokenizer is not None:
            return [
                [replace(each, text=tokenizer.decode(each.token_ids, skip_special_tokens=True).strip()) for each in row]
                for row in captions
            ]
        return captions

    def explained_score(self, tokens: Tensor, target: str | None = None, **batch: Any) -> Tensor:
        """The log-probability of the words in question, each after those before it."""
        chances = self(**batch, return_loss=False).logits[:, :-1].log_softmax(dim=-1)
        of_words = chances.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
        return (of_words * tokens[:, 1:]).sum(dim=1)

    def check_parts(self) -> None:
        """Also refuses a `generation` in the model's configuration by which it could not write."""
        super().check_parts()
        self._check_generation(self.config.generation)

    def _check_generation(self, config: GenerationConfig) -> None:
        longest, padding = self.backbone.max_text_length, self.backbone.pad_token_id
        if config.max_length > longest:
            raise ValueError(
                f"generation.max_length is {config.max_length}; this model has positions for {longest} tokens"
            )
        if config.pad_token_id != padding:
            raise ValueError(f"generation.pad_token_id is {config.pad_token_id}; this model's is {padding}")

    def caption(self, images: Images, *, num_captions: int = 1, **options: Any) -> Results[Results[Caption]]:
        """Captions of images as they are.

        Args:
            images: One image or several, as the processor takes them.
            num_captions: Of each image.
            **options: Fields of `GenerationConfig` to replace, such as `num_beams` or `min_length`.

        Returns:
            For each image its captions, best first, with `text` and `score`.

        Raises:
            ValueError: If the model has no processor, or an option is out of range.
        """
        config = replace(self.config.generation, num_return_sequences=num_captions, **options)
        found = self.generate(images, config)
        given = image_list(images)
        titles = [image_name(image) or f"image {number}" for number, image in enumerate(given, 1)]
        return Results(map(Results, found), titles=titles, images=[(image,) for image in given])

    def export_parts(self) -> dict[str, ExportPart]:
        """`decoder_image` and `decoder_step`."""
        return decoder_parts(self.backbone, self.word_head)

    def _gold_weights(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """How much each token counts, by the frozen copy, which is refreshed here."""
        if self._batches % self.config.refresh_every == 0 or self._frozen is None:
            self._refresh()
        self._batches += 1
        assert self._frozen is not None
        backbone, word_head = self._frozen[0]["backbone"], self._frozen[0]["word_head"]
        with torch.no_grad():
            features = _encode(backbone, pixel_values)
            logits = _logits(backbone, word_head, features, input_ids, attention_mask)
            return gold_weights(logits, labels)

    def _refresh(self) -> None:
        """Makes the frozen copy, or brings it up to date."""
        if self._frozen is None:
            copies = {name: deepcopy(getattr(self, name)) for name in ("backbone", "word_head")}
            self._frozen = (nn.ModuleDict(copies).eval().requires_grad_(False),)
            for parameter in self._frozen[0].parameters():
                parameter.grad = None
        else:
            for name, part in self._frozen[0].items():
                copy_weights(getattr(self, name), part)

    def prepare_sharding(self) -> None:
        """Makes GOLD's frozen copy, which each process has for itself."""
        if self.config.objective == "gold":
            self._refresh()

    def _reward_loss(
        self, features: Tensor, references: Sequence[Sequence[str]], forced: Tensor | None, seeds: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Loss of samples by their reward, and the mean reward."""
        if self.reward is None:
            raise ValueError("the objective 'cider' needs a reward; set model.reward, see FiberForCaptioning")
        settings = self.config
        drawing = replace(
            settings.generation,
            do_sample=True,
            num_return_sequences=settings.num_samples,
            min_length=0,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            original=settings.original,
        )
        parts = () if settings.original else (self.backbone, self.word_head)
        with _without_dropout(*parts), whole(self.backbone, self.word_head):
            ids, _ = sample(CachedDecoder(self.backbone, self.word_head, features.detach()), drawing, forced, seeds)
        rewards = self.reward(ids, references).to(features)
        if rewards.shape != ids.shape[:1]:
            raise ValueError(
                f"the reward must give one number for each of the {len(ids)} samples, shape ({len(ids)},); "
                f"it gave {tuple(rewards.shape)}"
            )
        grouped = rewards.view(-1, settings.num_samples)
        compared = torch.full_like(grouped, BASELINE)
        if settings.baseline == "samples":
            compared = (grouped.sum(dim=1, keepdim=True) - grouped) / (settings.num_samples - 1)
        pad = self.backbone.pad_token_id
        logits = _logits(self.backbone, self.word_head, features, ids, ids != pad)
        likelihoods = mean_log_likelihood(logits, next_tokens(ids, pad))
        loss = (likelihoods * REWARD_SCALE * (compared - grouped).flatten()).sum() / len(features)
        return loss, rewards.mean()

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the weights: GOLD's frozen copy, and how many batches it has seen."""
        if self._frozen is None:
            return {}
        frozen = {f"frozen.{name}": value for name, value in self._frozen[0].state_dict().items()}
        return {"batches": torch.tensor(self._batches), **frozen}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from `training_state`."""
        if "batches" not in state:
            return
        self._batches = int(state["batches"])
        self._refresh()
        assert self._frozen is not None
        self._frozen[0].load_state_dict(
            {name.removeprefix("frozen."): value for name, value in state.items() if name.startswith("frozen.")}
        )


def next_tokens(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Labels (B, L): the token after each one of `input_ids` (B, L); -100 where that is padding or nothing."""
    labels = torch.full_like(input_ids, -100)
    labels[:, :-1] = input_ids[:, 1:].masked_fill(input_ids[:, 1:] == pad_token_id, -100)
    return labels


def gold_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """Weights of GOLD (Pang and He 2021): own probability times the mean probability of the tokens from here on.

    Args:
        logits: (B, L, V) of the frozen copy.
        labels: (B, L), -100 where there is no token.

    Returns:
        (B, L), at least 0.1.
    """
    real = labels != -100
    probabilities = logits.softmax(dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    probabilities = (probabilities + 1e-9) * real

    def from_here_on(x: Tensor) -> Tensor:
        return x.flip(1).cumsum(dim=1).flip(1)

    mean = from_here_on(probabilities) / from_here_on(real.to(probabilities.dtype)).clamp(min=1)
    return (mean * probabilities).clamp(min=LEAST_WEIGHT)


def weighted_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, count: Tensor | None = None, *, original: bool = False
) -> Tensor:
    """Weighted cross-entropy, averaged over the tokens of the batch.

    Args:
        logits: (B, L, V).
        labels: (B, L), -100 where there is no token.
        weights: (B, L).
        count: What to divide by, as of `MaskedLMHead.loss`; by default the tokens of these labels.
        original: Whether to divide the sum of each caption by its number of pads, and to average over captions.
    """
    each = cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none") * weights
    if original:
        return (each.sum(dim=1) / ((labels == -100).sum(dim=1) + 1e-9)).mean()
    return each.sum() / ((labels != -100).sum().clamp(min=1) if count is None else count)


def mean_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the tokens of each text, (R,), of the logarithm of their probability plus 1e-9; 0 without tokens."""
    real = labels != -100
    probabilities = logits.softmax(dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return ((probabilities + 1e-9).log() * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def _encode(backbone: Any, pixel_values: Tensor) -> Tensor:
    return backbone.finish_image(backbone.begin_image(pixel_values)).unnormalized


def _logits(backbone: Any, word_head: Any, image_features: Tensor, ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Logits (R, L, V) of the tokens after each of `ids` (R, L), R a multiple of the number of images."""
    return word_head(backbone.decode_text(ids, image_features, attention_mask).text_features)


@contextmanager
def _without_dropout(*parts: nn.Module) -> Iterator[None]:
    """Eval mode for a while; each module returns to its own mode."""
    modules = [module for part in parts for module in part.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
