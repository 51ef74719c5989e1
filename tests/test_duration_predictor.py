"""Durations of spoken tokens: against a naive twin, learned from lengths alone, and what they change for the Talker."""

import pytest
import torch
from tiny import CASES, TALKER, build, talker_inputs

import josie
from josie.modeling_josie.talker.duration_predictor import DurationPredictor, DurationStream


def make(**overrides) -> "josie.JosieTalkerForConditionalGeneration":
    options = TALKER | dict(learns_durations=True) | overrides
    return build(josie.JosieTalkerForConditionalGeneration, josie.JosieTalkerConfig(**options))


def durations_of(**overrides) -> DurationPredictor:
    return DurationPredictor(josie.JosieTalkerConfig(**(TALKER | dict(learns_durations=True) | overrides)), 7)


def expand_naively(durations: list[float], step: int) -> tuple[int, float, float]:
    """Walk over the tokens until the middle of the step is inside one."""
    began, middle = 0.0, step + 0.5
    for token, duration in enumerate(durations):
        if middle < began + duration:
            return token, min(middle - began, 8.0), min(began + duration - middle, 8.0)
        began += duration
    return len(durations), min(middle - began, 8.0), 0.0


def test_steps_read_the_token_they_are_in():
    torch.manual_seed(0)
    durations = 4 * torch.rand(3, 6, dtype=torch.double)
    durations[1, 4:] = 0  # two tokens that are not real
    durations[2, 2] = 20  # longer than is counted
    tokens, places = durations_of().expand(durations, 40)
    for row in range(3):
        for step in range(40):
            token, since, until = expand_naively(durations[row].tolist(), step)
            assert tokens[row, step] == token
            torch.testing.assert_close(places[row, step], torch.tensor([since, until], dtype=torch.double))


def test_a_text_of_no_tokens_is_over_at_once():
    tokens, places = durations_of().expand(torch.zeros(2, 0), 3)
    assert tokens.tolist() == [[0, 0, 0]] * 2
    assert places[..., 0].tolist() == [[0.5, 1.5, 2.5]] * 2
    assert not places[..., 1].any()


def test_durations_begin_as_configured_and_are_0_for_padding():
    config = josie.JosieTalkerConfig(**(TALKER | dict(learns_durations=True, frames_per_token=3)))
    module = josie.JosieTalkerForConditionalGeneration(config).durations
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = module(torch.randn(2, 3, module.hidden.in_features), mask)
    torch.testing.assert_close(found, 3.0 * mask, atol=0.1, rtol=0)


CONTEXT = dict(duration_left_context=2, duration_right_context=1)


def predict_naively(module: DurationPredictor, tokens: list[torch.Tensor]) -> list[float]:
    """Look up each token's neighbours by themselves."""
    found = []
    for place in range(len(tokens)):
        window = [tokens[near] if 0 <= near < len(tokens) else torch.zeros(7) for near in range(place - 2, place + 2)]
        found.append(float(module.predict(torch.cat(window))))
    return found


def test_durations_depend_on_the_real_tokens_around():
    torch.manual_seed(0)
    module = durations_of(**CONTEXT)
    given, mask = torch.randn(4, 6, 7), torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0] * 6])
    with torch.no_grad():
        found, whole = module(given, mask), module(given[:1], None)
        for row in range(4):
            naive = predict_naively(module, [token for token, real in zip(given[row], mask[row], strict=True) if real])
            torch.testing.assert_close(found[row][mask[row].bool()], torch.tensor(naive))
            stream, known = DurationStream(module), []
            for place, token in enumerate(given[row][mask[row].bool()]):
                known += stream.put(token)
                assert len(known) == place  # each is known when the next one is there
            known += [*stream.close(), *stream.close()]
            assert [float(value) for value in known] == naive
    assert not found[~mask.bool()].any()
    torch.testing.assert_close(found[:1], whole)


def test_the_last_word_of_a_sentence_can_be_longer():
    """A token that takes 2 frames, and 5 before the end: only what follows tells."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_attention_heads=2, head_dim=16, frames_per_token=2)
    kinds, errors = torch.randn(2, 7), []
    said = torch.randint(0, 2, (64, 6))
    told = torch.full((64, 6), 2.0)
    told[:, -1] = 5.0
    for context in ({}, CONTEXT):
        module = durations_of(**sizes, **context)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(150):
            loss = module.loss(module(kinds[said], None), told.sum(dim=1).long(), told.sum(), told)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append((module(kinds[said], None) - told).detach().abs().mean())
    assert errors[0] > 0.4
    assert errors[1] < 0.1


def test_durations_are_learned_from_lengths_of_utterances():
    """Four kinds of tokens of known durations, only whose sums are told."""
    torch.manual_seed(0)
    module = durations_of(hidden_size=32, num_attention_heads=2, head_dim=16, frames_per_token=2)
    kinds, truth = torch.randn(4, 7), torch.tensor([1.0, 3.0, 5.0, 2.0])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(300):
        said, mask = torch.randint(0, 4, (16, 6)), torch.rand(16, 6) < 0.8
        num_frames = (truth[said] * mask).sum(dim=1).long()
        loss = module.loss(module(kinds[said], mask), num_frames, num_frames.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(module(kinds[None], None)[0], truth, atol=0.3, rtol=0)


def test_loss_is_the_missing_frames_of_rows_with_text_and_speech():
    module = durations_of()
    durations = torch.tensor([[2.0, 3.0], [1.0, 0.0], [0.0, 0.0]])
    loss = module.loss(durations, torch.tensor([4, 3, 9]), torch.tensor(10))
    torch.testing.assert_close(loss, torch.tensor((1 + 2) / 10))


def test_known_durations_are_learned_token_by_token():
    module = durations_of()
    durations, known = torch.tensor([[2.0, 3.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 2.0], [4.0, 0], [0, 0]])
    loss = module.loss(durations, torch.tensor([5, 4, 9]), torch.tensor(10), known)
    torch.testing.assert_close(loss, torch.tensor((1 + 1 + 3) / 10))


def test_a_talker_that_is_told_durations_reads_by_them():
    model, inputs = make(), talker_inputs()
    told = 3 * torch.rand(inputs["thinker_mask"].shape) * inputs["thinker_mask"]
    with torch.no_grad():
        outputs, others = model(**inputs, speech_durations=told), model(**inputs)
        assert not torch.equal(outputs.logits, others.logits)
        given = model._join_text(2, inputs["thinker_hidden_states"], inputs["thinker_embeds"])
        predicted = model.durations(given, inputs["thinker_mask"])
        real = (inputs["speech_codes"][:, 0] != -100).sum()
        torch.testing.assert_close(outputs.duration_loss, (predicted - told).abs().sum() / real)
        # What it would have thought itself, when told, changes nothing.
        torch.testing.assert_close(model(**inputs, speech_durations=predicted).logits, others.logits)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (2, 2), r"`speech_durations` must have a number for each spoken token, in all \(2, \d\), got \(2, 2\)"),
        ({"learns_durations": False}, (2, 4), "`speech_durations` must be None for a Talker that does not learn them"),
    ],
)
def test_wrong_durations_are_named(options, shape, message):
    with pytest.raises(ValueError, match=message):
        make(**options)(**talker_inputs(), speech_durations=torch.ones(shape))


def test_only_lengths_teach_durations():
    """The losses of codes give them no gradient, and the loss of durations gives nothing else one."""
    model = make().train()
    outputs = model(**talker_inputs())
    learning = dict(model.durations.named_parameters())
    names = [name for name in learning if not name.startswith("place")]
    of_codes = torch.autograd.grad(
        outputs.talker_loss + outputs.depth_loss,
        [learning[name] for name in names],
        allow_unused=True,
        retain_graph=True,
    )
    assert all(gradient is None for gradient in of_codes)
    others = [parameter for name, parameter in model.named_parameters() if not name.startswith("durations.")]
    assert all(gradient is None for gradient in torch.autograd.grad(outputs.duration_loss, others, allow_unused=True))


def test_longer_tokens_are_read_for_longer():
    """With durations of two frames each, a Talker reads what one of two frames a token reads."""
    learned, fixed = make(frames_per_token=2), make(learns_durations=False, frames_per_token=2)
    fixed.load_state_dict({name: value for name, value in learned.state_dict().items() if "durations" not in name})
    inputs = talker_inputs()
    with torch.no_grad():
        learned.durations.place.weight.zero_()
        learned.durations.out.weight.zero_()
        torch.testing.assert_close(learned(**inputs).logits, fixed(**inputs).logits)


def test_accumulated_durations_weigh_as_in_one_batch():
    model, inputs = CASES["talker-durations"].build(), talker_inputs()
    whole = model(**inputs)
    counts = model.count_targets(**inputs)
    parts = [
        model(**{name: value[row : row + 1] for name, value in inputs.items()}, num_items_in_batch=counts).duration_loss
        for row in range(2)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole.duration_loss)
    assert whole.duration_loss > 0


def test_durations_can_be_frozen_by_name():
    model = make()
    model.freeze("durations")
    assert not any(parameter.requires_grad for parameter in model.durations.parameters())
    with pytest.raises(ValueError, match="durations"):
        make(learns_durations=False).freeze("durations")
