"""Embeddings of codes, the projector and the selection of rows, each against a naive twin."""

import pytest
import torch
from tiny import josie_config

from josie.modeling_josie.layers.embeddings import CodeEmbedding, Projector, gather_rows
from josie.modeling_josie.layers.transformer import JosieMLP


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("num_extra", [0, 1])
def test_code_embedding_is_the_sum_of_one_look_up_a_quantizer(shared, num_extra):
    embedding = CodeEmbedding(3, 7, 5, shared=shared, num_extra=num_extra)
    tables = embedding.embedding.weight.view(-1, 7 + num_extra, 5).expand(3, -1, -1)
    codes = torch.randint(7 + num_extra, (2, 3, 11))
    for used in (1, 2, 3):
        expected = sum(tables[level][codes[:, level]] for level in range(used))
        torch.testing.assert_close(embedding(codes[:, :used]), expected)
    for level in range(3):
        assert torch.equal(embedding.embed_level(codes[:, level], level), tables[level][codes[:, level]])
    assert embedding.embedding.weight.shape[0] == (1 if shared else 3) * (7 + num_extra)
    assert not list(embedding.buffers())


def test_code_embedding_survives_the_meta_device():
    codes = torch.randint(7, (2, 3, 4))
    there = CodeEmbedding(3, 7, 5)
    with torch.device("meta"):
        here = CodeEmbedding(3, 7, 5)
    here = here.to_empty(device="cpu")
    here.load_state_dict(there.state_dict())
    assert torch.equal(here(codes), there(codes))


@pytest.mark.parametrize("hidden_act", [None, "gelu"])
def test_projector(hidden_act):
    projector = Projector(6, 4, hidden_act)
    features = torch.randn(3, 2, 6)
    expected = features @ projector.linear_1.weight.T + projector.linear_1.bias
    if hidden_act is not None:
        expected = torch.nn.functional.gelu(expected) @ projector.linear_2.weight.T + projector.linear_2.bias
    torch.testing.assert_close(projector(features), expected)


def test_chosen_rows_stand_first_in_their_order():
    states, mask = torch.randn(3, 6, 4), torch.tensor([[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1], [0] * 6])
    chosen, others, real = gather_rows(mask, states, states[..., :2])
    assert real.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    for row in range(3):
        expected = states[row][mask[row].bool()]
        assert torch.equal(chosen[row][real[row]], expected)
        assert torch.equal(others[row][real[row]], expected[:, :2])


def test_nothing_chosen_gives_no_rows():
    chosen, real = gather_rows(torch.zeros(2, 5), torch.randn(2, 5, 3))
    assert chosen.shape == (2, 0, 3)
    assert real.shape == (2, 0)


def test_activations_that_there_are_not_are_named():
    with pytest.raises(ValueError, match="`projector_hidden_act` must be one of gelu, .*, got 'gulu'"):
        Projector(3, 4, "gulu")
    config = josie_config().thinker_config.text_config
    config.hidden_act = "gulu"
    with pytest.raises(ValueError, match="`hidden_act` must be one of gelu, .*, got 'gulu'"):
        JosieMLP(config)
