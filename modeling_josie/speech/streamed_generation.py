"""Speech while it is written: what is said word by word is what is said when all of it is known."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationConfig

from ...configuration_josie import JosieConfig
from ..codecs.decoder_stream import can_stream, open_decoder
from ..outputs import JosieGenerateOutput
from ..talker.decoding import CodeSampler
from ..talker.speech_stream import SpeechStream
from ..thinker.state_listener import listen_to_states
from .pieces import FlowingText, PieceTaker, SpeechPieces, iterate_text
from .speaker import Speaker, SpeechPiece

_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p")


class StreamedSpeechMixin:
    """`generate_stream` and `speak_stream` of [`JosieForConditionalGeneration`], and what `generate` speaks with."""

    config: JosieConfig
    thinker: Any
    talker: Any
    audio_codec: Any
    device: Any
    generation_config: GenerationConfig
    sampling_rate: Any
    output_modalities: Any
    generate: Any
    get_input_embeddings: Any
    get_speech_mask: Any
    _get_speaker_ids: Any
    _pop_talker_options: Any

    def _open_speaker(
        self,
        batch_size: int,
        speaker_ids: torch.Tensor | None,
        options: dict[str, Any],
        ends: set[int],
        streamer: Any = None,
        audio_streamer: Any = None,
    ) -> Speaker:
        """Return what says an answer; with an `audio_streamer`, piece by piece."""
        if audio_streamer is not None and not can_stream(self.config.audio_codec_config):
            open_decoder(self.audio_codec)  # which says why not
        options = dict(options)
        sentence_ends: set[int] = set(options.pop("sentence_end_ids", None) or ())
        sampler = CodeSampler(**{name: options.pop(name) for name in _SAMPLING if name in options})
        stream = SpeechStream(self.talker, batch_size, sampler, speaker_ids, **options)
        return Speaker(
            stream,
            self.audio_codec,
            self.get_input_embeddings(),
            self.config.talker_config.reads_thinker_states,
            self.get_speech_mask,
            ends,
            sentence_ends,
            streamer,
            None if audio_streamer is None else audio_streamer.put,
        )

    def _write_and_speak(
        self,
        input_ids: torch.Tensor,
        kwargs: dict[str, Any],
        speaker_ids: torch.Tensor | None,
        options: dict[str, Any],
        ends: set[int],
        audio_streamer: Any,
    ) -> JosieGenerateOutput:
        """Write an answer, and say each word when it is written."""
        streamer = kwargs.pop("streamer", None)
        speaker = self._open_speaker(input_ids.shape[0], speaker_ids, options, ends, streamer, audio_streamer)
        kwargs["return_dict_in_generate"] = True
        with listen_to_states(speaker.add_state):
            written = self.thinker.generate(input_ids, streamer=speaker, **kwargs)
        if num_missing := speaker.num_missing_states:
            attention_mask = kwargs["attention_mask"]
            attention_mask = nn.functional.pad(
                attention_mask, (0, written.sequences.shape[1] - attention_mask.shape[1]), value=1
            )
            self._read_last(speaker, written, attention_mask, num_missing, kwargs)
        speaker.finish()
        if audio_streamer is not None:
            audio_streamer.end()
            return JosieGenerateOutput(sequences=written.sequences, sampling_rate=self.sampling_rate)
        values, lengths, codes = speaker.collect()
        return JosieGenerateOutput(written.sequences, values, lengths, codes, self.sampling_rate)

    def _read_last(
        self, speaker: Speaker, written: Any, attention_mask: torch.Tensor, num_missing: int, kwargs: dict[str, Any]
    ) -> None:
        """Read the last words of an answer that was cut, whose states nobody has asked for."""
        ids, cache = written.sequences, written.cache
        length = ids.shape[1]
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        has_room = cache is not None and not cache.is_compileable  # static ones are as long as the answer
        if has_room and cache.get_seq_length() == length - num_missing:
            states = self.thinker.model(
                input_ids=ids[:, -num_missing:],
                attention_mask=attention_mask,
                position_ids=position_ids[:, -num_missing:],
                cache=cache,
            ).last_hidden_state
        else:
            prompt = self.thinker.model.embed_inputs(
                ids if kwargs.get("inputs_embeds") is None else None,
                kwargs.get("inputs_embeds"),
                mm_encoder_outputs=kwargs.get("mm_encoder_outputs"),
            )
            answer = self.get_input_embeddings()(ids[:, prompt.shape[1] :])
            states = self.thinker.model(
                inputs_embeds=torch.cat((prompt, answer), dim=1),
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
            ).last_hidden_state[:, -num_missing:]
        for state in states.split(1, dim=1):
            speaker.add_state(state)

    def generate_stream(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> SpeechPieces:
        """Answer in text and speech, piece by piece while the answer is written.

        Args:
            inputs, kwargs: As in [`generate`] with `generation_mode="audio"`.

        Returns:
            [`SpeechPieces`], an iterator over [`SpeechPiece`]s, also for `async for`. Joined they are what `generate`
            returns. Closing it, or leaving its `with` block, ends generation.

        Raises:
            `ValueError`: The codec decodes whole utterances only, or an argument does not fit; of what is found while
                the answer is made, where its pieces are taken.
        """
        if kwargs.pop("generation_mode", "audio") != "audio":
            raise ValueError('`generation_mode` must be "audio" in a stream of speech.')
        if "audio" not in self.output_modalities:
            raise ValueError("`generate_stream` must be called on a model with a Talker and an audio codec, got none.")
        open_decoder(self.audio_codec)
        return SpeechPieces(
            lambda put: self.generate(inputs, generation_mode="audio", audio_streamer=PieceTaker(put), **kwargs)
        )

    def speak_stream(
        self, text: str | Iterable[str], tokenizer: Any, speaker: str | None = None, **kwargs: Any
    ) -> Iterator[SpeechPiece]:
        """Say a text while it is written, by whomever.

        Args:
            text (`str` or `Iterable[str]`): Pieces of one text, cut anywhere.
            tokenizer: The model's.
            speaker (`str`, *optional*): The voice; the first when `None`.
            kwargs: `talker_*` options as in [`generate`].

        Returns:
            An iterator over [`SpeechPiece`]s; what fails in `text` is raised from it. Joined they are what
            `generate_speech` gives for the whole text; for a Talker that reads the Thinker's states up to rounding,
            since these are made word by word.

        Raises:
            `ValueError`: The codec decodes whole utterances only, an option does not fit, or there is nothing to say.
        """
        if "audio" not in self.output_modalities:
            raise ValueError("`speak_stream` must be called on a model with a Talker and an audio codec, got none.")
        options = self._pop_talker_options(kwargs, self.generation_config)
        if kwargs:
            raise ValueError(f"`speak_stream` takes only `talker_*` options, got {sorted(kwargs)}.")
        pieces: list[SpeechPiece] = []
        voice = self._open_speaker(
            1, self._get_speaker_ids(speaker, 1), options, set(), audio_streamer=PieceTaker(pieces.append)
        )
        return self._speak_flowing(iterate_text(text), FlowingText(tokenizer), voice, pieces)

    @torch.no_grad()
    def _speak_flowing(
        self, texts: Iterator[str], flowing: FlowingText, voice: Speaker, pieces: list[SpeechPiece]
    ) -> Iterator[SpeechPiece]:
        cache, num_tokens = DynamicCache(config=self.config.get_text_config()), 0
        voice.add_state(torch.zeros(1, 1, 0))  # there is no prompt
        for text in chain(texts, [None]):
            ids = flowing.finish() if text is None else flowing.add(text)
            for token in ids:
                num_tokens += 1
                tokens = torch.tensor([[token]], device=self.device)
                voice.add_tokens(tokens)
                if voice.reads_states:
                    voice.add_state(self.thinker.model(input_ids=tokens, cache=cache, use_cache=True).last_hidden_state)
                voice.advance()
                yield from _take(pieces)
        if not num_tokens:
            raise ValueError("`text` must have at least one word to say, got none.")
        voice.finish()
        yield from _take(pieces)


def _take(pieces: list[SpeechPiece]) -> Iterator[SpeechPiece]:
    """Give what a list has, and empty it."""
    while pieces:
        yield pieces.pop(0)
