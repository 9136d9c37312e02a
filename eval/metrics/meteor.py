"""METEOR 1.5 through its Java program, which is asked for by name: nothing is downloaded, and without it there is a
clear error rather than another number under the same name."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vfm.errors import UserError

JAR = "meteor-1.5.jar"
VARIABLE = "METEOR_JAR"


def find_jar() -> Path | None:
    """The jar that the environment variable METEOR_JAR names, or that of an installed pycocoevalcap."""
    if named := os.environ.get(VARIABLE):
        return Path(named) if Path(named).is_file() else None
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in (package.submodule_search_locations or ()) if package else ():
        jar = Path(folder) / "meteor" / JAR
        if jar.is_file():
            return jar
    return None


def unavailable() -> str:
    """Why METEOR cannot be computed here; "" if it can."""
    if not shutil.which("java"):
        return "METEOR needs Java: no 'java' is on the PATH; install a Java runtime, or leave METEOR out"
    if find_jar() is None:
        return (
            f"METEOR needs {JAR} (with its data folder): set {VARIABLE} to it or install pycocoevalcap, "
            "or leave METEOR out"
        )
    return ""


def meteor(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, Float[np.ndarray, " N"]]:
    """(METEOR of the corpus, from aggregated statistics; of each clip).

    Raises:
      UserError: there is no Java or no jar, or the program fails.
    """
    if why := unavailable():
        raise UserError(why)
    lines = [
        " ||| ".join(["SCORE", *(_clean(r) for r in mine), _clean(words)])
        for words, mine in zip(hypotheses, references, strict=True)
    ]
    command = ["java", "-Xmx2G", "-jar", str(find_jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
    locale = os.environ | {"LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=locale
    ) as program:
        try:
            statistics = [_ask(program, line) for line in lines]
            program.stdin.write(" ||| ".join(["EVAL", *statistics]) + "\n")
            program.stdin.close()
            answers = [float(line) for line in program.stdout]
        except (ValueError, BrokenPipeError) as error:
            program.kill()
            said = program.stderr.read().strip().splitlines()
            raise UserError(f"METEOR's program failed: {said[-1] if said else error}") from error
    if len(answers) != len(lines) + 1:
        raise UserError(f"METEOR's program gave {len(answers)} scores for {len(lines)} clips")
    return answers[-1], np.array(answers[:-1])


def _clean(words: Sequence[str]) -> str:
    # The program reads '|||' as a border, and an empty text as a missing one.
    return " ".join(words).replace("|||", "").strip() or "-"


def _ask(program: subprocess.Popen, line: str) -> str:
    program.stdin.write(line + "\n")
    program.stdin.flush()
    answer = program.stdout.readline()
    if not answer:
        raise BrokenPipeError("it ended early")
    return answer.strip()
