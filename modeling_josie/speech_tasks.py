"""JOSIE as the models that transformers' pipelines for speech load: text to a waveform, and audio to its words."""

from typing import Any

import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoModelForTextToWaveform, AutoProcessor
from transformers.generation import GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

from ..configuration_josie import JosieConfig, reads_waveforms
from .josie import JosieForConditionalGeneration
from .thinker.generation_options import check_ids, check_mask
from .thinker.inputs import MODALITY_INPUTS

# What the model is asked where its generation configuration has no other words.
TRANSCRIPTION_PROMPT = "Write what you hear."
_HUB_OPTIONS = (
    "revision",
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
    "subfolder",
    "trust_remote_code",
)
# What the pipeline gives of itself, for texts too, for which nothing is written.
_OF_PIPELINE = ("max_new_tokens", "pad_token_id", "return_dict_in_generate")


def _pop_mode(kwargs: dict[str, Any], mode: str) -> None:
    """Take `generation_mode` out of arguments; raise a `ValueError` where it is another than this."""
    given = kwargs.pop("generation_mode", mode)
    if given != mode:
        raise ValueError(f"`generation_mode` must be {mode!r} in this pipeline, got {given!r}.")


def _shape_clips(name: str, values: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips `(batch, num_bins or num_channels, num_steps)` of rows of numbers, with padding behind, and masks.

    Raises:
        `ValueError`: The mask, `(batch, num_steps)`, does not divide the numbers.
    """
    if mask is None or mask.ndim != 2 or len(mask) != len(values) or values.shape[1] % max(mask.shape[1], 1):
        shape = None if mask is None else tuple(mask.shape)
        raise ValueError(
            f"`attention_mask` must be of shape (batch, steps of a clip) where `{name}` has a row of numbers for each "
            f"clip, {tuple(values.shape)}, got {shape}."
        )
    num_steps = mask.shape[1]
    first = mask.ne(0).int().argmax(dim=1)  # pipelines pad on the side of text
    order = (torch.arange(num_steps, device=mask.device) + first[:, None]) % num_steps
    steps = values.unflatten(1, (num_steps, -1))
    steps = steps.gather(1, order[..., None].expand_as(steps))
    return steps.transpose(1, 2), mask.gather(1, order)


class JosieForTextToWaveform(JosieForConditionalGeneration):
    """JOSIE for the pipeline `"text-to-speech"`: it says a text, and answers a conversation."""

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, list[torch.Tensor]]:
        """Say texts, or answer conversations: rows in which a turn has ended.

        Args:
            input_ids (`torch.LongTensor`): `(batch, length)`.
            attention_mask (`torch.Tensor`, *optional*): `(batch, length)`.
            kwargs: For a conversation all of [`JosieForConditionalGeneration.generate`], in mode `"audio"`; for a text
                `speaker`, `talker_*` and `generation_config`, as no answer is written: options of transformers are
                refused, but for those that the pipeline adds, such as `max_new_tokens`.

        Returns:
            `dict` with `audio`, a waveform `(channels, num_samples)` for each row.

        Raises:
            `ValueError`: Texts and conversations are mixed, an option would have no effect, or as of the models' own
                methods.
        """
        check_ids("input_ids", input_ids)
        check_mask("attention_mask", attention_mask)
        _pop_mode(kwargs, "audio")
        has_turns = self._find_turns(input_ids, attention_mask)
        if bool(has_turns.any()) != bool(has_turns.all()):
            raise ValueError(f"`input_ids` must be all texts or all conversations, got {has_turns.tolist()}.")
        if bool(has_turns.all()):
            kwargs |= {"generation_mode": "audio", "attention_mask": attention_mask}
            spoken: Any = super().generate(input_ids, **kwargs)
        else:
            written = GenerationConfig().to_dict()
            for name, value in kwargs.items():
                if name in written and name not in _OF_PIPELINE and value is not None:
                    raise ValueError(f"`{name}` must be None for a text, as no answer is written, got {value!r}.")
            options = {name: value for name, value in kwargs.items() if name not in written}
            spoken = self.generate_speech(input_ids, attention_mask, **options)
        lengths = spoken.audio_lengths.tolist()
        return {"audio": [values[:, :length] for values, length in zip(spoken.audio_values, lengths, strict=True)]}

    def _find_turns(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return in which rows a turn has ended, `(batch,)`: an end that is not the last token.

        Padding and the token that begins a text are no ends of turns, though they may have the id of one.
        """
        is_real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        place = is_real.cumsum(dim=1)
        starts = {config.bos_token_id for config in (self.config.get_text_config(), self.generation_config)} - {None}
        is_start = (place == 1) & torch.isin(input_ids, input_ids.new_tensor(sorted(starts)))
        is_end = torch.isin(input_ids, input_ids.new_tensor(sorted(self._end_tokens(self.generation_config))))
        return (is_end & is_real & ~is_start & (place < place[:, -1:])).any(dim=1)


class JosieForSpeechSeq2Seq(JosieForConditionalGeneration):
    """JOSIE for the pipeline `"automatic-speech-recognition"`: it writes down what it hears.

    Its generation configuration has the question: `transcription_prompt_ids`, the tokens of a conversation with one
    audio placeholder. [`from_pretrained`] makes them of `transcription_prompt`, a text, by the processor beside the
    weights.

    Args:
        config ([`JosieConfig`]): Of a model that hears.
    """

    def __init__(self, config: JosieConfig):
        super().__init__(config)
        self.main_input_name = (
            "input_values" if reads_waveforms(config.thinker_config.audio_config) else "input_features"
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model, as [`~transformers.PreTrainedModel.from_pretrained`] does, and the question it is asked."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        generation_config = model.generation_config
        if getattr(generation_config, "transcription_prompt_ids", None) is None:
            options = {name: kwargs[name] for name in _HUB_OPTIONS if name in kwargs}
            processor: Any = AutoProcessor.from_pretrained(pretrained_model_name_or_path, **options)
            question = getattr(generation_config, "transcription_prompt", None) or TRANSCRIPTION_PROMPT
            content = [{"type": "audio"}, {"type": "text", "text": question}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            generation_config.transcription_prompt_ids = ids
        return loaded

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write down clips.

        Args:
            input_features, input_values (`torch.FloatTensor`, *optional*): `(batch, ...)`, clips as [`AudioInputs`] has
                them; or one row of numbers each, `(batch, num_frames * num_mel_bins)` or
                `(batch, num_samples * num_channels)`, as pipelines pad them.
            attention_mask (`torch.Tensor`, *optional*): `(batch, num_frames)` or `(batch, num_samples)`, 1 for what is
                real; all is when `None`.
            kwargs: Of [`JosieForConditionalGeneration.generate`], in mode `"text"`.

        Returns:
            What that method returns, without the prompt: tokens `(batch, new tokens)`, or an output with `sequences`.

        Raises:
            `ValueError`: The model does not hear, has no question to ask, or is to write several answers for a clip,
                which the pipeline cannot hand on.
        """
        _pop_mode(kwargs, "text")
        several = self._search_options(kwargs.get("generation_config") or self.generation_config, kwargs)
        if "num_return_sequences" in several:
            raise ValueError(
                f"`num_return_sequences` must be 1 for what a clip says, got {several['num_return_sequences']}."
            )
        prompt = getattr(self.generation_config, "transcription_prompt_ids", None)
        token = self.config.thinker_config.audio_token_id
        if token is None or prompt is None or prompt.count(token) != 1:
            raise ValueError(
                "`generation_config.transcription_prompt_ids` must be tokens with one audio placeholder "
                f"({token}), got {prompt}."
            )
        names = MODALITY_INPUTS["audio"]
        values, mask_name = (
            (input_features, names[1]) if self.main_input_name == "input_features" else (input_values, names[3])
        )
        if values is None:
            raise ValueError(f"`{self.main_input_name}` must be given, got None.")
        if values.ndim == 2:
            values, attention_mask = _shape_clips(self.main_input_name, values, attention_mask)
        inputs: Any = {self.main_input_name: values, mask_name: attention_mask}
        heard = self.get_audio_features(**inputs, return_dict=True)
        counts = [len(rows) for rows in heard.pooler_output]  # type: ignore[arg-type]
        place = prompt.index(token)
        rows = [prompt[:place] + [token] * count + prompt[place + 1 :] for count in counts]
        longest, pad = max(map(len, rows)), self.generation_config.pad_token_id
        filler = prompt[0] if pad is None else pad  # masked
        ids = torch.tensor([[filler] * (longest - len(row)) + row for row in rows], device=values.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=values.device)
        written = super().generate(ids, attention_mask=mask, mm_encoder_outputs={"audio": heard}, **kwargs)
        if isinstance(written, torch.Tensor):
            return written[:, longest:]
        written.sequences = written.sequences[:, longest:]
        return written


AutoModelForTextToWaveform.register(JosieConfig, JosieForTextToWaveform, exist_ok=True)
AutoModelForSpeechSeq2Seq.register(JosieConfig, JosieForSpeechSeq2Seq, exist_ok=True)
names: Any = MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES  # the pipeline asks this table
names.setdefault(JosieConfig.model_type, JosieForSpeechSeq2Seq.__name__)
