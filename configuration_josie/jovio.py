"""Configuration of JOVIO, the vision codec."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec

from .backbone import JosieBackboneConfig, SubConfig, require_fixed_rotations, require_positive
from .codec import JosieCodecConfig


def split_rotary_planes(head_dim: int) -> list[int]:
    """Return how many of `head_dim // 2` rotation planes time, height and width get: a quarter, the rest halved."""
    planes = head_dim // 2
    time = max(planes // 4, 1)
    height = (planes - time + 1) // 2
    return [time, height, planes - time - height]


@strict
class JovioConfig(JosieCodecConfig):
    r"""Conv3d patches, transformer with rotary positions over (t, h, w), residual quantizer, and back to pixels.

    Args:
        num_channels (`int`): Colour channels.
        patch_size (`int`): Height and width of a patch, in pixels.
        temporal_patch_size (`int`): Frames in a patch; a still image is repeated to fill it.
        causal_time (`bool`): Whether a patch sees only patches of its own and earlier times, so that video streams.
        max_frames (`int`): Longest video, in frames; and longest stream, through a transformer without a
            `sliding_window`.
        patch_overlap (`int`): How many pixels what the decoder paints for a patch reaches over each side into its
            neighbours, where all is summed. 0 is a linear unpatchify, which is what a transposed Conv3d whose kernel
            equals its stride computes; more is a transposed Conv3d with a kernel of `patch_size + 2 * patch_overlap`
            in space, which can hide the edges between patches.
        l1_weight, l2_weight, gradient_weight, structure_weight (`float`): Weights of the losses of pixels: absolute and
            squared error, absolute error of the differences between neighbours, and 1 minus the structural similarity
            at several scales. What weighs 0 is not computed or not named.
        encoder_config, decoder_config ([`JosieBackboneConfig`]): The two transformers over patches.
    """

    model_type = "jovio"
    sub_configs_defaults = {
        "encoder_config": SubConfigSpec(JosieBackboneConfig),
        "decoder_config": SubConfigSpec(JosieBackboneConfig),
    }

    num_quantizers: int = 32
    num_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    causal_time: bool = False
    max_frames: int = 1024
    patch_overlap: int = 0
    l1_weight: float | int = 1.0
    l2_weight: float | int = 1.0
    gradient_weight: float | int = 1.0
    structure_weight: float | int = 0.1
    encoder_config: SubConfig = None
    decoder_config: SubConfig = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for config in (self.encoder_config, self.decoder_config):
            config.is_causal = self.causal_time
            if config.rope_parameters is not None and config.rope_sections is None:
                config.rope_sections = split_rotary_planes(config.head_dim)

    @property
    def max_times(self) -> int:
        """Most temporal patches of a video."""
        return -(-self.max_frames // self.temporal_patch_size)

    def get_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the number of patches along time, height and width.

        Raises:
            `ValueError`: A side is not a positive multiple of `patch_size`, or `num_frames` is out of range.
        """
        for name, side in (("height", height), ("width", width)):
            if side < 1 or side % self.patch_size:
                raise ValueError(
                    f"`{name}` must be a positive multiple of `patch_size` ({self.patch_size}), got {side}."
                )
        if not 1 <= num_frames <= self.max_frames:
            raise ValueError(f"`num_frames` must be in [1, {self.max_frames}], got {num_frames}.")
        return -(-num_frames // self.temporal_patch_size), height // self.patch_size, width // self.patch_size

    def get_num_patches(self, num_frames: int, height: int, width: int) -> int:
        """Return how many patches, each with `num_quantizers` codes, an image or video gives.

        Args:
            num_frames, height, width (`int`): As of [`JovioConfig.get_grid`].
        """
        time, rows, columns = self.get_grid(num_frames, height, width)
        return time * rows * columns

    def validate_geometry(self):
        """Patch sizes are possible."""
        require_positive(self, "num_channels", "patch_size", "temporal_patch_size", "max_frames")
        if not 0 <= self.patch_overlap <= self.patch_size:
            raise ValueError(f"`patch_overlap` must be in [0, {self.patch_size}], got {self.patch_overlap}.")
        for name in ("encoder_config", "decoder_config"):
            require_fixed_rotations(f"{name}.rope_parameters", getattr(self, name))


AutoConfig.register(JovioConfig.model_type, JovioConfig, exist_ok=True)
