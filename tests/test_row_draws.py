"""Text that is drawn with a seed of each row: a batch is its rows, whatever they stand beside."""

import pytest
import torch
from speech_pieces import make_josie

PROMPT = torch.tensor([[15, 19, 30, 31], [17, 18, 40, 41], [19, 17, 50, 51]])
DRAWN = dict(max_new_tokens=12, min_new_tokens=12, do_sample=True, top_k=0, temperature=1.3)


@pytest.fixture(scope="module")
def model():
    return make_josie().eval()


@pytest.mark.parametrize("part", ["whole", "thinker"])
def test_a_batch_is_its_rows(model, part):
    writer = model if part == "whole" else model.thinker
    together = writer.generate(PROMPT, seed=[3, 11, 5], **DRAWN)
    alone = [writer.generate(row[None], seed=seed, **DRAWN) for row, seed in zip(PROMPT, (3, 11, 5), strict=True)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, writer.generate(PROMPT, seed=[4, 12, 6], **DRAWN))


def test_rows_of_other_lengths(model):
    padded = torch.nn.functional.pad(PROMPT[:1, 2:], (2, 0))
    batch = torch.cat((padded, PROMPT[1:2]))
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    together = model.generate(batch, attention_mask=mask, seed=[3, 11], **DRAWN)
    assert torch.equal(together[:1, 4:], model.generate(PROMPT[:1, 2:], seed=3, **DRAWN)[:, 2:])


def test_from_one_number_rows_count_on(model):
    assert torch.equal(model.generate(PROMPT, seed=3, **DRAWN), model.generate(PROMPT, seed=[3, 4, 5], **DRAWN))
    several = model.generate(PROMPT[:1], seed=3, num_return_sequences=3, **DRAWN)
    assert torch.equal(several, model.generate(PROMPT[:1].expand(3, -1), seed=3, **DRAWN))


def test_the_global_generator_does_not_matter(model):
    torch.manual_seed(1)
    first = model.generate(PROMPT, seed=3, **DRAWN)
    torch.manual_seed(2)
    assert torch.equal(model.generate(PROMPT, seed=3, **DRAWN), first)


def test_warpers_and_processors_come_before(model):
    likeliest = model.generate(PROMPT, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert torch.equal(model.generate(PROMPT, seed=3, **DRAWN | dict(top_k=1)), likeliest)
    only = [lambda ids, scores: torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor([45]), 0.0)]
    assert (model.generate(PROMPT, seed=3, logits_processor=only, **DRAWN)[:, 4:] == 45).all()


def test_draws_have_the_probabilities(model):
    rows = PROMPT[:1].expand(4000, -1)
    options = dict(max_new_tokens=1, do_sample=True, top_k=4)
    drawn = model.generate(rows, seed=0, return_dict_in_generate=True, output_logits=True, **options)
    logits = drawn.logits[0][0].clone()
    logits[model.generation_config.suppress_tokens] = -torch.inf
    values, tokens = logits.topk(4)
    counts = (drawn.sequences[:, -1:] == tokens).float().mean(dim=0)
    assert counts.sum() == 1
    assert torch.allclose(counts, values.softmax(dim=-1), atol=0.04)  # five standard deviations


def test_spoken_answers_draw_their_text_likewise(model):
    options = DRAWN | dict(max_new_tokens=4, min_new_tokens=4, generation_mode="audio", talker_max_new_frames=2)
    together = model.generate(PROMPT, seed=[3, 11, 5], **options).sequences
    assert torch.equal(together[1:2], model.generate(PROMPT[1:2], seed=11, **options).sequences)
    options.pop("generation_mode")
    pieces = model.generate_stream(PROMPT, seed=[3, 11, 5], **options)
    assert torch.equal(torch.cat([piece.sequences for piece in pieces], dim=1), together[:, 4:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(do_sample=False), "`seed` must be None without `do_sample`"),
        (dict(num_beams=2), "`seed` must be None with beams"),
        (dict(prompt_lookup_num_tokens=2), "`seed` must be None with `prompt_lookup_num_tokens`"),
        (dict(output_scores=True, return_dict_in_generate=True), "`output_scores` must be False with `seed`"),
        (dict(seed=[1, 2]), "`seed` must be one number for each of 3 rows, got 2"),
        (dict(seed=1.5), "`seed` must be an integer or one for each row, got 1.5"),
        (dict(seed="x"), "`seed` must be an integer or one for each row, got 'x'"),
        (dict(seed=[1.5, 2, 3]), "`seed` must be an integer or one for each row"),
        (dict(seed=2**64), "`seed` must be in .* for every row, got 18446744073709551616"),
        (dict(seed=2**64 - 1), "`seed` must be in .* for every row, got 18446744073709551616"),
        (dict(seed=[1, 2, -(2**63) - 1]), "`seed` must be in .* for every row, got -9223372036854775809"),
        (dict(temperature=1e-45), r"`temperature` must be in \[1e-30, 1e\+30\], got 1e-45"),
        (dict(temperature=1e300), r"`temperature` must be in \[1e-30, 1e\+30\], got 1e\+300"),
        (dict(repetition_penalty=1e-45), r"`repetition_penalty` must be in \[1e-30, 1e\+30\], got 1e-45"),
    ],
)
def test_refusals(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(PROMPT, **DRAWN | dict(seed=3) | options)
