"""The six pipelines of μOmni's document, each step beside the number that the document gives for it.

    python examples/muomni_walkthrough.py [FOLDER]

Takes about 10 seconds on two cores. Without FOLDER it walks through the preset `micro`, which has the document's sizes,
with random weights. With FOLDER, a checkpoint that `josie convert muomni` made, the document's numbers are worked out
for the sizes of that checkpoint. Where JOSIE differs from the document, the line gives the reason;
`docs/muomni.md` has the whole list.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import logging, set_seed

from josie import JosieConfig, JosieForConditionalGeneration, JosieProcessor, load_default_tokenizer

OTHER_TOKENIZER = "another tokenizer; below are the document's own ids"
END_OF_SPEECH = "one class more: the end of speech, which the document lacks"
ORDER = "the same numbers; quantizers come before frames"
START = "the start is a vector and no frame: it is not decoded"


@dataclass
class Row:
    """One step: the document's number, the number here, and the reason of a difference."""

    step: str
    document: str
    here: str
    reason: str = ""


def row(step: str, document: Any, here: Any, reason: str = "unexpected") -> Row:
    """Make a row of numbers or of tensors, which stand for their shapes.

    Args:
        step (`str`): What is computed.
        document, here: What μOmni's document says, and what it is here.
        reason (`str`): Why they differ; kept where they do.
    """
    texts = [str(tuple(value.shape)) if isinstance(value, torch.Tensor) else str(value) for value in (document, here)]
    return Row(step, *texts, reason="" if texts[0] == texts[1] else reason)


class Sizes:
    """Sizes that the document's numbers follow from, read off a configuration; in brackets those of the document.

    Args:
        config ([`JosieConfig`]): Of a model with every part.
    """

    def __init__(self, config: JosieConfig):
        text, thinker, talker = config.get_text_config(), config.thinker_config, config.talker_config
        audio, vision, codec = thinker.audio_config, thinker.vision_config, config.audio_codec_config
        self.width = text.hidden_size  # 256
        self.num_heads = text.num_attention_heads  # 4
        self.num_layers = text.num_hidden_layers  # 4
        self.vocab_size = text.vocab_size  # 5000
        self.context = text.max_position_embeddings  # 512
        self.image_size, self.patch_size = vision.image_size, vision.patch_size  # 224, 16
        self.vision_width = vision.hidden_size  # 128
        self.audio_width = audio.hidden_size  # 192
        self.audio_channels = audio.conv_channels  # 64
        self.num_mel_bins = audio.num_mel_bins  # 128
        self.num_mel_frames = audio.sampling_rate // audio.mel_hop_length  # 100, of a second
        self.num_convolutions = audio.num_convolutions  # 2
        self.num_features = audio.downsample(self.num_mel_frames)  # 25
        self.max_features = self.context // 4  # 128
        self.num_quantizers = talker.num_quantizers  # 2
        self.codebook_size = talker.codebook_size  # 128
        self.codec_mel_bins = codec.num_mel_bins  # 128
        self.code_rate = codec.frame_rate  # 12.5
        self.code_hop = round(codec.sampling_rate / codec.frame_rate)  # 1280


class Walk:
    """The pipelines over one model.

    Args:
        model ([`JosieForConditionalGeneration`]): In eval mode, with every part.
        processor ([`JosieProcessor`]): Its processor.
    """

    def __init__(self, model: JosieForConditionalGeneration, processor: JosieProcessor):
        self.model, self.processor = model, processor
        self.thinker: Any = model.thinker.model
        self.sizes = Sizes(model.config)
        self.image = torch.rand(3, 224, 224)
        self.second = torch.randn(16000).mul(0.1).clamp(-1, 1)

    def ids(self, *document_ids: int) -> torch.Tensor:
        """Return the document's ids as a batch, made small where the vocabulary is."""
        room = self.sizes.vocab_size - 20  # special tokens stand at the end of converted vocabularies
        return torch.tensor([[index % room for index in document_ids]])

    def count_tokens(self, text: str) -> int:
        """Return the number of a text's tokens with this tokenizer, the one in front of it included."""
        return len(self.processor.tokenizer(text)["input_ids"])

    def record(self, module: nn.Module, call: Callable[[], Any]) -> tuple[Any, torch.Tensor]:
        """Return the result of `call`, and the output of `module` while it ran."""
        found: list[torch.Tensor] = []
        hook = module.register_forward_hook(lambda module, inputs, output: found.append(output))
        result = call()
        hook.remove()
        return result, found[0]

    def join(self, ids: torch.Tensor, **media: Any) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the model's inputs for images and audio in front of `ids`, and the ids with their placeholders."""
        inputs = dict(self.processor(text="", **media))
        places = inputs.pop("input_ids")[:, :-1]  # without the token that begins a text: `ids` have it
        del inputs["attention_mask"]
        return inputs, torch.cat((places, ids), dim=1)

    def read_text(self) -> Iterator[Row]:
        """Part 1: text."""
        s, ids = self.sizes, self.ids(1, 234, 567, 890, 123, 456)
        yield row("tokens of 'Hello, how are you?'", 6, self.count_tokens("Hello, how are you?"), OTHER_TOKENIZER)
        yield row("token ids", (1, 6), ids)
        yield row("token embeddings", (1, 6, s.width), self.model.get_input_embeddings()(ids))
        output = self.thinker(input_ids=ids, output_hidden_states=True, output_attentions=True)
        attention = self.thinker.language_model.layers[0].self_attn
        queries = (1, attention.num_heads, 6, attention.head_dim)
        yield row("queries of a layer", (1, s.num_heads, 6, s.width // s.num_heads), queries)
        yield row("attention of a layer", (1, s.num_heads, 6, 6), output.attentions[0])
        yield row("layers", s.num_layers, len(output.attentions))
        yield row("output of a layer", (1, 6, s.width), output.hidden_states[1])
        yield row("after the final norm", (1, 6, s.width), output.last_hidden_state)
        first = self.model(input_ids=ids, use_cache=True)
        yield row("logits", (1, 6, s.vocab_size), first.logits)
        cache = first.cache
        yield row("positions in the cache", 6, cache.get_seq_length())
        new = first.logits[:, -1:].argmax(-1)
        second = self.model(input_ids=new, cache=cache, use_cache=True)
        yield row("logits of the next call", (1, 1, s.vocab_size), second.logits)
        yield row("positions in the cache", 7, cache.get_seq_length())
        room = min(64, s.context - 6)
        written = self.model.generate(ids, max_new_tokens=room, min_new_tokens=room)
        yield row("tokens at the end of generation", 6 + room, written.shape[1])

    def see(self) -> Iterator[Row]:
        """Part 2: image and text."""
        s, ids = self.sizes, self.ids(1, 123, 456, 789, 234, 567, 890, 345)
        question = "What do you see in this image?"
        inputs, joined = self.join(ids, images=self.image)
        front, pixels = self.thinker.vision_front_end, inputs["pixel_values"]
        side = s.image_size // s.patch_size
        yield row("image", (1, 3, s.image_size, s.image_size), pixels)
        states, patches = self.record(
            front.encoder.patch_embed, lambda: front.encoder(pixel_values=pixels).last_hidden_state
        )
        yield row("patches", (1, s.vision_width, side, side), patches)
        yield row("with the CLS row, after the layers", (1, 1 + side**2, s.vision_width), states)
        yield row("the CLS row", (1, 1, s.vision_width), states[:, :1])
        yield row("projected to the Thinker", (1, 1, s.width), front.projector(states[:, :1]))
        yield row(f"tokens of {question!r}", 8, self.count_tokens(question), OTHER_TOKENIZER)
        yield row("text embeddings", (1, 8, s.width), self.model.get_input_embeddings()(ids))
        yield row("image and text", (1, 9, s.width), self.thinker.embed_inputs(joined, **inputs))
        yield row("logits", (1, 9, s.vocab_size), self.model(joined, **inputs).logits)
        written = self.model.generate(joined, **inputs, max_new_tokens=1)
        yield row("new tokens of one step", 1, written.shape[1] - joined.shape[1])

    def hear(self) -> Iterator[Row]:
        """Part 3: audio and text."""
        s, ids = self.sizes, self.ids(1, 234, 567, 890, 123)
        bins, frames, channels = s.num_mel_bins, s.num_mel_frames, s.audio_channels
        mel = self.processor(text="", audio=(self.second, 16000))["input_features"].transpose(1, 2)
        yield row("mel frames of 16,000 samples", (1, frames, bins), mel, "frames are centred: one more at the end")
        front = self.thinker.audio_front_end
        features = front.encoder(mel.transpose(1, 2)).last_hidden_state
        expected = (1, s.num_features, s.audio_width)
        yield row("features of 16,000 samples", expected, features, f"the frame more; below are {frames} as there")
        inputs, joined = self.join(ids, audio=(self.second[:-1], 16000))
        yield row("mel frames of 15,999 samples", (1, frames, bins), inputs["input_features"].transpose(1, 2))
        for index in range(s.num_convolutions):
            frames, bins = (frames + 1) // 2, (bins + 1) // 2
            features, convolved = self.record(
                front.encoder.convolutions[index], lambda: front.encoder(inputs["input_features"]).last_hidden_state
            )
            yield row(f"after convolution {index + 1}", (1, channels, frames, bins), convolved)
        yield row("width of a frame before its projection", channels * bins, front.encoder.proj.in_features)
        yield row("after the layers", expected, features)
        yield row("most features of one clip", s.max_features, self.thinker.config.max_audio_tokens)
        num_tokens = min(s.num_features, s.max_features)
        rows = self.thinker.get_audio_features(inputs["input_features"]).pooler_output[0]
        yield row("projected to the Thinker", (num_tokens, s.width), rows)
        question = "What did you hear?"
        yield row(f"tokens of {question!r}", 5, self.count_tokens(question), OTHER_TOKENIZER)
        yield row("audio and text", (1, num_tokens + 5, s.width), self.thinker.embed_inputs(joined, **inputs))
        yield row("logits", (1, num_tokens + 5, s.vocab_size), self.model(joined, **inputs).logits)

    def see_and_hear(self) -> Iterator[Row]:
        """Part 4: image, audio and text."""
        s, ids = self.sizes, self.ids(1, 123, 456, 789, 234, 567, 890, 345, 678)
        inputs, joined = self.join(ids, images=self.image, audio=(self.second[:-1], 16000))
        config = self.thinker.config
        num_audio = min(s.num_features, s.max_features)
        yield row("image tokens", 1, int((joined == config.image_token_id).sum()))
        yield row("audio tokens", num_audio, int((joined == config.audio_token_id).sum()))
        yield row("text tokens", 9, ids.shape[1])
        in_order = [
            joined[0, 0] == config.image_token_id,
            joined[0, 1] == config.audio_token_id,
            joined[0, -9] == ids[0, 0],
        ]
        yield row("order", "image, audio, text", "image, audio, text" if all(in_order) else "another")
        length = 1 + num_audio + 9
        yield row("all together", (1, length, s.width), self.thinker.embed_inputs(joined, **inputs))
        yield row("logits", (1, length, s.vocab_size), self.model(joined, **inputs).logits)
        written = self.model.generate(joined, **inputs, max_new_tokens=3, min_new_tokens=3)
        yield row("tokens after 3 steps", length + 3, written.shape[1])

    def speak(self) -> Iterator[Row]:
        """Part 5: text to speech."""
        s, sentence = self.sizes, "This is a test of text to speech."
        ids = self.ids(234, 567, 890, 123, 456, 789, 234, 567, 890, 123)
        codec = self.model.config.audio_codec_config
        yield row(f"tokens of {sentence!r}", 10, self.count_tokens(sentence) - 1, OTHER_TOKENIZER)
        frames = max(50, min(1000, ids.shape[1] * 30))
        yield row("frames, 30 a token", 300, frames)
        yield row("frames a second", s.code_rate, codec.frame_rate)
        yield row("seconds", 300 / s.code_rate, frames / codec.frame_rate)
        spoken = self.model.generate_speech(ids, talker_max_new_frames=frames, talker_min_new_frames=frames)
        codes = spoken.audio_codes
        yield row("codes, with the start", (1, 301, s.num_quantizers), codes.transpose(1, 2), START)
        yield row("code indices", 301 * s.num_quantizers, codes.numel(), START)
        mel = self.model.audio_codec.decode_to_mel(codes)
        finer = "no start; and several mel frames make a code frame, so that they overlap"
        yield row("mel spectrogram", (301, s.codec_mel_bins), mel[0].T, START if codec.frames_per_code == 1 else finer)
        yield row("samples a code frame", s.code_hop, codec.hop_length)
        yield row("samples", 301 * s.code_hop, spoken.audio_values.shape[-1], START)

    def train(self) -> Iterator[Row]:
        """Part 6: training of the Talker."""
        s, codec, talker = self.sizes, self.model.audio_codec, self.model.talker
        mel = torch.randn(2, codec.config.num_mel_bins, 50 * codec.config.frames_per_code)
        finer = "several mel frames make a code frame"
        yield row("mel spectrograms", (2, 50, s.codec_mel_bins), mel.transpose(1, 2), finer)
        codes = codec.encode_mel(mel)
        yield row("codes", (2, 50, s.num_quantizers), codes, ORDER)
        yield row("code indices", 2 * 50 * s.num_quantizers, codes.numel())
        optimizer = torch.optim.AdamW(talker.parameters(), lr=1e-3)
        losses = []
        for _ in range(5):
            output = talker(codes)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            losses.append(output.loss.item())
        yield row("logits of the base codes", (2, 50, s.codebook_size), output.logits, END_OF_SPEECH)
        yield row("logits of the residual codes", (2, 50, s.codebook_size), output.depth_logits[:, 0])
        predictions = output.logits.flatten(0, 1), output.depth_logits[:, 0].flatten(0, 1)
        yield row("predictions of each codebook", 100, len(predictions[0]))
        written_out = sum(
            nn.functional.cross_entropy(logits, codes[:, index].flatten()) for index, logits in enumerate(predictions)
        )
        yield row("the loss is the sum of two", True, bool((output.loss - written_out).abs() < 1e-5))
        yield row("the loss is a scalar", (), output.loss)
        yield row("the loss falls", True, losses[-1] < losses[0])


def build(folder: str | None) -> tuple[JosieForConditionalGeneration, JosieProcessor]:
    """Return the model and processor of a checkpoint, or of the preset `micro` with random weights."""
    if folder is not None:
        return JosieForConditionalGeneration.from_pretrained(folder), JosieProcessor.from_pretrained(folder)
    config = JosieConfig.from_preset("micro")
    processor = JosieProcessor.from_config(config, load_default_tokenizer(config.get_text_config().vocab_size))
    return JosieForConditionalGeneration(config), processor


def walk(folder: str | None = None) -> dict[str, list[Row]]:
    """Run all pipelines; return the rows of each, by its title."""
    set_seed(0)
    model, processor = build(folder)
    missing = {"image", "audio"} - set(model.input_modalities) or {"audio"} - set(model.output_modalities)
    if missing:
        raise ValueError(f"`FOLDER` must hold a model that sees, hears and speaks, got one without {sorted(missing)}.")
    model.eval()
    model.set_attn_implementation("eager")  # the one that returns its weights
    steps = Walk(model, processor)
    pipelines = (steps.read_text, steps.see, steps.hear, steps.see_and_hear, steps.speak)
    with torch.no_grad():
        rows = {str(pipeline.__doc__).rstrip("."): list(pipeline()) for pipeline in pipelines}
    return rows | {str(steps.train.__doc__).rstrip("."): list(steps.train())}


def show(pipelines: dict[str, list[Row]]) -> None:
    """Print rows as a table; `=` where the document's number holds, else the reason."""
    rows = [row for part in pipelines.values() for row in part]
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("step", "document", "here")]
    for title, part in pipelines.items():
        print(f"\n{title:{widths[0]}}  {'document':{widths[1]}}  {'here':{widths[2]}}")
        for one in part:
            print(f"{one.step:{widths[0]}}  {one.document:{widths[1]}}  {one.here:{widths[2]}}  {one.reason or '='}")
    different = sum(bool(row.reason) for row in rows)
    print(f"\n{len(rows)} steps, {len(rows) - different} as in the document, {different} different")


if __name__ == "__main__":
    logging.disable_progress_bar()
    show(walk(*sys.argv[1:2]))
