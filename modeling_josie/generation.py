"""Answers of JOSIE: the Thinker writes, the Talker speaks each word as soon as it is there, the codec makes samples.

Speech reads the states of the pass that wrote the answer. An answer that was searched for (beams, several sequences,
an assistant) is read once more and then spoken; one that is not spoken by the Thinker's states is read by nobody.
"""

import contextlib
from typing import Any, Literal

import torch
from torch import nn
from transformers.generation import GenerationConfig, GenerationMixin

from ..configuration_josie import JosieConfig
from ..configuration_josie.constants import IGNORE_INDEX
from .codecs.inference import inference_form
from .layers.offloading import find_device
from .option_values import check_integers
from .outputs import JosieGenerateOutput
from .peft_wrappers import is_prompted
from .speech.streamed_generation import StreamedSpeechMixin, add_written
from .speech.streamers import check_streamer
from .thinker.generation_options import check_config, check_ids, check_mask, check_options
from .thinker.inputs import pop_inputs

TALKER_OPTIONS = tuple(
    f"talker_{name}"
    for name in (
        "max_new_frames",
        "min_new_frames",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "speed",
        "seed",
        "sentence_end_ids",
    )
)

# Options that are read where the Talker draws its codes.
_OF_DRAWS = ("talker_temperature", "talker_top_k", "talker_top_p", "talker_min_p", "talker_seed")

# Options of transformers with which what was written may still change, or is made in another order.
_COUNTS = ("num_beams", "num_return_sequences", "num_beam_groups")
_SEARCH_OPTIONS = (
    *_COUNTS,
    "assistant_model",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "use_mtp",
    "custom_generate",
    "penalty_alpha",
    "dola_layers",
    "constraints",
    "force_words_ids",
)

# Where peft first looks for the embeddings of a model that it gives learned prompts.
_LOOKED_UP_BY_PEFT = "embeddings.word_embeddings"


class JosieGenerationMixin(StreamedSpeechMixin, GenerationMixin):
    """`generate` and `generate_speech` of [`JosieForConditionalGeneration`]."""

    config: JosieConfig
    # Parts that may be absent are `None` then; whoever needs one checks first.
    thinker: Any
    talker: Any
    audio_codec: Any

    def get_speech_mask(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return which tokens are spoken, `(batch, length)`: labelled ones that are real words.

        Args:
            input_ids (`torch.LongTensor`): `(batch, length)`.
            attention_mask (`torch.Tensor`, *optional*): `(batch, length)`, 1 for real tokens; all are when `None`.
            labels (`torch.LongTensor`, *optional*): `(batch, length)`, -100 for what is not labelled; all tokens are
                when `None`.

        Raises:
            `ValueError`: There are no ids, or the others are not of their shape.
        """
        if input_ids is None:
            raise ValueError("`speech_mask` must be given with `inputs_embeds`, got None.")
        for name, value in (("attention_mask", attention_mask), ("labels", labels)):
            if value is not None and value.shape != input_ids.shape:
                raise ValueError(
                    f"`{name}` must have the shape {tuple(input_ids.shape)} of `input_ids` where no `speech_mask` says "
                    f"what is spoken, got {tuple(value.shape)}."
                )
        mask = labels != IGNORE_INDEX if labels is not None else torch.ones_like(input_ids, dtype=torch.bool)
        for token in self._silent_tokens():
            mask = mask & (input_ids != token)
        return mask if attention_mask is None else mask & attention_mask.bool()

    def get_submodule(self, target: str) -> nn.Module:
        """Return a part by its name, as torch does.

        Raises:
            `ValueError`: peft asks, for learned prompts, which a whole model does not take.
        """
        if target == _LOOKED_UP_BY_PEFT:  # here, as a `forward` does not know what peft has put in front
            self._refuse_prompts()
        return super().get_submodule(target)  # type: ignore[misc]

    def _refuse_prompts(self) -> None:
        raise ValueError(
            "`model` must be a Thinker, such as `model.thinker`, for learned prompts of peft, which a whole model "
            f"that generates would not read, got a {type(self).__name__}."
        )

    def _silent_tokens(self) -> set[int]:
        thinker, text, generation = self.config.thinker_config, self.config.get_text_config(), self.generation_config
        tokens = [thinker.image_token_id, thinker.video_token_id, thinker.audio_token_id]
        tokens += [thinker.listen_token_id, thinker.speak_token_id]
        for config in (text, generation):
            tokens += [config.pad_token_id, config.bos_token_id]
        return {token for token in tokens if token is not None} | self._end_tokens(generation)

    def _end_tokens(self, generation_config: GenerationConfig, given: Any = None) -> set[int]:
        """Return the ids that end an answer; `given` is the `eos_token_id` of one call, as transformers takes it."""
        ends: set[int] = set()
        given = given.tolist() if isinstance(given, torch.Tensor) else given
        for end in (self.config.get_text_config().eos_token_id, generation_config.eos_token_id, given):
            ends |= set(end if isinstance(end, (list, tuple)) else [end])
        return ends - {None}

    def _infer_attention_mask(self, input_ids: torch.Tensor, generation_config: GenerationConfig) -> torch.Tensor:
        """Return the mask of a prompt that came without one, by transformers' rule: padding is what looks like it."""
        pad = generation_config.pad_token_id
        if pad is None or pad in self._end_tokens(generation_config):
            return torch.ones_like(input_ids)
        return (input_ids != pad).long()

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        generation_mode: Literal["text", "audio"] = "text",
        speaker: str | list[str] | None = None,
        audio_streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Answer in text, or in text and speech.

        Args:
            inputs (`torch.LongTensor`): `(batch, length)`, left-padded where rows differ in length; `input_ids` is
                another name for it.
            generation_config ([`GenerationConfig`], *optional*): In place of `self.generation_config`. The `talker_*`
                options below may also stand there.
            generation_mode (`"text"` or `"audio"`): Whether to speak the text too.
            speaker (`str` or `list[str]`, *optional*): The voice, or one for each row; the first when `None`.
            audio_streamer (*optional*): Takes each [`SpeechPiece`] by its `put` as soon as it is made, and the end by
                its `end`, as [`AudioIteratorStreamer`]. Nothing is kept of the speech then.
            talker_max_new_frames (`int`): Most frames of speech; as many as the text takes where the Talker learns
                durations, else 512.
            talker_min_new_frames (`int`): Frames before which speech does not end, as far as the Talker's positions
                reach; 1 by default.
            talker_do_sample, talker_temperature, talker_top_k, talker_top_p, talker_min_p: How codes are chosen, as in
                [`CodeSampler`]; the likeliest by default, where an argument among the others is refused.
            talker_speed (`float`): How many times as fast it speaks, in [0.5, 2], where the Talker learns durations.
            talker_seed (`int` or `list[int]`): Of the codes that are drawn, for each row.
            talker_sentence_end_ids (`list[int]`): Tokens behind which a text beyond the Talker's positions may be cut;
                those of `tokenizer` that end sentences, where that is given.
            seed (`int` or `list[int]`): Of the tokens that are drawn, for each row, as of the Thinker's `generate`.
            kwargs: Inputs as in `forward`, and everything that `generate` takes in transformers, for the text.

        Returns:
            In mode `"text"` what [`~transformers.GenerationMixin.generate`] returns: `(batch, prompt + new tokens)`, or
            an output with `sequences`. In mode `"audio"` a [`JosieGenerateOutput`], which has the text's scores and
            states where `return_dict_in_generate` asks for them.

        Raises:
            `ValueError`: The mode is unknown or impossible, the speaker unknown, a number out of range, or an option
                would have no effect, as those of speech in mode `"text"`.
        """
        with contextlib.ExitStack() as stack:
            if audio_streamer is not None:
                check_streamer(audio_streamer)
                stack.callback(audio_streamer.end)  # whatever happens: somebody may wait for it in another thread
            return self._generate(inputs, generation_config, generation_mode, speaker, audio_streamer, kwargs)

    def _generate(
        self,
        inputs: torch.Tensor | None,
        generation_config: GenerationConfig | None,
        generation_mode: str,
        speaker: str | list[str] | None,
        audio_streamer: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        if is_prompted(self):
            self._refuse_prompts()
        if generation_mode not in self.output_modalities:
            raise ValueError(
                f"`generation_mode` must be one of {self.output_modalities} for the parts this model has, "
                f"got {generation_mode!r}."
            )
        if generation_mode == "text":
            of_speech = {"audio_streamer": audio_streamer, "speaker": speaker}
            for name, value in (of_speech | {name: kwargs.get(name) for name in TALKER_OPTIONS}).items():
                if value is not None:
                    raise ValueError(f'`{name}` must be None with `generation_mode="text"`, got {value!r}.')
        input_ids = kwargs.pop("input_ids", None)
        if inputs is not None and input_ids is not None:
            raise ValueError("`inputs` must be None with `input_ids`, which is another name for it, got both.")
        input_ids = inputs if input_ids is None else input_ids
        check_ids("input_ids", input_ids)
        check_mask("attention_mask", kwargs.get("attention_mask"))
        if generation_mode == "audio":  # those of a text are checked by the Thinker
            vocab_size = self.config.get_text_config().vocab_size
            check_options(kwargs | {"input_ids": input_ids}, generation_config, self.generation_config, vocab_size)
        if generation_config is not None:
            kwargs["generation_config"] = generation_config
        generation_config = generation_config if generation_config is not None else self.generation_config
        options = self._pop_talker_options(kwargs, generation_config, keeps_seed=False)
        media = self._backbone.encode_media(
            kwargs.pop("mm_encoder_outputs", None), **self.encode_inputs(**pop_inputs(kwargs))
        )
        if media:
            kwargs["mm_encoder_outputs"] = media
        if generation_mode == "text":
            return self.thinker.generate(input_ids, **kwargs)
        if input_ids is None:
            raise ValueError('`input_ids` must be given with `generation_mode="audio"`, got None.')
        speaker_ids = self._get_speaker_ids(speaker, input_ids.shape[0])
        prompt_mask = kwargs.get("attention_mask")
        if prompt_mask is None:
            prompt_mask = kwargs["attention_mask"] = self._infer_attention_mask(input_ids, generation_config)
        self._find_sentence_ends(options, kwargs.get("tokenizer"))
        ends = self._end_tokens(generation_config, kwargs.get("eos_token_id"))
        if audio_streamer is not None:
            self._require_final_tokens(generation_config, kwargs)
        if not self._search_options(generation_config, kwargs):
            return self._write_and_speak(input_ids, kwargs, speaker_ids, options, ends, audio_streamer)
        written = self.thinker.generate(input_ids, **kwargs)
        sequences = written if isinstance(written, torch.Tensor) else written.sequences

        # Beams and repeated sequences make several rows of one prompt; each is read once more, as in training.
        repeats, length = sequences.shape[0] // input_ids.shape[0], input_ids.shape[1]
        answer = sequences[:, length:]
        prompt_embeds = kwargs.get("inputs_embeds")
        prompt_embeds = self._backbone.embed_inputs(
            input_ids if prompt_embeds is None else None, prompt_embeds, mm_encoder_outputs=media
        )
        embeds = torch.cat((prompt_embeds.repeat_interleave(repeats, 0), self.get_input_embeddings()(answer)), dim=1)
        attention_mask = torch.cat((prompt_mask.repeat_interleave(repeats, 0), torch.ones_like(answer)), dim=1)
        is_end = torch.isin(answer, torch.tensor(sorted(ends), device=answer.device))
        speech_mask = self.get_speech_mask(answer) & (is_end.cumsum(dim=1) == 0)
        if speaker_ids is not None:
            speaker_ids = speaker_ids.repeat_interleave(repeats, 0)
        reply = self._speak(
            sequences, embeds, attention_mask, nn.functional.pad(speech_mask, (length, 0)), speaker_ids, options
        )
        return reply if isinstance(written, torch.Tensor) else add_written(reply, written)

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Raise a `ValueError`, as the Thinker's does."""
        return self.thinker.generate_batch(*args, **kwargs)

    init_continuous_batching = generate_batch

    @staticmethod
    def _search_options(generation_config: GenerationConfig, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return options with which a token that was written may change, so that it cannot be said at once."""
        given = {name: getattr(generation_config, name, None) for name in _SEARCH_OPTIONS}
        given |= {name: kwargs[name] for name in _SEARCH_OPTIONS if kwargs.get(name) is not None}
        return {name: value for name, value in given.items() if value and not (name in _COUNTS and value == 1)}

    def _require_final_tokens(self, generation_config: GenerationConfig, kwargs: dict[str, Any]) -> None:
        for name, value in self._search_options(generation_config, kwargs).items():
            shown = value if isinstance(value, (bool, int, float, str)) else type(value).__name__
            raise ValueError(
                f"`{name}` must be {1 if name in _COUNTS else None} in a stream of speech, which is said while it is "
                f"written, got {shown!r}."
            )

    @torch.no_grad()
    def generate_speech(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        speaker: str | list[str] | None = None,
        tokenizer: Any = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> JosieGenerateOutput:
        """Say a given text.

        Args:
            input_ids (`torch.LongTensor`): `(batch, length)`, the text, padded on either side.
            attention_mask (`torch.Tensor`, *optional*): `(batch, length)`, 1 for real tokens.
            speech_mask (`torch.Tensor`, *optional*): `(batch, length)`, 1 for the tokens to say; all words when `None`.
            speaker (`str` or `list[str]`, *optional*): The voice, or one for each row; the first when `None`.
            tokenizer (*optional*): As in `generate`, it tells where sentences end.
            generation_config ([`GenerationConfig`], *optional*): In place of `self.generation_config`, of which the
                `talker_*` options are read: there is no answer for the others.
            kwargs: `talker_*` options as in `generate`.

        Returns:
            [`JosieGenerateOutput`] with `sequences = input_ids`.

        Raises:
            `ValueError`: There is no Talker or codec, the speaker is unknown, or a number out of range.
        """
        if "audio" not in self.output_modalities:
            raise ValueError("`generate_speech` must be called on a model with a Talker and an audio codec, got none.")
        options = self._pop_talker_options(kwargs, generation_config or self.generation_config, keeps_seed=False)
        if kwargs:
            raise ValueError(f"`generate_speech` takes only `talker_*` options, got {sorted(kwargs)}.")
        self._find_sentence_ends(options, tokenizer)
        check_ids("input_ids", input_ids, self.config.get_text_config().vocab_size)
        for name, mask in (("attention_mask", attention_mask), ("speech_mask", speech_mask)):
            check_mask(name, mask)
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if speech_mask is None:
            speech_mask = self.get_speech_mask(input_ids, attention_mask)
        if input_ids.ndim != 2 or speech_mask.shape != input_ids.shape or attention_mask.shape != input_ids.shape:
            raise ValueError(
                "`input_ids`, `attention_mask` and `speech_mask` must have one shape (batch, length), got "
                f"{tuple(input_ids.shape)}, {tuple(attention_mask.shape)} and {tuple(speech_mask.shape)}."
            )
        silent = (~speech_mask.bool().any(dim=1)).nonzero()[:, 0].tolist()
        if silent:
            raise ValueError(f"`input_ids` must have at least one word to say in every row, got none in rows {silent}.")
        embeds = self.get_input_embeddings()(input_ids)
        speaker_ids = self._get_speaker_ids(speaker, input_ids.shape[0])
        return self._speak(input_ids, embeds, attention_mask, speech_mask, speaker_ids, options)

    def _speak(
        self,
        sequences: torch.Tensor,
        embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        speech_mask: torch.Tensor,
        speaker_ids: torch.Tensor | None,
        options: dict[str, Any],
    ) -> JosieGenerateOutput:
        states = None
        if self.config.talker_config.reads_thinker_states:
            states = self._read(embeds, attention_mask, sequences, options.get("sentence_end_ids") or ())
        voice = self._open_speaker(sequences.shape[0], speaker_ids, options, set())
        voice.add_text(states, embeds, speech_mask.bool(), sequences)
        with inference_form(self.audio_codec):
            for _ in voice.finish():
                pass
        return voice.collect(sequences, 0)

    def _pop_talker_options(
        self, kwargs: dict[str, Any], generation_config: GenerationConfig, keeps_seed: bool = True
    ) -> dict[str, Any]:
        """Take the `talker_*` options out of `kwargs`, then from `generation_config`; names without the prefix.

        Arguments of draws are refused where nothing is drawn, but for the seed where `keeps_seed`, as in sessions,
        whose states have one. A configuration may hold them for other calls.
        """
        check_config(generation_config)
        for place, names in (
            ("arguments", kwargs),
            ("fields of the generation configuration", vars(generation_config)),
        ):
            for name in names:
                if name.startswith("talker_") and name not in TALKER_OPTIONS:
                    raise ValueError(f"`{name}` must be one of {TALKER_OPTIONS}, got it among the {place}.")
        given = {name: kwargs.pop(name, None) for name in TALKER_OPTIONS}
        options = {
            name: getattr(generation_config, name, None) if value is None else value for name, value in given.items()
        }
        for name in () if options["talker_do_sample"] else _OF_DRAWS:
            if given[name] is not None and not (keeps_seed and name == "talker_seed"):
                raise ValueError(
                    f"`{name}` must be None without `talker_do_sample`, as nothing is drawn, got {given[name]!r}."
                )
        if options["talker_sentence_end_ids"] is not None:
            vocab_size = self.config.get_text_config().vocab_size
            check_integers("talker_sentence_end_ids", options["talker_sentence_end_ids"], vocab_size)
        return {name.removeprefix("talker_"): value for name, value in options.items() if value is not None}

    def _get_speaker_ids(self, speaker: str | list[str] | None, batch_size: int) -> torch.Tensor | None:
        if speaker is None:
            return None
        if not isinstance(speaker, (str, list, tuple)):
            raise ValueError(f"`speaker` must be the name of a voice or a list with one for each row, got {speaker!r}.")
        if not self.config.talker_config.speakers:
            raise ValueError(f"`speaker` must be None for a model with one voice, which has no name, got {speaker!r}.")
        speakers = [speaker] * batch_size if isinstance(speaker, str) else speaker
        if len(speakers) != batch_size:
            raise ValueError(f"`speaker` must name one voice for each of {batch_size} rows, got {len(speakers)}.")
        ids = [self.config.talker_config.get_speaker_id(name) for name in speakers]
        return torch.tensor(ids, device=find_device(self))
