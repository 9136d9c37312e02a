"""Command lines: a config file with overrides, and mistakes of the user as one line instead of a traceback."""

import difflib
import errno
import operator
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

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
        if error.errno not in FULL and not error.filename:
            raise
        _leave(_of_the_system(error), error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def check_folder(folder: str | Path, key: str = "--workdir") -> None:
    """Look whether a folder is there or can be made.

    Raises:
      UserError: a file is in its place, or in the place of a folder above it.
    """
    for place in (Path(folder), *Path(folder).absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise UserError(f"{key}='{folder}': '{place}' is a file; give a folder, new or old")
            return


def check_file(file: str | Path, key: str = "--out") -> None:
    """Look whether a file can be written, before the work that it is written after.

    Raises:
      UserError: it is a folder, or its folder is missing or not to be written to.
    """
    file = Path(file)
    if file.is_dir():
        raise UserError(f"{key}='{file}' is a folder; give the name of a file, such as '{file / 'NAME'}'")
    if not file.parent.is_dir():
        raise UserError(f"{key}='{file}': there is no folder '{file.parent}'; make it first")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{key}='{file}': the folder '{file.parent}' cannot be written to; choose another")


def define_config() -> None:
    """The flag --config FILE.py[:arg] with overrides --config.a.b=value."""
    config_flags.DEFINE_config_file("config", None, "config file, such as configs/quickstart.py")


def parse(argv: list[str], kind: str = "") -> flags.FlagValues:
    """Parse the command line; flags have to be defined before. --help prints them and leaves.

    Args:
      kind: what the config has to describe, see `check_kind`; "" = anything.

    Raises:
      UserError: an unknown flag, config file or key (the nearest is named), or a value of the wrong type.
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print((sys.modules["__main__"].__doc__ or "").strip(), flags.FLAGS.main_module_help(), sep="\n")
        sys.exit(0)
    path = _config_path(argv)
    if path is not None:
        config = load(path)
        if kind:
            check_kind(config, path, kind)
        _check_order(argv, path)
        _check_keys(argv, config)
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


KINDS = {"a training run": "main.py", "an evaluation": "python -m eval"}


def check_kind(config: ConfigDict, path: str, kind: str) -> None:
    """Look whether a config describes what it is given for.

    Args:
      kind: one of KINDS.

    Raises:
      UserError: it describes the other, or neither.
    """
    found = "an evaluation" if "protocol" in config else ""
    if {"model", "data", "objective"} <= set(config):
        found = "a training run"
    if not found:
        raise UserError(f"'{path}' does not describe {kind}; see the files in configs/ for what that needs")
    if found != kind:
        raise UserError(f"'{path}' describes {found}, not {kind}; use {KINDS[found]}")


def load(path: str) -> ConfigDict:
    """The config of FILE.py[:arg] before overrides; the file is code of the user's, so anything may go wrong.

    Raises:
      UserError: there is no such file, it fails, or it gives no config.
    """
    file = path.split(":", 1)[0]
    if os.path.isdir(file):
        raise UserError(f"--config='{file}' is a folder; give a file in it, such as configs/quickstart.py")
    if not os.path.isfile(file):
        folder = os.path.dirname(file) or "."
        there = os.listdir(folder) if os.path.isdir(folder) else []
        hint = difflib.get_close_matches(os.path.basename(file), there, n=1, cutoff=0.5)
        also = f" (did you mean '{os.path.join(folder, hint[0])}'?)" if hint else ""
        raise UserError(f"config file '{file}' does not exist{also}; configs lie in configs/")
    try:
        config = config_flags.ConfigFileFlagParser("config").parse(path)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, AttributeError) and "'get_config'" in str(error):
            raise UserError(
                f"'{file}' is no config: it has no function get_config; see the files in configs/"
            ) from error
        raise UserError(f"config '{path}' cannot be loaded: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"'{path}': get_config gives a {type(config).__name__}; expected a ConfigDict")
    return config


def _check_order(argv: list[str], path: str) -> None:
    """Overrides are of the config before them."""
    for arg in argv[1:]:
        if re.match(r"--?config(=|$)", arg):
            return
        if re.match(r"--?(?:no)?config\.", arg):
            raise UserError(f"'{arg}' stands before --config {path}; put --config FILE first")


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
    keys = operator.attrgetter(group)(load(path)) if group else load(path)
    if isinstance(keys[name], ConfigDict):
        return f"config.{found[1]}={found[2]}: expected a group of keys, set one of them: {', '.join(keys[name])}"
    like = f", such as {keys[name]!r}" if keys[name] is not None else ""
    return f"config.{found[1]}={found[2]}: expected {keys.get_type(name).__name__}{like}"


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [""]
    # The config flag parser puts a whole traceback into the text; its last line says what happened.
    text = lines[-1] if "Traceback (most recent call last):" in lines else " ".join(lines)
    return text or type(error).__name__


def _of_the_system(error: OSError) -> str:
    """The text for what the operating system refused."""
    name = error.filename or ""
    if error.errno in FULL:
        return f"{FULL[error.errno]}: cannot write '{name}'; make room, then run it again"
    wrong = {
        FileExistsError: "is a file, and a folder is expected",
        NotADirectoryError: "is below a file, and a folder is expected",
        IsADirectoryError: "is a folder, and a file is expected",
        FileNotFoundError: "does not exist, or the folder that it is in does not",
    }
    text = wrong.get(type(error), error.strerror or type(error).__name__)
    return f"'{name}': {text}; check the name and the rights, or give another"


def _leave(text: str, error: BaseException) -> None:
    if os.environ.get("VFM_DEBUG"):
        raise error
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(1)
