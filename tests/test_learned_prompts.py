"""Laws of learned prompts of peft in front of a Thinker: rows are as alone, whatever the padding, and as written."""

import pytest
import torch
from test_input_stream import FAMILIES, GAP_READERS, thinker
from tiny import CASES, TEXT, build
from transformers import StaticCache

import josie

peft = pytest.importorskip("peft", reason="adapters need peft: pip install 'josie[peft]'")

pytestmark = [
    # What peft 0.21 still asks every model of transformers.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

PROMPT = dict(task_type="CAUSAL_LM", num_virtual_tokens=3)
KINDS = {
    "prompt tuning": lambda **sizes: peft.PromptTuningConfig(**PROMPT, **sizes),
    "p-tuning": lambda **sizes: peft.PromptEncoderConfig(**PROMPT, encoder_hidden_size=12, **sizes),
    "prefix tuning": lambda **sizes: peft.PrefixTuningConfig(**PROMPT, **sizes),
    "cartridge": lambda **sizes: peft.CartridgeConfig(**PROMPT, **sizes),
}
ROWS = [[20, 21, 22, 23], [24, 25]]
LEFT = torch.tensor([[20, 21, 22, 23], [0, 0, 24, 25]])
RIGHT = torch.tensor([[20, 21, 22, 23], [24, 25, 0, 0]])


def tune(model, kind: str, **sizes: int):
    """Return a model with a learned prompt that matters."""
    tuned = peft.get_peft_model(model, KINDS[kind](**sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.prompt_encoder.parameters():
            parameter.normal_(std=2, generator=generator)
    return tuned


@pytest.fixture(params=KINDS)
def tuned(request):
    return tune(CASES["thinker"].build(), request.param)


def write_by_hand(tuned, row: list[int], count: int) -> list[int]:
    """Return a row and its `count` likeliest tokens, each by a pass over all before it."""
    forbidden = [2, *tuned.get_base_model().generation_config.suppress_tokens]
    ids = torch.tensor([row])
    for _ in range(count):
        logits = tuned(input_ids=ids).logits[:, -1]
        logits[:, forbidden] = -torch.inf
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return ids[0, len(row) :].tolist()


@torch.no_grad()
def test_what_is_written_follows_the_prompt(tuned):
    options = dict(use_cache=False, min_new_tokens=5, max_new_tokens=5)
    expected = [write_by_hand(tuned, row, 5) for row in ROWS]
    written = tuned.generate(input_ids=LEFT, attention_mask=(LEFT != 0).long(), **options)
    assert written[:, LEFT.shape[1] :].tolist() == expected
    assert tuned.generate(input_ids=LEFT[:1], **options)[0, LEFT.shape[1] :].tolist() == expected[0]
    bare = tuned.get_base_model().generate(LEFT[:1], min_new_tokens=5, max_new_tokens=5)
    assert bare[0, LEFT.shape[1] :].tolist() != expected[0]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["prompt tuning", "prefix tuning"])
@pytest.mark.parametrize("family", ["josie", "llama", "gpt2", "opt"])
def test_padded_rows_are_as_alone(family, kind):
    opt = dict(model_type="opt", hidden_size=30, ffn_dim=44, num_hidden_layers=2, num_attention_heads=3, vocab_size=53)
    opt |= dict(max_position_embeddings=96, word_embed_proj_dim=30)
    text = FAMILIES.get(family, opt)
    config = josie.JosieThinkerConfig(text_config=text | dict(num_key_value_heads=3) if family == "llama" else text)
    tuned = tune(build(josie.JosieThinkerForConditionalGeneration, config), kind)
    alone = [tuned(input_ids=torch.tensor([row])).logits[0, -len(row) :] for row in ROWS]
    for padded in (LEFT, RIGHT):
        mask = (padded != 0).long()
        logits = tuned(input_ids=padded, attention_mask=mask).logits[:, -padded.shape[1] :]
        for found, real, expected in zip(logits, mask.bool(), alone, strict=True):
            torch.testing.assert_close(found[real], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_positions_in_front_of_a_row_count_as_in_transformers():
    mask = (LEFT != 0).long()
    for family in FAMILIES:
        model = thinker(family)
        backbone = model.model.language_model
        expected = model.compute_logits(backbone(input_ids=LEFT, attention_mask=mask).last_hidden_state)
        torch.testing.assert_close(model(input_ids=LEFT, attention_mask=mask).logits, expected, rtol=0, atol=0)
    # A hidden position between others is none, given as tokens, as embeddings, or behind a cache.
    ids, mask = torch.tensor([[20, 21, 0, 22, 23]]), torch.tensor([[1, 1, 0, 1, 1]])
    alone = model(input_ids=ids[:, mask[0].bool()]).logits[:, -1]
    first = model(input_ids=ids[:, :2], use_cache=True).cache
    embeds = model.get_input_embeddings()(ids)
    for inputs in (dict(input_ids=ids), dict(inputs_embeds=embeds), dict(input_ids=ids[:, 2:], cache=first)):
        found = model(attention_mask=mask, **inputs).logits[:, -1]
        torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


MPT = dict(model_type="mpt", d_model=30, n_heads=3, n_layers=2, max_position_embeddings=96, vocab_size=53)
READERS = {"sliding_window": TEXT | dict(sliding_window=4), "local": GAP_READERS["local"], "alibi": MPT}


@torch.no_grad()
@pytest.mark.parametrize("reader", READERS)
def test_backbones_that_would_read_the_padding_refuse_it(reader):
    config = josie.JosieThinkerConfig(text_config=READERS[reader])
    model = build(josie.JosieThinkerForConditionalGeneration, config)
    tuned = tune(model, "prompt tuning", num_layers=2, num_attention_heads=3, token_dim=30)
    mask = (LEFT != 0).long()
    match = f"`attention_mask` must hide nothing between the tokens of a row .*'{reader}'.*, got padding there"
    with pytest.raises(ValueError, match=match):
        tuned(input_ids=LEFT, attention_mask=mask)
    with pytest.raises(ValueError, match=match):
        tuned.generate(input_ids=LEFT, attention_mask=mask, use_cache=False, max_new_tokens=2)
    alone = tuned(input_ids=torch.tensor([ROWS[1]])).logits[0]
    right = tuned(input_ids=RIGHT, attention_mask=(RIGHT != 0).long()).logits[1, : len(alone)]
    torch.testing.assert_close(right, alone, atol=1e-4, rtol=1e-4)
    model(inputs_embeds=model.get_input_embeddings()(LEFT), attention_mask=mask)  # in front of the text none is read


def test_a_mask_of_all_places_of_a_static_cache_is_read_as_before():
    model, ids, length = CASES["thinker"].build().eval(), torch.tensor([[20, 21, 22, 23, 24]]), 32
    cache, mask = StaticCache(config=model.config.get_text_config(), max_cache_len=length), torch.zeros(1, length)
    with torch.no_grad():
        expected, found = model(input_ids=ids).logits, []
        for part in (ids[:, :4], ids[:, 4:]):
            mask[:, : sum(each.shape[1] for each in found) + part.shape[1]] = 1
            found.append(model(input_ids=part, attention_mask=mask, cache=cache).logits)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["attention_mask", "labels"])
def test_what_is_spoken_is_told_by_ids_and_masks_of_one_length(name):
    model = CASES["josie"].build()
    ids = CASES["josie"].inputs()["input_ids"]
    longer = {name: torch.nn.functional.pad(torch.ones_like(ids), (3, 0))}
    match = rf"`{name}` must have the shape \(2, {ids.shape[1]}\) of `input_ids` .*, got \(2, {ids.shape[1] + 3}\)"
    with pytest.raises(ValueError, match=match):
        model.get_speech_mask(ids, **longer)
