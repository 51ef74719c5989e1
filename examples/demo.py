"""A picture, a recording and a sentence in; text and a sound file out.

    make demo        (or: python examples/demo.py [FOLDER])

Takes about 15 seconds on two cores. Makes the checkpoint `demo/` with the smallest preset, then uses it as one would
use any model of the Hub. Its weights are random: what it says means nothing yet, and what it speaks is noise.
"""

import sys
from pathlib import Path

from transformers import logging, set_seed

from josie import JosieConfig, JosieForConditionalGeneration, JosieProcessor, load_default_tokenizer

DATA = Path(__file__).parents[1] / "tests" / "data"
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "image", "path": str(DATA / "picture.png")},
            {"type": "audio", "path": str(DATA / "speech.wav")},
            {"type": "text", "text": "What do you see, and what was said?"},
        ],
    }
]


def make_checkpoint(folder: Path) -> None:
    """Write a model with random weights, and its processor."""
    config = JosieConfig.from_preset("micro")
    JosieForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = load_default_tokenizer(config.get_text_config().vocab_size)
    JosieProcessor.from_config(config, tokenizer).save_pretrained(folder)


def main(folder: Path) -> None:
    """Make the checkpoint, load it, answer."""
    logging.disable_progress_bar()
    set_seed(0)
    make_checkpoint(folder)
    model = JosieForConditionalGeneration.from_pretrained(folder)
    processor = JosieProcessor.from_pretrained(folder)

    inputs = processor.apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    reply = model.generate(**inputs, generation_mode="audio", max_new_tokens=24, talker_max_new_frames=50)

    text = processor.batch_decode(reply.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    sound = reply.audio_values[0, :, : reply.audio_lengths[0]]
    processor.save_audio(sound, folder / "reply.wav")
    print(f"{model.num_parameters() / 1e6:.1f} million parameters, all of them random: expect nonsense and noise.")
    print(f"read:   {inputs['input_ids'].shape[1]} tokens, of a picture, a recording and a sentence")
    print(f"wrote:  {text!r}")
    print(
        f"spoke:  {sound.shape[-1] / reply.sampling_rate:.2f} s at {reply.sampling_rate} Hz, in {folder / 'reply.wav'}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
