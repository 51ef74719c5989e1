"""Conversion of μOmni's checkpoints into JOSIE's.

The converted model itself, built without memory, says which weights a checkpoint must hold: each of its tensors needs
its sources, with its shape, and no source may be left over. So nothing is converted in part.

The vocabulary grows by four tokens, padding and placeholders: μOmni has no placeholders, and its padding is its unknown
token.
"""

from pathlib import Path

import torch
from transformers.utils import logging

from ...configuration_josie import JosieConfig, JosieMelCodecConfig
from ...modeling_josie import JosieForConditionalGeneration
from ...processing_josie import JosieProcessor
from ..files import new_folder, require_new
from .files import MuomniCheckpoint, Origin, read_checkpoint
from .maps import AUDIO, CHANGES, CODE_TABLE, DROPPED, NEW, START, TOKEN_TABLES, VISION, choose_sources, find_rule
from .report import ConversionReport, ConvertedKey
from .sentencepiece import convert_sentencepiece, read_sentencepiece
from .sizes import NEW_TOKENS, build_config, count_tokens

logger = logging.get_logger(__name__)

# μOmni knows no roles: texts are joined by a space, as it trained on them. The processor puts images, audio and the
# beginning-of-text token in front, so that no placeholders are written here.
CHAT_TEMPLATE = """
{%- set found = namespace(texts=[]) -%}
{%- for message in messages -%}
    {%- if message['content'] is string -%}
        {%- set found.texts = found.texts + [message['content']] -%}
    {%- else -%}
        {%- for part in message['content'] or [] -%}
            {%- if part['type'] == 'text' -%}
                {%- set found.texts = found.texts + [part['text']] -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{{- found.texts | join(' ') -}}
"""


def convert_muomni(
    source: str | Path,
    destination: str | Path,
    config: str | Path | dict | None = None,
    tokenizer: str | Path | None = None,
) -> ConversionReport:
    """Write the JOSIE checkpoint of a μOmni checkpoint: model, processor, and `conversion_report.json`.

    Sizes are those of the configuration, and where it is silent those of the weights. Heads are 64 wide and the context
    is 512 tokens by default. Weights become float32.

    Args:
        source (`str` or `Path`): A folder of `.pt` files, or a safetensors file, or a folder with one. Either encoder,
            or Talker and RVQ, may be absent, and then are so in the result.
        destination (`str` or `Path`): The folder to make; it appears when everything has succeeded.
        config (`str`, `Path` or `dict`, *optional*): μOmni's configuration, see [`read_config`]; the source's own when
            `None`.
        tokenizer (`str` or `Path`, *optional*): The SentencePiece model; the source's own when `None`.

    Returns:
        [`ConversionReport`].

    Raises:
        `ValueError`: `destination` is not empty, a file is missing or unreadable, a size is impossible, or keys are too
            many, too few or of the wrong shape, all of which are listed.
    """
    destination = Path(destination)
    require_new(destination, "destination")
    checkpoint = read_checkpoint(source, config, tokenizer)
    pieces = read_sentencepiece(checkpoint.tokenizer)
    josie_config = build_config(checkpoint, pieces)
    report = ConversionReport(str(source), str(destination))
    weights = convert_weights(checkpoint, josie_config, report)

    fast_tokenizer = convert_sentencepiece(pieces, NEW_TOKENS, CHAT_TEMPLATE)
    processor = JosieProcessor.from_config(josie_config, fast_tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what has no source and is random is the same every time
        model = JosieForConditionalGeneration(josie_config)
    model.load_state_dict(weights, strict=False)  # keys and shapes are checked by now
    model.generation_config.update(
        bos_token_id=pieces.bos_id,
        eos_token_id=pieces.eos_id,
        pad_token_id=fast_tokenizer.pad_token_id,
        suppress_tokens=fast_tokenizer.convert_tokens_to_ids(list(NEW_TOKENS.values())),
    )
    report.notes += describe(josie_config, checkpoint, report)
    for note in report.notes:
        logger.warning(note)
    with new_folder(destination, "destination") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        report.save(folder)
    return report


def convert_weights(
    checkpoint: MuomniCheckpoint, config: JosieConfig, report: ConversionReport
) -> dict[str, torch.Tensor]:
    """Return the state dict of the converted model; tensors that start at random are not in it.

    Args:
        checkpoint ([`MuomniCheckpoint`]): The weights.
        config ([`JosieConfig`]): Of the converted model.
        report ([`ConversionReport`]): Gets an entry for every key.

    Raises:
        `ValueError`: Keys are too many, too few or of the wrong shape; all are listed.
    """
    with torch.device("meta"):
        wanted = JosieForConditionalGeneration(config).state_dict()
    vocab_size = count_tokens(checkpoint)
    left = _split_off_dropped(checkpoint, report)
    faults, converted = list(checkpoint.faults), {}
    for target, like in wanted.items():
        rule = find_rule(target)
        if rule is None:
            report.keys.append(_make_new(target, like, converted))
            continue
        names = choose_sources(rule, left)
        origins = {name: left.pop(name) for name in names if name in left}
        if (
            not origins
            and target.startswith((f"{AUDIO}.projector", f"{VISION}.projector"))
            and not checkpoint.has_projectors
        ):
            report.keys.append(
                ConvertedKey("new", target=target, reason="random: without omni.pt it has not trained yet")
            )
            continue
        if len(origins) < len(names):
            faults += [f"missing: {name}" for name in names if name not in origins]
            continue
        tensors = [origin.tensor for origin in origins.values()]
        if fault := _find_fault(names, tensors, source_shape(target, like.shape, vocab_size)):
            faults.append(fault)
            continue
        converted[target] = _build(target, tensors, like.shape)
        file = next(iter(origins.values())).file
        report.keys.append(ConvertedKey("used", " + ".join(names), file, target, CHANGES.get(target, "")))
    faults += [f"unknown: {key} in {origin.file}" for key, origin in left.items()]
    if faults:
        listed = "\n  ".join(faults)
        raise ValueError(
            f"`source` must hold exactly the weights of a μOmni model, got {report.source!r}, with {len(faults)} "
            f"faults:\n  {listed}"
        )
    return converted


def source_shape(target: str, shape: torch.Size, vocab_size: int) -> tuple[int, ...]:
    """Return the shape that the sources of a tensor of JOSIE, of shape `shape`, have together.

    Args:
        target (`str`): Key of JOSIE.
        shape (`torch.Size`): Its shape.
        vocab_size (`int`): Size of the original vocabulary.
    """
    if target in TOKEN_TABLES:
        return (vocab_size, *shape[1:])
    if target == CODE_TABLE:
        return (shape[0] - 1, *shape[1:])
    return (1, 1, *shape) if target == START else tuple(shape)


def _split_off_dropped(checkpoint: MuomniCheckpoint, report: ConversionReport) -> dict[str, Origin]:
    """Return the weights without those that have no use in JOSIE."""
    report.keys += [ConvertedKey("dropped", key, file, reason=reason) for key, file, reason in checkpoint.dropped]
    reasons = dict(DROPPED)
    for projector, encoder in (("proj_a.", "audio_encoder."), ("proj_v.", "vision_encoder.")):
        if not any(key.startswith(encoder) for key in checkpoint.weights):
            reasons[projector] = "there is no encoder in front of it"
    left = {}
    for key, origin in checkpoint.weights.items():
        reason = next((reason for prefix, reason in reasons.items() if key.startswith(prefix)), None)
        if reason is None:
            left[key] = origin
        else:
            report.keys.append(ConvertedKey("dropped", key, origin.file, reason=reason))
    return left


def _make_new(target: str, like: torch.Tensor, converted: dict[str, torch.Tensor]) -> ConvertedKey:
    """Put a tensor that μOmni has nothing for into `converted`."""
    name = target if target in NEW else target.rpartition(".")[2]
    fill = 0 if target in NEW else 1
    converted[target] = torch.full(like.shape, fill, dtype=like.dtype)
    return ConvertedKey("new", target=target, reason=NEW[name])


def _find_fault(names: list[str], tensors: list[torch.Tensor], expected: tuple[int, ...]) -> str | None:
    """Return the fault of tensors that are joined along the first dimension to the shape `expected`, or `None`."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if all(shapes):
        joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        is_even = len(shapes) == 1 or shapes[-2] == shapes[-1]  # gate and up, keys and values
        if joined == expected and is_even and all(shape[1:] == joined[1:] for shape in shapes):
            return None
    together = " together" if len(names) > 1 else ""
    return f"wrong shape: {' + '.join(names)} must be {expected}{together}, got {' and '.join(map(str, shapes))}"


def _build(target: str, tensors: list[torch.Tensor], shape: torch.Size) -> torch.Tensor:
    tensor = torch.cat([tensor.float() for tensor in tensors])
    if target in TOKEN_TABLES:
        # A mean of logits is never above all of them: what is appended is not chosen.
        rows = tensor.mean(dim=0, keepdim=True).expand(shape[0] - len(tensor), -1)
        return torch.cat((tensor, rows))
    if target == CODE_TABLE:
        return torch.cat((tensor, tensor[:1]))
    return tensor.view(shape)


def describe(config: JosieConfig, checkpoint: MuomniCheckpoint, report: ConversionReport) -> list[str]:
    """Return notes for the user of a converted model.

    Args:
        config ([`JosieConfig`]): Of the model.
        checkpoint ([`MuomniCheckpoint`]): What it was converted from.
        report ([`ConversionReport`]): What became of each key.
    """
    notes = []
    parts = {
        "thinker": config.get_text_config(),
        "talker": config.talker_config,
        "audio_enc": config.thinker_config.audio_config,
        "vision": config.thinker_config.vision_config,
    }
    guessed = [
        f"{name} ({part.num_attention_heads})"
        for name, part in parts.items()
        if part is not None and "n_heads" not in checkpoint.config[name]
    ]
    if guessed:
        notes.append(f"No configuration says how many heads {', '.join(guessed)} have: they are taken to be 64 wide.")
    if config.talker_config is not None:
        notes.append(
            "The Talker hears no text and knows no end of speech, as in μOmni: it speaks for `talker_max_new_frames` "
            "frames. Both can be trained here, the second with `end_of_speech=True`."
        )
    codec = config.audio_codec_config
    if isinstance(codec, JosieMelCodecConfig) and codec.mel_hop_length >= codec.win_length:
        notes.append(
            f"The mel codec keeps its hop of {codec.mel_hop_length} samples at a window of {codec.win_length}: "
            "neighbouring frames do not overlap, so that their Griffin-Lim reconstruction cannot sound good."
        )
    random = sorted(key.target for key in report.keys if key.reason.startswith("random"))
    if random:
        notes.append(f"These have to be trained before images or audio mean anything: {', '.join(random)}.")
    return notes
