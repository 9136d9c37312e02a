"""Command lines: a config file with overrides, and mistakes of the user as one line instead of a traceback."""

import difflib
import errno
import operator
import os
import re
import sys
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from vfm.errors import UserError
from vfm.parts import nearest

FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "the disk quota is used up"}


def run(main: Callable[[], None]) -> None:
    """Call `main`; a UserError becomes `error: ...` and exit code 1. VFM_DEBUG=1 shows the traceback too."""
    try:
        main()
    except UserError as error:
        _leave(str(error), error)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _leave(
            f"{FULL[error.errno]}: cannot write '{error.filename or ''}'; make room, then run it again", error
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def define_config() -> None:
    """The flag --config FILE.py[:arg] with overrides --config.a.b=value."""
    config_flags.DEFINE_config_file("config", None, "config file, such as configs/quickstart.py")


def parse(argv: list[str]) -> flags.FlagValues:
    """Parse the command line; flags have to be defined before. --help prints them and leaves.

    Raises:
      UserError: an unknown flag, config file or key (the nearest is named), or a value of the wrong type.
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print((sys.modules["__main__"].__doc__ or "").strip(), flags.FLAGS.main_module_help(), sep="\n")
        sys.exit(0)
    path = _config_path(argv)
    if path is not None:
        _check_keys(argv, _load(path))
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        name, known = error.flagname, [n for n in flags.FLAGS if len(n) > 1]
        hint = " after --config FILE.py" if name.startswith("config.") else ""
        raise UserError(f"unknown flag --{name}{nearest(name, known)}{hint}; see --help") from error
    except flags.IllegalFlagValueError as error:
        raise UserError(_wrong_value(path, error)) from error
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(_one_line(error)) from error
    _one_length(argv)
    if rest[1:]:
        raise UserError(f"unexpected argument '{rest[1]}'; options are written --name=value, see --help")
    return flags.FLAGS


LENGTHS = ("total_steps", "total_epochs", "total_examples")


def _one_length(argv: list[str]) -> None:
    """A length of the run on the command line replaces the config's, whatever its unit."""
    given = [key for key in LENGTHS if any(re.match(rf"--?config\.{key}\b", arg) for arg in argv)]
    if given:
        for key in set(LENGTHS) - set(given):
            flags.FLAGS.config[key] = None


def _load(path: str) -> ConfigDict:
    """The config of FILE.py[:arg] before overrides; the file is code of the user's, so anything may go wrong."""
    file = path.split(":", 1)[0]
    if not os.path.isfile(file):
        folder = os.path.dirname(file) or "."
        there = os.listdir(folder) if os.path.isdir(folder) else []
        hint = difflib.get_close_matches(os.path.basename(file), there, n=1, cutoff=0.5)
        also = f" (did you mean '{os.path.join(folder, hint[0])}'?)" if hint else ""
        raise UserError(f"config file '{file}' does not exist{also}; configs lie in configs/")
    try:
        return config_flags.ConfigFileFlagParser("config").parse(path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"config '{path}' cannot be loaded: {_one_line(error)}") from error


def _config_path(argv: list[str]) -> str | None:
    for index, arg in enumerate(argv):
        if found := re.fullmatch(r"--?config(?:=(.*))?", arg):
            return found[1] if found[1] is not None else (argv[index + 1] if index + 1 < len(argv) else None)
    return None


def _check_keys(argv: list[str], config: ConfigDict) -> None:
    for arg in argv:
        if not (found := re.match(r"--?(?:no)?config\.([^=]+)", arg)):
            continue
        level, walked = config, "config"
        for key in found[1].split("."):
            name = key.split("[")[0]
            if not isinstance(level, ConfigDict) or name not in level:
                known = list(level) if isinstance(level, ConfigDict) else []
                listed = (
                    f"; {walked} has: {', '.join(sorted(known))}" if known else f"; {walked} is one value"
                )
                raise UserError(f"unknown key '{walked}.{name}'{nearest(name, known)}{listed}")
            level, walked = level[name], f"{walked}.{name}"


def _wrong_value(path: str | None, error: BaseException) -> str:
    """The text for a value that cannot be read as the type of its key."""
    found = re.match(r"flag --config\.([^=]+)=(.*?): ", f"{error} ", re.DOTALL)
    if not found or path is None:
        return _one_line(error)
    group, _, name = found[1].rpartition(".")
    keys = operator.attrgetter(group)(_load(path)) if group else _load(path)
    if isinstance(keys[name], ConfigDict):
        return f"config.{found[1]}={found[2]}: expected a group of keys, set one of them: {', '.join(keys[name])}"
    like = f", such as {keys[name]!r}" if keys[name] is not None else ""
    return f"config.{found[1]}={found[2]}: expected {keys.get_type(name).__name__}{like}"


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [""]
    # The config flag parser puts a whole traceback into the text; its last line says what happened.
    text = lines[-1] if "Traceback (most recent call last):" in lines else " ".join(lines)
    return text or type(error).__name__


def _leave(text: str, error: BaseException) -> None:
    if os.environ.get("VFM_DEBUG"):
        raise error
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(1)
