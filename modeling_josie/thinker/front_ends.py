"""Front ends of the Thinker: what turns sounds and pictures into rows of its width.

There are two kinds, chosen by the sub-config: a continuous encoder with a projector, or an embedding of a codec's
codes. Both answer with packed rows, all items one after the other and no padding between them, because that is the
order in which they replace placeholders; `counts` says how many rows each item has, and equals what the configuration
promised to the processor.
"""

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ...configuration_josie import JosieThinkerConfig, audio_codec_geometry, is_codec, reads_waveforms
from ..codecs.checks import check_codes
from ..layers.embeddings import CodeEmbedding, Projector
from ..layers.masks import length_mask
from .encoders import JosieAudioEncoder

PackedRows = tuple[torch.Tensor, torch.Tensor]

_LONG_CLIP = 10**6  # samples or mel frames

# Parts of transformers' encoders that their rows do not pass through.
_PARTS_WITHOUT_USE = ("post_layernorm", "head", "pooler", "masked_spec_embed")


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the continuous encoder that `config` describes; of Whisper the encoder alone."""
    return WhisperEncoder._from_config(config) if config.model_type == "whisper" else AutoModel.from_config(config)


def pack(features: torch.Tensor, mask: torch.Tensor | None) -> PackedRows:
    """Put the real rows of all items one after the other.

    Args:
        features (`torch.Tensor`): `(num_items, max_rows, hidden_size)`.
        mask (`torch.BoolTensor`, *optional*): `(num_items, max_rows)`, true for real rows; all are when `None`.

    Returns:
        Rows, `(total_rows, hidden_size)`, and counts, `(num_items,)`.
    """
    if mask is None:
        num_items, num_rows = features.shape[:2]
        return features.flatten(0, 1), torch.full((num_items,), num_rows, device=features.device)
    return features[mask], mask.sum(dim=-1)


def embed_codes(embedding: CodeEmbedding, name: str, codes: torch.Tensor, mask: torch.Tensor | None) -> PackedRows:
    """Check codes, embed them and pack the result.

    Args:
        embedding ([`CodeEmbedding`]): Its tables.
        name (`str`): What the caller calls `codes`, for messages.
        codes (`torch.LongTensor`): `(num_items, at most num_quantizers, max_frames)`; anything past an item's end.
        mask (`torch.BoolTensor`, *optional*): `(num_items, max_frames)`.

    Raises:
        `ValueError`: Wrong shape, or a code out of range.
    """
    if mask is not None:
        expected = (codes.shape[0], codes.shape[-1])
        if tuple(mask.shape) != expected:
            raise ValueError(f"The mask of `{name}` must be of shape {expected}, got {tuple(mask.shape)}.")
        codes = codes.masked_fill(~mask[:, None], 0)
    # All tables are one matrix: a code out of range would read the next quantizer's table without a word.
    check_codes(codes, embedding.num_quantizers, embedding.codebook_size, name)
    return pack(embedding(codes), mask)


class FrontEnd(nn.Module):
    """What both front ends are made of: an encoder with a projector, or an embedding of codes.

    Args:
        config ([`JosieThinkerConfig`]): Of the Thinker.
    """

    def __init__(self, config: JosieThinkerConfig):
        super().__init__()
        self.config = config
        self.encoder: Any = None  # of another class for every kind of config
        self.projector: Any = None
        self.code_embedding: CodeEmbedding | None = None

    def build(self, encoder_config: Any):
        """Make the encoder, and the projector from its width to the Thinker's."""
        config = self.config
        self.encoder = build_encoder(encoder_config)
        self.projector = Projector(encoder_config.hidden_size, config.hidden_size, config.projector_hidden_act)
        self.freeze_fixed_parts()

    def freeze_fixed_parts(self):
        """Freeze what an encoder of transformers has and is not used here, as it never gets a gradient."""
        for name in _PARTS_WITHOUT_USE:
            part = getattr(self.encoder, name, None)
            if part is not None:
                part.requires_grad_(False)

    def train(self, mode: bool = True):
        """Set the mode; an encoder of which nothing learns stays in evaluation mode."""
        super().train(mode)
        if self.encoder is not None and not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        return self


class AudioFrontEnd(FrontEnd):
    """How the Thinker hears: `config.audio_config` is a continuous encoder or a codec.

    Args:
        config ([`JosieThinkerConfig`]): With an `audio_config`.
    """

    def __init__(self, config: JosieThinkerConfig):
        super().__init__(config)
        audio_config: Any = config.audio_config
        if is_codec(audio_config):
            geometry = audio_codec_geometry(audio_config)
            self.code_embedding = CodeEmbedding(geometry.num_quantizers, geometry.codebook_size, config.hidden_size)
            return
        config.get_num_audio_tokens(_LONG_CLIP)  # an encoder of unknown geometry is refused here, not at the first clip
        self.build(audio_config)

    def dummy_forward(self) -> torch.Tensor:
        """Return the rows of the shortest silence."""
        weight = next(self.parameters())
        if self.code_embedding is not None:
            return self(audio_codes=torch.zeros(1, 1, 1, dtype=torch.long, device=weight.device))[0]
        audio_config: Any = self.config.audio_config
        if reads_waveforms(audio_config):
            return self(input_values=weight.new_zeros(1, 1, _shortest_clip(self.config)))[0]
        mels = (getattr(audio_config, "num_mel_bins"), _shortest_clip(self.config))  # noqa: B009
        return self(input_features=weight.new_zeros(1, *mels))[0]

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        audio_codes: torch.Tensor | None = None,
        audio_codes_mask: torch.Tensor | None = None,
    ) -> PackedRows:
        """Turn clips into rows, each clip cut to `config.max_audio_tokens`.

        Args:
            input_features (`torch.FloatTensor`, *optional*): `(num_clips, num_mel_bins, num_frames)`, for encoders.
            input_features_mask (`torch.Tensor`, *optional*): `(num_clips, num_frames)`, 1 for real frames, first.
            input_values (`torch.FloatTensor`, *optional*): `(num_clips, 1, num_samples)`, for encoders of waveforms.
            padding_mask (`torch.Tensor`, *optional*): `(num_clips, num_samples)`, 1 for real samples, first.
            audio_codes (`torch.LongTensor`, *optional*): `(num_clips, num_quantizers, num_frames)`, for codecs.
            audio_codes_mask (`torch.Tensor`, *optional*): `(num_clips, num_frames)`, 1 for real frames, first.

        Returns:
            Rows, `(total_rows, hidden_size)`, and counts, `(num_clips,)`.

        Raises:
            `ValueError`: The input is not the one this front end takes, or has a wrong shape.
        """
        limit = self.config.max_audio_tokens
        if self.code_embedding is not None:
            raw_name, raw = (
                ("input_features", input_features) if input_values is None else ("input_values", input_values)
            )
            audio_codes = _require_codes("audio_codes", audio_codes, raw_name, raw)
            mask = None if audio_codes_mask is None else audio_codes_mask[:, :limit].to(audio_codes.device, torch.bool)
            return embed_codes(self.code_embedding, "audio_codes", audio_codes[..., :limit], mask)
        if reads_waveforms(self.config.audio_config):
            input_values = _require_features("input_values", input_values, "audio_codes", audio_codes)
            return self._encode_waveforms(input_values, padding_mask)
        if input_values is not None:
            raise ValueError("`input_values` must be `input_features` for an encoder of mel spectrograms.")
        input_features = _require_features("input_features", input_features, "audio_codes", audio_codes)
        features, mask = self._encode(input_features, input_features_mask)
        return pack(self.projector(features[:, :limit]), None if mask is None else mask[:, :limit])

    def _encode_waveforms(self, input_values: torch.Tensor, padding_mask: torch.Tensor | None) -> PackedRows:
        """Encode clip by clip: most encoders of waveforms normalise over time and would hear the padding."""
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(
                f"`input_values` must be of shape (num_clips, 1, num_samples), got {tuple(input_values.shape)}."
            )
        num_clips, _, longest = input_values.shape
        lengths = [longest] * num_clips if padding_mask is None else padding_mask.sum(dim=-1).tolist()
        rows = []
        for clip, length in zip(input_values.to(self.encoder.dtype), lengths, strict=True):
            features = self.encoder(clip[:, : int(length)]).last_hidden_state[0]
            rows.append(self.projector(features[: self.config.get_num_audio_tokens(int(length))]))
        return torch.cat(rows), torch.tensor([len(row) for row in rows], device=input_values.device)

    def _encode(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return features, `(num_clips, max_features, width)`, and which are real."""
        input_features = input_features.to(self.encoder.dtype)
        if not isinstance(self.encoder, JosieAudioEncoder):  # Whisper: always the same length, silence included
            features = self.encoder(input_features).last_hidden_state
            expected = self.encoder.config.max_source_positions
            if features.shape[1] != expected:
                raise ValueError(f"`audio_config` must give {expected} features a clip, got {features.shape[1]}.")
            return features, None
        features = self.encoder(input_features, attention_mask=input_features_mask).last_hidden_state
        if input_features_mask is None:
            return features, None
        return features, self.encoder.downsample_mask(input_features_mask).to(features.device, torch.bool)


class VisionFrontEnd(FrontEnd):
    """How the Thinker sees: `config.vision_config` is a continuous tower or a codec.

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
        """Return the rows of one black picture."""
        weight = next(self.parameters())
        if self.code_embedding is not None:
            return self(vision_codes=torch.zeros(1, 1, 1, dtype=torch.long, device=weight.device))[0]
        vision_config: Any = self.config.vision_config
        sides = (vision_config.image_size,) * 2
        return self(pixel_values=weight.new_zeros(1, getattr(vision_config, "num_channels", 3), *sides))[0]

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        vision_codes: torch.Tensor | None = None,
        grid_thw: torch.Tensor | None = None,
    ) -> PackedRows:
        """Turn pictures or videos (one kind a call) into rows.

        Args:
            pixel_values (`torch.FloatTensor`, *optional*): `(num_images, channels, height, width)`, for towers.
            image_grid_thw (`torch.LongTensor`, *optional*): `(num_images, 3)`, patches of each item of `vision_codes`;
                all are real when `None`. Not read by towers, whose pictures all have one size.
            pixel_values_videos (`torch.FloatTensor`, *optional*): `(num_videos, frames, channels, height, width)`, for
                towers, which see frame by frame.
            video_grid_thw (`torch.LongTensor`, *optional*): `(num_videos, 3)`, the same for videos; of a tower's video
                the first entry is the number of real frames, all when `None`.
            vision_codes (`torch.LongTensor`, *optional*): `(num_items, num_quantizers, max_patches)`, for codecs, of
                pictures or videos.
            grid_thw (`torch.LongTensor`, *optional*): `(num_items, 3)`, in place of either of the grids above.

        Returns:
            Rows, `(total_rows, hidden_size)`, and counts, `(num_items,)`.

        Raises:
            `ValueError`: The input is not the one this front end takes, or has a wrong shape.
        """
        grid_thw = next((grid for grid in (grid_thw, image_grid_thw, video_grid_thw) if grid is not None), None)
        if grid_thw is not None and (grid_thw.ndim != 2 or grid_thw.shape[1] != 3):
            raise ValueError(f"The grids `*_grid_thw` must be of shape (num_items, 3), got {tuple(grid_thw.shape)}.")
        raw_name, raw = "pixel_values", pixel_values
        if pixel_values_videos is not None:
            if pixel_values is not None:
                raise ValueError("`pixel_values` and `pixel_values_videos` must go in separate calls, got both.")
            raw_name, raw = "pixel_values_videos", pixel_values_videos
        if self.code_embedding is not None:
            codes_name = "image_codes" if raw_name == "pixel_values" else "video_codes"  # what the Thinker calls them
            codes_name = codes_name if raw is not None else "vision_codes"
            vision_codes = _require_codes(codes_name, vision_codes, raw_name, raw)
            mask = None
            if grid_thw is not None:
                mask = length_mask(grid_thw.prod(dim=-1).to(vision_codes.device), vision_codes.shape[-1])
            return embed_codes(self.code_embedding, "vision_codes", vision_codes, mask)
        raw = _require_features(raw_name, raw, "vision_codes", vision_codes)
        if raw_name == "pixel_values":
            return pack(self._encode(raw), None)
        return self._encode_videos(raw, grid_thw)

    def _encode_videos(self, videos: torch.Tensor, grid_thw: torch.Tensor | None) -> PackedRows:
        if videos.ndim != 5:
            raise ValueError(
                "`pixel_values_videos` must be of shape (num_videos, frames, channels, height, width), "
                f"got {tuple(videos.shape)}."
            )
        num_videos, num_frames = videos.shape[:2]
        if grid_thw is None:
            return pack(self._encode(videos.flatten(0, 1)).unflatten(0, (num_videos, num_frames)).flatten(1, 2), None)
        mask = length_mask(grid_thw[:, 0].to(videos.device), num_frames)
        features = self._encode(videos[mask])  # frames that are padding are not looked at
        return features.flatten(0, 1), mask.sum(dim=-1) * features.shape[1]

    def _encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the chosen rows of each picture, `(num_images, rows, hidden_size)`."""
        if pixel_values.ndim != 4:
            raise ValueError(
                "`pixel_values` must be of shape (num_images, channels, height, width), "
                f"got {tuple(pixel_values.shape)}."
            )
        features = self.encoder(pixel_values=pixel_values.to(self.encoder.dtype)).last_hidden_state
        if self.config.vision_feature_select == "cls":
            return self.projector(features[:, :1])
        expected = self.config.get_num_image_tokens(*pixel_values.shape[-2:])
        if features.shape[1] < expected:
            raise ValueError(f"`vision_config` must give {expected} patches a picture, got {features.shape[1]}.")
        return self.projector(features[:, -expected:])  # whatever else a tower has (CLS, registers) comes first


def _shortest_clip(config: JosieThinkerConfig) -> int:
    """Return a length of a clip, in samples or mel frames, that gives a row, and not much more than one."""
    positions = getattr(config.audio_config, "max_source_positions", None)
    if positions is not None and not hasattr(config.audio_config, "downsample"):
        return 2 * positions  # Whisper reads nothing shorter
    for length in (2**power for power in range(20)):
        with suppress(ValueError):  # too short for the convolutions
            if config.get_num_audio_tokens(length) > 0:
                return length
    return _LONG_CLIP


def _require_codes(name: str, codes: torch.Tensor | None, raw_name: str, raw: torch.Tensor | None) -> torch.Tensor:
    if raw is not None:
        raise ValueError(
            f"`{raw_name}` cannot be read by a front end of codes: pass `{name}`, or use "
            "`JosieForConditionalGeneration`, whose codec makes them."
        )
    if codes is None:
        raise ValueError(f"`{name}` must be given, got None.")
    return codes


def _require_features(
    name: str, features: torch.Tensor | None, codes_name: str, codes: torch.Tensor | None
) -> torch.Tensor:
    if codes is not None:
        raise ValueError(f"`{codes_name}` cannot be read by a continuous encoder: pass `{name}`.")
    if features is None:
        raise ValueError(f"`{name}` must be given, got None.")
    return features
