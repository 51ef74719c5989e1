"""A model for full duplex out of one for turns: two tokens more, and units. What they mean is then to be learned."""

from typing import Any

from ..processing_josie.processor import JosieProcessor
from ..tokenization.special_tokens import LISTEN_TOKEN, SPEAK_TOKEN


def add_units(
    model: Any, processor: JosieProcessor, unit_frames: int, unit_window: int | None = None
) -> JosieProcessor:
    """Give a model units of full duplex; it has to be trained for them.

    Args:
        model ([`JosieForConditionalGeneration`]): Is changed. Its Thinker hears through a codec that streams or a
            causal encoder, and it has a Talker with a codec that streams.
        processor ([`JosieProcessor`]): Its processor, whose tokenizer gets `<|listen|>` and `<|speak|>`.
        unit_frames (`int`): Tokens of audio in a unit, such as those of 0.24 seconds.
        unit_window (`int`, *optional*): Units that a session remembers with their audio; as many as the positions
            allow when `None`.

    Returns:
        The processor, changed.

    Raises:
        `ValueError`: The parts of the model do not allow it; then nothing is changed.
    """
    config, tokenizer = model.config, processor.tokenizer
    thinker = config.thinker_config
    known = tokenizer.get_vocab()
    ids, size = {}, len(tokenizer)
    for token in (LISTEN_TOKEN, SPEAK_TOKEN):
        ids[token] = known.get(token, size)
        size += token not in known
    values = dict(
        unit_frames=unit_frames,
        unit_window=unit_window,
        listen_token_id=ids[LISTEN_TOKEN],
        speak_token_id=ids[SPEAK_TOKEN],
        audio_context_fraction=1.0,
    )
    trial = config.to_dict()
    trial["thinker_config"] |= values
    trial["thinker_config"]["text_config"]["vocab_size"] = max(size, thinker.text_config.vocab_size)
    type(config).from_dict(trial)  # or an error that says what does not fit
    tokenizer.add_tokens([LISTEN_TOKEN, SPEAK_TOKEN], special_tokens=True)
    if len(tokenizer) > thinker.text_config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for name, value in values.items():
        setattr(thinker, name, value)
    suppressed = {*(model.generation_config.suppress_tokens or ()), *ids.values()}
    model.generation_config.suppress_tokens = sorted(suppressed)
    processor.thinker_config = thinker
    return processor
