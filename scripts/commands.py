"""Commands of this repository run one after the other, each in a process of its own that may be told to stop."""

import json
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(words: list[str]) -> int:
    """Run `python words...` to its end and give its exit code; a signal that ends this process reaches the command,
    which may save first."""
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command by itself
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def unfinished(folder: Path) -> str:
    """What is missing from a training run that left without an error, such as one that was told to stop."""
    try:
        ended = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        done, total = int(ended.get("step", 0)), int(ended["total_steps"])
    except (OSError, ValueError, KeyError):
        return "training has not begun; run the same command again"
    if done < total:
        return f"training stopped at step {done:,} of {total:,}; run the same command again"
    return ""
