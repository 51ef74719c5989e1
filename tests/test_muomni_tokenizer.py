"""SentencePiece models become fast tokenizers with the same ids and texts."""

import random

import pytest
from muomni_checkpoints import GOLDEN

from josie.conversion.muomni import sentencepiece as sentencepiece_files
from josie.conversion.muomni.convert import CHAT_TEMPLATE
from josie.conversion.muomni.sentencepiece import convert_sentencepiece, read_sentencepiece
from josie.conversion.muomni.sizes import NEW_TOKENS


class TestTokenizer:
    FILE = GOLDEN / "thinker_tiny" / "tokenizer.model"

    def test_equals_sentencepiece(self):
        """On random texts, and on random ids back."""
        sentencepiece = pytest.importorskip("sentencepiece")
        original = sentencepiece.SentencePieceProcessor(model_file=str(self.FILE))
        tokenizer = convert_sentencepiece(read_sentencepiece(self.FILE))
        draw = random.Random(0)
        for _ in range(2000):
            text = "".join(
                draw.choice("abcdehilmnouwy 1234   .,!?\t\n\u3000\u200b▁éï①日한🙂A") for _ in range(draw.randrange(14))
            )
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == original.encode(text), text
            ids = [draw.choice((draw.randrange(300), 0, 259, 1, 2)) for _ in range(draw.randrange(7))]
            assert tokenizer.decode(ids, skip_special_tokens=True) == original.decode(ids), ids

    def test_roles(self):
        tokenizer = convert_sentencepiece(read_sentencepiece(self.FILE), NEW_TOKENS, CHAT_TEMPLATE)
        assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
        assert tokenizer("hello")["input_ids"][0] == tokenizer.bos_token_id == 1
        assert tokenizer.pad_token_id not in (0, None)
        assert tokenizer.padding_side == "left"

    def test_another_file_is_refused(self, tmp_path):
        for content in (b"", b"no model at all", self.FILE.read_bytes()[:-1000]):
            (tmp_path / "x.model").write_bytes(content)
            with pytest.raises(
                ValueError, match=r"`tokenizer` must be a SentencePiece model, got '.*x\.model', which is not"
            ):
                read_sentencepiece(tmp_path / "x.model")

    def test_protobuf_is_asked_for(self, monkeypatch):
        def fail(error_message=""):
            raise ImportError("requires the protobuf library", name="google")

        monkeypatch.setattr(sentencepiece_files, "import_protobuf", fail)
        with pytest.raises(ImportError, match=r"SentencePiece models need protobuf: `pip install josie\[muomni\]`"):
            read_sentencepiece(self.FILE)

    def test_unigram_is_refused(self, tmp_path):
        content = self.FILE.read_bytes().replace(b"tokenizer\x18\x02", b"tokenizer\x18\x01")
        (tmp_path / "x.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"`tokenizer` must be a BPE model \(type 2\), got type 1\."):
            read_sentencepiece(tmp_path / "x.model")
