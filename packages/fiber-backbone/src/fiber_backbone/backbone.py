"""The backbone, cut in two at the first fused block: begin, fuse, finish (FIBER, figure 2).

    image = backbone.begin_image(pixel_values)             # bottom blocks, no text
    text = backbone.begin_text(input_ids, attention_mask)  # bottom layers, no image
    fused = backbone.fuse(image, text)                     # top K pairs, each reading the other's value before the step

In eval mode `fuse` gives the same numbers however its states were made: at once, indexed, repeated or concatenated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fiber_backbone.attention import padding_mask
from fiber_backbone.cache import DecodingCache
from fiber_backbone.image_cache import ImageCache
from fiber_backbone.parts import BackboneParts
from fiber_backbone.states import FusedFeatures, ImageFeatures, ImageState, TextFeatures, TextState


class FiberBackbone(BackboneParts):
    """Two streams that read each other.

    Args:
        image_stream: Any image stream, such as `SwinStream(config)`.
        text_stream: Any text stream, such as `RobertaStream(config)`.
        fusion: What is inserted into the pairs of their blocks, such as `GatedFusion()`.
        config: Number of pairs and switches. What it says of the sizes of streams and fusion is not used here, but is
            what `save_pretrained` writes and `from_config` builds by: it must describe them if it is to be saved.

    Raises:
        ValueError: If the streams have fewer blocks than `config.num_fusion_blocks`.

    Attributes:
        image_cache: Where images that were begun are kept and found again; None, the default, begins each anew.
    """

    image_cache: ImageCache | None = None

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> FusedFeatures:
        """Images and texts, pair by pair.

        Args:
            pixel_values: (B, 3, height, width) normalized; sides are multiples of the last stride (32).
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 = real token; all real if None.
        """
        return self.fuse(self.begin_image(pixel_values), self.begin_text(input_ids, attention_mask))

    def begin_image(
        self, pixel_values: Tensor, return_pyramid: bool = False, image_sizes: Tensor | None = None
    ) -> ImageState:
        """The image stream up to the cut.

        Args:
            pixel_values: (B, 3, height, width) normalized; sides are multiples of the last stride (32). Pad images of
                differing sizes with zeros at the right and bottom.
            return_pyramid: Whether to keep the outputs of the stages, for `FusedFeatures.pyramid`.
            image_sizes: (B, 2) int64, true height and width of padded images. With them the features of an image are
                those that it would have alone, padded to a multiple of the last stride only.

        Raises:
            ValueError: If the shape is not as described, or `image_sizes` come with windows that shrink with the map.
        """
        if self.image_cache is not None:
            return self.image_cache.state(self._begin_image, pixel_values, return_pyramid, image_sizes)
        return self._begin_image(pixel_values, return_pyramid, image_sizes)

    def _begin_image(self, pixel_values: Tensor, return_pyramid: bool, image_sizes: Tensor | None) -> ImageState:
        stride = self.image_stream.stride
        if return_pyramid and not self.has_pyramid:
            raise ValueError(
                f"{type(self.image_stream).__name__} with {type(self.fusion).__name__} has no fused pyramid; take an "
                "image stream with stages, such as swin, and a fusion inside of it, such as gated"
            )
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(
                f"pixel_values must have the shape (batch, 3, height, width), got {tuple(pixel_values.shape)}"
            )
        if pixel_values.shape[2] % stride or pixel_values.shape[3] % stride:
            height, width = (-(-side // stride) * stride for side in pixel_values.shape[2:])
            raise ValueError(
                f"height and width of pixel_values must be multiples of {stride}, got {tuple(pixel_values.shape[2:])}; "
                f"pad with zeros at the right and bottom to ({height}, {width}) or resize"
            )
        sizes = None
        if image_sizes is not None:
            if not self.image_stream.masks_padding:
                raise ValueError(
                    "image_sizes need FiberConfig(window_policy='pad'): windows must not hang on the batch"
                )
            sizes = -(-image_sizes.to(pixel_values.device) // stride) * stride
        x, pyramid = self._run_image(self.image_stream.embed(pixel_values), 0, self.cut[0], return_pyramid, sizes)
        return ImageState(x, pyramid, sizes)

    def begin_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TextState:
        """The text stream up to the cut.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 = real token; all real if None.

        Raises:
            ValueError: If the shapes do not fit, or the text is longer than the position table.
        """
        attention_mask = self._check_text(input_ids, attention_mask)
        hidden = self.text_stream.embed(input_ids)
        mask = padding_mask(attention_mask, hidden.dtype)
        for layer in range(self.cut[1]):
            hidden, _ = self.text_stream.run(hidden, layer, mask)
        return TextState(hidden, attention_mask)

    def fuse(self, image: ImageState, text: TextState) -> FusedFeatures:
        """The top K pairs of blocks; each reads the other stream's value from before the step.

        Args:
            image: B images, from `begin_image`.
            text: B texts, from `begin_text`.

        Raises:
            ValueError: If the two differ in number.
        """
        # `len` would make a constant of what is a symbol in export
        if image.hidden_state.shape[0] != text.hidden_state.shape[0]:
            raise ValueError(
                f"fuse pairs images with texts one to one, got {len(image)} images and {len(text)} texts; "
                "index or repeat_interleave one of the states"
            )
        x, hidden, pyramid = image.hidden_state, text.hidden_state, list(image.pyramid)
        mask = padding_mask(text.attention_mask, hidden.dtype)
        image_layers, text_layers = self.image_stream.cross_attention, self.text_stream.cross_attention
        for (block, layer), image_layer, text_layer in zip(self.pairs, image_layers, text_layers, strict=False):
            into_image = self.fusion.into_image(image_layer, hidden, mask)
            next_x, output = self.image_stream.run(x, block, into_image, image.sizes)
            into_text = self.fusion.into_text(text_layer, x.flatten(1, 2), self._image_mask(x, block, image.sizes))
            final_norm = layer + 1 < self._num_layers or self.config.fused_text_norm
            hidden, _ = self.text_stream.run(hidden, layer, mask, into_text, final_norm=final_norm)
            x = next_x
            if pyramid and output is not None:
                pyramid.append(self.image_stream.pyramid_level(block, output))
        tokens = x.flatten(1, 2)
        if not self.pairs:  # the streams have finished by themselves
            tokens = self.image_stream.final_norm(tokens)
        tokens, hidden = self.fusion.on_top(image_layers, text_layers, tokens, hidden, mask)
        fused = FusedFeatures(hidden, tokens, text.attention_mask, tuple(pyramid))
        if self.config.joint_projection:
            fused.text_features, fused.image_features, fused.pooled = self.joint_projection(
                fused.text_hidden_state, fused.image_hidden_state
            )
        return fused

    def finish_image(self, image: ImageState) -> ImageFeatures:
        """The top image blocks without text, as the stream alone would run them."""
        x, pyramid = self._run_image(
            image.hidden_state,
            self.cut[0],
            len(self.image_stream.sizes.dims),
            bool(image.pyramid),
            image.sizes,
        )
        tokens = x.flatten(1, 2)
        return ImageFeatures(self.image_stream.final_norm(tokens), tokens, image.pyramid + pyramid)

    def finish_text(self, text: TextState) -> TextFeatures:
        """The top text layers without image, as the stream alone would run them."""
        hidden, mask = text.hidden_state, padding_mask(text.attention_mask, text.hidden_state.dtype)
        for layer in range(self.cut[1], self._num_layers):
            hidden, _ = self.text_stream.run(hidden, layer, mask)
        return TextFeatures(hidden, text.attention_mask)

    def decode_text(
        self,
        input_ids: Tensor,
        image_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: DecodingCache | None = None,
    ) -> TextFeatures:
        """Causal text over a finished image (captioning): each token sees itself, those before it and the image.

        With a cache, pass only the tokens that it has not seen; the numbers equal those of the whole sequence.

        Args:
            input_ids: (R, L) int64.
            image_features: (B, N, C), `finish_image(...).unnormalized`; not needed once the cache holds them. R is a
                multiple of B: texts that read the same image follow one another.
            attention_mask: (R, L), 1 = real token; all real if None.
            cache: A `DecodingCache`, empty at first; updated in place.

        Raises:
            ValueError: If the model has no decoder projections, no image is given, the texts cannot be shared out
                among the images, or the text outgrows the positions.
        """
        config = self.config
        if not config.decoder_projections:
            raise ValueError("this model cannot decode text: build it with FiberConfig(decoder_projections=True)")
        cache = DecodingCache() if cache is None else cache
        past = 0 if cache.mask is None else cache.mask.shape[1]
        attention_mask = self._check_text(input_ids, attention_mask, past)
        if not cache.image:
            if image_features is None:
                raise ValueError("decode_text needs image_features, (batch, tokens, channels), in its first call")
            projected = [project(image_features) for project in self.decoder_projections]
            layers = self.text_stream.cross_attention
            cache.image = [self.fusion.read_image(layer, x) for layer, x in zip(layers, projected, strict=True)]
        texts, images = input_ids.shape[0], cache.image[0].key.shape[0]
        if texts % images:
            raise ValueError(f"{texts} texts cannot read {images} images; give as many texts for each image")
        hidden = self.text_stream.embed(input_ids, cache.position)
        cache.extend(attention_mask, (input_ids != self.pad_token_id).sum(dim=1))
        length = input_ids.shape[1]
        place = torch.arange(past + length, device=hidden.device)
        future = place > torch.arange(past, past + length, device=hidden.device)[:, None]
        assert cache.mask is not None, "just extended"
        mask = padding_mask(cache.mask, hidden.dtype).masked_fill(future, -torch.inf)
        known, cache.text = cache.text or [None] * self._num_layers, []  # type: ignore[list-item]
        for layer in range(self._num_layers):
            fused, insert = layer - self.cut[1], None
            if fused >= 0:
                insert = self.fusion.into_text(self.text_stream.cross_attention[fused], cache.image[fused], None)
            hidden, key_value = self.text_stream.run(hidden, layer, mask, insert, known[layer])
            cache.text.append(key_value)
        features = self.joint_projection.text_transform(hidden) if config.joint_projection else None
        return TextFeatures(hidden, attention_mask, features)

    def _image_mask(self, x: Tensor, block: int, sizes: Tensor | None) -> Tensor | None:
        """Additive mask of the image tokens (B, H, W, C) that text must not read."""
        if sizes is None:
            return None
        return padding_mask(self.image_stream.within(x, block, sizes).flatten(1), x.dtype)

    def _run_image(
        self, x: Tensor, first: int, stop: int, return_pyramid: bool, sizes: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        pyramid = []
        for block in range(first, stop):
            x, output = self.image_stream.run(x, block, sizes=sizes)
            if return_pyramid and output is not None:
                pyramid.append(self.image_stream.pyramid_level(block, output))
        return x, tuple(pyramid)

    def _check_text(self, input_ids: Tensor, attention_mask: Tensor | None, past: int = 0) -> Tensor:
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must have the shape (batch, length), got {tuple(input_ids.shape)}")
        longest = self.max_text_length
        if past + input_ids.shape[1] > longest:
            raise ValueError(
                f"the text has {past + input_ids.shape[1]} tokens but the model has positions for {longest}; "
                "truncate it (tokenizer(..., truncation=True, max_length=...)) or raise max_position_embeddings"
            )
        if attention_mask is None:
            return torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask must have the shape of input_ids, {tuple(input_ids.shape)}, "
                f"got {tuple(attention_mask.shape)}"
            )
        return attention_mask
