"""What an objective has to know about its tokenizer: how many words there are, and which of them are special."""

from typing import Any

from vfm.errors import UserError


def sized(part: Any, config: Any) -> dict[str, Any]:
    """A text model's part, with the size of the tokenizer's vocabulary where its vocab_size is 0 or not given."""
    keys = dict(part)
    if not keys:
        raise UserError(
            "config.model.text is empty: this objective needs a text encoder; set it, such as dict(name='text')"
        )
    if not keys.get("vocab_size"):
        keys["vocab_size"] = _tokenizer(config, "config.model.text.vocab_size").vocab_size
    return keys


def special_words(config: Any) -> tuple[int, tuple[int, ...]]:
    """(id that stands for a hidden word, ids that are never hidden) of masked language modelling.

    Those of the tokenizer, unless `config.objective` names others (mask_id from 0 up, special_ids).

    Raises:
      UserError: neither names an id for hidden words.
    """
    o = config.objective
    if o.mask_id >= 0:
        return o.mask_id, tuple(o.special_ids)
    tokenizer = _tokenizer(config, "config.objective.mask_id")
    if tokenizer.mask_id is None:
        raise UserError(
            f"config.data.text.tokenizer='{config.data.text.tokenizer}' has no token for hidden words; "
            "mlm needs one: take a BERT vocabulary, or set config.objective.mask_id to an id that no text uses"
        )
    return tokenizer.mask_id, tuple(o.special_ids or tokenizer.special_ids)


def _tokenizer(config: Any, key: str) -> Any:
    from input_pipeline.tokenizers import tokenizer_of  # the libraries behind it are slow to import

    tokenizer = tokenizer_of(config.data)
    if tokenizer is None:
        raise UserError(
            f"{key} is not given, and config.data.text.tokenizer='' to take it from; set one of the two"
        )
    return tokenizer
