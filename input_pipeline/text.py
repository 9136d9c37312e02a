"""The text of samples, as rows of tokens beside their clips.

b samples, L tokens of a row.

A caption is one row, framed as its tokenizer frames rows. With a prompt, and for conversations, a row is laid out for
next-token prediction: begin, question, answer, end, question, answer, end ..., and `text_loss` marks answers and ends.
"""

import functools
import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.formats.base import Turns
from input_pipeline.sources import Source
from input_pipeline.spec import resolve
from input_pipeline.tokenizers import Tokenizer, tokenizer_of
from vfm.errors import UserError

SURVEYED = 20_000  # texts that are laid out before the first batch, to count those that are too long
_NAMED = 5  # samples in one message

log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One sample's text: ids int32 [L], mask and loss bool [L], and whether it was cut."""

    ids: np.ndarray
    mask: np.ndarray
    loss: np.ndarray
    cut: bool


class Layout(NamedTuple):
    """How texts become rows; the keys of `config.data.text` with the same names say what each means."""

    length: int
    prompt: str
    turn: str
    answer_only: bool

    @classmethod
    def from_config(cls, text: Any, tokenizer: Tokenizer) -> "Layout":
        """Takes the keys out of `config.data.text`.

        Raises:
          UserError: a value is impossible; the message names the key.
        """
        layout = cls(int(text.length), text.prompt, text.turn, bool(text.answer_only))
        room = tokenizer.room(layout.length)
        if layout.prompt and (tokens := len(tokenizer.encode(layout.prompt))) + 1 >= room:
            raise UserError(
                f"data.text.prompt has {tokens} tokens, which leaves no room for a caption in "
                f"data.text.length={layout.length}; make it shorter or rows longer"
            )
        if layout.prompt and tokenizer.eos is None:
            raise UserError(
                f"data.text.prompt is set, but the tokenizer '{tokenizer.spec}' has no end token, without which "
                f"answers never end; give another tokenizer"
            )
        if "{}" not in layout.turn:
            raise UserError(f"data.text.turn='{layout.turn}': expected {{}} in it, where the question goes")
        return layout


@functools.lru_cache(maxsize=2**16)
def caption_row(tokenizer: Tokenizer, layout: Layout, caption: str) -> Row:
    """The row of one caption, after the prompt where there is one."""
    if layout.prompt:
        return _turns_row(tokenizer, layout, ((layout.prompt, caption),), whole_prompt=True)
    ids, mask = tokenizer.rows([caption], layout.length)
    begin, tokens = int(tokenizer.framing.bos), len(tokenizer.encode(caption))
    kept = min(tokens, tokenizer.room(layout.length))
    loss = np.zeros(layout.length, bool)
    loss[begin : begin + kept + tokenizer.framing.eos] = True
    return Row(ids[0], mask[0], loss, kept < tokens)


@functools.lru_cache(maxsize=2**14)
def conversation_row(tokenizer: Tokenizer, layout: Layout, turns: Turns) -> Row:
    """The row of a conversation, its questions put as `layout.turn` says."""
    return _turns_row(tokenizer, layout, tuple((layout.turn.replace("{}", q), a) for q, a in turns))


def _turns_row(tokenizer: Tokenizer, layout: Layout, turns: Turns, whole_prompt: bool = False) -> Row:
    """Begin, then prompt, answer and end of each turn.

    What is too long is cut so that it ends with an end token: the last answer that begins inside the row loses its
    tail, and later turns fall away. A first question that would leave its answer no room loses its beginning;
    the prompt of captions stays whole, as generation gives it.
    """
    length = layout.length
    ids = [tokenizer.bos] if tokenizer.framing.bos else []
    learned, cut = [False] * len(ids), False
    for number, (prompt, answer) in enumerate(turns):
        asked, answered = tokenizer.encode(prompt), tokenizer.encode(answer)
        left = length - len(ids) - 1  # one for the end
        if number == 0 and not whole_prompt:
            most = left - min(len(answered), max(1, left // 2))
            cut |= len(asked) > most
            asked = asked[max(0, len(asked) - most) :]
        elif len(asked) + 1 > left and number:
            cut = True
            break
        room = left - len(asked)
        cut |= len(answered) > room
        answered = answered[:room]
        ids += [*asked, *answered, tokenizer.eos]
        learned += [not layout.answer_only] * len(asked) + [True] * (len(answered) + 1)
    row = np.full(length, tokenizer.pad, np.int32)
    mask = np.full(length, tokenizer.framing.sticky)
    loss = np.zeros(length, bool)
    row[: len(ids)], mask[: len(ids)], loss[: len(ids)] = ids, True, learned
    return Row(row, mask, loss, cut)


@functools.lru_cache(maxsize=2**16)
def text_id(text: str) -> int:
    """A number below 2^31 that texts of the same words share: capitals and spaces make no difference."""
    words = " ".join(text.lower().split()).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "big") & 0x7FFFFFFF


def has_words(text: str) -> bool:
    """Whether there is a letter or a digit in it: what else there is says nothing about a video."""
    return any(character.isalnum() for character in text)


class Texts:
    """The texts of a source, by sample.

    Attributes:
      tokenizer: what the rows are made with.
      usable: samples that have text.
      left_out: (where, why) of the samples that have none.

    Raises:
      UserError: the source has no texts, or too many samples have none.
    """

    def __init__(self, data: Any, source: Source, tokenizer: Tokenizer, most: float):
        self.tokenizer, self._source = tokenizer, source
        self._layout = Layout.from_config(data.text, tokenizer)
        if not source.captions:
            columns = ", ".join(source.words) or "none"
            raise UserError(
                f"{source.key}='{source.name}': data.text.tokenizer is set, but there is no column "
                f"'{data.text.column}' of captions (columns of text: {columns}); set data.text.column, or "
                f"data.text.tokenizer=''"
            )
        if source.turns and tokenizer.eos is None:
            raise UserError(
                f"{source.key}='{source.name}' holds conversations, but the tokenizer '{tokenizer.spec}' has no end "
                f"token, without which answers never end; give another tokenizer"
            )
        self.usable = np.array([i for i in range(len(source)) if self._has_text(i)], np.int64)
        empty = np.setdiff1d(np.arange(len(source)), self.usable)
        self.left_out = [(source.where(i), "its caption is empty") for i in empty.tolist()]
        if len(empty) > most * len(source):
            named = ", ".join(where for where, _ in self.left_out[:_NAMED])
            raise UserError(
                f"{source.key}='{source.name}': {len(empty):,} of {len(source):,} captions are empty, "
                f"data.max_bad_fraction={most} allows {int(most * len(source)):,}: {named}; fill them in, take those "
                f"rows out, or raise data.max_bad_fraction"
            )
        self._report()

    def _has_text(self, index: int) -> bool:
        """Every answer of a conversation says something, or one of several captions does."""
        wanted = all if self._source.turns and self._source.turns[index] else any
        texts = self._source.captions[index]
        return bool(texts) and wanted(map(has_words, texts))

    def choices(self, index: int) -> list[str]:
        """The captions of a sample to draw from; of a conversation there is one, all of it."""
        if self._source.turns and self._source.turns[index]:
            return ["\n".join(f"{q}\n{a}" for q, a in self._source.turns[index])]
        return [text for text in self._source.captions[index] if has_words(text)]

    def row(self, index: int, choice: int) -> Row:
        """The row of a sample's caption number `choice`."""
        if self._source.turns and self._source.turns[index]:
            return conversation_row(self.tokenizer, self._layout, self._source.turns[index])
        return caption_row(self.tokenizer, self._layout, self.choices(index)[choice])

    def batch(self, indices: Sequence[int], choices: Sequence[int]) -> dict[str, np.ndarray]:
        """`text`, `text_mask`, `text_loss` [b, L] and `text_id` [b]; padding and -1 for samples without text."""
        pairs = list(zip(map(int, indices), choices, strict=True))
        rows = [self.row(i, k) if self.choices(i) else self._nothing() for i, k in pairs]
        ids = [text_id(texts[k]) if (texts := self.choices(i)) else -1 for i, k in pairs]
        return {
            "text": np.stack([row.ids for row in rows]),
            "text_mask": np.stack([row.mask for row in rows]),
            "text_loss": np.stack([row.loss for row in rows]),
            "text_id": np.array(ids, np.int32),
        }

    def _nothing(self) -> Row:
        length = self._layout.length
        none = np.zeros(length, bool)
        return Row(np.full(length, self.tokenizer.pad, np.int32), none, none, False)

    def _report(self) -> None:
        """One line each about texts that are left out, and that are cut."""
        name, count = self._source.name, len(self.usable)
        if self.left_out:
            named = ", ".join(where for where, _ in self.left_out[:_NAMED])
            log.warning(
                f"{len(self.left_out):,} of {len(self._source):,} samples of '{name}' have no caption and are left "
                f"out: {named}{' ...' if len(self.left_out) > _NAMED else ''}"
            )
        step = -(-count // SURVEYED) if count else 1
        seen = self.usable[::step].tolist()
        cut = total = 0
        for i in seen:
            for choice in range(len(self.choices(i))):
                cut, total = cut + self.row(i, choice).cut, total + 1
        if cut:
            among = f"{cut:,} of {total:,} texts" + (" looked at" if step > 1 else "")
            log.warning(
                f"{among} of '{name}' are longer than data.text.length={self._layout.length} tokens and are cut; their "
                f"end token stays"
            )


def open_texts(data: Any, source: Source, most: float, required: bool) -> Texts | None:
    """The texts of a source; None where `config.data.text` names no tokenizer, or none are there nor required.

    Raises:
      UserError: as `Texts`, and for a tokenizer that cannot be used.
    """
    tokenizer = tokenizer_of(data)
    if tokenizer is None or not (required or source.captions):
        return None
    return Texts(data, source, tokenizer, most)


def batch_shapes(data: Any, batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of the training batches that `config.data` describes, without opening any file.

    Label columns, which the source decides, are not among them.
    """
    side, text, images = data.size, data.get("text"), data.get("image_batch", 0)

    def of_text(count: int, prefix: str = "") -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        if not text or not text.tokenizer:
            return {}
        kinds = dict(text=np.int32, text_mask=bool, text_loss=bool)
        rows = {prefix + name: ((count, text.length), np.dtype(kind)) for name, kind in kinds.items()}
        return rows | {f"{prefix}text_id": ((count,), np.dtype(np.int32))}

    shapes = {
        "video": ((batch_size, data.frames, side, side, 3), np.dtype(np.uint8)),
        "label": ((batch_size,), np.dtype(np.int32)),
        "id": ((batch_size,), np.dtype(np.int32)),
    } | of_text(batch_size)
    if data.get("train") and "sources" in resolve(data.train):
        shapes["source"] = ((batch_size,), np.dtype(np.int32))
    if data.get("clips_per_video", 1) > 1:
        shapes["clip"] = ((batch_size,), np.dtype(np.int32))
    if images:
        shapes |= {
            "image": ((images, 1, side, side, 3), np.dtype(np.uint8)),
            "image_id": ((images,), np.dtype(np.int32)),
        } | of_text(images, "image_")
        if "sources" in resolve(data.images, "data.images"):
            shapes["image_source"] = ((images,), np.dtype(np.int32))
    return shapes
