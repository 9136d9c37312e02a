"""Options that several commands take, said and checked in one place."""

import argparse
import os

from vfm.errors import UserError


def add_source(parser: argparse.ArgumentParser) -> None:
    """SPEC and what says how it is meant."""
    add = parser.add_argument
    add(
        "spec", metavar="SPEC", help="what data.train takes: a list, a folder, shards, a video, a config file"
    )
    add("--root", default="", help="folder that paths in a list are relative to, as data.root")
    add("--medium", choices=("video", "image"), default="video", help="what a folder is searched for (video)")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """--workers."""
    parser.add_argument(
        "--workers", type=int, default=0, help="processes; 0 = as many as there are cores (0)"
    )


def local(spec: str) -> str:
    """A SPEC with the user's folder in place of `~`."""
    return spec if "://" in spec else os.path.expanduser(spec)


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
