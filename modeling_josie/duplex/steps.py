"""Steps of sessions: one unit of audio in, one unit of text and audio out, for a batch.

In each unit the Thinker reads the unit's audio and decides to listen or to speak. While it speaks it writes until the
Talker can make all frames of the unit, or ends the text; what is left to be said then follows in the next units. A turn
lasts as long as it goes on deciding to speak, and is cut where it decides to listen; the next one begins after that.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ...configuration_josie import JosieConfig, SpeechTiming, audio_codec_geometry
from ..codecs.inference import inference_form
from ..layers.offloading import copy_plainly, find_device
from ..option_values import list_seeds
from ..outputs import HeardToken
from ..peft_wrappers import unwrap
from ..talker.duration_predictor import TokenDurations
from ..thinker.generation_options import check_ids, check_mask
from ..thinker.inputs import pop_inputs
from .listening import open_listener
from .memory import Entry, RowMemory, Rows, count_positions
from .reading import SessionReader, most_tokens, require_batch
from .state import JosieSessionOutput, JosieSessionState, SessionRow
from .voice import VoiceTurn

_NOT_OF_SESSIONS = ("max_new_frames", "min_new_frames")


class SessionStepsMixin:
    """`open_sessions`, `show_images` and `step_sessions` of [`JosieForConditionalGeneration`]."""

    config: JosieConfig
    thinker: Any
    _backbone: Any
    talker: Any
    audio_codec: Any
    device: Any
    generation_config: Any
    encode_inputs: Any
    get_input_embeddings: Any
    _end_tokens: Any
    _get_speaker_ids: Any
    _pop_talker_options: Any
    _silent_tokens: Any

    def require_units(self) -> None:
        """Raise a `ValueError` unless the model was made for sessions, and its audio input streams."""
        if self.config.thinker_config.unit_frames is None:
            raise ValueError(
                "`thinker_config.unit_frames` must be set for a session: the model must have learned when to speak, as "
                "`examples/train_duplex.py` teaches it, got None."
            )
        open_listener(self)  # or an error that says why not

    def get_token_durations(self) -> TokenDurations:
        """Return the durations of tokens that texts are laid out by, apart from the model and on the CPU.

        Raises:
            `ValueError`: There is no Talker, or it reads states of the Thinker, on which durations depend then.
        """
        if self.talker is None:
            raise ValueError("`get_token_durations` must be called on a model with a Talker, got none.")
        talker = self.config.talker_config
        if talker.learns_durations and talker.reads_thinker_states:
            raise ValueError(
                "`talker_config.reads_thinker_states` must be False for durations that depend on tokens alone, got "
                "True: give `durations` with each turn."
            )
        if not talker.learns_durations:
            return TokenDurations(None, None, float(talker.frames_per_token))
        embed = self.get_input_embeddings()
        tokens = torch.arange(self.config.get_text_config().vocab_size, device=find_device(embed))
        with torch.no_grad():  # called, as it may scale, and be adapted or offloaded
            embeddings = embed(tokens).to("cpu")
        return TokenDurations(copy_plainly(self.talker.durations).to("cpu"), embeddings)

    def get_speech_timing(self) -> SpeechTiming:
        """Return what rows with times are laid out by, see [`JosieDataCollator`]; of a model with units."""
        self.require_units()
        talker = self.config.talker_config
        depends_on_states = talker.learns_durations and talker.reads_thinker_states
        return SpeechTiming(
            unit_frames=self.config.unit_speech_frames,
            frame_rate=audio_codec_geometry(self.config.audio_codec_config).frame_rate,
            speech_delay=talker.speech_delay,
            right_context=talker.duration_right_context,
            token_durations=None if depends_on_states else self.get_token_durations(),
        )

    @torch.no_grad()
    def open_sessions(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        speaker: str | list[str] | None = None,
        **kwargs: Any,
    ) -> JosieSessionState:
        """Begin sessions.

        Args:
            input_ids (`torch.LongTensor`): `(batch, length)`, the prompts, padded on either side; each has a token.
            attention_mask (`torch.Tensor`, *optional*): `(batch, length)`, 1 for real tokens.
            speaker (`str` or `list[str]`, *optional*): The voice, or one for each row; the first when `None`.
            kwargs: Media of the prompts as in `forward`; `talker_*` options as in `generate`, but for numbers of
                frames, which units give, and for the speed: units are learned at speed 1, and other speeds cut words.

        Returns:
            [`JosieSessionState`], for [`step_sessions`].

        Raises:
            `ValueError`: The model was not trained for sessions, an option does not fit, or a prompt leaves no room.
        """
        self.require_units()
        speed = kwargs.pop("talker_speed", None)
        if speed not in (None, 1):
            raise ValueError(f"`talker_speed` must be 1 in a session, as units are learned at that speed, got {speed}.")
        options = self._pop_talker_options(kwargs, self.generation_config) | {"speed": 1.0}
        for name in _NOT_OF_SESSIONS:
            if options.get(name) is not None:
                raise ValueError(f"`talker_{name}` must be None in a session, got {options[name]}.")
        check_ids("input_ids", input_ids, self.config.get_text_config().vocab_size)
        check_mask("attention_mask", attention_mask)
        batch_size = input_ids.shape[0]
        require_batch(self, batch_size)
        seeds = options.pop("seed", None)
        if seeds is None:
            seeds = torch.randint(2**31, (batch_size,)).tolist()
        seeds = list_seeds("talker_seed", seeds, batch_size)
        speaker_ids = self._get_speaker_ids(speaker, batch_size)
        media = self._backbone.encode_media(**self.encode_inputs(**pop_inputs(kwargs)))
        if kwargs:
            raise ValueError(f"`open_sessions` takes a prompt and `talker_*` options, got {sorted(kwargs)}.")
        embeds = self._backbone.embed_inputs(input_ids, mm_encoder_outputs=media)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        reader, rows = SessionReader(self), []
        for number, (seed, row) in enumerate(zip(seeds, mask.bool(), strict=True)):
            prompt = Rows(embeds[number, row])
            room = reader.num_positions - reader.most_history - 2 * reader.unit_size
            if not 0 < len(prompt) <= room:
                raise ValueError(
                    f"`input_ids` must have between 1 and {room} tokens, placeholders included, in each row, so that "
                    f"units have room, got {len(prompt)}."
                )
            voice = None if speaker_ids is None else speaker_ids[number : number + 1]
            rows.append(SessionRow(RowMemory([prompt]), voice, seed))
        state = JosieSessionState(rows, options)
        self._make_turn(state.rows[0], state.options)  # or an error that says what does not fit
        return state

    @torch.no_grad()
    def show_images(self, session_state: JosieSessionState, input_ids: torch.Tensor, row: int = 0, **kwargs: Any):
        """Show images to a session, which it sees before the next unit.

        Args:
            session_state ([`JosieSessionState`]): Is changed.
            input_ids (`torch.LongTensor`): `(1, length)`, placeholders of images or videos, and text if wanted.
            row (`int`): The session.
            kwargs: The media, as in `forward`.

        Raises:
            `ValueError`: There is no such row, an argument is unknown, placeholders do not match, or there is no room.
        """
        if not 0 <= row < len(session_state.rows):
            raise ValueError(f"`row` must be in [0, {len(session_state.rows) - 1}], got {row}.")
        media = self._backbone.encode_media(**self.encode_inputs(**pop_inputs(kwargs)))
        if kwargs:
            raise ValueError(f"`show_images` takes media alone, got {sorted(kwargs)}.")
        values = self._backbone.embed_inputs(input_ids, mm_encoder_outputs=media)[0]
        memory, reader = session_state.rows[row].memory, SessionReader(self)
        size = count_positions([*memory.prompt, *memory.shown]) + len(values)
        room = reader.num_positions - reader.most_history - 2 * reader.unit_size
        if size > room:
            raise ValueError(
                f"`input_ids` must leave room for units: prompt and new images may have {room} positions, got {size}."
            )
        memory.shown.append(Rows(values))

    @torch.no_grad()
    def step_sessions(
        self,
        input_values: torch.Tensor,
        session_state: JosieSessionState,
        speak_bias: float | torch.Tensor = 0.0,
        output_logits: bool = False,
    ) -> JosieSessionOutput:
        """Hear one unit of audio and answer with one.

        Args:
            input_values (`torch.FloatTensor`): `(batch, 1, unit_samples)`, see [`JosieThinkerConfig`].
            session_state ([`JosieSessionState`]): Of `open_sessions`, or of the unit before. It is changed: copy it to
                go on from here once more.
            speak_bias (`float` or `torch.Tensor`): What is added to the logit of speaking, for all rows or `(batch,)`:
                below 0 it answers later and less often.
            output_logits (`bool`): Also return the logits of what was written.

        Returns:
            [`JosieSessionOutput`].

        Raises:
            `ValueError`: The input has another shape, or is not finite.
        """
        state, thinker = session_state, self.config.thinker_config
        shape = len(state.rows), 1, thinker.unit_samples
        if tuple(input_values.shape) != shape:
            raise ValueError(f"`input_values` must be of shape {shape}, got {tuple(input_values.shape)}.")
        if not input_values.isfinite().all():
            raise ValueError("`input_values` must be finite, got NaN or infinity.")
        reader = SessionReader(self)
        with inference_form(self.audio_codec):
            audio, state.audio = open_listener(self).listen(input_values, state.audio)
            is_anew = reader.make_room(state, [count_positions(row.memory.shown) for row in state.rows])
            for row, values in zip(state.rows, audio, strict=True):
                row.memory.begin_unit(values)
            hidden = (
                reader.read_anew(state)
                if is_anew
                else reader.read(state, [row.memory.take_pending() for row in state.rows])
            )
            unit = _Unit(self, reader, state, output_logits)
            unit.decide(hidden, speak_bias)
            unit.write()
            return unit.finish()

    def _make_turn(self, row: SessionRow, options: dict[str, Any]) -> VoiceTurn:
        return VoiceTurn(unwrap(self.talker), self.audio_codec, row.speaker_ids, options, row.seed + row.num_turns)


class _Unit:
    """Text and speech of one unit.

    Args:
        model: The whole model.
        reader ([`SessionReader`]): Its Thinker.
        state ([`JosieSessionState`]): Is changed.
        output_logits (`bool`): Whether to keep logits.
    """

    def __init__(self, model: Any, reader: SessionReader, state: JosieSessionState, output_logits: bool):
        self.model, self.reader, self.state = model, reader, state
        self.num_frames: int = model.config.unit_speech_frames
        self.geometry = audio_codec_geometry(model.config.audio_codec_config)
        self.sequences: list[list[int]] = [[] for _ in state.rows]
        self.logits: list[list[torch.Tensor]] | None = [[] for _ in state.rows] if output_logits else None
        thinker = model.config.thinker_config
        self.listen_id, self.speak_id = thinker.listen_token_id, thinker.speak_token_id
        self.end_ids: set[int] = model._end_tokens(model.generation_config)
        self.silent_ids: set[int] = model._silent_tokens()

    def decide(self, hidden: torch.Tensor, speak_bias: float | torch.Tensor) -> None:
        """Choose for each row, `hidden` being `(batch, 1, hidden_size)`, to listen or to speak."""
        logits = self.model.thinker.compute_logits(hidden)[:, 0]
        thinker = self.model.config.thinker_config
        starts = [0.0 if row.is_speaking else thinker.start_bias for row in self.state.rows]
        bias = torch.tensor(starts, dtype=torch.float32, device=logits.device) + speak_bias
        speaks = (logits[:, self.speak_id] + bias > logits[:, self.listen_id]).tolist()
        for number, (row, is_speaking) in enumerate(zip(self.state.rows, speaks, strict=True)):
            self._write(number, self.speak_id if is_speaking else self.listen_id, logits[number])
            if not is_speaking:
                row.turn = None
            elif not row.is_speaking:
                row.turn = self.model._make_turn(row, self.state.options)
                row.num_turns += 1
                row.turn_start = row.memory.num_units * thinker.unit_seconds
            row.is_speaking = is_speaking

    def write(self) -> None:
        """Write in the rows that speak until their frames are made."""
        most, reads_states = most_tokens(self.model.config), self.model.config.talker_config.reads_thinker_states
        forbidden = sorted((self.silent_ids | {self.listen_id, self.speak_id}) - self.end_ids)
        writers = self._list_writers(most)
        hidden = self._read(writers)
        while writers:
            logits = self.model.thinker.compute_logits(hidden)[:, 0]
            allowed = logits.clone()
            allowed[:, forbidden] = -torch.inf
            tokens = allowed.argmax(dim=-1)
            for number in writers:
                self._write(number, int(tokens[number]), logits[number])
            # A Talker that reads states has them once the token is read; another need not wait for that.
            if reads_states:
                hidden = self._read(writers)
            embeds = self.reader.embed(tokens[:, None])
            for number in writers:
                self._say(number, int(tokens[number]), hidden if reads_states else None, embeds)
            writers = self._list_writers(most)
            if not reads_states:
                hidden = self._read(writers)

    def finish(self) -> JosieSessionOutput:
        """Return what was made."""
        rows, num_samples = self.state.rows, self.num_frames * self.geometry.hop_length
        samples = [None if row.turn is None else row.turn.take_samples() for row in rows]
        channels = next((len(values) for values in samples if values is not None), 1)
        joined = torch.zeros(len(rows), channels, num_samples, dtype=torch.float32, device=find_device(self.model))
        heard: list[list[HeardToken]] = []
        for number, (row, values) in enumerate(zip(rows, samples, strict=True)):
            if values is not None:
                joined[number, :, : values.shape[-1]] = values
            turn = row.turn
            has_times = turn is not None and self.model.config.talker_config.learns_durations
            heard.append(turn.take_heard(row.turn_start, self.geometry.frame_rate) if turn and has_times else [])
        logits = None if self.logits is None else [torch.stack(row) for row in self.logits]
        is_speaking = [values is not None for values in samples]
        return JosieSessionOutput(joined, self.sequences, heard, is_speaking, self.state, logits)

    def _write(self, number: int, token: int, logits: torch.Tensor) -> None:
        self.sequences[number].append(token)
        self.state.rows[number].memory.write(token)
        if self.logits is not None:
            self.logits[number].append(logits)

    def _say(self, number: int, token: int, states: torch.Tensor | None, embeds: torch.Tensor) -> None:
        turn: Any = self.state.rows[number].turn
        if token in self.end_ids:
            turn.end_text()
        elif token not in self.silent_ids:
            turn.add(token, None if states is None else states[number : number + 1], embeds[number : number + 1])

    def _list_writers(self, most: int) -> list[int]:
        """Return the rows whose frames need more text, of those that may write more in this unit."""
        writers = []
        for number, row in enumerate(self.state.rows):
            if row.turn is not None and row.turn.make_frames(self.num_frames) and len(self.sequences[number]) <= most:
                writers.append(number)
        return writers

    def _read(self, writers: Sequence[int]) -> torch.Tensor:
        """Read what these rows have pending, and nothing in the others."""
        if not writers:
            return torch.zeros(0)
        pieces: list[list[Entry]] = [
            row.memory.take_pending() if number in writers else [] for number, row in enumerate(self.state.rows)
        ]
        return self.reader.read(self.state, pieces)
