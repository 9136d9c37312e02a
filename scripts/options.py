"""Options that several commands take, said and checked in one place."""

import argparse
import ast
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from input_pipeline.spec import resolve
from vfm.errors import UserError
from vfm.parts import nearest


class Parser(argparse.ArgumentParser):
    """The command line of a script; what is wrong with it is said in one line, with the nearest option.

    Args:
      name: of the script's module.
      text: of --help.
    """

    def __init__(self, name: str, text: str):
        super().__init__(
            prog=f"python -m scripts.{name}",
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_all(self) -> argparse.Namespace:
        """What the command line says.

        Raises:
          UserError: an option is unknown, is missing or has no such value.
        """
        return self.parse_some("")[0]

    def parse_some(self, free: str, whose: str = "") -> tuple[argparse.Namespace, list[str]]:
        """What the command line says, and options that are not known here but to `whose`, where `free` is given.

        Raises: as `parse_all`.
        """
        words = sys.argv[1:]
        given = [word.partition("=")[0] for word in words]
        if not free or f"--{free}" not in given:
            known = self._option_string_actions
            for word in given:
                if re.match(r"--?[a-zA-Z]", word) and word not in known:
                    also = f" (options of {whose} need --{free})" if free else ""
                    self.error(f"unknown option {word}{nearest(word, known)}{also}")
        found, others = self.parse_known_args(words)
        if others and not (free and getattr(found, free)):
            pair = "; --set takes one KEY=VALUE, give it again for another" if "=" in others[0] else ""
            self.error(f"'{others[0]}' is one argument too many{pair}")
        return found, others


def add_source(parser: argparse.ArgumentParser) -> None:
    """SPEC and what says how it is meant."""
    add = parser.add_argument
    add(
        "spec", metavar="SPEC", help="what data.train takes: a list, a folder, shards, a video, a config file"
    )
    add("--root", default="", help="folder that paths in a list are relative to, as data.root")
    add("--medium", choices=("video", "image"), default="video", help="what a folder is searched for (video)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the source; may be repeated",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """--workers."""
    parser.add_argument(
        "--workers", type=int, default=0, help="processes; 0 = as many as there are cores (0)"
    )


def spec_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """SPEC with the options of --set, as a mapping with `path` or `sources`; `~` is the user's folder.

    Raises:
      UserError: it is no source, or --set holds no KEY=VALUE.
    """
    spec = arguments.spec if "://" in arguments.spec else os.path.expanduser(arguments.spec)
    return resolve(spec, "SPEC") | _pairs(arguments.set)


def _pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; numbers, True and False are what they look like."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--set {pair}: expected KEY=VALUE, such as split=test")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        found[name] = parsed if isinstance(parsed, bool | int | float) else value
    return found


def counted(count: int, word: str) -> str:
    """ "1 shard", "2,000 shards"."""
    return f"{count:,} {word}{'' if count == 1 else 'es' if word.endswith('s') else 's'}"


def check_numbers(
    arguments: argparse.Namespace, above: dict[str, float] | None = None, **least: float
) -> None:
    """Compare options that are numbers with the least that each may be.

    Args:
      arguments: as they were parsed.
      above: option -> what it has to be more than.
      least: option -> what it may be at least.

    Raises:
      UserError: one is smaller, or is no number.
    """
    for key, limit in least.items():
        if not getattr(arguments, key) >= limit:
            raise UserError(f"--{key} {getattr(arguments, key):g}: expected {limit:g} or more")
    for key, limit in (above or {}).items():
        if not getattr(arguments, key) > limit:
            raise UserError(f"--{key} {getattr(arguments, key):g}: expected more than {limit:g}")
