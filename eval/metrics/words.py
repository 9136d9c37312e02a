"""From texts to words: an approximation of the Penn Treebank tokenizer of the COCO caption evaluation, and the
normalisation of answers."""

import re

# What the COCO evaluation drops after tokenising, where quotes are `` and ''.
DROPPED = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".lower().split()) | set('"“”‘')
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-"}
_TOKEN = re.compile(
    r"\.\.\.|--+"
    r"|[^\W_]+(?:[-&'’.,:/][^\W_]+)*[’']?"  # words with inner hyphens, apostrophes, decimal points
    r"|'(?:s|m|d|re|ve|ll|t)\b"
    r"|\S"
)
_CLITIC = re.compile(r"^(.+?)(n't|'(?:s|m|d|re|ve|ll))$")
_SPECIAL = {"cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"), "wanna": ("wan", "na")}


def tokenise(text: str, ptb: bool = True) -> list[str]:
    """The words of a caption in lower case.

    ptb: clitics are split ("does n't", "cat 's"), punctuation is dropped, hyphenated words stay whole; else the text is
    split at white space only, for text that is tokenised already.
    """
    text = text.lower().replace("’", "'")
    if not ptb:
        return text.split()
    out: list[str] = []
    for token in _TOKEN.findall(text):
        token = _BRACKETS.get(token, token)
        word = token.rstrip("'") if len(token) > 1 and token[0].isalnum() else token
        if word in _SPECIAL:
            out += _SPECIAL[word]
        elif found := _CLITIC.match(word):
            out += found.groups()
        else:
            out += _split(word)
    return [word for word in out if word not in DROPPED]


def _split(word: str) -> list[str]:
    """Words that are joined by a comma, colon or slash without being numbers."""
    parts = re.split(r"([,:/])", word) if not re.fullmatch(r"[\d.,:/-]+", word) else [word]
    return [part for part in parts if part]


_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise_answer(text: str) -> str:
    """A short answer without case, punctuation, articles and spare spaces, for exact comparison."""
    text = re.sub(r"[^\w\s]", " ", text.lower())
    return " ".join(_ARTICLES.sub(" ", text).split())


def first_named(text: str, names: list[str]) -> int:
    """Which of `names` a text names first, as whole words; the longest where several begin there; -1 = none."""
    words = f" {' '.join(tokenise(text))} "
    found = []
    for index, name in enumerate(names):
        place = words.find(f" {' '.join(tokenise(name))} ")
        if place >= 0:
            found.append((place, -len(name), index))
    return min(found)[2] if found else -1
