"""JOVIO, the vision codec: pictures and videos to residual codes, one set a patch, and back to pixels.

A batch may mix sizes. The patches of each item are read out of the padded pixels into one row of a `(batch, patches)`
sequence, so that padding costs only the difference between items, and attention masks the rest.

    pixels -> patches -> encoder -> quantizer -> decoder -> patches -> pixels
    (B, F, C, H, W)      (B, N, hidden)                               (B, F, C, H, W)
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils.generic import can_return_tuple

from ..configuration_josie import JovioConfig
from .backbone import JosieBackbone, JosiePreTrainedModel
from .masks import length_mask
from .outputs import JovioDecoderOutput, JovioEncoderOutput, JovioOutput
from .quantization import VectorQuantizer, build_quantizer, check_codes


class PatchLayout(NamedTuple):
    """Where the patches of a batch lie, in the padded pixels and in the sequence.

    Args:
        grid_thw (`torch.LongTensor`): `(batch, 3)`, patches of each item.
        padded_grid (`tuple[int, int, int]`): Patches of the padded pixels.
        position_ids (`torch.LongTensor`): `(3, batch, max_patches)`, time, row and column of each patch.
        mask (`torch.BoolTensor`): `(batch, max_patches)`, true for patches that exist.
        is_padded (`bool`): Whether any does not.
    """

    grid_thw: torch.Tensor
    padded_grid: tuple[int, int, int]
    position_ids: torch.Tensor
    mask: torch.Tensor
    is_padded: bool

    @classmethod
    def from_grids(
        cls, grids: list[list[int]], padded_grid: tuple[int, int, int], device: torch.device
    ) -> "PatchLayout":
        """Return the layout of items with these grids."""
        sizes = [time * rows * columns for time, rows, columns in grids]
        grid_thw = torch.tensor(grids, device=device)
        places = torch.arange(max(sizes), device=device)
        plane, columns = grid_thw[:, 1:2] * grid_thw[:, 2:3], grid_thw[:, 2:3]
        mask = places < grid_thw[:, 0:1] * plane
        position_ids = torch.stack((places // plane, places % plane // columns, places % columns))
        return cls(grid_thw, padded_grid, position_ids * mask, mask, min(sizes) < max(sizes))

    def gather_patches(self, cells: torch.Tensor) -> torch.Tensor:
        """Read `(batch, max_patches, size)` out of `(batch, time * rows * columns, size)` of the padded pixels.

        Places past an item's end hold its first patch.
        """
        _, rows, columns = self.padded_grid
        time_ids, row_ids, column_ids = self.position_ids
        index = (time_ids * rows + row_ids) * columns + column_ids
        return cells.gather(1, index[..., None].expand(-1, -1, cells.shape[-1]))

    def scatter_patches(self, patches: torch.Tensor) -> torch.Tensor:
        """Do the inverse of `gather_patches`; cells past an item's end hold 0."""
        cells = patches.new_zeros(len(patches), *self.padded_grid, patches.shape[-1])
        items = torch.arange(len(patches), device=patches.device)[:, None].expand_as(self.mask)
        time_ids, row_ids, column_ids = self.position_ids[:, self.mask]
        return cells.index_put((items[self.mask], time_ids, row_ids, column_ids), patches[self.mask]).flatten(1, 3)


class JovioModel(JosiePreTrainedModel):
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
        self.pixel_head = nn.Linear(decoder_width, config.num_channels * kernel[0] * kernel[1] * kernel[2])
        self.post_init()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, VectorQuantizer):
            module.reset_codebook()

    @can_return_tuple
    @torch.no_grad()
    def encode(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        num_frames: torch.Tensor | None = None,
    ) -> JovioEncoderOutput:
        """Turn pictures or videos into codes.

        Args:
            pixel_values (`torch.FloatTensor`): `(batch, frames, channels, height, width)`, or `(batch, channels,
                height, width)` for pictures, in [0, 1]; items smaller than the largest are padded at the end of each
                axis.
            grid_thw (`torch.LongTensor`, *optional*): `(batch, 3)`, patches of each item along time, height and width;
                all there are when `None`.
            num_quantizers (`int`, *optional*): Use only the first ones.
            num_frames (`torch.LongTensor`, *optional*): `(batch,)`, real frames of each item; all that `grid_thw`
                covers when `None`. A last temporal patch that is not full is filled with the item's last frame.

        Returns:
            [`JovioEncoderOutput`].

        Raises:
            `ValueError`: A shape, a size, a grid, a count or a pixel (not finite) is not possible.
        """
        videos, layout, _ = self._read(pixel_values, grid_thw, num_frames)
        codes = self.quantizer.encode(self._encode(videos, layout), num_quantizers)
        return JovioEncoderOutput(codes.masked_fill(~layout.mask[:, None], 0), layout.grid_thw)

    @can_return_tuple
    def decode(
        self,
        vision_codes: torch.Tensor,
        grid_thw: torch.Tensor,
        num_frames: torch.Tensor | int | None = None,
    ) -> JovioDecoderOutput:
        """Turn codes into pixels.

        Args:
            vision_codes (`torch.LongTensor`): `(batch, at most num_quantizers, max_patches)`; anything past an end.
            grid_thw (`torch.LongTensor`): `(batch, 3)`, patches of each item along time, height and width.
            num_frames (`int` or `torch.LongTensor`, *optional*): Frames of all items or, `(batch,)`, of each, which
                cuts what filled the last temporal patch; 1 for pictures.

        Returns:
            [`JovioDecoderOutput`].

        Raises:
            `ValueError`: A shape, a code, a grid or a count is not possible.
        """
        if vision_codes.ndim != 3:
            raise ValueError(
                "`vision_codes` must be of shape (batch, num_quantizers, max_patches), "
                f"got {tuple(vision_codes.shape)}."
            )
        most = -(-self.config.max_frames // self.config.temporal_patch_size)
        grids = self._read_grids(grid_thw, len(vision_codes), (most, None, None))
        padded_grid = tuple(max(axis) for axis in zip(*grids, strict=True))
        layout = PatchLayout.from_grids(grids, padded_grid, vision_codes.device)
        num_patches = layout.mask.shape[1]
        if vision_codes.shape[2] < num_patches:
            raise ValueError(
                f"`vision_codes` must hold {num_patches} patches as `grid_thw` says, got {vision_codes.shape[2]}."
            )
        codes = vision_codes[..., :num_patches].masked_fill(~layout.mask[:, None], 0)
        check_codes(codes, self.config.num_quantizers, self.config.codebook_size, "vision_codes")
        if isinstance(num_frames, int):
            num_frames = torch.full((len(grids),), num_frames)
        counts = self._read_num_frames(num_frames, grids, padded_grid[0] * self.config.temporal_patch_size)
        pixels = self._decode(self.quantizer.look_up(codes), layout)[:, : max(counts)]
        real = self._real_pixels(layout, counts, pixels.shape)
        return JovioDecoderOutput(pixels.clamp(0, 1) * real)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        num_frames: torch.Tensor | None = None,
    ) -> JovioOutput:
        """Encode, quantize and decode; in training mode also return the loss. Arguments and errors as in `encode`.

        Returns:
            [`JovioOutput`], with pixels clamped to [0, 1] outside of training mode, 0 past an item's end. The loss is
            the sum of the L1, L2 and gradient (L1 between differences of neighbours) errors of the real pixels, and
            the weighted commitment and codebook losses.
        """
        videos, layout, counts = self._read(pixel_values, grid_thw, num_frames)
        quantized = self.quantizer(self._encode(videos, layout), layout.mask, num_quantizers)
        num_given = pixel_values.shape[1] if pixel_values.ndim == 5 else 1
        pixels = self._decode(quantized.quantized_latents, layout)[:, :num_given]
        real = self._real_pixels(layout, counts, pixels.shape)
        loss, losses = None, None
        if self.training:
            losses = reconstruction_losses(pixels, videos[:, :num_given], real)
            losses |= {"commitment": quantized.commitment_loss, "codebook": quantized.codebook_loss}
            loss = losses["l1"] + losses["l2"] + losses["gradient"]
            loss = loss + self.config.commitment_weight * losses["commitment"]
            loss = loss + self.config.codebook_weight * losses["codebook"]
        else:
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

    def _encode(self, videos: torch.Tensor, layout: PatchLayout) -> torch.Tensor:
        """Return latents, `(batch, hidden_size, max_patches)`, of whole patches of pixels."""
        time, rows, columns = layout.padded_grid
        cells = videos.unflatten(1, (time, -1)).unflatten(4, (rows, -1)).unflatten(6, (columns, -1))
        # (batch, time, frame, channel, rows, y, columns, x) to one row of pixels for each cell
        cells = cells.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)
        patches = layout.gather_patches(cells)
        if not torch.compiler.is_compiling() and not bool(patches.isfinite().all()):
            raise ValueError("`pixel_values` must be finite, got NaN or infinity.")
        patches = (patches * 2 - 1).to(self.patch_embed.weight.dtype)
        # Stride equals kernel, so the convolution is one matrix product, which is several times faster.
        embedded = nn.functional.linear(patches, self.patch_embed.weight.flatten(1), self.patch_embed.bias)
        return self._run(self.encoder, embedded, layout).transpose(1, 2)

    def _decode(self, latents: torch.Tensor, layout: PatchLayout) -> torch.Tensor:
        """Return unbounded pixels, `(batch, frames, channels, height, width)`, of latents as from `_encode`."""
        config = self.config
        hidden_states = self._run(self.decoder, self.decoder_proj(latents.transpose(1, 2)), layout)
        patches = (self.pixel_head(hidden_states) + 1) / 2
        kernel = (config.num_channels, config.temporal_patch_size, config.patch_size, config.patch_size)
        cells = layout.scatter_patches(patches).unflatten(1, layout.padded_grid).unflatten(4, kernel)
        # (batch, time, rows, columns, channel, frame, y, x) to (batch, time frame, channel, rows y, columns x)
        return cells.permute(0, 1, 5, 4, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)

    def _run(self, backbone: JosieBackbone, embeds: torch.Tensor, layout: PatchLayout) -> torch.Tensor:
        block_ids = layout.position_ids[0].masked_fill(~layout.mask, -1) if self.config.causal_time else None
        return backbone(
            embeds,
            attention_mask=layout.mask if layout.is_padded else None,
            position_ids=layout.position_ids if backbone.config.rope_parameters is not None else None,
            block_sequence_ids=block_ids,
            use_cache=False,
        ).last_hidden_state

    def _read(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor | None, num_frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, PatchLayout, list[int]]:
        """Check what was given; return pixels with whole temporal patches, the layout, and frames of each item."""
        config = self.config
        videos = pixel_values[:, None] if pixel_values.ndim == 4 else pixel_values
        if videos.ndim != 5 or videos.shape[2] != config.num_channels or not videos.shape[0]:
            raise ValueError(
                f"`pixel_values` must be of shape (batch, frames, {config.num_channels}, height, width) or "
                f"(batch, {config.num_channels}, height, width), got {tuple(pixel_values.shape)}."
            )
        if not videos.is_floating_point():
            raise ValueError(f"`pixel_values` must be floats in [0, 1], got {videos.dtype}.")
        num_given = videos.shape[1]
        padded_grid = config.get_grid(num_given, *videos.shape[-2:])
        if grid_thw is None:
            grid_thw = torch.tensor([padded_grid] * len(videos))
            if num_frames is not None and num_frames.shape == grid_thw.shape[:1]:
                grid_thw[:, 0] = -(-num_frames // config.temporal_patch_size)
        grids = self._read_grids(grid_thw, len(videos), padded_grid)
        counts = self._read_num_frames(num_frames, grids, num_given)
        layout = PatchLayout.from_grids(grids, padded_grid, videos.device)
        num_whole = padded_grid[0] * config.temporal_patch_size
        if num_frames is not None or num_whole > num_given:
            last = torch.tensor(counts, device=videos.device)[:, None] - 1
            frames = torch.arange(num_whole, device=videos.device).minimum(last)
            videos = videos[torch.arange(len(videos), device=videos.device)[:, None], frames]
        return videos, layout, counts

    def _read_grids(
        self, grid_thw: torch.Tensor, num_items: int, most: tuple[int | None, int | None, int | None]
    ) -> list[list[int]]:
        """Return `grid_thw` as lists, each entry checked to be in [1, most]."""
        if tuple(grid_thw.shape) != (num_items, 3) or grid_thw.is_floating_point() or not num_items:
            raise ValueError(
                f"`grid_thw` must be integers of shape ({max(num_items, 1)}, 3), got {grid_thw.dtype} of shape "
                f"{tuple(grid_thw.shape)}."
            )
        grids = grid_thw.tolist()
        for grid in grids:
            if any(size < 1 or (limit is not None and size > limit) for size, limit in zip(grid, most, strict=True)):
                limits = ", ".join("any" if limit is None else str(limit) for limit in most)
                raise ValueError(f"`grid_thw` must be at least 1 and at most ({limits}), got {grid}.")
        return grids

    def _read_num_frames(self, num_frames: torch.Tensor | None, grids: list[list[int]], num_given: int) -> list[int]:
        """Return the number of real frames of each item, checked to need just the temporal patches of its grid."""
        size = self.config.temporal_patch_size
        if num_frames is None:
            return [min(grid[0] * size, num_given) for grid in grids]
        if tuple(num_frames.shape) != (len(grids),):
            raise ValueError(f"`num_frames` must be of shape ({len(grids)},), got {tuple(num_frames.shape)}.")
        counts = num_frames.tolist()
        for count, grid in zip(counts, grids, strict=True):
            first, last = (grid[0] - 1) * size + 1, min(grid[0] * size, num_given)
            if not first <= count <= last:
                raise ValueError(
                    f"`num_frames` must be in [{first}, {last}] for {grid[0]} temporal patches, got {count}."
                )
        return counts

    def _real_pixels(self, layout: PatchLayout, counts: list[int], shape: torch.Size) -> torch.Tensor:
        """Return the mask `(batch, frames, 1, height, width)` of pixels that belong to an item."""
        device = layout.mask.device
        frames = length_mask(torch.tensor(counts, device=device), shape[1])
        rows = length_mask(layout.grid_thw[:, 1] * self.config.patch_size, shape[3])
        columns = length_mask(layout.grid_thw[:, 2] * self.config.patch_size, shape[4])
        return frames[:, :, None, None, None] & rows[:, None, None, :, None] & columns[:, None, None, None, :]


def reconstruction_losses(pixels: torch.Tensor, target: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the L1, L2 and gradient errors, scalars, of the real pixels.

    Args:
        pixels, target (`torch.Tensor`): `(batch, frames, channels, height, width)`.
        real (`torch.BoolTensor`): `(batch, frames, 1, height, width)`.
    """
    real = real.expand(pixels.shape)
    error = (pixels.float() - target.float()).masked_fill(~real, 0.0)
    differences, pairs = error.new_zeros(()), real.new_zeros((), dtype=torch.long)
    for axis in (3, 4):  # the difference between gradients is the gradient of the difference
        length = error.shape[axis] - 1
        both = real.narrow(axis, 0, length) & real.narrow(axis, 1, length)
        differences = differences + (error.diff(dim=axis) * both).abs().sum()
        pairs = pairs + both.sum()
    num_real = real.sum()
    return {
        "l1": error.abs().sum() / num_real,
        "l2": error.square().sum() / num_real,
        "gradient": differences / pairs.clamp(min=1),
    }


AutoModel.register(JovioConfig, JovioModel, exist_ok=True)
