"""Tokenizers: text to rows of ids and back, from a file that the user has (or from none). Nothing is downloaded.

N texts, L tokens of a row.

`open_tokenizer(spec)`: "bytes", or FILE, or KIND:FILE where the name does not tell the kind or another framing is
wanted. A kind says how the file is read and how its rows are framed:

  bytes          no file: UTF-8 bytes + 4; pad 0, begin 1, end 2, mask 3
  clip           *.txt.gz: CLIP's byte pairs; begin, end, padded with 0; CLIP's cleaning
  bert           *.txt: WordPiece vocabulary; [CLS] ... [SEP]
  sentencepiece  *.model: as the file defines its special tokens (T5: ... end; Gemma, LLaMA: begin ... end)
  siglip         *.model: no begin, end repeated as padding that counts as text; no capitals, no punctuation
  siglip2        *.model: no begin, padding counts as text; no capitals
  t5, gemma, llama, videoprism   *.model: ... end | begin ... end | begin ... end | neither
  json           *.json of the `tokenizers` library: begin as its template has it, end where it has such a token
  tiktoken       *.tiktoken, and LLaMA 3's tokenizer.model: lines of `base64 rank`
"""

import hashlib
import html
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from input_pipeline import vocabularies
from vfm.errors import UserError

FRAMING = ("bos", "eos", "pad", "sticky", "clean")  # keys of data.text that change how rows are framed


@dataclass(frozen=True)
class Framing:
    """How a text becomes a row.

    Attributes:
      bos: the begin token comes first.
      eos: the end token comes last; where the text is cut, it stays.
      pad: id of what fills the row.
      sticky: padding counts as text, so that `mask` is True everywhere.
      clean: what is done to the text first, see CLEANING.
    """

    bos: bool
    eos: bool
    pad: int
    sticky: bool
    clean: str


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _canonicalize(text: str) -> str:
    # An underscore stands for a space, as in names of classes (big_vision).
    return " ".join(text.replace("_", " ").lower().translate(_NO_PUNCTUATION).split())


def _as_clip(text: str) -> str:
    from ftfy import fix_text

    return " ".join(html.unescape(html.unescape(fix_text(text))).split()).lower()


CLEANING: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "lower": str.lower,
    "canonicalize": _canonicalize,  # big_vision: no capitals, no punctuation, single spaces
    "clip": _as_clip,  # mended encodings, HTML entities twice, single spaces, no capitals
}

_READERS: dict[str, Callable[[Path], vocabularies.Vocabulary]] = {
    "clip": vocabularies.ClipPairs,
    "bert": vocabularies.WordPieces,
    "sentencepiece": vocabularies.SentencePieces,
    "json": vocabularies.LibraryFile,
    "tiktoken": vocabularies.TiktokenPairs,
}
# Framings of kinds, where they differ from what the file suggests.
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in _READERS},
    "clip": ("clip", dict(clean="clip")),
    "siglip": ("sentencepiece", dict(bos=False, eos=True, pad="eos", sticky=True, clean="canonicalize")),
    "siglip2": ("sentencepiece", dict(bos=False, eos=True, sticky=True, clean="lower")),
    "t5": ("sentencepiece", dict(bos=False, eos=True)),
    "gemma": ("sentencepiece", dict(bos=True, eos=True)),
    "llama": ("sentencepiece", dict(bos=True, eos=True)),
    "videoprism": ("sentencepiece", dict(bos=False, eos=False)),
}
KINDS = ("bytes", *_KINDS)


class Tokenizer:
    """A vocabulary with the framing of its rows; made by `open_tokenizer`.

    Attributes:
      vocab_size: ids are below this.
      pad, bos, eos, mask_id: special ids; all but `pad` are None where there is no such token.
      cls, sep: BERT's names of `bos` and `eos`; None for the other kinds.
      special_ids: ids that stand for no text; not to be masked or predicted.
      framing: how `rows` are framed.
      sha256: of file, kind and framing: equal where equal texts give equal rows.
    """

    def __init__(self, spec: str, kind: str, vocabulary: Any, framing: Framing, content: bytes):
        self.spec, self.kind, self.framing = spec, kind, framing
        self._vocabulary, self._clean = vocabulary, CLEANING[framing.clean]
        self.vocab_size: int = vocabulary.size
        self.pad = framing.pad
        self.bos: int | None = vocabulary.bos
        self.eos: int | None = vocabulary.eos
        self.mask_id: int | None = vocabulary.mask
        self.cls, self.sep = (self.bos, self.eos) if kind == "bert" else (None, None)
        self.special_ids = frozenset(vocabulary.special_ids)
        about = repr((_KINDS[kind][0] if kind in _KINDS else kind, sorted(asdict(framing).items())))
        self.sha256 = hashlib.sha256(about.encode() + b"\0" + content).hexdigest()

    def __reduce__(self):  # libraries' objects do not all travel between processes: opened again there
        return open_tokenizer, (self.spec, asdict(self.framing))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, cleaned, without special tokens."""
        return self._vocabulary.encode(self._clean(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, up to the first end token; other special ids and padding give nothing."""
        plain = [int(i) for i in ids]
        if self.eos in plain:
            plain = plain[: plain.index(self.eos)]
        return self._vocabulary.decode([i for i in plain if 0 <= i < self.vocab_size])

    def rows(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int32[np.ndarray, "N L"], Bool[np.ndarray, "N L"]]:
        """Framed rows of texts, and where they hold text (with begin and end) rather than padding.

        A text that is too long is cut; its end token stays.

        Raises:
          UserError: `length` has no room for a single token of text.
        """
        frame = self.framing
        room = self.room(length)
        ids = np.full((len(texts), length), frame.pad, np.int32)
        mask = np.full((len(texts), length), frame.sticky)
        for i, text in enumerate(texts):
            row = self.encode(text)[:room]
            row = [self.bos] * frame.bos + row + [self.eos] * frame.eos
            ids[i, : len(row)], mask[i, : len(row)] = row, True
        return ids, mask

    def room(self, length: int) -> int:
        """Tokens of text that fit into a row of `length`.

        Raises:
          UserError: none does.
        """
        room = length - self.framing.bos - self.framing.eos
        if room < 1:
            raise UserError(
                f"data.text.length={length}: expected at least {length - room + 1}, for begin, end and a token of text"
            )
        return room


def open_tokenizer(spec: str, framing: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer that `spec` names; the module's text lists the kinds.

    Args:
      spec: "bytes", FILE or KIND:FILE.
      framing: keys of `Framing` (or all of `config.data.text`) that change its kind's framing; None leaves one as is.

    Raises:
      UserError: no such file or kind, a file that does not read as its kind, or a framing that its tokens do not allow.
    """
    kind, content = "bytes", b""
    vocabulary: vocabularies.Vocabulary = vocabularies.Bytes()
    if spec != "bytes":
        kind, file = _kind_and_file(spec)
        vocabulary, content = _READERS[_KINDS[kind][0]](file), file.read_bytes()
    changes = {key: framing[key] for key in FRAMING if framing and framing.get(key) is not None}
    return Tokenizer(spec, kind, vocabulary, _framing(spec, kind, vocabulary, changes), content)


def tokenizer_of(data: Any) -> Tokenizer | None:
    """The tokenizer of a configuration's `data`, None where it names none.

    Raises:
      UserError: as `open_tokenizer`, or it is not the one whose hash is given in `data.text.sha256`.
    """
    text = data.get("text")
    if not text or not text.tokenizer:
        return None
    tokenizer = open_tokenizer(text.tokenizer, text)
    if text.sha256 and text.sha256 != tokenizer.sha256:
        raise UserError(
            f"data.text.tokenizer='{text.tokenizer}' has the hash {tokenizer.sha256[:12]}..., data.text.sha256 asks "
            f"for {text.sha256[:12]}...: another file or another framing ({', '.join(FRAMING)}); give the tokenizer "
            f"that the run was trained with"
        )
    return tokenizer


def _kind_and_file(spec: str) -> tuple[str, Path]:
    kind, colon, rest = spec.partition(":")
    file = Path(rest if colon and kind in _KINDS else spec).expanduser()
    if not file.is_file():
        known = f"; kinds are {', '.join(KINDS)}" if colon and kind not in _KINDS else ""
        raise UserError(
            f"data.text.tokenizer='{spec}': no such file; give a tokenizer's file, KIND:FILE, or 'bytes', which needs "
            f"none; python -m scripts.train_tokenizer CSV --out FILE makes one of captions{known}"
        )
    return (kind if colon and kind in _KINDS else vocabularies.kind_of(file)), file


def _framing(spec: str, kind: str, vocabulary: vocabularies.Vocabulary, changes: dict[str, Any]) -> Framing:
    """The kind's framing with the user's changes."""
    own = dict(_KINDS.get(kind, ("", {}))[1])
    if own.get("pad") == "eos":
        own["pad"] = vocabulary.eos
    plain = Framing(
        bos=vocabulary.begins,
        eos=vocabulary.eos is not None,
        pad=vocabulary.pad or 0,
        sticky=False,
        clean="none",
    )
    framing = replace(plain, **{**own, **changes})
    for key in ("bos", "eos"):
        if getattr(framing, key) and getattr(vocabulary, key) is None:
            raise UserError(
                f"data.text.tokenizer='{spec}': kind '{kind}' frames rows with {key}, which this file does not define; "
                f"set data.text.{key}=False or give a tokenizer that has it"
            )
    if framing.clean not in CLEANING:
        raise UserError(f"data.text.clean={framing.clean!r}: expected one of {', '.join(CLEANING)}")
    if not 0 <= framing.pad < vocabulary.size:
        raise UserError(
            f"data.text.pad={framing.pad}: expected an id of the {vocabulary.size:,} that the tokenizer has"
        )
    return framing
