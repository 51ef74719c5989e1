"""The vision encoder: how the Thinker sees images without codes. It is μOmni's, on request with a stem in front."""

from itertools import pairwise
from typing import cast

import torch
from torch import nn
from transformers import AutoModel, initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from typing_extensions import Unpack

from ...configuration_josie import JosieVisionEncoderConfig
from ..layers.backbone import JosieBackbone
from ..pretrained import JosiePreTrainedModel

# Mean square of what a GELU gives for normal noise.
_GELU_POWER = 0.4252


class JosieVisionEncoder(JosiePreTrainedModel):
    """A vision transformer (Dosovitskiy et al., 2021) with a CLS row and learned positions; the one of μOmni.

    Each convolution of the stem halves an image, then comes GELU: early convolutions help transformers see (Xiao et
    al., 2021). Theirs have batch norms, with which an image is not the same alone and among others. These have none:
    they start so that the power of what they read goes through them, and a few need no more.

    Args:
        config ([`JosieVisionEncoderConfig`]): Its shape.
    """

    config: JosieVisionEncoderConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: JosieVisionEncoderConfig):
        super().__init__(config)
        widths = [config.num_channels, *config.stem_channels]
        # Plain layers, with the activations outside: what quantizes or adapts a layer puts one of its own in its place.
        self.stem = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        size = config.patch_size // config.stem_stride
        self.patch_embed = nn.Conv2d(widths[-1], config.hidden_size, size, size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + config.num_patches, config.hidden_size))
        self.backbone = JosieBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the first convolution: of the stem, or without one that of the patches."""
        return self.stem[0] if len(self.stem) else self.patch_embed

    def set_input_embeddings(self, value: nn.Module):
        """Replace the first convolution, by one with as many channels."""
        if len(self.stem):
            self.stem[0] = value
        else:
            self.register_module("patch_embed", value)

    def reset_weights(self) -> None:
        """Initialise the stem, the CLS row and the positions; called by [`JosiePreTrainedModel`]."""
        for index, convolution in enumerate(self.stem):
            # With it the output has a mean square of 1 before its GELU.
            power = (_GELU_POWER if index else 1.0) * cast(nn.Conv2d, convolution).weight[0].numel()
            init.normal_(cast(nn.Conv2d, convolution).weight, std=power**-0.5)
        init.normal_(self.cls_token, std=self.config.initializer_range)
        init.normal_(self.position_embedding, std=self.config.initializer_range)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        """Encode images.

        Args:
            pixel_values (`torch.FloatTensor`): `(batch, num_channels, image_size, image_size)`, in [0, 1].

        Returns:
            [`BaseModelOutput`] with `last_hidden_state` of shape `(batch, 1 + num_patches, hidden_size)`: the CLS row,
            then patches row by row.

        Raises:
            `ValueError`: The images have another size.
        """
        expected = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"`pixel_values` must be of shape (batch, {', '.join(map(str, expected))}), "
                f"got {tuple(pixel_values.shape)}."
            )
        pixel_values = (pixel_values - self.config.pixel_mean) / self.config.pixel_std
        features = pixel_values.to(self.patch_embed.weight.dtype)
        for convolution in self.stem:
            features = nn.functional.gelu(convolution(features))
        patches = self.patch_embed(features).flatten(2).transpose(1, 2)
        hidden_states = torch.cat((self.cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches), dim=1)
        hidden_states = hidden_states + self.position_embedding
        outputs = self.backbone(hidden_states, use_cache=False, return_dict=True, **kwargs)
        return BaseModelOutput(outputs.last_hidden_state, outputs.hidden_states, outputs.attentions)


AutoModel.register(JosieVisionEncoderConfig, JosieVisionEncoder, exist_ok=True)
