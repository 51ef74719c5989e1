"""The vision front end: images and videos to rows of the Thinker's width."""

from typing import Any, Literal

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import TransformersKwargs
from typing_extensions import Unpack

from ...configuration_josie import JosieThinkerConfig, is_codec, takes_patches, tower_image_size
from ..layers.embeddings import CodeEmbedding
from ..layers.masks import length_mask
from . import vision_encoder  # noqa: F401  (registers our vision encoder with AutoModel)
from .front_ends import Features, FrontEnd, pack, require_codes, require_features
from .inputs import MODALITY_INPUTS


class VisionFrontEnd(FrontEnd):
    """A continuous encoder with a projector, or an embedding of a codec's codes, as `config.vision_config` says.

    Args:
        config ([`JosieThinkerConfig`]): With a `vision_config`.
    """

    def __init__(self, config: JosieThinkerConfig):
        super().__init__(config)
        vision_config: Any = config.vision_config
        if is_codec(vision_config):
            self.code_embedding = CodeEmbedding(
                vision_config.num_quantizers, vision_config.codebook_size, config.hidden_size
            )
            return
        self.build(vision_config)

    def dummy_forward(self) -> torch.Tensor:
        """Return the rows of one black image."""
        weight = next(self.parameters())
        if self.code_embedding is not None:
            return self("image", codes=torch.zeros(1, 1, 1, dtype=torch.long, device=weight.device)).rows
        vision_config: Any = self.config.vision_config
        sides = (tower_image_size(vision_config),) * 2
        return self("image", weight.new_zeros(1, getattr(vision_config, "num_channels", 3), *sides)).rows

    def forward(
        self,
        modality: Literal["image", "video"],
        pixel_values: torch.Tensor | None = None,
        grid_thw: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Features:
        """Turn images or videos into rows.

        Args:
            modality (`"image"` or `"video"`): Whose inputs the others are, in the order of [`ImageInputs`] and
                [`VideoInputs`].
            pixel_values (`torch.FloatTensor`, *optional*): `(num_items, [frames,] channels, height, width)`, for
                encoders.
            grid_thw (`torch.LongTensor`, *optional*): `(num_items, 3)`, patches along time, height and width.
            codes (`torch.LongTensor`, *optional*): `(num_items, num_quantizers, max_patches)`, for codecs.
            kwargs: For the encoder.

        Returns:
            [`Features`]. `encoded` has a row for each image, or for each real frame of the videos.

        Raises:
            `ValueError`: The input is not the one this front end takes, or has a wrong shape.
        """
        pixels_name, grid_name, codes_name = MODALITY_INPUTS[modality]
        if grid_thw is not None and (grid_thw.ndim != 2 or grid_thw.shape[1] != 3):
            raise ValueError(f"`{grid_name}` must be of shape (num_items, 3), got {tuple(grid_thw.shape)}.")
        if self.code_embedding is not None:
            codes = require_codes(codes_name, codes, pixels_name, pixel_values)
            mask = None
            if grid_thw is not None:
                mask = length_mask(grid_thw.prod(dim=-1).to(codes.device), codes.shape[-1])
            return self.embed_codes(codes_name, codes, mask)
        pixel_values = require_features(pixels_name, pixel_values, codes_name, codes)
        return self._encode_items(modality, pixel_values, grid_thw, **kwargs)

    def _encode_items(
        self, modality: str, pixel_values: torch.Tensor, grid_thw: torch.Tensor | None, **kwargs: Any
    ) -> Features:
        name = MODALITY_INPUTS[modality][0]
        axes = {"image": "(num_images, ", "video": "(num_videos, frames, "}[modality] + "channels, height, width)"
        if pixel_values.ndim != axes.count(",") + 1:
            raise ValueError(f"`{name}` must be of shape {axes}, got {tuple(pixel_values.shape)}.")
        if modality == "image":
            features, encoded = self._encode(pixel_values, **kwargs)
            return Features(*pack(features, None), encoded)
        num_videos, num_frames = pixel_values.shape[:2]
        if grid_thw is None:
            features, encoded = self._encode(pixel_values.flatten(0, 1), **kwargs)
            return Features(*pack(features.unflatten(0, (num_videos, num_frames)).flatten(1, 2), None), encoded)
        mask = length_mask(grid_thw[:, 0].to(pixel_values.device), num_frames)
        features, encoded = self._encode(pixel_values[mask], **kwargs)  # frames that are padding are not looked at
        return Features(features.flatten(0, 1), mask.sum(dim=-1) * features.shape[1], encoded)

    def _encode(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, BaseModelOutput]:
        """Return the chosen rows of each image, `(num_images, rows, hidden_size)`, and the encoder's output."""
        encoded = run_tower(self.encoder, pixel_values, **kwargs)
        features = encoded.last_hidden_state
        if self.config.vision_feature_select == "cls":
            return self.projector(features[:, :1]), encoded
        expected = self.config.get_num_image_tokens(*pixel_values.shape[-2:])
        if features.shape[1] < expected:
            raise ValueError(f"`vision_config` must give {expected} patches an image, got {features.shape[1]}.")
        # Whatever else an encoder has (CLS, registers) comes first.
        return self.projector(features[:, -expected:]), encoded


def run_tower(tower: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
    """Return the output of a vision tower, of pixels or of patches.

    SigLIP 2's NaFlex reads patches, channels last, with the grid of each image: positions are stretched to it
    (Tschannen et al., 2025). All images of a batch have one size here, so that no patch is padding.

    Args:
        tower (`PreTrainedModel`): The tower.
        pixel_values (`torch.FloatTensor`): `(num_images, channels, height, width)`.
        kwargs: For the tower.

    Returns:
        [`BaseModelOutput`], with a row for each patch.
    """
    pixel_values = pixel_values.to(tower.dtype)
    if not takes_patches(tower.config):
        return tower(pixel_values=pixel_values, return_dict=True, **kwargs)
    size = tower.config.patch_size
    grid = [side // size for side in pixel_values.shape[-2:]]
    cut = pixel_values.unflatten(-1, (grid[1], size)).unflatten(-3, (grid[0], size))
    patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    shapes = torch.tensor([grid], device=patches.device).expand(len(patches), -1)
    return tower(
        pixel_values=patches,
        pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        spatial_shapes=shapes,
        return_dict=True,
        **kwargs,
    )
