"""JOVIO, the vision codec: images and videos to residual codes, one set a patch, and back to pixels.

A batch may mix sizes. The patches of each item are read out of the padded pixels into one row of a `(batch, patches)`
sequence, so that padding costs only the difference between items, and attention masks the rest.

    pixels -> patches -> encoder -> quantizer -> decoder -> patches -> pixels
    (B, F, C, H, W)      (B, N, hidden)                               (B, F, C, H, W)

With `causal_time` a video may come in chunks. Only attention reaches over time, and only back, so the keys and values
of its past, and the frames that do not fill a patch yet, are all that a stream carries.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils.generic import can_return_tuple

from ...configuration_josie import JovioConfig
from ..layers.backbone import JosieBackbone
from ..layers.fast import is_untouched
from ..layers.offloading import find_device
from ..losses.audio import weighted_sum
from ..losses.images import reconstruction_losses, structure_loss
from ..outputs import JovioDecoderOutput, JovioEncoderOutput, JovioOutput, QuantizerOutput
from ..pretrained import JosiePreTrainedModel
from .checks import check_codes, check_num_quantizers
from .inference import InferenceFormMixin
from .patches import PatchLayout, read_grids, read_num_frames, stream_mask
from .quantization import QuantizingModel, build_quantizer
from .streaming import JovioStreamingState, build_cache, check_cache, fork_cache


class JovioModel(QuantizingModel, InferenceFormMixin, JosiePreTrainedModel):
    """The vision codec: Conv3d patches, (t, h, w) rotary transformer, residual quantizer, transformer, pixels.

    The seed has no way back to pixels; this one has, so that the codec can be trained by what it reconstructs.

    Args:
        config ([`JovioConfig`]): Its shape.
    """

    config: JovioConfig
    main_input_name = "pixel_values"
    input_modalities = ["image", "video"]

    def __init__(self, config: JovioConfig):
        super().__init__(config)
        encoder_config: Any = config.encoder_config
        decoder_config: Any = config.decoder_config
        width, decoder_width = encoder_config.hidden_size, decoder_config.hidden_size
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.patch_embed = nn.Conv3d(config.num_channels, width, kernel, stride=kernel)
        self.encoder = JosieBackbone(encoder_config)
        self.quantizer = build_quantizer(config, width)
        self.decoder_proj = nn.Identity() if width == decoder_width else nn.Linear(width, decoder_width)
        self.decoder = JosieBackbone(decoder_config)
        painted = config.patch_size + 2 * config.patch_overlap
        self.pixel_head = nn.Linear(decoder_width, config.num_channels * kernel[0] * painted**2)
        self.post_init()

    @can_return_tuple
    @torch.no_grad()
    def encode(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        num_frames: torch.Tensor | None = None,
        streaming_state: JovioStreamingState | None = None,
        use_streaming: bool = False,
        is_final: bool = False,
    ) -> JovioEncoderOutput:
        """Turn images or videos into codes.

        Args:
            pixel_values (`torch.FloatTensor`): `(batch, frames, channels, height, width)`, or `(batch, channels,
                height, width)` for images, in [0, 1]; items smaller than the largest are padded at the end of each
                axis.
            grid_thw (`torch.LongTensor`, *optional*): `(batch, 3)`, patches of each item along time, height and width;
                all there are when `None`.
            num_quantizers (`int`, *optional*): Use only the first ones.
            num_frames (`torch.LongTensor`, *optional*): `(batch,)`, real frames of each item; all that `grid_thw`
                covers when `None`. A last temporal patch that is not full is filled with the item's last frame.
            streaming_state ([`JovioStreamingState`], *optional*): What the chunk before returned. It stays as it is.
            use_streaming (`bool`): Begin a stream, which needs `causal_time`. A chunk has any number of frames, even
                none, all of one size, so `grid_thw` and `num_frames` are not given. Frames that do not fill a temporal
                patch wait in the state. A stream ends at `max_frames`, unless the encoder has a `sliding_window`: then
                it has no end, and the state no more than the window.
            is_final (`bool`): End the stream: what waits is filled up with its last frame and encoded.

        Returns:
            [`JovioEncoderOutput`], with `streaming_state` in a stream that goes on. In a stream, `grid_thw` is that of
            the codes of this chunk.

        Raises:
            `ValueError`: A shape, a size, a grid, a count or a pixel (not finite) is not possible; or in a stream, time
                is not causal, a grid or count is given, there are too many frames, or the state is of another batch,
                size or model.
        """
        if use_streaming or streaming_state is not None:
            for name, value in (("grid_thw", grid_thw), ("num_frames", num_frames)):
                if value is not None:
                    raise ValueError(f"`{name}` must be None in a stream, whose items are of one size, got a tensor.")
            return self._encode_chunk(pixel_values, num_quantizers, streaming_state, is_final)
        videos, layout, _ = self._read(pixel_values, grid_thw, num_frames)
        codes = self.quantizer.encode(self._encode(videos, layout)[0], num_quantizers)
        if layout.is_padded:
            codes = codes.masked_fill(~layout.mask[:, None], 0)
        return JovioEncoderOutput(codes, layout.grid_thw)

    @can_return_tuple
    def decode(
        self,
        vision_codes: torch.Tensor,
        grid_thw: torch.Tensor,
        num_frames: torch.Tensor | int | None = None,
        streaming_state: JovioStreamingState | None = None,
        use_streaming: bool = False,
    ) -> JovioDecoderOutput:
        """Turn codes into pixels.

        Args:
            vision_codes (`torch.LongTensor`): `(batch, at most num_quantizers, max_patches)`; anything past an end.
            grid_thw (`torch.LongTensor`): `(batch, 3)`, patches of each item along time, height and width. In a stream
                those of the chunk, the same for all items, with a time of 0 for a chunk without codes.
            num_frames (`int` or `torch.LongTensor`, *optional*): Frames of all items or, `(batch,)`, of each, which
                cuts what filled the last temporal patch; 1 for images. In a stream those of the last chunk.
            streaming_state ([`JovioStreamingState`], *optional*): What the chunk before returned. It stays as it is.
            use_streaming (`bool`): Begin a stream, as in [`JovioModel.encode`].

        Returns:
            [`JovioDecoderOutput`], with `streaming_state` in a stream.

        Raises:
            `ValueError`: A shape, a code, a grid or a count is not possible; or in a stream, what
                [`JovioModel.encode`] refuses.
        """
        if vision_codes.ndim != 3:
            raise ValueError(
                "`vision_codes` must be of shape (batch, num_quantizers, max_patches), "
                f"got {tuple(vision_codes.shape)}."
            )
        size, limit = self.config.temporal_patch_size, self.config.max_times
        streams = use_streaming or streaming_state is not None
        most = None if streams else limit
        grids = read_grids(grid_thw, len(vision_codes), (most, None, None), (int(not streams), 1, 1))
        state = None
        if streams:
            if any(grid != grids[0] for grid in grids):
                raise ValueError(f"`grid_thw` must be the same for all items of a stream, got {grids}.")
            state = self._enter_stream(streaming_state, (len(grids), grids[0][1], grids[0][2]), self.decoder)
            self._check_length(self.decoder, "vision_codes", (state.num_times + grids[0][0]) * size, limit * size)
        padded_grid = tuple(max(axis) for axis in zip(*grids, strict=True))
        layout = PatchLayout.from_grids(grids, padded_grid, vision_codes.device)
        num_patches = layout.mask.shape[1]
        if vision_codes.shape[2] < num_patches:
            raise ValueError(
                f"`vision_codes` must hold {num_patches} patches as `grid_thw` says, got {vision_codes.shape[2]}."
            )
        codes = vision_codes[..., :num_patches].masked_fill(~layout.mask[:, None], 0)
        check_codes(codes, self.config.num_quantizers, self.config.codebook_size, "vision_codes")
        if num_patches == 0:
            sides = (side * self.config.patch_size for side in padded_grid[1:])
            empty = codes.new_zeros((len(codes), 0, self.config.num_channels, *sides), dtype=self.dtype)
            return JovioDecoderOutput(empty, state)
        counts = read_num_frames(num_frames, grids, size, padded_grid[0] * size)
        pixels, state = self._decode(self.quantizer.decode(codes), layout, state)
        pixels = pixels[:, : max(counts)]
        return JovioDecoderOutput(pixels.clamp(0, 1) * layout.real_pixels(self.config, counts, pixels.shape), state)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        num_frames: torch.Tensor | None = None,
        return_loss: bool | None = None,
    ) -> JovioOutput:
        """Encode, quantize and decode; in training mode, or with `return_loss`, also return the loss. Arguments and
        errors are otherwise as in `encode`.

        Returns:
            [`JovioOutput`], with pixels clamped to [0, 1] outside of training mode, 0 past an item's end. `losses` has,
            each where its weight in the configuration is not 0, `l1`, `l2`, `gradient` (L1 between the differences of
            neighbours) and `structure` (1 minus the structural similarity at several scales) of the real pixels; and
            `commitment` and, with codebooks that learn by gradient, `codebook`.
        """
        videos, layout, counts = self._read(pixel_values, grid_thw, num_frames)
        quantized = self.quantizer(self._encode(videos, layout)[0], mask=layout.mask, num_quantizers=num_quantizers)
        num_given = pixel_values.shape[1] if pixel_values.ndim == 5 else 1
        pixels = self._decode(quantized.quantized_latents, layout)[0][:, :num_given]
        real = layout.real_pixels(self.config, counts, pixels.shape)
        loss, losses = None, None
        if self.training if return_loss is None else return_loss:
            losses = self._losses(pixels, videos[:, :num_given], real, quantized)
            loss = weighted_sum(losses, self.config)
        if not self.training:
            pixels = pixels.clamp(0, 1)
        return JovioOutput(
            loss=loss,
            pixel_values=(pixels * real).view(pixel_values.shape),
            vision_codes=quantized.codes,
            grid_thw=layout.grid_thw,
            losses=losses,
            perplexity=quantized.perplexity,
            usage=quantized.usage,
        )

    def _losses(
        self, pixels: torch.Tensor, target: torch.Tensor, real: torch.Tensor, quantized: QuantizerOutput
    ) -> dict[str, torch.Tensor]:
        """Return the named losses whose weights are not 0."""
        config = self.config
        losses: dict[str, Any] = reconstruction_losses(pixels, target, real)
        if config.structure_weight:
            losses["structure"] = structure_loss(pixels, target, real)
        losses["commitment"] = quantized.commitment_loss
        if config.codebook_update == "gradient":
            losses["codebook"] = quantized.codebook_loss
        return {name: loss for name, loss in losses.items() if getattr(config, f"{name}_weight")}

    def _encode(
        self, videos: torch.Tensor, layout: PatchLayout, state: JovioStreamingState | None = None
    ) -> tuple[torch.Tensor, JovioStreamingState | None]:
        """Return latents, `(batch, hidden_size, max_patches)`, of whole patches of pixels."""
        time, rows, columns = layout.padded_grid
        cells = videos.unflatten(1, (time, -1)).unflatten(4, (rows, -1)).unflatten(6, (columns, -1))
        # (batch, time, frame, channel, rows, y, columns, x) to one row of pixels for each cell
        cells = cells.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)
        patches = layout.gather_patches(cells)
        if not torch.compiler.is_compiling() and not bool(patches.isfinite().all()):
            raise ValueError("`pixel_values` must be finite, got NaN or infinity.")
        patches = (patches * 2 - 1).to(self.patch_embed.weight.dtype)
        embedded = self._embed_patches(patches)
        latents, state = self._run(self.encoder, embedded, layout, state)
        return latents.transpose(1, 2), state

    def _embed_patches(self, patches: torch.Tensor) -> torch.Tensor:
        """Map `(..., pixels of a patch)` to `(..., hidden_size)`."""
        embed: Any = self.patch_embed
        if is_untouched(embed, nn.Conv3d):
            # Stride equals kernel, so the convolution is one matrix product, which is several times faster.
            return nn.functional.linear(patches, embed.weight.flatten(1), embed.bias)
        cubes = patches.flatten(0, -2).unflatten(1, (self.config.num_channels, *embed.kernel_size))
        return embed(cubes).flatten(1).unflatten(0, patches.shape[:-1])

    def _decode(
        self, latents: torch.Tensor, layout: PatchLayout, state: JovioStreamingState | None = None
    ) -> tuple[torch.Tensor, JovioStreamingState | None]:
        """Return unbounded pixels, `(batch, frames, channels, height, width)`, of latents as from `_encode`."""
        config = self.config
        hidden_states, state = self._run(self.decoder, self.decoder_proj(latents.transpose(1, 2)), layout, state)
        patches = self.pixel_head(hidden_states)
        (time, rows, columns), side = layout.padded_grid, config.patch_size
        cells = layout.scatter_patches(patches) if layout.is_ragged else patches
        frames = (config.num_channels, config.temporal_patch_size)
        if config.patch_overlap:
            # What a transposed convolution does behind its matrix product: add up what reaches over.
            columns_first = cells.unflatten(1, (time, -1)).flatten(0, 1).transpose(1, 2)
            size, kernel = (rows * side, columns * side), side + 2 * config.patch_overlap
            pixels = nn.functional.fold(columns_first, size, kernel, padding=config.patch_overlap, stride=side)
            pixels = pixels.unflatten(0, (-1, time)).unflatten(2, frames).transpose(2, 3).flatten(1, 2)
        else:
            cells = cells.unflatten(1, layout.padded_grid).unflatten(4, (*frames, side, side))
            # (batch, time, rows, columns, channel, frame, y, x) to (batch, time frame, channel, rows y, columns x)
            pixels = cells.permute(0, 1, 5, 4, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)
        return (pixels + 1) / 2, state

    def _run(
        self, backbone: JosieBackbone, embeds: torch.Tensor, layout: PatchLayout, state: JovioStreamingState | None
    ) -> tuple[torch.Tensor, JovioStreamingState | None]:
        """Run patches through a transformer; in a stream also return the state that follows."""
        positions = layout.position_ids if backbone.config.rope_parameters is not None else None
        if state is not None:
            plane = state.shape[1] * state.shape[2]
            cache = fork_cache(state.cache)
            mask = stream_mask(backbone.config, embeds, state.num_times * plane, plane, cache)
            if positions is not None:
                positions = positions + positions.new_tensor([state.num_times, 0, 0])[:, None, None]
            output = backbone(
                embeds,
                attention_mask=mask,
                position_ids=positions,
                cache=cache,
                use_cache=cache is not None,
            )
            num_times = state.num_times + layout.padded_grid[0]
            return output.last_hidden_state, replace(state, cache=cache, num_times=num_times)
        block_ids = layout.position_ids[0].masked_fill(~layout.mask, -1) if self.config.causal_time else None
        output = backbone(
            embeds,
            attention_mask=layout.mask if layout.is_padded else None,
            position_ids=positions,
            block_sequence_ids=block_ids,
            use_cache=False,
        )
        return output.last_hidden_state, None

    def _encode_chunk(
        self,
        pixel_values: torch.Tensor,
        num_quantizers: int | None,
        state: JovioStreamingState | None,
        is_final: bool,
    ) -> JovioEncoderOutput:
        config = self.config
        num_quantizers = check_num_quantizers(num_quantizers, config.num_quantizers)
        videos = self._check_pixels(pixel_values)
        _, rows, columns = config.get_grid(1, *videos.shape[-2:])
        stream: Any = self._enter_stream(state, (len(videos), rows, columns), self.encoder)
        if not bool(videos.isfinite().all()):  # now, and not when the patch that they begin is full
            raise ValueError("`pixel_values` must be finite, got NaN or infinity.")
        waiting = torch.cat((stream.pending.to(videos.dtype), videos), dim=1)
        size = config.temporal_patch_size
        num_frames = stream.num_times * size + waiting.shape[1]
        self._check_length(self.encoder, "pixel_values", num_frames, config.max_frames)
        if is_final and waiting.shape[1] % size:
            waiting = torch.cat((waiting, waiting[:, -1:].expand(-1, -waiting.shape[1] % size, -1, -1, -1)), dim=1)
        num_times = waiting.shape[1] // size
        ready, pending = waiting[:, : num_times * size], waiting[:, num_times * size :].clone()
        codes = torch.zeros(len(videos), num_quantizers, 0, dtype=torch.long, device=videos.device)
        if num_times:
            grid = (num_times, rows, columns)
            layout = PatchLayout.from_grids([list(grid)] * len(videos), grid, videos.device)
            latents, stream = self._encode(ready, layout, stream)
            codes = self.quantizer.encode(latents, num_quantizers)
        grid_thw = torch.tensor([[num_times, rows, columns]] * len(videos), device=videos.device)
        return JovioEncoderOutput(codes, grid_thw, None if is_final else replace(stream, pending=pending))

    def _enter_stream(
        self, state: JovioStreamingState | None, shape: tuple[int, int, int], backbone: JosieBackbone
    ) -> JovioStreamingState:
        """Return `state`, or that of a stream that begins.

        Raises:
            `ValueError`: Time is not causal, or it is the state of another direction, batch, size or model.
        """
        if not self.config.causal_time:
            raise ValueError("`causal_time` must be True in the configuration of a codec that streams, got False.")
        side = self.config.patch_size
        expected = (shape[0], self.config.num_channels, shape[1] * side, shape[2] * side)
        is_encoder = backbone is self.encoder
        if state is None:
            device = find_device(self)
            frames = torch.zeros(expected[0], 0, *expected[1:], dtype=self.patch_embed.weight.dtype, device=device)
            return JovioStreamingState(shape, frames if is_encoder else None, build_cache(backbone.config))
        if state.shape != shape:
            raise ValueError(
                f"`streaming_state` must be of (batch, rows of patches, columns of patches) {shape}, got {state.shape}."
            )
        if (state.pending is not None) != is_encoder:
            ours, theirs = ("encode", "decode") if is_encoder else ("decode", "encode")
            raise ValueError(f"`streaming_state` must come from `{ours}`, got one from `{theirs}`.")
        if state.pending is not None and (actual := (len(state.pending), *state.pending.shape[2:])) != expected:
            raise ValueError(
                "`streaming_state` must have pending frames of (batch, channels, height, width) "
                f"{expected}, got {tuple(actual)}."
            )
        check_cache(state.cache, shape[0], backbone.config)
        return state

    def _check_length(self, backbone: JosieBackbone, name: str, num_frames: int, most: int) -> None:
        if num_frames > most and backbone.config.sliding_window is None:
            raise ValueError(
                f"`{name}` must not make a stream longer than `max_frames` ({self.config.max_frames}) where the "
                f"transformer has no `sliding_window`, got {num_frames} frames."
            )

    def _check_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return `(batch, frames, channels, height, width)`.

        Raises:
            `ValueError`: It is of another shape or type.
        """
        channels = self.config.num_channels
        videos = pixel_values[:, None] if pixel_values.ndim == 4 else pixel_values
        if videos.ndim != 5 or videos.shape[2] != channels or not videos.shape[0]:
            raise ValueError(
                f"`pixel_values` must be of shape (batch, frames, {channels}, height, width) or "
                f"(batch, {channels}, height, width), got {tuple(pixel_values.shape)}."
            )
        if not videos.is_floating_point():
            raise ValueError(f"`pixel_values` must be floats in [0, 1], got {videos.dtype}.")
        return videos

    def _read(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor | None, num_frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, PatchLayout, list[int]]:
        """Check what was given; return pixels with whole temporal patches, the layout, and frames of each item."""
        videos = self._check_pixels(pixel_values)
        size, num_given = self.config.temporal_patch_size, videos.shape[1]
        padded_grid = self.config.get_grid(num_given, *videos.shape[-2:])
        if grid_thw is None:
            grid_thw = torch.tensor([padded_grid] * len(videos))
            if num_frames is not None and num_frames.shape == grid_thw.shape[:1]:
                grid_thw[:, 0] = -(-num_frames // size)
        grids = read_grids(grid_thw, len(videos), padded_grid)
        counts = read_num_frames(num_frames, grids, size, num_given)
        layout = PatchLayout.from_grids(grids, padded_grid, videos.device)
        num_whole = padded_grid[0] * size
        if num_frames is not None or num_whole > num_given:
            last = torch.tensor(counts, device=videos.device)[:, None] - 1
            frames = torch.arange(num_whole, device=videos.device).minimum(last)
            videos = videos[torch.arange(len(videos), device=videos.device)[:, None], frames]
        return videos, layout, counts


AutoModel.register(JovioConfig, JovioModel, exist_ok=True)
