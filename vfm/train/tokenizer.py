"""The tokenizer's hash goes with the checkpoints: numbers of words mean nothing under another tokenizer."""

from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline import tokenizer_of
from vfm.errors import UserError
from vfm.train import config as configs

PARTS = ("text", "fusion", "lm", "decoder")  # of the parameters, those that hold one row for each word


def recorded(config: ConfigDict) -> ConfigDict:
    """The config with `data.text.sha256` filled in, where it names a tokenizer.

    Raises:
      UserError: the tokenizer cannot be used, or another hash is given already.
    """
    tokenizer = tokenizer_of(config.data)
    if tokenizer is None:
        return config
    config = config.copy_and_resolve_references()
    config.data.text.sha256 = tokenizer.sha256
    return config


def check_same(config: ConfigDict, run: str | Path, key: str) -> None:
    """Raise a UserError where the run in a folder had another tokenizer; `key` is what names that folder."""
    there, here = _hash(configs.load_config(run)), _hash(config)
    if there and here and there != here:
        was, now = (c.data.text.tokenizer for c in (configs.load_config(run), config))
        raise UserError(
            f"{key}='{run}' was trained with another tokenizer: '{was}' (hash {there[:12]}...), now '{now}' "
            f"(hash {here[:12]}...), file or framing differ; set config.data.text as in that run's config.json, or use "
            f"another folder"
        )


def _hash(config: ConfigDict) -> str:
    text = config.data.get("text")
    return text.get("sha256", "") if text else ""
