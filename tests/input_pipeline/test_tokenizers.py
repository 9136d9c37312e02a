"""Tokenizers: the ids of the originals, each kind's framing, what is cut, hashes, and clear errors."""

import base64
import gzip
import io
import json
import pickle

import numpy as np
import pytest

from input_pipeline import open_tokenizer
from vfm.errors import UserError

SENTENCES = ["a man is playing guitar", "A Dog runs; a cat sleeps!", "Käse für 日本"]


@pytest.fixture(scope="module")
def files(shared):
    return shared / "data" / "tokenizers"


@pytest.fixture(scope="module")
def tiktoken_file(tmp_path_factory):
    """All bytes and two pairs, as tiktoken writes them."""
    pieces = [bytes([b]) for b in range(256)] + [b"is", b" is"]
    file = tmp_path_factory.mktemp("ranks") / "tiny.tiktoken"
    file.write_text("".join(f"{base64.b64encode(p).decode()} {i}\n" for i, p in enumerate(pieces)))
    return file


@pytest.fixture(scope="module")
def json_file(tmp_path_factory):
    """A word-level tokenizer.json whose template frames with <s> and </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "[U]": 3, "a": 4, "dog": 5}, "[U]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<pad>", "<s>", "</s>"])
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    words.enable_padding(length=20)
    words.enable_truncation(3)
    file = tmp_path_factory.mktemp("json") / "tokenizer.json"
    words.save(str(file))
    return file


def test_clip_gives_the_ids_of_the_original(shared, files):
    golden = json.loads((shared / "golden" / "viclip.tokenizer.json").read_text())
    tokenizer = open_tokenizer(str(files / "bpe_simple_vocab_16e6.txt.gz"))
    assert (tokenizer.vocab_size, tokenizer.bos, tokenizer.eos, tokenizer.pad) == (49408, 49406, 49407, 0)
    for length in (32, 77):
        ids, mask = tokenizer.rows(golden["texts"], length)
        assert ids.tolist() == golden[f"ids_ctx{length}"] and ids.dtype == np.int32
        ends = (ids == tokenizer.eos).argmax(1)
        assert (mask == (np.arange(length) <= ends[:, None])).all()
    assert tokenizer.decode(ids[0]) == "a man is playing guitar on stage"
    assert tokenizer.eos not in tokenizer.encode("<|endoftext|>")  # words of a caption never end a row


def test_bert_pieces_accents_and_capitals(files):
    tokenizer = open_tokenizer(str(files / "bert-base-uncased_vocab.txt"))
    assert (tokenizer.cls, tokenizer.sep, tokenizer.pad, tokenizer.mask_id) == (101, 102, 0, 103)
    assert tokenizer.special_ids == {0, 101, 102, 103} and tokenizer.vocab_size == 30522
    ids, mask = tokenizer.rows(["Unaffable café, don't [SEP]"], 20)
    pieces = (files / "bert-base-uncased_vocab.txt").read_text().split("\n")
    spelled = "[CLS] una ##ffa ##ble cafe , don ' t [ sep ] [SEP]"  # no special token out of a text
    assert [pieces[i] for i in ids[0, : mask.sum()]] == spelled.split()
    assert tokenizer.decode(ids[0]) == "unaffable cafe, don ' t [ sep ]"


def test_sentencepiece_framings(files):
    file = files / "videoprism_test_spm.model"  # unknown 0, begin 1, end 2, no padding
    words = open_tokenizer(str(file)).encode("a man is playing guitar")
    row = {
        kind: open_tokenizer(f"{kind}:{file}")
        for kind in ("sentencepiece", "siglip", "t5", "gemma", "videoprism")
    }
    made = {kind: t.rows(["a man is playing guitar"], 16) for kind, t in row.items()}
    count = len(words)

    def expect(kind, ids, text):
        assert made[kind][0][0].tolist() == ids + [row[kind].pad] * (16 - len(ids)), kind
        assert made[kind][1][0].sum() == text, kind

    expect("sentencepiece", [1, *words, 2], count + 2)
    expect("gemma", [1, *words, 2], count + 2)
    expect("t5", [*words, 2], count + 1)
    expect("videoprism", words, count)
    assert row["siglip"].pad == 2  # the end repeated, and read as text
    expect("siglip", [*words, 2], 16)
    same = row["siglip"].rows(["a MAN, is  playing: guitar!"], 16)[0]
    assert (same == made["siglip"][0]).all()


def test_bytes_need_no_file_and_give_the_text_back():
    tokenizer = open_tokenizer("bytes")
    assert (tokenizer.vocab_size, tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask_id) == (
        260,
        0,
        1,
        2,
        3,
    )
    ids, mask = tokenizer.rows(SENTENCES, 48)
    assert [tokenizer.decode(row) for row in ids] == SENTENCES
    assert ids[0, :3].tolist() == [1, ord("a") + 4, ord(" ") + 4]
    assert (mask.sum(1) == [len(text.encode()) + 2 for text in SENTENCES]).all()


def test_tiktoken_file_by_name_and_by_content(tiktoken_file, tmp_path):
    tokenizer = open_tokenizer(str(tiktoken_file))
    assert tokenizer.vocab_size == 262 and tokenizer.special_ids == {258, 259, 260, 261}
    assert tokenizer.encode("is is<|x|>")[:2] == [256, 257]
    ids, _ = tokenizer.rows(SENTENCES, 64)
    assert ids[0, 0] == tokenizer.bos and [tokenizer.decode(row) for row in ids] == SENTENCES
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_file.read_bytes())  # LLaMA 3's is named so
    assert open_tokenizer(str(tmp_path / "tokenizer.model")).sha256 == tokenizer.sha256


def test_ids_with_gaps_fit_into_the_vocabulary(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1, "</s>": 2, "b": 7}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("b a") == [7, 0] and tokenizer.vocab_size == 8


def test_tokenizer_json_keeps_its_template_but_neither_its_padding_nor_its_length(json_file):
    tokenizer = open_tokenizer(str(json_file))
    ids, mask = tokenizer.rows(["a dog a dog a cat"], 10)
    assert ids[0].tolist() == [1, 4, 5, 4, 5, 4, 3, 2, 0, 0] and mask.sum() == 8
    assert tokenizer.decode(ids[0]) == "a dog a dog a [U]" and tokenizer.special_ids == {0, 1, 2}


@pytest.mark.parametrize("kind", ["bytes", "clip", "bert", "siglip", "tiktoken", "json"])
def test_a_cut_text_keeps_its_end(kind, files, tiktoken_file, json_file):
    spec = {
        "bytes": "bytes",
        "clip": f"clip:{files / 'bpe_simple_vocab_16e6.txt.gz'}",
        "bert": f"bert:{files / 'bert-base-uncased_vocab.txt'}",
        "siglip": f"siglip:{files / 'videoprism_test_spm.model'}",
        "tiktoken": str(tiktoken_file),
        "json": str(json_file),
    }[kind]
    tokenizer = open_tokenizer(spec)
    long, short = " ".join(SENTENCES * 5), "a dog"
    ids, mask = tokenizer.rows([long, short], 12)
    assert ids.shape == mask.shape == (2, 12) and mask[0].all()
    assert ids[0, -1] == tokenizer.eos and (ids[:, :-1] == tokenizer.eos).sum(1)[0] == 0
    begin = int(tokenizer.framing.bos)
    assert ids[0, begin:-1].tolist() == tokenizer.encode(long)[: 11 - begin]
    assert tokenizer.rows([long], 400)[0].max() < tokenizer.vocab_size
    assert not tokenizer.special_ids & set(tokenizer.encode(long))
    again = pickle.loads(pickle.dumps(tokenizer))
    assert (again.rows([long], 12)[0] == ids[0]).all() and again.sha256 == tokenizer.sha256


def test_framing_by_keys_and_the_hash_that_follows_it():
    plain = open_tokenizer("bytes")
    changed = open_tokenizer("bytes", {"bos": False, "pad": 3, "clean": "canonicalize", "eos": None})
    assert changed.rows(["A, b!"], 6)[0][0].tolist() == [101, 36, 102, 2, 3, 3]
    assert changed.decode(changed.encode("Apply_Eye-Makeup!")) == "apply eyemakeup"
    assert plain.sha256 != changed.sha256 and plain.sha256 == open_tokenizer("bytes", {"bos": True}).sha256
    sticky = open_tokenizer("bytes", {"sticky": True})
    assert sticky.rows(["a"], 6)[1].all()


def test_errors_say_what_to_do(tmp_path, files):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "bad.model").write_bytes(b"nothing")
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "bad.tiktoken").write_text("YQ== 0\nx\n")
    (tmp_path / "few.tiktoken").write_text("YQ== 0\n")
    (tmp_path / "bad.txt.gz").write_bytes(gzip.compress(b"first\na b c\n"))
    (tmp_path / "what.bin").write_bytes(b"")
    for spec, message in {
        "nowhere.model": "no such file; give a tokenizer's file, KIND:FILE, or 'bytes'",
        "spiece:nowhere.model": "no such file.*kinds are bytes, clip",
        str(tmp_path / "vocab.txt"): r"WordPiece vocabulary: the line \[PAD\]",
        str(tmp_path / "bad.model"): "does not read as SentencePiece model",
        str(tmp_path / "bad.json"): "does not read as tokenizer.json",
        str(tmp_path / "bad.tiktoken"): "line 2 is 'x', expected base64 and a number",
        str(tmp_path / "few.tiktoken"): "not every single byte has one",
        str(tmp_path / "bad.txt.gz"): "not two pieces in every line",
        f"clip:{tmp_path / 'vocab.txt'}": "does not read as gzipped CLIP merges",
        str(tmp_path / "what.bin"): "does not tell the kind",
        f"gemma:{files / 'seqio_sentencepiece.model'}": "frames rows with bos, which this file does not define",
    }.items():
        with pytest.raises(UserError, match=message):
            open_tokenizer(spec)
    with pytest.raises(UserError, match=r"data.text.clean='loud': expected one of none, lower"):
        open_tokenizer("bytes", {"clean": "loud"})
    with pytest.raises(UserError, match="data.text.pad=300: expected an id of the 260"):
        open_tokenizer("bytes", {"pad": 300})
    with pytest.raises(UserError, match="data.text.length=2: expected at least 3"):
        open_tokenizer("bytes").rows(["a"], 2)


def test_a_trained_model_brings_all_special_tokens(tmp_path):
    from scripts.train_tokenizer import train

    texts = [
        f"{a} {b} {c}" for a in ("red", "blue", "green") for b in ("dog", "cat") for c in ("runs", "sleeps")
    ]
    for kind in ("unigram", "bpe"):
        model = train(texts, 23, kind)
        assert model == train(texts, 23, kind)
        (tmp_path / "tok.model").write_bytes(io.BytesIO(model).read())
        tokenizer = open_tokenizer(str(tmp_path / "tok.model"))
        assert (tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask_id) == (0, 1, 2, 4)
        assert [tokenizer.decode(row) for row in tokenizer.rows(texts, 32)[0]] == texts
    with pytest.raises(UserError, match=r"at most \d+ pieces of kind unigram; set --vocab_size=\d+ or less"):
        train(texts, 4000, "unigram")
    with pytest.raises(UserError, match="different letters"):
        train(texts, 10, "unigram")
