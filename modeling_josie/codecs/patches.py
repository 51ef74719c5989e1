"""Places of patches: in padded pixels of any sizes, in one row of a sequence for each item, and in a stream."""

from typing import NamedTuple

import torch
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ...configuration_josie import JosieBackboneConfig, JovioConfig
from ..layers.masks import length_mask


class PatchLayout(NamedTuple):
    """Places of the patches of a batch, in the padded pixels and in the sequence.

    Args:
        grid_thw (`torch.LongTensor`): `(batch, 3)`, patches of each item.
        padded_grid (`tuple[int, int, int]`): Patches of the padded pixels.
        position_ids (`torch.LongTensor`): `(3, batch, max_patches)`, time, row and column of each patch.
        mask (`torch.BoolTensor`): `(batch, max_patches)`, true for patches that exist.
        is_padded (`bool`): Whether any does not.
        is_ragged (`bool`): Whether any item is smaller than the padded pixels: else the sequence is the pixels' cells.
    """

    grid_thw: torch.Tensor
    padded_grid: tuple[int, int, int]
    position_ids: torch.Tensor
    mask: torch.Tensor
    is_padded: bool
    is_ragged: bool

    @classmethod
    def from_grids(
        cls, grids: list[list[int]], padded_grid: tuple[int, int, int], device: torch.device
    ) -> "PatchLayout":
        """Return the layout of items.

        Args:
            grids (`list[list[int]]`): Patches of each item along time, height and width.
            padded_grid (`tuple[int, int, int]`): Patches of the padded pixels.
            device (`torch.device`): Of the layout.
        """
        sizes = [time * rows * columns for time, rows, columns in grids]
        grid_thw = torch.tensor(grids, device=device)
        places = torch.arange(max(sizes), device=device)
        plane, columns = grid_thw[:, 1:2] * grid_thw[:, 2:3], grid_thw[:, 2:3]
        mask = places < grid_thw[:, 0:1] * plane
        position_ids = torch.stack((places // plane, places % plane // columns, places % columns))
        is_ragged = any(tuple(grid) != padded_grid for grid in grids)
        return cls(grid_thw, padded_grid, position_ids * mask, mask, min(sizes) < max(sizes), is_ragged)

    def gather_patches(self, cells: torch.Tensor) -> torch.Tensor:
        """Read `(batch, max_patches, size)` out of `(batch, time * rows * columns, size)` of the padded pixels.

        Places past an item's end hold its first patch.
        """
        if not self.is_ragged:
            return cells
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

    def real_pixels(self, config: JovioConfig, counts: list[int], shape: torch.Size) -> torch.Tensor:
        """Return the mask `(batch, frames, 1, height, width)` of pixels that belong to an item.

        Args:
            config ([`JovioConfig`]): Gives the size of a patch.
            counts (`list[int]`): Frames of each item.
            shape (`torch.Size`): Of the pixels, `(batch, frames, channels, height, width)`.
        """
        frames = length_mask(torch.tensor(counts, device=self.mask.device), shape[1])
        rows = length_mask(self.grid_thw[:, 1] * config.patch_size, shape[3])
        columns = length_mask(self.grid_thw[:, 2] * config.patch_size, shape[4])
        return frames[:, :, None, None, None] & rows[:, None, None, :, None] & columns[:, None, None, None, :]


def read_grids(
    grid_thw: torch.Tensor,
    num_items: int,
    most: tuple[int | None, int | None, int | None] = (None, None, None),
    least: tuple[int, int, int] = (1, 1, 1),
) -> list[list[int]]:
    """Return `grid_thw` as lists.

    Args:
        grid_thw (`torch.LongTensor`): `(num_items, 3)`, patches along time, height and width.
        num_items (`int`): Images or videos there are.
        most (`tuple[int or None, ...]`): Largest number along each axis; any when `None`.
        least (`tuple[int, ...]`): Smallest number along each axis.

    Raises:
        `ValueError`: Its shape or type is wrong, or an entry is not in [least, most].
    """
    if tuple(grid_thw.shape) != (num_items, 3) or grid_thw.is_floating_point() or not num_items:
        raise ValueError(
            f"`grid_thw` must be integers of shape ({max(num_items, 1)}, 3), got {grid_thw.dtype} of shape "
            f"{tuple(grid_thw.shape)}."
        )
    grids = grid_thw.tolist()
    for grid in grids:
        limits = list(zip(grid, least, most, strict=True))
        if any(size < low or (high is not None and size > high) for size, low, high in limits):
            highest = ", ".join("any" if high is None else str(high) for high in most)
            lowest = str(least[0]) if len(set(least)) == 1 else str(least)
            raise ValueError(f"`grid_thw` must be at least {lowest} and at most ({highest}), got {grid}.")
    return grids


def read_num_frames(
    num_frames: torch.Tensor | int | None, grids: list[list[int]], temporal_patch_size: int, num_given: int
) -> list[int]:
    """Return the number of real frames of each item.

    Args:
        num_frames (`int` or `torch.LongTensor`, *optional*): Of all items or, `(batch,)`, of each; as many as its
            patches hold when `None`.
        grids (`list[list[int]]`): Patches of each item along time, height and width.
        temporal_patch_size (`int`): Frames in a patch.
        num_given (`int`): Frames there are.

    Raises:
        `ValueError`: An item does not need just the temporal patches of its grid.
    """
    if num_frames is None:
        return [min(grid[0] * temporal_patch_size, num_given) for grid in grids]
    if isinstance(num_frames, int):
        num_frames = torch.full((len(grids),), num_frames)
    if tuple(num_frames.shape) != (len(grids),):
        raise ValueError(f"`num_frames` must be of shape ({len(grids)},), got {tuple(num_frames.shape)}.")
    counts = num_frames.tolist()
    for count, grid in zip(counts, grids, strict=True):
        first, last = (grid[0] - 1) * temporal_patch_size + 1, min(grid[0] * temporal_patch_size, num_given)
        if not first <= count <= last:
            raise ValueError(f"`num_frames` must be in [{first}, {last}] for {grid[0]} temporal patches, got {count}.")
    return counts


def stream_mask(
    config: JosieBackboneConfig, embeds: torch.Tensor, num_past: int, plane: int, cache: Cache | None
) -> torch.Tensor:
    """Return the attention mask of a chunk of a stream, in the form that the attention implementation takes.

    A patch sees what `block_sequence_ids` lets it see in a whole video: all patches of its time, and the earlier ones
    that are in the window. Those ids would have to be kept for the whole past, so the mask is made of numbers alone.

    Args:
        config ([`JosieBackboneConfig`]): Its `sliding_window` and attention implementation are read.
        embeds (`torch.Tensor`): `(batch, length, hidden_size)`, the patches of the chunk.
        num_past (`int`): Patches before the chunk.
        plane (`int`): Patches of one time.
        cache (`Cache`, *optional*): Keys and values of the past.
    """
    length, window = embeds.shape[1], config.sliding_window

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        if window is None:
            return key // plane <= query // plane
        return (key // plane == query // plane) | ((key <= query) & (query - key < window))

    kv_length, kv_offset = (length, num_past) if cache is None else cache.get_mask_sizes(length, 0)
    return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation or "eager"](
        batch_size=embeds.shape[0],
        q_length=length,
        kv_length=kv_length,
        q_offset=num_past,
        kv_offset=kv_offset,
        mask_function=sees,
        attention_mask=None,
        allow_is_causal_skip=False,
        dtype=embeds.dtype,
        config=config,
        use_vmap=False,
        device=embeds.device,
    )
