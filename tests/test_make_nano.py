"""Needs of the nano model besides its recipes: a start from weights that fit, and one model of two halves."""

import copy
import json

import make_nano
import pytest
import torch
from nano_world import start
from safetensors.torch import save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from josie.conversion.hub.model_card import write_model_card

STEM = {"image_size": 24, "patch_size": 8, "stem_channels": [4]}


def as_saved(value, bits=16):
    """Return a weight as it is loaded again: matrices of 8 bits, and all else of 16."""
    saved = torch.float8_e4m3fn if bits == 8 and value.ndim > 1 else torch.float16
    return value.to(saved if value.is_floating_point() else value.dtype).to(value.dtype)


@pytest.fixture
def halves(tiny_folder, tmp_path):
    """A model with another Thinker, and one with a Talker of another shape; their words are the same."""
    thinker = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    talker = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    torch.nn.init.normal_(thinker.thinker.lm_head.weight)
    talker.config.talker_config.frames_per_token = 3
    torch.nn.init.normal_(talker.talker.head.weight)
    for parameter in talker.audio_codec.parameters():
        torch.nn.init.normal_(parameter)
    for name, model in (("thinker", thinker), ("talker", talker)):
        model.save_pretrained(tmp_path / name)
        processor = AutoProcessor.from_pretrained(tiny_folder)
        processor.tokenizer.model_max_length = {"thinker": 77, "talker": 88}[name]
        processor.speakers = {"thinker": ["eve"], "talker": processor.speakers}[name]
        processor.save_pretrained(tmp_path / name)
    return thinker, talker


def test_each_half_comes_from_its_own_training(halves, tmp_path):
    thinker, talker = halves
    (tmp_path / "report.json").write_text('{"tasks": {"look": {"scores": {"exact": 0.25}}}}')
    folder = tmp_path / "joined"
    make_nano.main(
        ["join", *map(str, (tmp_path / "thinker", tmp_path / "talker", folder)), "--hours", "2"]
        + ["--report", str(tmp_path / "report.json"), "--date", "2026-11-26"]
    )
    joined = AutoModelForMultimodalLM.from_pretrained(folder)
    assert joined.dtype == torch.float32
    assert joined.config.talker_config.frames_per_token == joined.talker.config.frames_per_token == 3
    for ours, theirs, bits in (
        (joined.thinker, thinker.thinker, 16),
        (joined.talker, talker.talker, 8),
        (joined.audio_codec, talker.audio_codec, 8),  # whose codes it says
    ):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], as_saved(value, bits), msg=name)
    assert AutoProcessor.from_pretrained(folder).tokenizer.model_max_length == 77  # of the half that hears and sees
    assert AutoProcessor.from_pretrained(folder).speakers == joined.config.talker_config.speakers == ["ada", "bob"]
    card = (folder / "README.md").read_text()
    assert "| look_exact | 0.25 |" in card
    assert "measured on 2026-11-26:" in card
    assert "from_pretrained(josie.nano_path())" in card
    assert joined.generation_config.max_new_tokens == 64  # else transformers warns of a default of its own
    assert "python examples/train_talker.py" in card


def test_a_talker_may_be_a_mean_with_its_earlier_self(halves, tmp_path):
    thinker, talker = halves
    earlier = {name: torch.randn_like(value) for name, value in talker.talker.state_dict().items()}
    (tmp_path / "earlier").mkdir()
    saved = {f"talker.{name}": value for name, value in earlier.items()}
    save_file(saved, tmp_path / "earlier" / "model.safetensors")
    names = [str(tmp_path / name) for name in ("thinker", "talker", "joined")]
    make_nano.main(["join", *names, "--earlier", str(tmp_path / "earlier"), "--share", "0.25"])
    joined = AutoModelForMultimodalLM.from_pretrained(tmp_path / "joined")
    for name, value in talker.talker.state_dict().items():
        expected = as_saved(0.75 * value + 0.25 * earlier[name], 8)
        torch.testing.assert_close(joined.talker.state_dict()[name], expected, rtol=1e-3, atol=1e-3, msg=name)
    for name, value in thinker.thinker.state_dict().items():
        torch.testing.assert_close(joined.thinker.state_dict()[name], value, rtol=1e-3, atol=1e-3, msg=name)
    save_file({"weight": torch.zeros(2)}, tmp_path / "earlier" / "model.safetensors")
    for options, message in (
        (["--earlier", str(tmp_path / "earlier")], "`--earlier` must be a checkpoint of `TALKER`'s training"),
        (["--earlier", str(tmp_path / "none")], "`--earlier` must be a folder with `model.safetensors`, got '.*none'"),
        (["--earlier", str(tmp_path / "earlier"), "--share", "2"], "`--share` must be between 0 and 1, got 2.0"),
    ):
        with pytest.raises(SystemExit, match=message):
            make_nano.main(["join", *names[:2], str(tmp_path / "other"), *options])
    assert not (tmp_path / "other").exists()


def test_a_thinker_may_be_a_mean_with_what_it_began_with(halves, tmp_path):
    thinker, talker = halves
    names = [str(tmp_path / name) for name in ("thinker", "talker", "joined")]
    make_nano.main(["join", *names, "--before", names[1], "--before-share", "0.25"])
    joined = AutoModelForMultimodalLM.from_pretrained(names[2])
    before = dict(talker.thinker.named_parameters())
    for name, value in thinker.thinker.named_parameters():
        expected = as_saved(0.75 * value + 0.25 * before[name], 16)
        torch.testing.assert_close(dict(joined.thinker.named_parameters())[name], expected, atol=2e-3, rtol=2e-3)
    with pytest.raises(SystemExit, match="`--before-share` must be between 0 and 1, got 2.0"):
        make_nano.main(["join", *names, "--before", names[1], "--before-share", "2"])


def test_halves_with_other_words_are_refused(halves, tmp_path):
    _, talker = halves
    torch.nn.init.normal_(talker.get_input_embeddings().weight)
    talker.save_pretrained(tmp_path / "talker")
    with pytest.raises(SystemExit, match="`THINKER` and `TALKER` must have the same token embeddings"):
        make_nano.main(["join", *(str(tmp_path / name) for name in ("thinker", "talker", "joined"))])
    assert not (tmp_path / "joined").exists()


def test_the_codec_ships_as_it_is_in_the_whole_model(halves, tmp_path):
    _, talker = halves
    trained = tmp_path / "trained"
    talker.audio_codec.save_pretrained(trained)
    AutoFeatureExtractor.from_pretrained(tmp_path / "talker").save_pretrained(trained)
    write_model_card(trained, talker.audio_codec.config, metrics={"si_sdr": 4.0}, evaluated_on="clips")
    make_nano.main(["codec", str(trained), str(tmp_path / "codec"), "--hours", "2"])
    make_nano.main(["join", *(str(tmp_path / name) for name in ("thinker", "talker", "joined"))])
    joined = AutoModelForMultimodalLM.from_pretrained(tmp_path / "joined").audio_codec.state_dict()
    for name, value in AutoModel.from_pretrained(tmp_path / "codec").state_dict().items():
        assert value.equal(joined[name]), name
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "codec") is not None
    card = (tmp_path / "codec" / "README.md").read_text()
    assert "# JODIO nano" in card
    assert "- name: codec\n" in card
    assert "examples/nano_world/voice.json" in card


def start_from(folder, tmp_path, monkeypatch, *options, **changes):
    """Start a model whose configuration is that of `folder`, with changes to its Talker and parts of its Thinker."""
    values = json.loads((folder / "config.json").read_text())
    del values["audio_codec_config"]
    for part, change in changes.items():
        (values[part] if part in values else values["thinker_config"][part]).update(change)
    (tmp_path / "model.json").write_text(json.dumps(values))
    monkeypatch.setattr(start, "HERE", tmp_path)
    make_nano.main(["start", str(tmp_path / "new"), "--from", str(folder), *options])
    return AutoModelForMultimodalLM.from_pretrained(tmp_path / "new")


@pytest.mark.parametrize("options", [[], ["--new", "thinker.vision"]], ids=["fitting", "without-vision"])
def test_a_start_takes_what_fits(tiny_folder, tmp_path, monkeypatch, capsys, options):
    new = start_from(tiny_folder, tmp_path, monkeypatch, *options, vision_config=STEM)
    given = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    weights = given.state_dict()
    others = [
        name
        for name, value in new.state_dict().items()
        if name not in weights or value.shape != weights[name].shape or not torch.equal(value, weights[name])
    ]
    front_end = "thinker.model.vision_front_end"
    said = capsys.readouterr().out
    if options:
        assert f"not from {tiny_folder}: {front_end}\n" in said
        assert all(name.startswith(front_end) for name in others)
        assert f"{front_end}.projector.linear_1.weight" in others
    else:
        encoder = f"{front_end}.encoder"
        assert f"not from {tiny_folder}: {encoder}.stem, {encoder}.patch_embed.weight\n" in said
        assert others == [f"{encoder}.stem.0.weight", f"{encoder}.stem.0.bias", f"{encoder}.patch_embed.weight"]
    assert torch.equal(new.get_input_embeddings().weight, given.get_input_embeddings().weight)
    tokenizers = [AutoProcessor.from_pretrained(folder).tokenizer for folder in (tiny_folder, tmp_path / "new")]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()


def test_a_start_needs_the_same_words_and_parts_that_are_there(tiny_folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"`--from` must have token embeddings of shape \(54, 30\), got \(\d+, 30\)"):
        start_from(tiny_folder, tmp_path, monkeypatch, text_config={"vocab_size": 54})
    with pytest.raises(SystemExit, match="`--new` must be among .* got 'tower'"):
        start_from(tiny_folder, tmp_path, monkeypatch, "--new", "tower")


@pytest.mark.slow
def test_a_new_talker_reads_letters_and_speaks_by_the_codec_that_is_given(tiny_folder, tmp_path, monkeypatch):
    given = AutoModelForMultimodalLM.from_pretrained(tiny_folder)
    torch.nn.init.normal_(given.get_input_embeddings().weight, std=start.EMBEDDING_STD)
    given.save_pretrained(tmp_path / "given")
    AutoProcessor.from_pretrained(tiny_folder).save_pretrained(tmp_path / "given")
    codec = copy.deepcopy(given.audio_codec)
    for tensor in (*codec.parameters(), *(buffer for buffer in codec.buffers() if buffer.is_floating_point())):
        torch.nn.init.normal_(tensor)  # its codebooks too
    codec.save_pretrained(tmp_path / "codec")
    monkeypatch.setattr(start, "NUM_LETTERS", 2)
    shape = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "reads_thinker_states": False}
    shape |= {"text_intermediate_size": 512}
    options = ("--codec", str(tmp_path / "codec"), "--new", "talker")
    new = start_from(tmp_path / "given", tmp_path, monkeypatch, *options, talker_config=shape)
    for name, value in codec.state_dict().items():
        assert torch.equal(new.audio_codec.state_dict()[name], value), name
    # The first half of what is read is the first letter, the second half the second; a token of one has nothing there.
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "new").tokenizer
    with torch.no_grad():
        embeddings = new.get_input_embeddings().weight
        halves = new.talker._embed_text(1, embeddings[None], None)[0, :-1].unflatten(-1, (2, 16))
    spelled = [tokenizer.decode([index]).lower()[:2] for index in range(len(embeddings))]
    assert len(set(spelled)) > 20
    for one, first in zip(spelled, halves, strict=True):
        for other, second in zip(spelled, halves, strict=True):
            for place in range(2):
                same = one[place : place + 1] == other[place : place + 1]
                assert ((first[place] - second[place]).abs().max() < 0.05) == same, (one, other, place)
