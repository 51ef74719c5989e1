"""The Talker: its loops against naive twins, its end of speech, its voices, its loss."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny import CASES, DEPTH, TALKER, build, talker_inputs

import josie

TALKERS = ["talker-parallel", "talker-depth", "talker-durations"]


def make(**overrides) -> "josie.JosieTalkerForConditionalGeneration":
    return build(josie.JosieTalkerForConditionalGeneration, josie.JosieTalkerConfig(**(TALKER | overrides)))


def states() -> dict[str, torch.Tensor]:
    inputs = talker_inputs()
    inputs.pop("speech_codes")
    return inputs


def generate_naively(model, num_frames: int, **inputs) -> torch.Tensor:
    """Greedy frames by running `forward` anew for every code of every frame."""
    batch_size, quantizers = 2, model.config.num_quantizers
    codes = torch.zeros(batch_size, quantizers, 0, dtype=torch.long)
    for _ in range(num_frames):
        codes = torch.cat((codes, torch.zeros(batch_size, quantizers, 1, dtype=torch.long)), dim=2)
        for level in range(quantizers):
            outputs = model(codes, **inputs)
            logits = outputs.logits[:, -1, : model.config.codebook_size] if level == 0 else None
            codes[:, level, -1] = (outputs.depth_logits[:, level - 1, -1] if logits is None else logits).argmax(-1)
    return codes


@pytest.mark.parametrize("name", TALKERS)
def test_loops_equal_naive_generation(name):
    model = CASES[name].build()
    inputs = states()
    fast = model.generate(**inputs, max_new_frames=6, min_new_frames=6)
    assert torch.equal(fast.audio_codes, generate_naively(model, 6, **inputs))


@pytest.mark.parametrize("name", TALKERS)
def test_row_of_batch_speaks_as_alone(name):
    model = CASES[name].build()
    inputs = states()
    together = model.generate(**inputs, max_new_frames=20)
    for index in range(2):
        alone = {key: value[index : index + 1] for key, value in inputs.items()}
        length = int(alone.pop("thinker_mask").sum())
        for key in ("thinker_hidden_states", "thinker_embeds"):
            alone[key] = alone[key][:, :length]
        spoken = model.generate(**alone, max_new_frames=20)
        frames = int(spoken.num_frames[0])
        assert together.num_frames[index] == frames
        assert torch.equal(together.audio_codes[index, :, :frames], spoken.audio_codes[0, :, :frames])


@pytest.mark.parametrize("name", TALKERS)
def test_a_prepared_talker_speaks_and_saves_the_same_and_still_learns(name, tmp_path):
    model, inputs = CASES[name].build(), states()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model.generate(**inputs, max_new_frames=9).audio_codes
    assert model.prepare_for_inference() is model
    assert not model.head.weight.is_contiguous()
    assert torch.equal(model.generate(**inputs, max_new_frames=9).audio_codes, expected)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    with pytest.raises(ValueError, match="`prepare_for_inference` must be called in evaluation mode"):
        model.train().prepare_for_inference()
    model(**talker_inputs()).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.head.weight, weights["head.weight"])


def test_speech_ends_where_the_model_says_so():
    model = make()
    with torch.no_grad():
        model.head.weight[11] = 0
        model.head.weight[:11] = 0
    model.head.weight.data[11, 0] = 1e-3  # the end is the likeliest wherever the first feature is positive
    spoken = model.generate(**states(), max_new_frames=30)
    assert (spoken.num_frames <= 30).all()
    assert (spoken.num_frames >= 1).all()
    for row, frames in zip(spoken.audio_codes, spoken.num_frames, strict=True):
        assert not row[:, frames:].any()
    longer = model.generate(**states(), max_new_frames=30, min_new_frames=9)
    assert (longer.num_frames >= 9).all()
    endless = make(end_of_speech=False).generate(**states(), max_new_frames=30)
    assert endless.num_frames.tolist() == [30, 30]


def test_end_of_speech_class_is_learned():
    model = make()
    inputs = talker_inputs()
    assert model(**inputs).logits.shape[-1] == 12
    without = inputs["speech_codes"].clone()
    without[:, 0][without[:, 0] == 11] = -100
    assert model(**inputs).talker_loss != model(**inputs | {"speech_codes": without}).talker_loss


@pytest.mark.parametrize("name", TALKERS)
def test_nothing_to_learn_costs_nothing(name):
    model = CASES[name].build()
    codes = torch.full((2, 3, 4), -100)
    assert model(codes).loss == 0
    codes[:, 0, 0] = model.config.end_of_speech_id
    outputs = model(codes)
    assert outputs.depth_loss == 0
    assert outputs.talker_loss > 0


@pytest.mark.parametrize("name", TALKERS)
def test_loss_is_a_plain_cross_entropy_without_shift(name):
    model = CASES[name].build()
    inputs = talker_inputs()
    outputs, codes = model(**inputs), inputs["speech_codes"]
    first = [
        -outputs.logits[b, t].log_softmax(-1)[codes[b, 0, t]]
        for b in range(2)
        for t in range(8)
        if codes[b, 0, t] != -100
    ]
    rest = [
        -outputs.depth_logits[b, q, t].log_softmax(-1)[codes[b, q + 1, t]]
        for b in range(2)
        for q in range(2)
        for t in range(8)
        if codes[b, q + 1, t] != -100
    ]
    torch.testing.assert_close(outputs.talker_loss, torch.stack(first).mean())
    torch.testing.assert_close(outputs.depth_loss, torch.stack(rest).mean())
    of_durations = 0 if outputs.duration_loss is None else outputs.duration_loss
    torch.testing.assert_close(outputs.loss, outputs.talker_loss + outputs.depth_loss + of_durations)


def test_it_hears_the_text_and_the_speaker():
    model = make(depth_decoder_config=DEPTH)
    inputs = talker_inputs()
    logits = model(**inputs).logits
    other_text = inputs | {"thinker_embeds": inputs["thinker_embeds"] + 1}
    other_voice = inputs | {"speaker_ids": torch.tensor([0, 1])}
    assert not torch.allclose(model(**other_text).logits, logits)
    assert not torch.allclose(model(**other_voice).logits, logits)


def test_it_can_do_without_the_thinkers_states():
    model = make(reads_thinker_states=False)
    inputs = talker_inputs()
    with torch.no_grad():
        expected = model(**inputs)
        others = model(**inputs | {"thinker_hidden_states": torch.randn(2, 5, 30)})
        without = model(**{name: value for name, value in inputs.items() if name != "thinker_hidden_states"})
        other_words = model(**inputs | {"thinker_embeds": torch.randn(2, 5, 30)})
    for outputs in (others, without):
        assert torch.equal(outputs.logits, expected.logits)
    assert not torch.allclose(other_words.logits, expected.logits)
    spoken = {name: value for name, value in inputs.items() if name not in ("speech_codes", "thinker_hidden_states")}
    assert model.generate(**spoken, max_new_frames=3).audio_codes.shape == (2, 3, 3)
    with pytest.raises(ValueError, match="must be given together"):
        make()(inputs["speech_codes"], thinker_embeds=inputs["thinker_embeds"])


def test_tokens_are_read_for_several_frames():
    """A token that is read for two frames is a token that stands there twice."""
    slow, fast = make(frames_per_token=2), make()
    inputs = talker_inputs()
    twice = inputs | {
        name: inputs[name].repeat_interleave(2, dim=1)
        for name in ("thinker_hidden_states", "thinker_embeds", "thinker_mask")
    }
    with torch.no_grad():
        torch.testing.assert_close(slow(**inputs).logits, fast(**twice).logits)
    found, expected = (
        model.generate(**{name: value for name, value in given.items() if name != "speech_codes"}, max_new_frames=12)
        for model, given in ((slow, inputs), (fast, twice))
    )
    assert torch.equal(found.audio_codes, expected.audio_codes)


def test_errors_are_made_in_training_only_and_seeded():
    inputs = talker_inputs()
    clean, noisy = make(), make(code_noise=0.5)
    with torch.no_grad():
        torch.testing.assert_close(noisy(**inputs).logits, clean(**inputs).logits)
        losses = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            losses.append(noisy.train()(**inputs).logits)
        assert torch.equal(losses[0], losses[1])
        assert not torch.equal(losses[0], losses[2])
        # Nothing is read before the first frame, and so nothing of it is wrong.
        torch.testing.assert_close(losses[0][:, 0], clean(**inputs).logits[:, 0])
    with pytest.raises(StrictDataclassError, match=r"`code_noise` must be in \[0, 1\), got 1"):
        make(code_noise=1.0)


def test_speech_delay_lets_text_go_ahead():
    """With a delay of d steps, frame t depends on tokens 0...t+d and on no later one."""
    inputs = talker_inputs()
    inputs["thinker_mask"] = torch.ones(2, 5)
    for delay in (0, 2):
        model = make(speech_delay=delay)
        before = model(**inputs).logits
        changed = inputs | {"thinker_embeds": inputs["thinker_embeds"].clone()}
        changed["thinker_embeds"][:, 3] += 1
        after = model(**changed).logits
        first = 3 - delay
        torch.testing.assert_close(after[:, :first], before[:, :first], rtol=0, atol=1e-5)
        assert not torch.allclose(after[:, first], before[:, first])


def test_sampling_reproduces_and_varies():
    model = make()
    options = dict(
        max_new_frames=12, min_new_frames=12, do_sample=True, temperature=1.5, top_k=8, top_p=0.95, min_p=0.01
    )
    inputs = states()
    torch.manual_seed(5)
    first = model.generate(**inputs, **options).audio_codes
    torch.manual_seed(5)
    assert torch.equal(model.generate(**inputs, **options).audio_codes, first)
    torch.manual_seed(6)
    assert not torch.equal(model.generate(**inputs, **options).audio_codes, first)
    greedy = model.generate(**inputs, max_new_frames=12, min_new_frames=12).audio_codes
    nearly = model.generate(**inputs, max_new_frames=12, min_new_frames=12, do_sample=True, top_k=1).audio_codes
    assert torch.equal(nearly, greedy)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(torch.zeros(1, 2, 4, dtype=torch.long)),
            r"`speech_codes` must have shape \(batch, 3, num_frames\)",
        ),
        (lambda m: m(torch.full((1, 3, 4), 11)), r"`speech_codes` must be in \[0, 10\].* got values from 11 to 11"),
        (lambda m: m(torch.full((1, 3, 4), -1)), r"got values from -1 to -1"),
        (
            lambda m: m(torch.zeros(1, 3, 4, dtype=torch.long), speaker_ids=torch.tensor([2])),
            r"`speaker_ids` must be in \[0, 1\]",
        ),
        (
            lambda m: m(torch.zeros(1, 3, 4, dtype=torch.long), speaker_ids=torch.tensor([0, 1])),
            r"`speaker_ids` must have shape",
        ),
        (lambda m: m(torch.zeros(1, 3, 4, dtype=torch.long), torch.randn(1, 2, 30)), "must be given together"),
        (lambda m: m.generate(max_new_frames=0), "`talker_max_new_frames` must be at least 1, got 0"),
        (
            lambda m: m.generate(max_new_frames=5, min_new_frames=0),
            r"`talker_min_new_frames` must be in \[1, 5\], got 0",
        ),
        (
            lambda m: m.generate(max_new_frames=5, min_new_frames=6),
            r"`talker_min_new_frames` must be in \[1, 5\], got 6",
        ),
        (lambda m: m(torch.zeros(1, 3, 63, dtype=torch.long)), "`speech_codes` must have at most 62 frames, got 63"),
        (lambda m: m(torch.zeros(1, 3, 4)), "`speech_codes` must be integers, got torch.float32"),
        (
            lambda m: m(torch.zeros(3, 3, 4, dtype=torch.long), torch.randn(2, 5, 30), torch.randn(2, 5, 30)),
            "`speech_codes` must have one row for each of the 2 texts, got 3",
        ),
        (lambda m: m.generate(do_sample=True, temperature=0.0), "`talker_temperature` must be above 0, got 0.0"),
        (lambda m: m.generate(temperature=-1.0), "`talker_temperature` must be above 0, got -1.0"),
        (lambda m: m.generate(do_sample=True, temperature=1e-45), "`talker_temperature` must be in .*, got 1e-45"),
        (lambda m: m.generate(do_sample=True, seed=2**64), "`talker_seed` must be in .* for every row, got 184467"),
        (lambda m: m.generate(temperature="hot"), "`talker_temperature` must be a number, got 'hot'"),
        (lambda m: m.generate(do_sample=True, top_k="5"), "`talker_top_k` must be an integer, got '5'"),
        (lambda m: m.generate(top_k=2.5), "`talker_top_k` must be an integer, got 2.5"),
        (lambda m: m.generate(top_p="x"), "`talker_top_p` must be a number, got 'x'"),
        (lambda m: m.generate(do_sample="yes"), "`talker_do_sample` must be True or False, got 'yes'"),
        (lambda m: m.generate(top_k=-5), "`talker_top_k` must be at least 0, got -5"),
        (lambda m: m.generate(min_p=9.0), r"`talker_min_p` must be in \(0, 1\], got 9.0"),
        (lambda m: m.generate(do_sample=True, top_k=-1), "`talker_top_k` must be at least 0, got -1"),
        (lambda m: m.generate(do_sample=True, top_p=1.5), r"`talker_top_p` must be in \(0, 1\], got 1.5"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


def test_speakers_by_name():
    config = josie.JosieTalkerConfig(**TALKER)
    assert config.get_speaker_id("bob") == 1
    with pytest.raises(ValueError, match=r"`speaker` must be one of \['ada', 'bob'\], got 'eve'"):
        config.get_speaker_id("eve")
