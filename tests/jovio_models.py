"""Tiny JOVIOs and images for them."""

import torch

from josie.configuration_josie import JovioConfig
from josie.modeling_josie.codecs.jovio import JovioModel

CODEBOOK_SIZE = 11


def backbone(hidden_size: int) -> dict:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
    }


def config(**kwargs) -> JovioConfig:
    fields = {
        "num_quantizers": 3,
        "codebook_size": CODEBOOK_SIZE,
        "codebook_dim": 6,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "max_frames": 9,
        "encoder_config": backbone(16),
        "decoder_config": backbone(12),
        "initializer_range": 0.3,
    }
    return JovioConfig(**(fields | kwargs))


def model(seed: int = 0, **kwargs) -> JovioModel:
    torch.manual_seed(seed)
    return JovioModel(config(**kwargs)).eval()


def pixels(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def mixed_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Three items of different frames, heights and widths, padded with NaN, and the items alone."""
    items = [pixels(5, 3, 8, 12, seed=2), pixels(2, 3, 12, 4, seed=3), pixels(1, 3, 4, 8, seed=4)]
    batch = torch.full((3, 5, 3, 12, 12), torch.nan)
    for row, item in zip(batch, items, strict=True):
        row[: item.shape[0], :, : item.shape[2], : item.shape[3]] = item
    grid_thw = torch.tensor([[3, 2, 3], [1, 3, 1], [1, 1, 2]])
    return batch, grid_thw, torch.tensor([5, 2, 1]), items
