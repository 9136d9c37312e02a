"""Rules: ordered (regex, value) pairs on parameter paths; the first match wins.

One idea for learning rates, weight decay, freezing, sharding and surgery. A path joins the keys of a nested
dict by "/", as in "encoder/blocks/attn/qkv/kernel".
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from vfm.errors import UserError

Rules = Sequence[tuple[str, Any]]


def path_name(path: tuple) -> str:
    """ "a/b/c" of a key path as jax's tree functions give it."""
    return "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def flatten(tree: Any) -> dict[str, Any]:
    """{path: leaf} of a nested dict, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def check(rules: Any, what: str = "rules") -> None:
    """Look whether something is a list of rules.

    Raises:
      UserError: it is not.
    """
    pairs = isinstance(rules, list | tuple) and all(
        isinstance(rule, list | tuple) and len(rule) == 2 and isinstance(rule[0], str) for rule in rules
    )
    if not pairs:
        raise UserError(
            f"{what}={rules!r}: expected pairs of a regular expression and a value, such as (('encoder/.*', 0.1), "
            "('.*', 1.0))"
        )


def match(rules: Rules, tree: Any, what: str = "rules") -> Any:
    """The tree with each leaf replaced by the value of the first rule whose regex matches its whole path.

    Raises:
      UserError: a leaf that no rule matches, a regex that does not compile, or a rule that decides no leaf (but
        for the catch-all ".*"): then it is misspelt or hidden by an earlier one.
    """
    check(rules, what)
    compiled = []
    for regex, value in rules:
        try:
            compiled.append((re.compile(regex), value))
        except re.error as error:
            raise UserError(f"{what}: '{regex}' is not a regular expression ({error}); correct it") from error
    used = set()

    def value_of(path, _):
        name = path_name(path)
        for index, (regex, value) in enumerate(compiled):
            if regex.fullmatch(name):
                used.add(index)
                return value
        raise UserError(f"{what}: no rule matches parameter '{name}'; add one, or end with ('.*', default)")

    values = jax.tree_util.tree_map_with_path(value_of, tree)
    for index, (regex, _) in enumerate(compiled):
        if index not in used and regex.pattern != ".*":
            paths = list(flatten(tree))
            raise UserError(
                f"{what}: rule '{regex.pattern}' decides no parameter; it is misspelt or an earlier rule hides it. "
                f"Paths look like '{paths[0]}', '{paths[-1]}'"
            )
    return values
