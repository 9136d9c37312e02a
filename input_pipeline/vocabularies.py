"""What tokenizer files hold: pieces of words with their numbers, read by kind of file. Nothing is downloaded.

A vocabulary turns clean text into ids and back, without any special token; it names the special ids that its file
defines. How rows are framed with them is decided in `input_pipeline.tokenizers`.
"""

import base64
import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vfm.errors import UserError


class Vocabulary(Protocol):
    """Pieces of text by number.

    Attributes:
      size: ids are below this.
      pad, bos, eos, mask: special ids, None where the file has none.
      begins: texts of this kind start with `bos` by default.
      special_ids: all ids that no text gives.
    """

    size: int
    pad: int | None
    bos: int | None
    eos: int | None
    mask: int | None
    begins: bool
    special_ids: frozenset[int]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class Bytes:
    """UTF-8 bytes, each its value + 4; pad 0, begin 1, end 2, mask 3. Needs no file."""

    size, pad, bos, eos, mask = 260, 0, 1, 2, 3
    begins = True
    special_ids = frozenset(range(4))

    def encode(self, text: str) -> list[int]:
        return [byte + 4 for byte in text.encode("utf-8")]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - 4 for i in ids if 4 <= i < 260).decode("utf-8", "replace")


def _byte_letters() -> dict[int, str]:
    """A printable letter for every byte, in the order of GPT-2's and CLIP's first 256 ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    return dict(zip(printable + others, letters, strict=True))


class ClipPairs:
    """CLIP's byte pairs: a `.txt.gz` of merges, the first line of which is a comment.

    Ids: 256 bytes, the same at the end of a word, one for each merge, begin, end. The file of CLIP lists more merges
    than its vocabulary of 49,408 takes. Rows are padded with 0, which is also the id of "!".
    """

    pad, mask, begins = 0, None, True
    _MERGES = 48_894  # that CLIP takes of its file
    _WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

    def __init__(self, file: Path):
        import regex

        try:
            lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1:]
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise _unreadable(file, "gzipped CLIP merges", str(error)) from error
        pairs = [tuple(line.split()) for line in lines[: self._MERGES] if line.strip()]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise _unreadable(file, "gzipped CLIP merges", "not two pieces in every line after the first")
        self._letters = _byte_letters()
        letters = list(self._letters.values())
        pieces = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in pairs]
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        self._pieces, self._ranks = pieces, {pair: rank for rank, pair in enumerate(pairs)}
        self._bytes = {letter: byte for byte, letter in self._letters.items()}
        self.bos, self.eos = len(pieces), len(pieces) + 1
        self.size = len(pieces) + 2
        self.special_ids = frozenset((self.bos, self.eos))
        self._split = regex.compile(self._WORDS, regex.IGNORECASE).findall
        self._word = functools.lru_cache(maxsize=2**16)(self._merge)

    def encode(self, text: str) -> list[int]:
        return [i for word in self._split(text) for i in self._word(word)]

    def _merge(self, word: str) -> tuple[int, ...]:
        """Ids of one word: the pair of lowest rank is joined everywhere, until no pair is in the file."""
        parts = [self._letters[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(zip(parts, parts[1:], strict=False), key=lambda pair: self._ranks.get(pair, 2**31))
            if best not in self._ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                here = i + 1 < len(parts) and (parts[i], parts[i + 1]) == best
                joined.append("".join(best) if here else parts[i])
                i += 2 if here else 1
            parts = joined
        return tuple(self._ids[part] for part in parts)

    def decode(self, ids: Sequence[int]) -> str:
        text = "".join(self._pieces[i] for i in ids if i < len(self._pieces)).replace("</w>", " ")
        return bytes(self._bytes.get(c, 32) for c in text).decode("utf-8", "replace").strip()


class WordPieces:
    """BERT's WordPiece: a `vocab.txt` of one piece a line; without capitals among them, text is lower-cased."""

    begins = True

    def __init__(self, file: Path):
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        lines = _text(file, "WordPiece vocabulary").split("\n")
        ids = {piece.rstrip("\r"): i for i, piece in enumerate(lines) if piece.strip()}
        missing = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if name not in ids]
        if missing:
            raise _unreadable(file, "WordPiece vocabulary", f"the line {', '.join(missing)} is missing")
        lower = not any(p.lower() != p for p in ids if not p.startswith("[") and not p.startswith("##["))
        words = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        words.normalizer = normalizers.BertNormalizer(lowercase=lower)
        words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        words.decoder = decoders.WordPiece()
        self._words = words
        self.size = max(ids.values()) + 1
        self.pad, self.bos, self.eos = ids["[PAD]"], ids["[CLS]"], ids["[SEP]"]
        self.mask = ids.get("[MASK]")
        self.special_ids = frozenset(
            ids[name] for name in ("[PAD]", "[CLS]", "[SEP]", "[MASK]") if name in ids
        )

    def encode(self, text: str) -> list[int]:
        return self._words.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode([i for i in ids if i not in self.special_ids])


class SentencePieces:
    """A SentencePiece `.model`; its special ids are those that the file defines, `<mask>` or `[MASK]` included."""

    def __init__(self, file: Path):
        from sentencepiece import SentencePieceProcessor

        try:
            self._model = model = SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise _unreadable(file, "SentencePiece model", str(error)) from error
        self.size = model.vocab_size()
        self.bos, self.eos = (i if i >= 0 else None for i in (model.bos_id(), model.eos_id()))
        self.pad = model.pad_id() if model.pad_id() >= 0 else model.unk_id()
        found = [model.piece_to_id(piece) for piece in ("<mask>", "[MASK]")]
        self.mask = next((i for i in found if i != model.unk_id()), None)
        self.begins = self.bos is not None
        special = [i for i in range(self.size) if model.is_control(i)]
        self.special_ids = frozenset(special + ([self.mask] if self.mask is not None else []))

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.decode([int(i) for i in ids if i not in self.special_ids and i < self.size])


class LibraryFile:
    """A `tokenizer.json` of the `tokenizers` library; its own template tells whether rows begin with `bos`."""

    _NAMES = dict(
        bos=("<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "<|startoftext|>"),
        eos=("</s>", "<eos>", "[SEP]", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>"),
        pad=("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"),
        mask=("[MASK]", "<mask>"),
    )

    def __init__(self, file: Path):
        from tokenizers import Tokenizer

        try:
            self._words = words = Tokenizer.from_str(_text(file, "tokenizer.json"))
        except UserError:
            raise
        except Exception as error:  # the library raises bare exceptions
            raise _unreadable(file, "tokenizer.json", str(error)) from error
        words.no_truncation()
        words.no_padding()
        # Ids may have gaps, and embeddings are as many as the largest needs.
        self.size = max(words.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = {i: token for i, token in words.get_added_tokens_decoder().items() if token.special}
        framed = words.encode("a", add_special_tokens=True).ids
        bare = words.encode("a", add_special_tokens=False).ids
        at = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), 0)
        before, after = framed[:at], framed[at + len(bare) :]
        found = {role: self._first(names) for role, names in self._NAMES.items()}
        self.bos = before[0] if before else found["bos"]
        self.eos = after[-1] if after else found["eos"]
        self.mask, self.begins = found["mask"], bool(before)
        self.pad = next((i for i in (found["pad"], self.eos) if i is not None), 0)
        roles = (self.bos, self.eos, self.mask, found["pad"])
        self.special_ids = frozenset(added) | {i for i in roles if i is not None}

    def _first(self, names: Sequence[str]) -> int | None:
        return next((i for name in names if (i := self._words.token_to_id(name)) is not None), None)

    def encode(self, text: str) -> list[int]:
        return self._words.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode([int(i) for i in ids if i not in self.special_ids])


class TiktokenPairs:
    """Byte pairs as tiktoken writes them: lines of `base64 rank`. The number of ranks tells which published set it is.

    The file holds neither how text is cut into words nor special tokens; both are those of the published set:
    GPT-2, cl100k, o200k, LLaMA 3 or Qwen; other files are cut like LLaMA 3's, and begin, end, padding and mask are
    appended.
    """

    _CUT = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    _GPT2_CUT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    _UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    _O200K_CUT = (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    _OTHER = dict(size=4, bos=0, eos=1, pad=2, mask=3)
    _PUBLISHED = {  # ranks: (cut, special ids counted from the end of the ranks)
        50256: (_GPT2_CUT, dict(size=1, eos=0)),
        100256: (_CUT, dict(size=21, eos=1)),
        128000: (_CUT, dict(size=256, bos=0, eos=1, pad=4)),
        151643: (_CUT.replace("{1,3}", ""), dict(size=208, eos=2, pad=0)),
        199998: (_O200K_CUT, dict(size=21, eos=1)),
    }

    def __init__(self, file: Path):
        import tiktoken

        ranks: dict[bytes, int] = {}
        for number, line in enumerate(_text(file, "tiktoken ranks").split("\n"), 1):
            try:
                if line.strip():
                    piece, rank = line.split()
                    ranks[base64.b64decode(piece, validate=True)] = int(rank)
            except ValueError as error:
                reason = f"line {number} is '{line[:40]}', expected base64 and a number"
                raise _unreadable(file, "tiktoken ranks", reason) from error
        if set(ranks.values()) != set(range(len(ranks))) or not {bytes([b]) for b in range(256)} <= set(
            ranks
        ):
            reason = "the ranks are not 0, 1, 2 ... or not every single byte has one"
            raise _unreadable(file, "tiktoken ranks", reason)
        count = len(ranks)
        cut, special = self._PUBLISHED.get(count, (self._CUT, self._OTHER))
        self._model = tiktoken.Encoding(file.name, pat_str=cut, mergeable_ranks=ranks, special_tokens={})
        ids = {role: count + special[role] if role in special else None for role in self._OTHER}
        self.size, self.bos, self.eos, self.mask = ids["size"], ids["bos"], ids["eos"], ids["mask"]
        self.pad = ids["pad"] if ids["pad"] is not None else self.eos
        self.begins = self.bos is not None
        self.special_ids = frozenset(range(count, self.size))

    def encode(self, text: str) -> list[int]:
        return self._model.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.decode([int(i) for i in ids if i not in self.special_ids and i < self.size])


def kind_of(file: Path) -> str:
    """The kind of a tokenizer file: by its name, and where that is not enough by its first bytes.

    Raises:
      UserError: it looks like none of them.
    """
    name = file.name.lower()
    with open(file, "rb") as opened:
        head = opened.read(64)
    if name.endswith(".gz"):
        return "clip"
    if name.endswith(".json"):
        return "json"
    if name.endswith((".tiktoken", ".model")) and _starts_like_tiktoken(head):
        return "tiktoken"
    if name.endswith(".model"):
        return "sentencepiece"
    if name.endswith(".txt"):
        return "bert"
    raise UserError(
        f"data.text.tokenizer='{file}': its name does not tell the kind of tokenizer; expected *.model, *.txt.gz, "
        f"*vocab*.txt, *.json or *.tiktoken, or write KIND:{file}"
    )


def _starts_like_tiktoken(head: bytes) -> bool:
    try:
        piece, rank = head.split(b"\n")[0].split()
        base64.b64decode(piece, validate=True)
        return rank.isdigit()
    except ValueError:
        return False


def _text(file: Path, what: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(file, what, f"not UTF-8 text (byte {error.start})") from error


def _unreadable(file: Path, what: str, reason: str) -> UserError:
    words = " ".join(reason.split())
    return UserError(
        f"data.text.tokenizer: '{file}' does not read as {what}: {words}; give another file, or its kind as KIND:FILE"
    )
