"""Embeddings of codes, the projector of features, and the selection of rows: what stands between the parts."""

import torch
from torch import nn

from .activations import make_activation


class CodeEmbedding(nn.Module):
    """Embeds the codes of a frame or patch: one table for each quantizer, summed over quantizers.

    All tables are one matrix, so that one look-up serves all quantizers.

    Args:
        num_quantizers (`int`): Number of tables.
        codebook_size (`int`): Values a code can take.
        hidden_size (`int`): Width of the embeddings.
        shared (`bool`): One table for all quantizers.
        num_extra (`int`): Further ids from `codebook_size` on, such as "no frame yet".
    """

    def __init__(
        self, num_quantizers: int, codebook_size: int, hidden_size: int, shared: bool = False, num_extra: int = 0
    ):
        super().__init__()
        self.num_quantizers = num_quantizers
        self.codebook_size = codebook_size
        self.rows = codebook_size + num_extra
        self.stride = 0 if shared else self.rows  # rows from one quantizer's table to the next
        self.embedding = nn.Embedding(self.rows if shared else self.rows * num_quantizers, hidden_size)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Embed codes and sum over quantizers.

        Args:
            codes (`torch.LongTensor`): `(batch, at most num_quantizers, num_frames)`, in range: not checked here.

        Returns:
            `(batch, num_frames, hidden_size)`.
        """
        offsets = torch.arange(codes.shape[1], device=codes.device) * self.stride
        return self.embedding(codes + offsets[:, None]).sum(dim=1)

    def embed(self, codes: torch.Tensor) -> torch.Tensor:
        """Embed codes of the first quantizers, without a sum.

        Args:
            codes (`torch.LongTensor`): `(..., at most num_quantizers)`.

        Returns:
            The shape of `codes` and then `hidden_size`.
        """
        return self.embedding(codes + torch.arange(codes.shape[-1], device=codes.device) * self.stride)

    def embed_level(self, codes: torch.Tensor, level: int) -> torch.Tensor:
        """Embed codes of one quantizer.

        Args:
            codes (`torch.LongTensor`): Of any shape.
            level (`int`): Index of the quantizer.

        Returns:
            The shape of `codes` and then `hidden_size`.
        """
        return self.embedding(codes + level * self.stride)


class Projector(nn.Module):
    """From an encoder's width to the Thinker's: one linear layer, or two with an activation between them.

    Args:
        in_size (`int`): Width of the features.
        hidden_size (`int`): Width of the Thinker.
        hidden_act (`str`, *optional*): Name of the activation; one layer when `None`.
        intermediate_size (`int`, *optional*): Width between two layers; the Thinker's when `None`.
    """

    def __init__(
        self, in_size: int, hidden_size: int, hidden_act: str | None = None, intermediate_size: int | None = None
    ):
        super().__init__()
        between = hidden_size if hidden_act is None or intermediate_size is None else intermediate_size
        self.linear_1 = nn.Linear(in_size, between)
        self.act_fn = None if hidden_act is None else make_activation(hidden_act, "projector_hidden_act")
        self.linear_2 = nn.Linear(between, hidden_size) if hidden_act is not None else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map `(..., in_size)` to `(..., hidden_size)`, in the type of its own weights: one that learns may have more
        than the encoder in front of it."""
        floating = (parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())
        features = self.linear_1(features.to(next(floating, features.dtype)))  # weights that are quantized have none
        if self.act_fn is None or self.linear_2 is None:
            return features
        return self.linear_2(self.act_fn(features))


def gather_rows(mask: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Move the chosen positions of each row to its front.

    Args:
        mask (`torch.Tensor`): `(batch, length)`, 1 for the positions to keep.
        states (`torch.Tensor`): Each `(batch, length, width)`.

    Returns:
        The states, each `(batch, longest row, width)`, and their mask, `(batch, longest row)`.
    """
    mask = mask.bool()
    longest = int(mask.sum(dim=1).max())
    order = (~mask).long().argsort(dim=1, stable=True)[:, :longest]
    chosen = [state.gather(1, order[..., None].expand(-1, -1, state.shape[-1])) for state in states]
    return *chosen, mask.gather(1, order)
