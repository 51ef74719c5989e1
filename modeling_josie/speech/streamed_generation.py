"""Speech while it is written: what is said word by word is what is said when all of it is known."""

from collections.abc import AsyncIterable, Generator, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationConfig

from ...configuration_josie import JosieConfig
from ..codecs.decoder_stream import open_decoder
from ..codecs.inference import inference_form
from ..layers.offloading import find_device
from ..outputs import JosieGenerateOutput, SpeechPiece
from ..peft_wrappers import unwrap
from ..talker.decoding import CodeSampler
from ..talker.speech_stream import SpeechStream
from ..thinker.state_listener import listen_to_states
from .flowing_text import AwaitedText, FlowingText, iterate_text
from .pieces import SpeechPieces, make_in_thread, take_from
from .reading import ReadingCuts
from .sentences import find_sentence_ends
from .speaker import Speaker
from .streamers import StreamClosedError

_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p")


def add_written(reply: JosieGenerateOutput, written: Any) -> JosieGenerateOutput:
    """Give an answer what the Thinker's output holds beside the tokens."""
    for name in ("scores", "logits", "attentions", "hidden_states", "cache", "sequences_scores", "beam_indices"):
        setattr(reply, name, getattr(written, name, None))
    return reply


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
    _require_final_tokens: Any

    @property
    def _backbone(self) -> Any:
        """The Thinker without its head."""
        return unwrap(self.thinker).model

    def _open_speaker(
        self,
        batch_size: int,
        speaker_ids: torch.Tensor | None,
        options: dict[str, Any],
        ends: set[int],
        streamer: Any = None,
        on_piece: Any = None,
    ) -> Speaker:
        """Return what says an answer; with `on_piece`, piece by piece."""
        if on_piece is not None:
            open_decoder(self.audio_codec)  # or an error that says why not
        options = dict(options)
        sentence_ends: set[int] = set(options.pop("sentence_end_ids", None) or ())
        sampler = CodeSampler(**{name: options.pop(name) for name in _SAMPLING if name in options})
        stream = SpeechStream(unwrap(self.talker), batch_size, sampler, speaker_ids, **options)
        return Speaker(
            stream,
            self.audio_codec,
            self.get_input_embeddings(),
            self.config.talker_config.reads_thinker_states,
            self.get_speech_mask,
            ends,
            sentence_ends,
            streamer,
            on_piece,
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
        streamer, on_piece = kwargs.pop("streamer", None), None if audio_streamer is None else audio_streamer.put
        speaker = self._open_speaker(input_ids.shape[0], speaker_ids, options, ends, streamer, on_piece)
        asked = kwargs.get("generation_config", self.thinker.generation_config).return_dict_in_generate
        asked = asked if kwargs.get("return_dict_in_generate") is None else kwargs["return_dict_in_generate"]
        kwargs["return_dict_in_generate"] = True
        with inference_form(self.audio_codec):
            with listen_to_states(speaker.add_state):
                written = self.thinker.generate(input_ids, streamer=speaker, **kwargs)
            self._say_rest(speaker, written, kwargs)
        if audio_streamer is None:
            reply = speaker.collect(written.sequences, input_ids.shape[1])
        else:
            is_cut = torch.tensor(speaker.stream.cut_rows)
            reply = JosieGenerateOutput(sequences=written.sequences, sampling_rate=self.sampling_rate, is_cut=is_cut)
        return add_written(reply, written) if asked else reply

    def _say_rest(self, speaker: Speaker, written: Any, kwargs: dict[str, Any]) -> None:
        """Say what is left of an answer that is written."""
        if num_missing := speaker.num_missing_states:
            attention_mask = kwargs["attention_mask"]
            attention_mask = nn.functional.pad(
                attention_mask, (0, written.sequences.shape[1] - attention_mask.shape[1]), value=1
            )
            self._read_last(speaker, written, attention_mask, num_missing, kwargs)
        for _ in speaker.finish():
            pass

    def _read_last(
        self, speaker: Speaker, written: Any, attention_mask: torch.Tensor, num_missing: int, kwargs: dict[str, Any]
    ) -> None:
        """Read the last words of an answer that was cut, whose states nobody has asked for."""
        ids, cache = written.sequences, written.cache
        length = ids.shape[1]
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        has_room = cache is not None and not cache.is_compileable  # static ones are as long as the answer
        if has_room and cache.get_seq_length() == length - num_missing:
            states = self._backbone(
                input_ids=ids[:, -num_missing:],
                attention_mask=attention_mask,
                position_ids=position_ids[:, -num_missing:],
                cache=cache,
                return_dict=True,
            ).last_hidden_state
        else:
            prompt = self._backbone.embed_inputs(
                ids if kwargs.get("inputs_embeds") is None else None,
                kwargs.get("inputs_embeds"),
                mm_encoder_outputs=kwargs.get("mm_encoder_outputs"),
            )
            answer = self.get_input_embeddings()(ids[:, prompt.shape[1] :])
            states = self._backbone(
                inputs_embeds=torch.cat((prompt, answer), dim=1),
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
                return_dict=True,
                **self._backbone.embed_for_layers(ids),
            ).last_hidden_state[:, -num_missing:]
        for state in states.split(1, dim=1):
            speaker.add_state(state)

    def _read(
        self,
        embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        input_ids: torch.Tensor,
        sentence_end_ids: Iterable[int],
    ) -> torch.Tensor:
        """Return the Thinker's states of a text, which it reads in parts where it has not enough positions."""
        num_positions = self.config.thinker_config.max_sequence_length
        if embeds.shape[1] <= num_positions:
            position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
            return self._backbone(
                inputs_embeds=embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
                return_dict=True,
                **self._backbone.embed_for_layers(input_ids),
            ).last_hidden_state
        states = embeds.new_zeros(embeds.shape)
        for row, mask in enumerate(attention_mask.bool()):
            real = mask.nonzero()[:, 0]
            for part in ReadingCuts(num_positions, sentence_end_ids).cut(input_ids[row, real].tolist()):
                places = real[part.start : part.stop]
                outputs = self._backbone(
                    inputs_embeds=embeds[row : row + 1, places],
                    use_cache=False,
                    return_dict=True,
                    **self._backbone.embed_for_layers(input_ids[row : row + 1, places]),
                )
                states[row, places] = outputs.last_hidden_state[0]
        return states

    @staticmethod
    def _find_sentence_ends(options: dict[str, Any], tokenizer: Any) -> None:
        """Add the tokens that end sentences to options of the Talker that do not have them."""
        if tokenizer is not None and options.get("sentence_end_ids") is None:
            options["sentence_end_ids"] = find_sentence_ends(tokenizer)

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
        if kwargs.get("audio_streamer") is not None:
            raise ValueError("`audio_streamer` must be None in `generate_stream`, which returns the pieces, got one.")
        kwargs.pop("audio_streamer", None)
        open_decoder(self.audio_codec)
        self._require_final_tokens(kwargs.get("generation_config") or self.generation_config, kwargs)
        return make_in_thread(
            lambda streamer: self.generate(inputs, generation_mode="audio", audio_streamer=streamer, **kwargs)
        )

    def speak_stream(
        self,
        text: str | Iterable[str] | AsyncIterable[str],
        tokenizer: Any,
        speaker: str | None = None,
        **kwargs: Any,
    ) -> SpeechPieces:
        """Say a text while it is written, by whomever.

        Args:
            text (`str`, `Iterable[str]` or `AsyncIterable[str]`): Pieces of one text, cut anywhere. Those of an
                asynchronous one come in the event loop that runs now, and speech is taken by `async for` then.
            tokenizer: The model's.
            speaker (`str`, *optional*): The voice; the first when `None`.
            kwargs: `talker_*` options as in [`generate`]. A text beyond the Talker's positions may be cut behind
                `talker_sentence_end_ids`, by default the tokens that end a sentence.

        Returns:
            [`SpeechPieces`], an iterator over [`SpeechPiece`]s, also for `async for`; what fails in `text` is raised
            from it. Joined they are what `generate_speech` gives for the whole text and the same options; for a Talker
            that reads the Thinker's states up to rounding, since these are made word by word.

        Raises:
            `ValueError`: The codec decodes whole utterances only, an option does not fit, or there is nothing to say.
        """
        if "audio" not in self.output_modalities:
            raise ValueError("`speak_stream` must be called on a model with a Talker and an audio codec, got none.")
        if not isinstance(text, (Iterable, AsyncIterable)):
            raise ValueError(f"`text` must be a string, or give strings, got {type(text).__name__}.")
        open_decoder(self.audio_codec)  # or an error that says why not
        options = self._pop_talker_options(kwargs, self.generation_config, keeps_seed=False)
        if kwargs:
            raise ValueError(f"`speak_stream` takes only `talker_*` options, got {sorted(kwargs)}.")
        self._find_sentence_ends(options, tokenizer)
        pieces: list[SpeechPiece] = []
        voice = self._open_speaker(1, self._get_speaker_ids(speaker, 1), options, set(), on_piece=pieces.append)
        awaited = AwaitedText(text) if isinstance(text, AsyncIterable) else None
        texts = iterate_text(text if awaited is None else awaited)
        return take_from(self._speak_flowing(texts, FlowingText(tokenizer), voice, pieces), awaited)

    @torch.no_grad()
    def _speak_flowing(
        self, texts: Iterator[str], flowing: FlowingText, voice: Speaker, pieces: list[SpeechPiece]
    ) -> Generator[SpeechPiece, None, None]:
        cuts = ReadingCuts(self.config.thinker_config.max_sequence_length, voice.sentence_end_ids)
        cache: DynamicCache | None = None
        voice.add_state(torch.zeros(1, 1, 0))  # there is no prompt
        with suppress(StreamClosedError), inference_form(self.audio_codec):
            for text in chain(texts, [None]):
                if text is None and not flowing.has_words:
                    raise ValueError("`text` must have at least one word to say, got none.")
                for token in flowing.finish() if text is None else flowing.add(text):
                    if cuts.add(token):
                        cache = DynamicCache(config=self.config.get_text_config())
                    tokens = torch.tensor([[token]], device=find_device(self))
                    voice.add_tokens(tokens)
                    if voice.reads_states:
                        outputs = self._backbone(input_ids=tokens, cache=cache, use_cache=True, return_dict=True)
                        voice.add_state(outputs.last_hidden_state)
                    for _ in voice.advance():
                        yield from _take(pieces)
            for _ in voice.finish():
                yield from _take(pieces)


def _take(pieces: list[SpeechPiece]) -> Iterator[SpeechPiece]:
    """Give what a list has, and empty it."""
    while pieces:
        yield pieces.pop(0)
