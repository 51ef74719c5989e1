"""Configuration of the Talker, which turns the Thinker's states into codes of speech."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec

from .backbone import JosieBackboneConfig, SubConfig, require_positive


@strict
class JosieDepthDecoderConfig(JosieBackboneConfig):
    r"""The transformer over the codebooks of one frame: backbone fields only, its geometry comes from the Talker.

    It has no rotary positions by default: each level has a table and a head of its own, which tell it where it is.
    """

    model_type = "josie_depth_decoder"
    base_config_key = "depth_decoder_config"
    _rotates_by_length = False

    rope_parameters: dict | None = None


@strict
class JosieTalkerConfig(JosieBackboneConfig):
    r"""A causal backbone over frames of codes; backbone fields are those of [`JosieBackboneConfig`].

    Args:
        num_quantizers (`int`): Codes of a frame, semantic first.
        codebook_size (`int`): Values a code can take.
        thinker_hidden_size (`int`): Width of the Thinker's hidden states and token embeddings.
        depth_decoder_config ([`JosieDepthDecoderConfig`], *optional*): Predicts quantizers 1...N-1 of a frame, each
            given the ones before it; when `None`, one head a quantizer predicts all of them in parallel.
        share_code_embedding (`bool`): One embedding table for all quantizers instead of one each.
        head_bias (`bool`): Biases in the output heads.
        end_of_speech (`bool`): Give quantizer 0 an extra last class that ends the speech.
        reads_thinker_states (`bool`): Read the Thinker's hidden states beside its token embeddings. Without them
            Thinker and Talker can be trained at the same time, once the embeddings are fixed.
        text_intermediate_size (`int`, *optional*): Width of a layer with one activation that reads each token beside
            the linear projection. A Talker that reads fixed token embeddings can learn every token by itself with it.
        frames_per_token (`int`): Steps for which each spoken token is read. The closer this is to how long tokens take
            to be said, without exceeding it, the sooner a Talker learns which of them it is at.
        learns_durations (`bool`): Learn how many frames each spoken token takes, from the lengths of utterances alone,
            and read each token for that long, beside where in it the step is; `frames_per_token` is the beginning.
            With a `speech_delay` of some frames the Talker sees what comes next, and durations need not be exact.
        duration_left_context, duration_right_context (`int`): How many tokens before and after a token its duration
            depends on too. A word at the end of a sentence is said longer than elsewhere, and only what comes after
            it tells; of text that flows in, speech trails by so many tokens more.
        code_noise (`float`): Share of the earlier codes that random ones replace in training, in [0, 1). Against
            exposure bias: in generation the Talker reads its own errors, and must keep to the text after one.
        speech_delay (`int`): Steps by which speech trails the text.
        depth_loss_fraction (`float`): In training, share of the frames, chosen anew at random for every batch, of which
            quantizers 1...N-1 are learned: memory for noise (CSM, Sesame, 2025).
        speakers (`list[str]`): Names of the voices; empty for a single, unnamed one.
    """

    model_type = "josie_talker"
    base_config_key = "talker_config"
    # `Trainer` keeps the rest of an output as predictions: the logits of quantizer 0.
    keys_to_ignore_at_inference = [
        *("talker_loss", "depth_loss", "duration_loss", "depth_logits"),
        *("last_hidden_state", "hidden_states", "attentions", "cache"),
    ]
    _rotates_by_length = False
    sub_configs_defaults = {"depth_decoder_config": SubConfigSpec(JosieDepthDecoderConfig, optional=True)}

    num_quantizers: int = 8
    codebook_size: int = 2048
    thinker_hidden_size: int = 512
    depth_decoder_config: SubConfig = None
    share_code_embedding: bool = False
    head_bias: bool = False
    end_of_speech: bool = True
    reads_thinker_states: bool = True
    text_intermediate_size: int | None = None
    frames_per_token: int = 1
    learns_durations: bool = False
    duration_left_context: int = 0
    duration_right_context: int = 0
    code_noise: float | int = 0.0
    speech_delay: int = 0
    depth_loss_fraction: float | int = 1.0
    speakers: list[str] = field(default_factory=list)

    @property
    def end_of_speech_id(self) -> int | None:
        """The class of quantizer 0 that ends the speech, `codebook_size`; `None` without one."""
        return self.codebook_size if self.end_of_speech else None

    def get_speaker_id(self, speaker: str) -> int:
        """Return the row of the voice called `speaker`.

        Raises:
            `ValueError`: There is no such voice.
        """
        if speaker not in self.speakers:
            raise ValueError(f"`speaker` must be one of {self.speakers}, got {speaker!r}.")
        return self.speakers.index(speaker)

    def validate_geometry(self):
        """Counts are positive, and a depth decoder has something to predict."""
        require_positive(self, "num_quantizers", "codebook_size", "thinker_hidden_size", "frames_per_token")
        if self.text_intermediate_size is not None:
            require_positive(self, "text_intermediate_size")
        for name in ("duration_left_context", "duration_right_context"):
            value = getattr(self, name)
            if value < 0 or (value and not self.learns_durations):
                allowed = "at least 0" if self.learns_durations else "0 without `learns_durations`"
                raise ValueError(f"`{name}` must be {allowed}, got {value}.")
        if not 0 <= self.code_noise < 1:
            raise ValueError(f"`code_noise` must be in [0, 1), got {self.code_noise}.")
        if self.speech_delay < 0:
            raise ValueError(f"`speech_delay` must be at least 0, got {self.speech_delay}.")
        if not 0 < self.depth_loss_fraction <= 1:
            raise ValueError(f"`depth_loss_fraction` must be in (0, 1], got {self.depth_loss_fraction}.")
        if self.depth_decoder_config is not None and self.num_quantizers < 2:
            raise ValueError(f"`num_quantizers` must be at least 2 with a depth decoder, got {self.num_quantizers}.")
        if len(set(self.speakers)) != len(self.speakers):
            raise ValueError(f"`speakers` must not repeat a name, got {self.speakers}.")


AutoConfig.register(JosieDepthDecoderConfig.model_type, JosieDepthDecoderConfig, exist_ok=True)
AutoConfig.register(JosieTalkerConfig.model_type, JosieTalkerConfig, exist_ok=True)
