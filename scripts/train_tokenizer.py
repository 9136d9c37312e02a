"""Train a SentencePiece tokenizer on captions.

python -m scripts.train_tokenizer CSV... --out tok.model [--vocab_size 512] [--kind unigram|bpe]

The lists are those that --config.data.train takes (CSV with a column of captions, JSON, conversations: questions and
answers both). Ids: padding 0, begin 1, end 2, unknown 3, <mask> 4. The same captions and options give the same file.
Use it with --config.data.text.tokenizer=tok.model.
"""

import io
import re
import sys
import tempfile
from pathlib import Path

from input_pipeline import Source, open_source, open_tokenizer
from input_pipeline.text import has_words
from scripts.options import Parser
from vfm.errors import UserError
from vfm.train.cli import check_file, run

KINDS = ("unigram", "bpe")
SPECIAL = 5  # pad, begin, end, unknown, mask


def texts_of(source: Source) -> list[str]:
    """All captions, questions and answers of a source that say something."""
    asked = [question for turns in source.turns for question, _ in turns]
    return [text for text in [*(c for some in source.captions for c in some), *asked] if has_words(text)]


def train(texts: list[str], vocab_size: int, kind: str, lower: bool = False) -> bytes:
    """A SentencePiece model of texts, as the bytes of its file.

    Raises:
      UserError: the texts do not allow that many pieces, or need more.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    lines = [" ".join(text.split()) for text in texts]
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter([line.lower() for line in lines] if lower else lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=kind,
            normalization_rule_name="nmt_nfkc_cf" if lower else "nmt_nfkc",
            character_coverage=1.0,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            control_symbols=["<mask>"],
            num_threads=1,
            minloglevel=3,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(_reason(str(error), texts, vocab_size, kind)) from error
    return model.getvalue()


def _reason(text: str, texts: list[str], vocab_size: int, kind: str) -> str:
    """What SentencePiece's own error means for --vocab_size."""
    found = re.search(r"<= (\d+)", text)
    about = f"--vocab_size={vocab_size}: {len(texts):,} captions"
    if found:
        return f"{about} give at most {found[1]} pieces of kind {kind}; set --vocab_size={found[1]} or less"
    letters = len({letter for line in texts for letter in line if not letter.isspace()}) + 1
    if vocab_size <= letters + SPECIAL:
        return (
            f"{about} hold {letters} different letters, which with {SPECIAL} special tokens need more than "
            f"{letters + SPECIAL} pieces; set a larger one"
        )
    return f"{about}: SentencePiece cannot be trained on them ({' '.join(text.split())})"


def _main() -> None:
    parser = Parser("train_tokenizer", __doc__)
    parser.add_argument("lists", nargs="+", metavar="CSV", help="list of videos with captions")
    parser.add_argument("--out", required=True, help="the file to write, NAME.model")
    parser.add_argument("--vocab_size", type=int, default=512, help="pieces, special tokens included (512)")
    parser.add_argument("--kind", choices=KINDS, default="unigram", help="how pieces are found (unigram)")
    parser.add_argument("--column", default="caption", help="the column of captions (caption)")
    parser.add_argument("--lower", action="store_true", help="no capitals, in training and in use")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    options = parser.parse_all()
    out = Path(options.out)
    if out.suffix != ".model":
        raise UserError(f"--out='{out}': expected a name that ends in .model")
    check_file(out)
    if out.exists() and not options.force:
        raise UserError(f"--out='{out}' exists; give another name, or --force to write over it")
    texts = []
    for name in options.lists:
        source = open_source(name, key="CSV", column=options.column)
        found = texts_of(source)
        if not found:
            raise UserError(f"'{name}': no captions in a column '{options.column}'; set --column")
        texts += found
    model = train(texts, options.vocab_size, options.kind, options.lower)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as draft:
        draft.write(model)
    Path(draft.name).chmod(0o644)
    Path(draft.name).replace(out)
    tokenizer = open_tokenizer(f"sentencepiece:{out}")
    some = texts[:: -(-len(texts) // 10_000)]
    lengths = sorted(len(tokenizer.encode(text)) for text in some)
    print(
        f"{out}: {tokenizer.vocab_size} pieces from {len(texts):,} texts ({len(set(texts)):,} different); a text has "
        f"{lengths[len(lengths) // 2]} tokens in the middle, {lengths[-1]} at most; sha256 {tokenizer.sha256[:12]}"
    )


if __name__ == "__main__":
    sys.exit(run(_main))
