"""How a benchmark talks to its contenders, each of them a process of its own: one JSON object a line.

Only the standard library is imported here, so that a contender may run in an interpreter without our packages.

    settings ->                 <- what it is (versions, parameters, ...), after its first, untimed steps
    {"steps": n} ->             <- {"seconds": of one step, "loss": of the last}; as often as asked
    end of input ->             <- {"peak_bytes": most memory since the untimed steps}
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[int], float]  # takes so many steps, waits for the last, returns its loss
WARMUP = 2  # untimed steps


class Failed(RuntimeError):
    """A contender ended before it answered; the text is the last of what it said."""


def serve(build: Callable[[dict], tuple[dict, Run, Callable[[], int] | None]]) -> None:
    """Be a contender: `build(settings) -> (what it is, run, device's peak in bytes or None = the process's)`."""
    if sys.argv[1:] or sys.stdin.isatty():
        sys.exit(
            "error: this is one contender of a benchmark, started by python -m scripts.bench.step; see its --help"
        )
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print must not come between the answers

    def answer(**values):
        answers.write(json.dumps(values) + "\n")

    about, run, device_peak = build(json.loads(sys.stdin.readline()))
    loss = run(WARMUP)
    _forget_peak()
    answer(**about, loss=loss)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        began = time.perf_counter()
        loss = run(steps)
        answer(seconds=(time.perf_counter() - began) / steps, loss=loss)
    answer(peak_bytes=(device_peak or _process_peak)())


class Contender:
    """The benchmark's end of a contender.

    Attributes:
      about: what it said about itself.
      seconds: of a step, one number for each round.
      peak_bytes: of memory; known once it is closed.
    """

    def __init__(
        self, command: list[str], settings: dict[str, Any], folder: Path, environment: dict[str, str]
    ):
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            bufsize=1,
        )
        self.seconds: list[float] = []
        self.about = self._ask(settings)

    def round(self, steps: int) -> None:
        """Time so many steps."""
        self.seconds.append(self._ask(dict(steps=steps))["seconds"])

    def close(self) -> None:
        """Let it end."""
        self._process.stdin.close()
        self.peak_bytes = self._answer()["peak_bytes"]
        self._process.wait()

    def kill(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
        except BrokenPipeError:
            pass  # it has ended: reading its answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._said.seek(0)
            last = self._said.read().strip().splitlines()[-1:] or ["it said nothing"]
            raise Failed(f"{last[0]} (exit code {code})")
        return json.loads(line)


def _process_peak() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    """Leave compilation out of the process's peak, where the system lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
