"""Every option of `generate` on a tiny JOSIE with media: obeyed, or refused; `docs/options.md` lists them."""

import copy
import inspect

import pytest
import torch
from doc_pages import read_options
from this_tree import ROOT
from tiny import TEXT, THINKER, build, josie_config, josie_inputs
from transformers import CompileConfig, DynamicCache, GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.generation import MaxLengthCriteria, TemperatureLogitsWarper
from transformers.generation.streamers import BaseStreamer

import josie

NEW = 6
ASKED = dict(max_new_tokens=NEW, return_dict_in_generate=True, output_scores=True)
MEDIA = ("pixel_values", "input_features", "input_features_mask")


class Runner:
    """A tiny model, its tokenizer, and two prompts."""

    def __init__(self):
        text = TEXT | dict(vocab_size=301, max_position_embeddings=256)
        config = josie_config(thinker_config=dict(THINKER, text_config=text))
        self.model = build(josie.JosieForConditionalGeneration, config)
        self.tokenizer = josie.load_default_tokenizer(301)
        inputs = josie_inputs()
        self.prompt = {name: inputs[name] for name in ("input_ids", "attention_mask", *MEDIA)}
        self.length = self.prompt["input_ids"].shape[1]
        self.plain = self(output_logits=True)
        self.answer = self.plain.sequences[:, self.length :]
        self.first = int(self.answer[0, 0])

    def __call__(self, **options):
        torch.manual_seed(0)
        return self.model.generate(**self.prompt | ASKED | options)

    def write(self, **options) -> torch.Tensor:
        """Return the new tokens, `(batch, length)`."""
        return self(**options).sequences[:, self.length :]

    def one(self, **options):
        """Return the output for the first row alone, which is not padded."""
        return self(**{name: self.prompt[name][:1] for name in self.prompt} | options)

    def changes(self, **options) -> bool:
        """Whether options change the answer."""
        written = self.write(**options)
        return written.shape != self.answer.shape or not torch.equal(written, self.answer)

    def keeps(self, **options) -> bool:
        """Whether options leave the answer as it is."""
        return not self.changes(**options)

    def warps(self, **options) -> bool:
        """Whether options let fewer tokens be drawn."""
        kept = [int(scores.isfinite().sum()) for scores in self(do_sample=True, top_k=0, **options).scores]
        return max(kept) < 2 * 298

    def steps(self, **options) -> int:
        """Return how often the Thinker runs for one row."""
        calls: list[int] = []
        hook = self.model.thinker.register_forward_hook(lambda *_: calls.append(1))
        self.one(**options)
        hook.remove()
        return len(calls)

    def assistant(self):
        """Return a copy of the model that guesses as many tokens as it may."""
        assistant = copy.deepcopy(self.model)
        assistant.generation_config.assistant_confidence_threshold = 0
        return assistant

    def other_assistant(self):
        """Return a Thinker of fewer layers."""
        text = TEXT | dict(vocab_size=301, max_position_embeddings=256, num_hidden_layers=1)
        config = josie.JosieThinkerConfig(**THINKER | dict(text_config=text))
        return build(josie.JosieThinkerForConditionalGeneration, config)


class Recorder(BaseStreamer):
    """Keeps what it gets."""

    def __init__(self):
        self.pieces = []

    def put(self, value):
        """Keep tokens."""
        self.pieces.append(value)

    def end(self):
        """Keep that it is over."""
        self.pieces.append(None)


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    return Runner()


def stream(r: Runner) -> bool:
    recorder = Recorder()
    r.one(streamer=recorder)
    return recorder.pieces[-1] is None and torch.equal(torch.stack(recorder.pieces[1:-1]).flatten(), r.answer[0])


def ends_late(r: Runner, **options) -> bool:
    """Whether an answer whose first token ends it goes on for four tokens."""
    return r.one(eos_token_id=r.first, **options).sequences.shape[1] >= r.length + 4


def continues(r: Runner) -> bool:
    cache = DynamicCache(config=r.model.config.get_text_config())
    first = r.one(cache=cache, max_new_tokens=2).sequences
    given = dict(input_ids=first, attention_mask=None, **dict.fromkeys(MEDIA))
    return torch.equal(r(**given, cache=cache, max_new_tokens=NEW - 2).sequences[0, r.length :], r.answer[0])


def custom(model, input_ids, **kwargs):
    """Return the prompt with one token behind: a way of decoding."""
    return torch.cat((input_ids, torch.full_like(input_ids[:, :1], 33)), dim=1)


def invalid(r: Runner) -> bool:
    broken = copy.deepcopy(r)
    with torch.no_grad():
        broken.model.thinker.lm_head.weight[40] = torch.inf
    found = [
        all(bool(scores[:, 40].isfinite().all()) for scores in broken(remove_invalid_values=asked).scores)
        for asked in (False, True)
    ]
    return found == [False, True]


def starts(r: Runner) -> bool:
    options = dict(attention_mask=None, input_ids=None, **dict.fromkeys(MEDIA))
    return r(**options, bos_token_id=33).sequences[0, 0] == 33


# What each option has to do.
OBEYED = {
    "max_length": lambda r: r(max_new_tokens=None, max_length=r.length + 2).sequences.shape[1] == r.length + 2,
    "max_new_tokens": lambda r: r.write(max_new_tokens=3).shape[1] == 3,
    "min_length": lambda r: ends_late(r, min_length=r.length + 4),
    "min_new_tokens": lambda r: ends_late(r, min_new_tokens=4),
    "early_stopping": lambda r: (
        r.steps(num_beams=3, eos_token_id=list(range(9, 160)), early_stopping=True)
        < r.steps(num_beams=3, eos_token_id=list(range(9, 160)), early_stopping="never", length_penalty=3.0)
    ),
    "max_time": lambda r: r.write(max_time=1e-9).shape[1] == 1,
    "stop_strings": lambda r: (
        r.one(stop_strings=[r.tokenizer.decode(r.answer[0, 2:4])], tokenizer=r.tokenizer).sequences.shape[1]
        < r.length + NEW
    ),
    "do_sample": lambda r: r.changes(do_sample=True, temperature=5.0, top_k=0),
    "num_beams": lambda r: bool((r(num_beams=3).sequences_scores is not None) and r.changes(num_beams=3)),
    "use_cache": lambda r: r(use_cache=False).cache is None and r.keeps(use_cache=False),
    "cache_implementation": lambda r: (
        type(r(cache_implementation="static").cache).__name__ == "StaticCache"
        and r.keeps(cache_implementation="static")
    ),
    "max_cache_len": lambda r: (
        r(cache_implementation="static", max_cache_len=70, disable_compile=True).cache.layers[0].max_cache_len == 70
    ),
    "temperature": lambda r: r.keeps(do_sample=True, top_k=0, temperature=1e-4),
    "top_k": lambda r: r.keeps(do_sample=True, top_k=1),
    "top_p": lambda r: r.keeps(do_sample=True, top_k=0, top_p=1e-4),
    "min_p": lambda r: r.keeps(do_sample=True, top_k=0, min_p=1.0),
    "top_h": lambda r: r.warps(top_h=0.3),
    "typical_p": lambda r: r.warps(typical_p=0.3),
    "epsilon_cutoff": lambda r: r.keeps(do_sample=True, top_k=0, epsilon_cutoff=0.99),
    "eta_cutoff": lambda r: r.warps(eta_cutoff=0.01),
    "repetition_penalty": lambda r: len(set(r.write(repetition_penalty=1e6)[0].tolist())) == NEW,
    "encoder_repetition_penalty": lambda r: (
        set(r.write(encoder_repetition_penalty=1e6)[0].tolist()) <= set(r.prompt["input_ids"][0].tolist()) | {0}
    ),
    "length_penalty": lambda r: (
        r.write(num_beams=3, eos_token_id=list(range(9, 160)), length_penalty=-9.0).shape[1]
        < r.write(num_beams=3, eos_token_id=list(range(9, 160)), length_penalty=9.0).shape[1]
    ),
    "no_repeat_ngram_size": lambda r: len(set(r.write(no_repeat_ngram_size=1)[0].tolist())) == NEW,
    "bad_words_ids": lambda r: r.first not in r.write(bad_words_ids=[[r.first]])[0],
    "renormalize_logits": lambda r: all(
        scores.exp().sum(-1).allclose(torch.ones(2)) for scores in r(renormalize_logits=True).scores
    ),
    "forced_eos_token_id": lambda r: (r.write(forced_eos_token_id=33)[:, -1] == 33).all(),
    "remove_invalid_values": invalid,
    "exponential_decay_length_penalty": lambda r: r.write(exponential_decay_length_penalty=(1, 1e9)).shape[1] <= 3,
    "suppress_tokens": lambda r: (
        r.first not in r.write(suppress_tokens=[r.first])
        # Placeholders are never written.
        and 6 not in r.write(suppress_tokens=[r.first], sequence_bias=[[[6], 1e3]])
    ),
    "begin_suppress_tokens": lambda r: r.write(begin_suppress_tokens=[r.first])[0, 0] != r.first,
    "sequence_bias": lambda r: (r.write(sequence_bias=[[[33], 1e6]]) == 33).all(),
    "guidance_scale": lambda r: r.changes(guidance_scale=3.0),
    "watermarking_config": lambda r: r.changes(watermarking_config=dict(bias=9.0, seeding_scheme="selfhash")),
    "num_return_sequences": lambda r: len(r.write(do_sample=True, num_return_sequences=3)) == 6,
    "output_attentions": lambda r: len(r(output_attentions=True).attentions) == NEW,
    "output_hidden_states": lambda r: len(r(output_hidden_states=True).hidden_states[0]) == 3,
    "output_scores": lambda r: len(r.plain.scores) == NEW and r(output_scores=False).scores is None,
    "output_logits": lambda r: len(r.plain.logits) == NEW and r(output_logits=False).logits is None,
    "return_dict_in_generate": lambda r: isinstance(
        r(return_dict_in_generate=False, output_scores=False), torch.Tensor
    ),
    "pad_token_id": lambda r: (r.write(eos_token_id=r.first, pad_token_id=44)[0, 1:] == 44).all(),
    "bos_token_id": starts,
    "eos_token_id": lambda r: r.one(eos_token_id=r.first).sequences.shape[1] == r.length + 1,
    "encoder_no_repeat_ngram_size": lambda r: (
        not set(r.write(encoder_no_repeat_ngram_size=1)[0].tolist()) & set(r.prompt["input_ids"][0].tolist())
    ),
    "assistant_ensemble_weight": lambda r: (
        r.one(assistant_model=r.other_assistant(), assistant_ensemble_weight=0.01).sequences.shape[1] <= r.length + NEW
    ),
    "prompt_lookup_num_tokens": lambda r: torch.equal(
        r.one(prompt_lookup_num_tokens=3).sequences[0, r.length :], r.answer[0]
    ),
    "max_matching_ngram_size": lambda r: torch.equal(
        r.one(prompt_lookup_num_tokens=3, max_matching_ngram_size=1).sequences[0, r.length :], r.answer[0]
    ),
    "compile_config": lambda r: r.keeps(cache_implementation="static", compile_config=CompileConfig()),
    "disable_compile": lambda r: r.keeps(cache_implementation="static", disable_compile=True),
    "prefill_chunk_size": lambda r: r.keeps(prefill_chunk_size=3),
    "inputs": lambda r: r.keeps(input_ids=None, inputs=r.prompt["input_ids"]),
    "generation_config": lambda r: (
        r.model.generate(**r.prompt, generation_config=GenerationConfig(max_new_tokens=2)).shape[1] == r.length + 2
    ),
    "logits_processor": lambda r: r.keeps(logits_processor=LogitsProcessorList([TemperatureLogitsWarper(0.5)])),
    "stopping_criteria": lambda r: r.write(stopping_criteria=[MaxLengthCriteria(r.length + 1)]).shape[1] == 1,
    "prefix_allowed_tokens_fn": lambda r: (r.write(prefix_allowed_tokens_fn=lambda *_: [33]) == 33).all(),
    "assistant_model": lambda r: r.steps(assistant_model=r.assistant()) < NEW,
    "streamer": stream,
    "negative_prompt_ids": lambda r: (
        not torch.equal(
            r.write(guidance_scale=3.0, negative_prompt_ids=torch.tensor([[20, 21], [22, 23]])),
            r.write(guidance_scale=3.0),
        )
    ),
    "negative_prompt_attention_mask": lambda r: (
        not torch.equal(
            *(
                r.write(
                    guidance_scale=3.0,
                    negative_prompt_ids=torch.tensor([[20, 21], [22, 23]]),
                    negative_prompt_attention_mask=torch.tensor([[first, 1], [first, 1]]),
                )
                for first in (0, 1)
            )
        )
    ),
    "custom_generate": lambda r: (r(custom_generate=custom)[:, -1] == 33).all(),
    "cache": continues,
    "tokenizer": lambda r: OBEYED["stop_strings"](r),
}
REFUSED = {
    "num_assistant_tokens": dict(num_assistant_tokens=3),
    "num_assistant_tokens_schedule": dict(num_assistant_tokens_schedule="heuristic"),
    "assistant_confidence_threshold": dict(assistant_confidence_threshold=0.3),
    "assistant_lookbehind": dict(assistant_lookbehind=3),
    "target_lookbehind": dict(target_lookbehind=3),
    "use_mtp": dict(use_mtp=True),
    "forced_bos_token_id": dict(forced_bos_token_id=20),
    "decoder_start_token_id": dict(decoder_start_token_id=20),
    "token_healing": dict(token_healing=True),
    "is_assistant": dict(is_assistant=True),
    "assistant_early_exit": dict(assistant_early_exit=1),
    "speculation_type": dict(speculation_type="dflash"),
    "continuous_batching_config": dict(continuous_batching_config={}),
    "low_memory": dict(low_memory=True),
    "diversity_penalty": dict(diversity_penalty=0.5),
    "penalty_alpha": dict(penalty_alpha=0.5, top_k=4),
    "dola_layers": dict(dola_layers="low"),
    "num_beam_groups": dict(num_beam_groups=2, num_beams=2),
    "constraints": dict(constraints=[1], num_beams=2),
    "force_words_ids": dict(force_words_ids=[[5]], num_beams=2),
}
OF_ASSISTANTS = list(REFUSED)[:5]
# Options that another has to stand beside.
ALONE = {
    "assistant_ensemble_weight": 0.5,
    "assistant_tokenizer": "a tokenizer",
    "max_matching_ngram_size": 2,
    "negative_prompt_ids": torch.tensor([[20], [21]]),
    "negative_prompt_attention_mask": torch.tensor([[1], [1]]),
    "max_cache_len": 70,
    "cache_config": {},
}


def options_of_transformers() -> set[str]:
    fields = set(GenerationConfig().to_dict()) - {"_from_model_config", "transformers_version"}
    arguments = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    return fields | arguments


def test_the_table_has_every_option_of_transformers():
    listed = read_options(ROOT, "generate")
    assert options_of_transformers() - listed.keys() == set()
    extra = {"cache", "tokenizer", "assistant_tokenizer", "trust_remote_code"}
    assert listed.keys() - options_of_transformers() == extra


def test_the_table_says_what_is_tried_here():
    listed = read_options(ROOT, "generate")
    assert {name for name, (verdict, _) in listed.items() if verdict.startswith("refused")} == REFUSED.keys()
    assert {name for name, (_, how) in listed.items() if how == "run"} == OBEYED.keys()
    assert {name for name, (verdict, _) in listed.items() if "refused without" in verdict} == ALONE.keys()


@pytest.mark.parametrize("name", OBEYED)
def test_options_are_obeyed(name, run):
    assert OBEYED[name](run)


@pytest.mark.parametrize("name", REFUSED)
def test_options_are_refused(name, run):
    with pytest.raises(ValueError, match=f"`{name}` must|trust_remote_code=True"):
        run(**REFUSED[name])


@pytest.mark.parametrize("name", ALONE)
def test_options_that_another_reads_are_refused_alone(name, run):
    with pytest.raises(ValueError, match=f"`{name}` must be None without `"):
        run(**{name: ALONE[name]})


@pytest.mark.filterwarnings("ignore:Passing ContinuousBatchingConfig:FutureWarning")
@pytest.mark.parametrize("is_own", [False, True], ids=["given", "own"])
@pytest.mark.parametrize("name", [name for name in [*REFUSED, *ALONE] if not name.startswith("negative_prompt")])
def test_a_configuration_is_read_like_arguments(name, is_own, run, monkeypatch):
    values, asked = REFUSED.get(name) or {name: ALONE[name]}, {}
    if is_own:
        for field, value in values.items():
            monkeypatch.setattr(run.model.generation_config, field, value, raising=False)
    else:
        asked = dict(generation_config=GenerationConfig(**values))
    if is_own and name in OF_ASSISTANTS:
        assert run.keeps()  # it is for calls in which this model is the assistant
        return
    with pytest.raises(ValueError, match=f"`{name}` must|trust_remote_code=True"):
        run(**asked)


def test_defaults_of_transformers_in_a_configuration_say_nothing(run):
    values = GenerationConfig._get_default_generation_params() | ASKED | dict(max_length=None)
    assert run.keeps(generation_config=GenerationConfig(**values))


@pytest.mark.parametrize("mode", ["text", "audio"])
def test_misspelt_options_of_the_talker_are_refused_in_a_configuration(run, mode):
    with pytest.raises(ValueError, match="`talker_temprature` must be one of .* among the fields of the generation"):
        run(generation_config=GenerationConfig(talker_temprature=3), generation_mode=mode)


@pytest.mark.parametrize("mode", ["text", "audio"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(input_ids=torch.ones(1, 0, dtype=torch.long)), r"`input_ids` must be .* at least one row and one token"),
        (dict(input_ids=torch.ones(0, 3, dtype=torch.long)), r"`input_ids` must be .* token, got \(0, 3\)"),
        (dict(input_ids=torch.tensor([20, 21])), r"`input_ids` must be \(batch, length\)"),
        (
            dict(input_ids=torch.tensor([[20, 21]]), attention_mask=torch.ones(1, 3)),
            r"`attention_mask` must have the shape \(1, 2\) of `input_ids`, got \(1, 3\)",
        ),
        (dict(input_ids=torch.tensor([[20]]), labels=torch.tensor([[20]])), "`labels` must be None, as nothing is"),
    ],
    ids=["no token", "no row", "no batch", "mask", "labels"],
)
def test_a_prompt_that_is_none_is_named(run, given, message, mode):
    calls = [lambda: run.model.generate(**given, max_new_tokens=2, generation_mode=mode)]
    if mode == "text":
        calls.append(lambda: run.model.thinker.generate(**given, max_new_tokens=2))
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_an_assistant_has_options_of_its_own(run):
    steps = []
    for number in (1, 5):
        assistant = run.assistant()
        for part in (assistant, assistant.thinker):
            part.generation_config.num_assistant_tokens = number
        steps.append(run.steps(assistant_model=assistant))
    assert steps[0] > steps[1]


def test_there_is_no_continuous_batching(run):
    for model in (run.model, run.model.thinker):
        with pytest.raises(ValueError, match="`generate_batch` must be `generate` with a padded batch"):
            model.generate_batch([[20, 21], [22]])
        with pytest.raises(ValueError, match="`cache_implementation` must be one for a batch"):
            model.generate(torch.tensor([[20]]), cache_implementation="paged")


def test_spoken_answers_have_the_scores_and_states_of_their_text(run):
    asked = dict(output_logits=True, output_hidden_states=True, num_beams=1)
    spoken = run(generation_mode="audio", talker_max_new_frames=2, talker_min_new_frames=2, **asked)
    assert torch.equal(spoken.sequences, run.plain.sequences)
    for name in ("scores", "logits"):
        assert all(map(torch.equal, getattr(spoken, name), getattr(run.plain, name)))
    assert len(spoken.hidden_states) == NEW
    assert spoken.cache is not None
    beams = run(generation_mode="audio", talker_max_new_frames=2, talker_min_new_frames=2, num_beams=2)
    assert torch.equal(beams.sequences_scores, run(num_beams=2).sequences_scores)


@pytest.mark.parametrize("name", ["num_beams", "repetition_penalty", "streamer", "max_new_tokens"])
def test_a_talker_refuses_what_its_loop_does_not_have(name, run):
    with pytest.raises(ValueError, match=f"`{name}` must be an option of a Talker's `generate`"):
        run.model.talker.generate(**{name: 2})
    with pytest.raises(ValueError, match=f"`talker_{name}` must be one of"):
        run.model.generate(**run.prompt, **{f"talker_{name}": 2})
