"""Residual vector quantizers: a stack of codebooks, and the split into a semantic and an acoustic stack.

Latents are projected once to the width of the codebooks, quantized there residual by residual, summed, and projected
back.
"""

from typing import cast

import torch
from torch import nn
from transformers import initialization as init

from ...configuration_josie import JosieCodecConfig
from ..outputs import QuantizerOutput
from ..wrapped_parts import find_adapters, is_of_peft
from .checks import check_codes, check_num_quantizers
from .codebook import VectorQuantizer

__all__ = ["ResidualVectorQuantizer", "SplitResidualVectorQuantizer", "VectorQuantizer", "build_quantizer"]


def sample_row_quantizers(num_rows: int, num_quantizers: int, probability: float, device: torch.device) -> torch.Tensor:
    """Return how many quantizers each row uses: a random prefix, or all; `(num_rows,)`.

    Args:
        num_rows (`int`): Rows.
        num_quantizers (`int`): All there are.
        probability (`float`): Of a row to use a prefix.
        device (`torch.device`): Of the result.
    """
    prefixes = torch.randint(1, num_quantizers + 1, (num_rows,), device=device)
    is_prefix = torch.rand(num_rows, dtype=torch.float32, device=device) < probability
    return prefixes.where(is_prefix, num_quantizers)


def sample_bypassed_rows(num_rows: int, probability: float, device: torch.device) -> torch.Tensor | None:
    """Return which rows go on as they are, `(num_rows,)`; `None` where none ever does.

    Args:
        num_rows (`int`): Rows.
        probability (`float`): Of a row to go on as it is.
        device (`torch.device`): Of the result.
    """
    if probability <= 0:
        return None
    return torch.rand(num_rows, dtype=torch.float32, device=device) < probability


class VarianceKeepingLinear(nn.Linear):
    """A linear map whose initial weights keep the variance: through two of them, codes reach a new decoder at once."""

    def reset_weights(self) -> None:
        """Initialise; called by [`JosiePreTrainedModel`]."""
        init.normal_(self.weight, std=self.in_features**-0.5)


class ResidualVectorQuantizer(nn.Module):
    """Quantizers in a row, each for what the ones before left over (SoundStream, Zeghidour et al., 2021).

    Args:
        config ([`JosieCodecConfig`]): Sizes, and how the codebooks learn.
        input_size (`int`): Width of the latents; they are projected when it is not `codebook_dim`.
        num_quantizers (`int`): How many.
        keep_variance (`bool`): Whether the projections start as [`VarianceKeepingLinear`]; as any linear map when not.
    """

    def __init__(self, config: JosieCodecConfig, input_size: int, num_quantizers: int, keep_variance: bool = False):
        super().__init__()
        self.config = config
        self.input_size = input_size
        self.num_quantizers = num_quantizers
        self.quantizers = nn.ModuleList([VectorQuantizer(config) for _ in range(num_quantizers)])
        if input_size == config.codebook_dim:
            self.proj_in, self.proj_out = nn.Identity(), nn.Identity()
        else:
            linear = VarianceKeepingLinear if keep_variance else nn.Linear
            self.proj_in = linear(input_size, config.codebook_dim, bias=config.quantizer_bias)
            self.proj_out = linear(config.codebook_dim, input_size, bias=config.quantizer_bias)

    @property
    def levels(self) -> list[VectorQuantizer]:
        """The quantizers in order."""
        return [cast(VectorQuantizer, quantizer) for quantizer in self.quantizers]

    def encode(self, latents: torch.Tensor, num_quantizers: int | None = None) -> torch.Tensor:
        """Return the codes of latents.

        Args:
            latents (`torch.Tensor`): `(batch, input_size, num_frames)`.
            num_quantizers (`int`, *optional*): Use only the first ones.

        Returns:
            `torch.LongTensor` of shape `(batch, num_quantizers, num_frames)`.

        Raises:
            `ValueError`: `latents` have another shape, or there are not that many quantizers.
        """
        num_quantizers = check_num_quantizers(num_quantizers, self.num_quantizers)
        residual = self._project(latents)
        codes = []
        for quantizer in self.levels[:num_quantizers]:
            codes.append(quantizer.encode(residual))
            residual = residual - quantizer.decode(codes[-1])
        return self._unflatten(torch.stack(codes, dim=-1), latents)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents of codes.

        Args:
            codes (`torch.LongTensor`): `(batch, num_quantizers, num_frames)`; fewer quantizers stand for a prefix.

        Returns:
            `torch.Tensor` of shape `(batch, input_size, num_frames)`.

        Raises:
            `ValueError`: `codes` are not integers, too many a frame, or out of range.
        """
        check_codes(codes, self.num_quantizers, self.config.codebook_size)
        vectors = [quantizer.decode(row) for quantizer, row in zip(self.levels, codes.unbind(1), strict=False)]
        return self._project_back(sum(vectors[1:], start=vectors[0])).transpose(1, 2)

    def forward(
        self,
        latents: torch.Tensor,
        mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        row_quantizers: torch.Tensor | None = None,
        bypassed_rows: torch.Tensor | None = None,
    ) -> QuantizerOutput:
        """Quantize latents; in training mode also learn, and drop or bypass quantizers as configured.

        Args:
            latents (`torch.Tensor`): `(batch, input_size, num_frames)`.
            mask (`torch.Tensor`, *optional*): `(batch, num_frames)`, 1 for real frames. The others count nowhere;
                their latents and codes come back as 0.
            num_quantizers (`int`, *optional*): Use only the first ones.
            row_quantizers (`torch.LongTensor`, *optional*): `(batch,)`, how many each row uses; drawn in training
                mode when `None`. A row that uses none gives zeros.
            bypassed_rows (`torch.BoolTensor`, *optional*): `(batch,)`, rows whose latents are not replaced; drawn in
                training mode when `None`.

        Returns:
            [`QuantizerOutput`]

        Raises:
            `ValueError`: `latents` or `mask` have another shape, or there are not that many quantizers.
        """
        num_quantizers = check_num_quantizers(num_quantizers, self.num_quantizers)
        vectors = self._project(latents)
        real = self._frame_weights(latents, mask)
        if row_quantizers is None and self.training and self.config.quantizer_dropout > 0:
            row_quantizers = sample_row_quantizers(
                len(latents), num_quantizers, self.config.quantizer_dropout, latents.device
            )
        rows = None if row_quantizers is None else row_quantizers.repeat_interleave(latents.shape[2])
        stages = self._quantize(vectors, real, rows, num_quantizers)
        quantized = stages["quantized"]
        if torch.is_grad_enabled() and vectors.requires_grad:
            quantized = vectors + (quantized - vectors).detach()
        if bypassed_rows is None and self.training:
            bypassed_rows = sample_bypassed_rows(len(latents), self.config.quantizer_bypass, latents.device)
        if bypassed_rows is not None:
            quantized = torch.where(bypassed_rows.repeat_interleave(latents.shape[2])[:, None], vectors, quantized)
        active = real if rows is None else real * (rows > 0)
        quantized = self._project_back(quantized) * active[:, None].to(latents.dtype)
        counts = stages["counts"]
        shares = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        codes = stages["codes"] * real.long()[:, None]
        return QuantizerOutput(
            quantized_latents=quantized.view(len(latents), -1, self.input_size).transpose(1, 2),
            codes=self._unflatten(codes, latents),
            commitment_loss=stages["commitment"],
            codebook_loss=stages["codebook"],
            perplexity=torch.special.entr(shares).sum(-1).exp(),
            usage=(counts > 0).float().mean(-1),
        )

    def _quantize(
        self, vectors: torch.Tensor, real: torch.Tensor, rows: torch.Tensor | None, num_quantizers: int
    ) -> dict[str, torch.Tensor]:
        """Run the stages on `(num_vectors, codebook_dim)`; `rows` says how many of them each vector uses."""
        quantizers = self.levels[:num_quantizers]
        needs_kmeans = [False] * num_quantizers
        if self.training and self.config.kmeans_init:
            needs_kmeans = [not done for done in torch.stack([item.initialized for item in quantizers]).tolist()]
        by_gradient = self.config.codebook_update == "gradient"
        residual, quantized = vectors, torch.zeros_like(vectors)
        codes, counts, num_used = [], [], vectors.new_zeros(())
        commitment, codebook = vectors.new_zeros(()), vectors.new_zeros(())
        for index, (quantizer, is_new) in enumerate(zip(quantizers, needs_kmeans, strict=True)):
            used = real if rows is None else real * (rows > index)
            if is_new:
                quantizer.initialize_by_kmeans(residual.detach(), real)
            codes.append(quantizer.encode(residual))
            learned = quantizer.decode(codes[-1]).float()
            chosen = learned.detach()
            commitment = commitment + ((residual - chosen).square().mean(-1) * used).sum()
            if by_gradient:
                codebook = codebook + ((residual.detach() - learned).square().mean(-1) * used).sum()
            if self.training and self.config.codebook_update != "none":
                quantizer.update(residual.detach(), codes[-1], used)
            counts.append(real.new_zeros(self.config.codebook_size).index_add_(0, codes[-1], used))
            num_used = num_used + used.sum()
            quantized = quantized + chosen * used[:, None]
            residual = residual - chosen
        return {
            "quantized": quantized,
            "codes": torch.stack(codes, dim=-1),
            "counts": torch.stack(counts),
            "commitment": commitment / num_used.clamp(min=1),
            "codebook": codebook / num_used.clamp(min=1),
        }

    def _project(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents as float32 `(batch * num_frames, codebook_dim)`."""
        if latents.ndim != 3 or latents.shape[1] != self.input_size:
            raise ValueError(
                f"`latents` must have shape (batch, {self.input_size}, frames), got {tuple(latents.shape)}."
            )
        return self.proj_in(latents.transpose(1, 2)).flatten(0, 1).float()

    def _project_back(self, vectors: torch.Tensor) -> torch.Tensor:
        weight = self.proj_out.weight if isinstance(self.proj_out, nn.Linear) else self.levels[0].codebook
        return self.proj_out(vectors.to(weight.dtype) if weight.is_floating_point() else vectors)

    def _frame_weights(self, latents: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return float32 `(batch * num_frames,)`, 1 for real frames."""
        shape = (latents.shape[0], latents.shape[2])
        if mask is None:
            return latents.new_ones(shape, dtype=torch.float32).flatten()
        if mask.shape != shape:
            raise ValueError(f"`mask` must have shape {shape}, got {tuple(mask.shape)}.")
        return (mask.flatten() != 0).float()

    def _unflatten(self, codes: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        return codes.view(latents.shape[0], latents.shape[2], -1).transpose(1, 2)


class SplitResidualVectorQuantizer(nn.Module):
    """A semantic and an acoustic residual quantizer that read the same latents; what they give is summed.

    The semantic one can be supervised without the acoustic one paying for it (Mimi, Défossez et al., 2024).

    Args:
        config ([`JosieCodecConfig`]): Its `num_semantic_quantizers` of `num_quantizers` are semantic.
        input_size (`int`): Width of the latents.
        keep_variance (`bool`): As of [`ResidualVectorQuantizer`].
    """

    def __init__(self, config: JosieCodecConfig, input_size: int, keep_variance: bool = False):
        super().__init__()
        self.config = config
        self.input_size = input_size
        self.num_quantizers = config.num_quantizers
        self.num_semantic_quantizers = config.num_semantic_quantizers
        num_acoustic = config.num_quantizers - config.num_semantic_quantizers
        self.semantic = ResidualVectorQuantizer(config, input_size, config.num_semantic_quantizers, keep_variance)
        self.acoustic = ResidualVectorQuantizer(config, input_size, num_acoustic, keep_variance)

    def encode(self, latents: torch.Tensor, num_quantizers: int | None = None) -> torch.Tensor:
        """Return the codes of latents, semantic first; as [`ResidualVectorQuantizer.encode`]."""
        num_quantizers = check_num_quantizers(num_quantizers, self.num_quantizers)
        codes = self.semantic.encode(latents, min(num_quantizers, self.num_semantic_quantizers))
        if num_quantizers <= self.num_semantic_quantizers:
            return codes
        return torch.cat((codes, self.acoustic.encode(latents, num_quantizers - self.num_semantic_quantizers)), dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents of codes; as [`ResidualVectorQuantizer.decode`]."""
        check_codes(codes, self.num_quantizers, self.config.codebook_size)
        latents = self.semantic.decode(codes[:, : self.num_semantic_quantizers])
        if codes.shape[1] <= self.num_semantic_quantizers:
            return latents
        return latents + self.acoustic.decode(codes[:, self.num_semantic_quantizers :])

    def forward(
        self,
        latents: torch.Tensor,
        mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        row_quantizers: torch.Tensor | None = None,
        bypassed_rows: torch.Tensor | None = None,
    ) -> QuantizerOutput:
        """Quantize latents; arguments and result as in [`ResidualVectorQuantizer.forward`]."""
        return self.forward_parts(latents, mask, num_quantizers, row_quantizers, bypassed_rows)[0]

    def forward_parts(
        self,
        latents: torch.Tensor,
        mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        row_quantizers: torch.Tensor | None = None,
        bypassed_rows: torch.Tensor | None = None,
    ) -> tuple[QuantizerOutput, torch.Tensor]:
        """Return what `forward` returns and the semantic part of its latents, for heads that supervise it.

        Args:
            latents, mask, num_quantizers, row_quantizers, bypassed_rows: As of [`ResidualVectorQuantizer.forward`].
        """
        num_quantizers = check_num_quantizers(num_quantizers, self.num_quantizers)
        if row_quantizers is None and self.training and self.config.quantizer_dropout > 0:
            row_quantizers = sample_row_quantizers(
                len(latents), num_quantizers, self.config.quantizer_dropout, latents.device
            )
        if bypassed_rows is None and self.training:
            bypassed_rows = sample_bypassed_rows(len(latents), self.config.quantizer_bypass, latents.device)
        num_semantic = min(num_quantizers, self.num_semantic_quantizers)
        num_acoustic = num_quantizers - num_semantic
        rows = None if row_quantizers is None else row_quantizers.clamp(max=num_semantic)
        semantic = self.semantic(
            latents, mask=mask, num_quantizers=num_semantic, row_quantizers=rows, bypassed_rows=bypassed_rows
        )
        if not num_acoustic:
            return semantic, semantic.quantized_latents
        rows = None if row_quantizers is None else (row_quantizers - num_semantic).clamp(min=0)
        acoustic = self.acoustic(
            latents, mask=mask, num_quantizers=num_acoustic, row_quantizers=rows, bypassed_rows=bypassed_rows
        )
        share = num_semantic / num_quantizers
        joint = QuantizerOutput(
            quantized_latents=semantic.quantized_latents + acoustic.quantized_latents,
            codes=torch.cat((semantic.codes, acoustic.codes), dim=1),
            commitment_loss=share * semantic.commitment_loss + (1 - share) * acoustic.commitment_loss,
            codebook_loss=share * semantic.codebook_loss + (1 - share) * acoustic.codebook_loss,
            perplexity=torch.cat((semantic.perplexity, acoustic.perplexity)),
            usage=torch.cat((semantic.usage, acoustic.usage)),
        )
        return joint, semantic.quantized_latents


def build_quantizer(
    config: JosieCodecConfig, input_size: int, keep_variance: bool = False
) -> ResidualVectorQuantizer | SplitResidualVectorQuantizer:
    """Return the quantizer that a configuration describes.

    Args:
        config ([`JosieCodecConfig`]): Of the codec.
        input_size (`int`): Width of the latents.
        keep_variance (`bool`): As of [`ResidualVectorQuantizer`].
    """
    if 0 < config.num_semantic_quantizers < config.num_quantizers:
        return SplitResidualVectorQuantizer(config, input_size, keep_variance)
    return ResidualVectorQuantizer(config, input_size, config.num_quantizers, keep_variance)


class QuantizingModel(nn.Module):
    """A codec with a `quantizer`, which learns when the codec does."""

    quantizer: nn.Module

    def train(self, mode: bool = True):
        """Set the mode as [`torch.nn.Module.train`] does; beside adapters of peft the quantizer stays in evaluation.

        They are saved without its codebooks, which move in training mode, unless the quantizer is among peft's
        `modules_to_save`.
        """
        super().train(mode)
        if mode and find_adapters(self) and not (is_of_peft(self.quantizer) or find_adapters(self.quantizer)):
            self.quantizer.eval()
        return self
