"""Open text for nano's voice: readable, of many kinds, and of one split."""

import re

import pytest
from nano_world import open_text, voice
from nano_world.open_text import KINDS, MAX_CHARACTERS, finish, open_texts
from nano_world.sentences import sentence_key, split_of

NOUNS = """\
  1 This software and database is being provided to you
00001740 03 n 01 oak 0 001 ~ 00001930 n 0000 | a tree (or its wood) that has acorns and lives long; "the old oak fell"
00002137 03 n 02 Ada_Lovelace 0 Countess_of_Lovelace 1 001 ~ 0 n 0000 | English woman (1815-1852) who wrote programs
00002452 03 n 01 sonde(a) 0 001 ~ 0 n 0000 | equipment that is sent up, "a sonde was sent up at 9"
"""
SAYINGS = (
    'He said: "Be good!" Then he left us. IN CAPITALS HE SAID SO.\n\t\t-- Someone Else\n%\nNo mark at its end here\n%\n'
)
VERSES = [
    "And the LORD said unto Noah, Come thou.",
    "First a long clause here; " + "and then many more words " * 6 + "end.",
]


@pytest.fixture(autouse=True)
def packages(monkeypatch, tmp_path):
    """Make packages hold three words, two sayings and two verses."""
    (tmp_path / "usr/share/wordnet").mkdir(parents=True)
    (tmp_path / "usr/share/wordnet/data.noun").write_text(NOUNS, encoding="utf-8")
    (tmp_path / "usr/share/games/fortunes").mkdir(parents=True)
    (tmp_path / "usr/share/games/fortunes/wisdom").write_text(SAYINGS, encoding="utf-8")
    monkeypatch.setattr(open_text, "fetch_package", lambda name, folder: tmp_path)
    monkeypatch.setattr(open_text, "bible", lambda root: VERSES)
    monkeypatch.setattr(open_text, "NUM_NUMBERS", 3000)
    open_text._all_texts.cache_clear()
    open_texts.cache_clear()
    yield tmp_path
    open_text._all_texts.cache_clear()
    open_texts.cache_clear()


def everything(folder):
    return {kind: [text for split in SPLITS for text in open_texts(folder, split, kind)] for kind in KINDS}


SPLITS = ("train", "validation", "test")


def test_texts_are_read_as_they_are_written(packages):
    found = everything(packages)
    assert sorted(found["example"]) == ["A sonde was sent up at 9.", "The old oak fell."]
    assert found["fortune"] == ["He said: Be good! Then he left us."]  # not what is in capitals, or has no end
    assert "And the Lord said unto Noah, Come thou." in found["verse"]
    assert "First a long clause here." in found["verse"]  # of a verse that is too long
    # The third word's entry and its definition are of different splits.
    said = found["definition"] + found["entry"]
    assert sorted(said) == ["A tree that has acorns and lives long.", "English woman who wrote programs."]


def test_no_text_is_in_two_splits_or_holds_a_clause_of_another(packages):
    for kind in KINDS:
        for split in SPLITS:
            for text in open_texts(packages, split, kind):
                clauses = [part for part in re.split(r"[;:,.?!]", text) if len(part.split()) >= 3]
                assert {split_of(part) for part in clauses} <= {split}
    keys = [sentence_key(text) for texts in everything(packages).values() for text in texts]
    assert len(keys) == len(set(keys))


def test_numbers_are_drawn_alike_on_every_machine_and_can_be_said(packages):
    numbers = open_texts(packages, "train", "number")
    assert len(numbers) > 2000
    assert numbers == open_texts.__wrapped__(packages, "train", "number")
    for text in numbers:
        assert len(text) <= MAX_CHARACTERS
        assert re.search(r"[.?]$", text)
        assert ".." not in text
        assert "{" not in text
    joined = " ".join(numbers)
    for sign in ("$", "%", ":30", "a.m.", "Dr.", "2nd", ",000", "&"):
        assert sign in joined


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a  tree\n(of oak) , tall;", "A tree, tall."),
        ('"Well?"', "Well?"),
        ("it leaves at 7 p.m..", "It leaves at 7 p.m."),
        ("''", ""),
        ("one -- two", "One, two."),
    ],
)
def test_texts_are_finished(text, right):
    assert finish(text) == right


def test_what_is_no_kind_is_refused(packages):
    with pytest.raises(ValueError, match="`kind` must be one of .* got 'poem'"):
        open_texts(packages, "train", "poem")
    with pytest.raises(ValueError, match=r"`data.nano.open_texts` must give numbers of .* got \{'poem': 3\}"):
        voice.VoiceArguments(open_texts={"poem": 3})
    with pytest.raises(ValueError, match=r"`data.nano.open_texts` must give numbers of .* got \{'number': -1\}"):
        voice.VoiceArguments(open_texts={"number": -1})
    with pytest.raises(ValueError, match=r"`data.nano.open_texts_from` must give numbers of .* got \{'poem': 3\}"):
        voice.VoiceArguments(open_texts_from={"poem": 3})
    with pytest.raises(ValueError, match="`data.nano.num_phrases` must be at least 0, got -1"):
        voice.VoiceArguments(num_phrases=-1)


def test_a_later_run_says_other_texts(packages, monkeypatch):
    said = []
    monkeypatch.setattr(voice, "spoken", lambda texts, *rest, **options: said.append(list(texts)) or texts)
    for name, value in (("sentences", ()), ("possible_captions", ()), ("possible_answers", ())):
        monkeypatch.setattr(voice, name, lambda *rest, value=value: value)
    monkeypatch.setattr(voice, "phrases", lambda *rest: ())
    known = open_texts(packages, "train", "number")
    for start in (0, 1500):
        given = voice.VoiceArguments(str(packages), open_texts={"number": 1500}, open_texts_from={"number": start})
        voice.record_voice(given)
        parts, said[:] = said[:2], []
        assert [text for part in parts for text in part] == list(known[start : start + 1500])
        assert max(map(len, parts)) == voice.SHARD_SIZE
