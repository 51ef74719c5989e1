"""Tiny models that listen while they speak, and sessions of them held against one pass over the whole track."""

import torch
from speech_pieces import MIMI, TALKERS
from tiny import AUDIO_ENCODER, JODIO, TALKER, TEXT, VISION_ENCODER, build, josie_config

import josie

UNIT_FRAMES, LISTEN, SPEAK, AUDIO, END = 3, 9, 10, 8, 2
UNITS = dict(
    unit_frames=UNIT_FRAMES,
    listen_token_id=LISTEN,
    speak_token_id=SPEAK,
    audio_context_fraction=1,
    audio_token_id=AUDIO,
)
CODECS = {"jodio": JODIO, "mimi": MIMI, "encoder": JODIO}
# 20 samples a feature, two features a token, as a unit is to have a whole number of JODIO's frames.
ENCODER = AUDIO_ENCODER | dict(sampling_rate=1600, n_fft=64, win_length=20, mel_hop_length=5, downsampling_factor=4)
ENCODER |= dict(is_causal=True, mel_lookahead=0, sliding_window=5, log_mel=True, attention_bias=False)


def duplex_config(talker="embeddings, durations", codec="jodio", positions=400, talker_options=None, **overrides):
    hearing = dict(audio_config=ENCODER, audio_stack_factor=2) if codec == "encoder" else {}
    codec = CODECS[codec]
    text = TEXT | dict(max_position_embeddings=positions)
    thinker = (
        dict(text_config=text, audio_config=codec, vision_config=VISION_ENCODER, image_token_id=6) | UNITS | hearing
    )
    talker = TALKER | TALKERS[talker] | dict(codebook_size=codec["codebook_size"], end_of_speech=False)
    talker |= talker_options or {}
    return josie_config(thinker_config=thinker | overrides, talker_config=talker, audio_codec_config=codec)


def make_duplex(seed=1, **options):
    """Return a model whose decisions depend on what it hears: both happen."""
    model = build(josie.JosieForConditionalGeneration, duplex_config(**options))
    torch.manual_seed(seed)
    with torch.no_grad():
        head = model.thinker.lm_head.weight
        head[SPEAK] = 2 * torch.randn(head.shape[1])
        head[END] = head[END] * 2
    return model


def make_track(model, num_units, batch_size=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = batch_size, 1, num_units * model.config.thinker_config.unit_samples
    loudness = torch.rand(batch_size, 1, num_units, generator=generator).repeat_interleave(size[2] // num_units, 2)
    return (torch.randn(size, generator=generator) * loudness).clamp(-1, 1)


def run(model, state, track, script=None, **options):
    """Return the outputs of all units of a track.

    A script is a word for each row: s for a unit in which it has to speak, l for one in which it has to listen; when
    `None`, the model decides.
    """
    outputs = []
    for number, unit in enumerate(track.split(model.config.thinker_config.unit_samples, dim=-1)):
        if script is not None:
            options["speak_bias"] = torch.tensor([1e4 if row[number] == "s" else -1e4 for row in script])
        outputs.append(model.step_sessions(unit, state, **options))
        state = outputs[-1].session_state
    return outputs


def lay_out(prompt, outputs, row=0):
    """Return the ids of a session: a prompt, and units with their placeholders."""
    units = [[AUDIO] * UNIT_FRAMES + output.sequences[row] for output in outputs]
    return torch.tensor([[*prompt, *(token for unit in units for token in unit)]])


def written_logits(model, ids, track):
    """Return the logits from which a session would have chosen what it wrote, by one pass over all of it."""
    logits = model(input_ids=ids, input_values=track).logits[0]
    is_written = (ids[0] != AUDIO).nonzero()[:, 0]
    return {int(place): logits[place - 1] for place in is_written}


def make_pair(
    talker="embeddings, durations",
    positions=400,
    unit_frames=UNIT_FRAMES,
    unit_window=None,
    codec_options=None,
    **overrides,
):
    """Return a model with units that reads any text, and its processor."""
    text = TEXT | dict(vocab_size=301, max_position_embeddings=positions)
    codec = JODIO | (codec_options or {})
    thinker = dict(text_config=text, audio_config=codec, vision_config=VISION_ENCODER, audio_token_id=8)
    config = josie_config(
        thinker_config=thinker | dict(image_token_id=6) | overrides,
        talker_config=TALKER | TALKERS[talker] | dict(end_of_speech=False),
        audio_codec_config=codec,
    )
    model = build(josie.JosieForConditionalGeneration, config)
    processor = josie.JosieProcessor.from_config(config, josie.load_default_tokenizer(301))
    return model, josie.add_units(model, processor, unit_frames, unit_window)


def save_pair(path, **options):
    """Save what [`make_pair`] returns; return the folder."""
    model, processor = make_pair(**options)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
