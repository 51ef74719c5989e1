"""Laws of the tokenizer: special ids, exact round trips, digits, determinism, the chat template, bad input."""

import unicodedata

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from josie.tokenization import (
    AUDIO_TOKEN,
    BOS_TOKEN,
    DEFAULT_TOKENIZER_FOLDER,
    EOS_TOKEN,
    PAD_TOKEN,
    SPECIAL_TOKENS,
    load_chat_template,
    load_default_tokenizer,
    train_tokenizer,
)

TEXTS = [f"The cat number {n} sat on the mat, and so did the hat.\n" for n in range(40)]
ODD_TEXTS = {
    "plain": "Hello, world!",
    "spaces": "  two  spaces,\ttabs\r\nand lines \n\n",
    "digits": "in 1984 it was 3.14159 or 1_000_000",
    "emoji": "👩‍👩‍👧‍👦 🇳🇱 🏴󠁧󠁢󠁷󠁬󠁳󠁿 👍🏽",
    "scripts": "Ελλάδα Россия 日本語 한국어 עברית العربية हिन्दी ไทย",
    "combining": unicodedata.normalize("NFD", "naïve café Ångström") + " ﬁ Ⅷ ²",
    "controls": "\x00\x01\x7f\u200b\u202e\ufeff\uffff\U0010ffff",
    "apostrophes": "I'm you're it's 'tis don't  n't",
}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "image"},
            {"type": "video"},
            {"type": "audio"},
            {"type": "text", "text": "What is this? "},
            {"type": "text", "text": "Say it."},
        ],
    },
    {"role": "assistant", "content": "A ball."},
    {"role": "user", "content": "Whose?"},
    {"role": "assistant", "content": [{"type": "text", "text": "Mine."}]},
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_default_tokenizer()


def test_special_tokens_have_the_first_ids_in_every_vocabulary(tokenizer):
    small = train_tokenizer(TEXTS, 300)
    for each in (tokenizer, small):
        assert each.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(9))
        assert (each.pad_token_id, each.bos_token_id, each.eos_token_id) == (0, 1, 2)
        assert (each.image_token_id, each.video_token_id, each.audio_token_id) == (6, 7, 8)
        assert set(each.all_special_ids) == set(range(9))


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_every_text_comes_back_exactly(tokenizer, text):
    for each in (tokenizer, train_tokenizer(TEXTS, 300)):
        assert each.decode(each(text)["input_ids"], skip_special_tokens=True) == text


def test_every_character_has_tokens(tokenizer):
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x3000)]))
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_digits_stand_alone(tokenizer):
    tokens = [tokenizer.decode([token]) for token in tokenizer("in 1984.", add_special_tokens=False)["input_ids"]]
    assert [token for token in tokens if any(map(str.isdigit, token))] == ["1", "9", "8", "4"]
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and set(token) & set("0123456789")]


def test_text_begins_with_bos_and_special_tokens_are_left_out_on_demand(tokenizer):
    ids = tokenizer(f"Hi{AUDIO_TOKEN}")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.audio_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Hi"


def test_batches_are_padded_on_the_left(tokenizer):
    batch = tokenizer(["Hi", "Hello there, all of you"], padding=True)
    assert batch["input_ids"][0][0] == tokenizer.pad_token_id
    assert batch["attention_mask"][0][0] == 0


def test_default_tokenizer_is_small_and_full(tokenizer):
    assert len(tokenizer) == 8192
    assert sum(path.stat().st_size for path in DEFAULT_TOKENIZER_FOLDER.iterdir()) < 1_200_000
    assert tokenizer.chat_template == load_chat_template()
    assert len(tokenizer("The quick brown fox jumps over the lazy dog.")["input_ids"]) < 20


def test_training_is_deterministic_and_reads_files_as_texts(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(TEXTS), encoding="utf-8")
    first = train_tokenizer(TEXTS, 320).backend_tokenizer.to_str()
    assert train_tokenizer(iter(TEXTS), 320).backend_tokenizer.to_str() == first
    assert train_tokenizer(files=[path], vocab_size=320).backend_tokenizer.to_str() == first


def test_saved_tokenizer_loads_equal(tmp_path):
    trained = train_tokenizer(TEXTS, 320, model_max_length=77)
    trained.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()
    assert loaded.chat_template == trained.chat_template
    assert (loaded.padding_side, loaded.model_max_length, loaded.audio_token) == ("left", 77, AUDIO_TOKEN)


def test_chat_template_writes_roles_parts_and_ends(tokenizer):
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text == (
        "<|begin|><|system|>Be brief.<|end|>"
        "<|user|><|image|><|video|><|audio|>What is this? Say it.<|end|>"
        "<|assistant|>A ball.<|end|><|user|>Whose?<|end|><|assistant|>Mine.<|end|>"
    )
    prompt = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("Say it.<|end|><|assistant|>")
    assert text.startswith(prompt)
    assert tokenizer.apply_chat_template(CHAT, tokenize=True)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_chat_template_continues_the_final_message(tokenizer):
    for final in ("A red", [{"type": "text", "text": "A red"}]):
        chat = [*CHAT[:2], {"role": "assistant", "content": final}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
        assert text.endswith("<|assistant|>A red")


def test_chat_template_marks_what_the_assistant_says(tokenizer):
    output = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    said = [token for token, mask in zip(output["input_ids"], output["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == "A ball.<|end|>Mine.<|end|>"


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ({"role": "robot", "content": "x"}, "`role` must be"),
        ({"role": "user", "content": [{"type": "smell"}]}, "`type` of a content part must be"),
        ({"role": "user", "content": 3}, "`content` must be"),
    ],
    ids=["role", "type", "content"],
)
def test_chat_template_refuses(tokenizer, message, match):
    with pytest.raises(Exception, match=match):
        tokenizer.apply_chat_template([message], tokenize=False)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, "Exactly one of `texts` and `files`.*neither"),
        ({"texts": TEXTS, "files": ["x"]}, "Exactly one of `texts` and `files`.*both"),
        ({"texts": "one text"}, "must be sequences, got a single text"),
        ({"files": "one.txt"}, "must be sequences, got a single path"),
        ({"texts": TEXTS, "vocab_size": 264}, "`vocab_size` must be at least 265"),
        ({"texts": TEXTS, "min_frequency": 0}, "`min_frequency` must be at least 1, got 0"),
        ({"texts": []}, "`texts` must hold at least one text"),
        ({"texts": ["", ""]}, "`texts` must hold at least one text"),
        ({"texts": ["a", 3]}, "`texts` must hold strings, got a int"),
        ({"files": ["/nowhere/at/all.txt"]}, "`files` must be readable UTF-8 text, got '/nowhere/at/all.txt'"),
    ],
    ids=["neither", "both", "text", "path", "vocabulary", "frequency", "none", "empty", "type", "file"],
)
def test_training_refuses(kwargs, match):
    with pytest.raises(ValueError, match=match):
        train_tokenizer(**kwargs)


def test_the_mark_in_front_of_a_file_of_windows_is_no_text(tmp_path):
    (tmp_path / "plain.txt").write_text("".join(TEXTS), encoding="utf-8")
    (tmp_path / "marked.txt").write_text("".join(TEXTS), encoding="utf-8-sig")
    plain, marked = (train_tokenizer(files=[tmp_path / name], vocab_size=320) for name in ("plain.txt", "marked.txt"))
    assert marked.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()


def test_the_chat_template_stands_once():
    assert [path.name for path in DEFAULT_TOKENIZER_FOLDER.parent.rglob("*.jinja")] == ["chat_template.jinja"]
    loaded = AutoTokenizer.from_pretrained(DEFAULT_TOKENIZER_FOLDER)
    assert loaded.chat_template == train_tokenizer(TEXTS, 300).chat_template == load_chat_template()


def test_training_refuses_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "binary.txt"
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ValueError, match="`files` must be readable UTF-8 text"):
        train_tokenizer(files=[path])


def test_names_of_roles_and_ends():
    assert SPECIAL_TOKENS[:3] == (PAD_TOKEN, BOS_TOKEN, EOS_TOKEN)
    assert len(set(SPECIAL_TOKENS)) == len(SPECIAL_TOKENS) == 9
