"""The whole way in one command: make the data set, pretrain, probe the frozen encoder, write the report.

    python -m scripts.quickstart --workdir runs/quickstart

Each step is an ordinary command of this repository and is printed before it runs, so that it can be run alone.
A finished step is not repeated: after an interruption the same command goes on where it stopped.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHORT = {  # a smoke run of some minutes: the same path, but too few steps to learn motion
    "videos": ["--train", "600", "--validation", "240", "--test", "240"],
    "training": ["--config.total_steps=120", "--config.log_every=20 steps"],
    "probes": ["--config.attentive.epochs=2", "--config.linear.epochs=5"],
}


def steps_of(workdir: Path, config: str, short: bool) -> list[tuple[str, list[str]]]:
    """(what it does, arguments of python) of each step in order."""
    data = Path("data") / ("digits-short" if short else "digits")
    extra = SHORT if short else dict.fromkeys(SHORT, [])
    run, splits = workdir / "pretrain", ("train", "validation", "test")
    probe = ["--encoder", f"pretrained={run}", "--encoder", f"random=random:{run}", "--workdir", workdir]
    probe += [f"--config.data.{split}={data / split}.csv" for split in splits]
    return [
        ("Make the data set of moving digits", ["-m", "input_pipeline.embedded", data, *extra["videos"]]),
        (
            "Pretrain a video encoder by masked video modelling",
            ["main.py", "--config", config, "--workdir", run]
            + [f"--config.data.train={data / 'train.csv'}", *extra["training"]],
        ),
        (
            "Probe the frozen encoder, and a randomly initialised one",
            ["-m", "eval", "--config", "configs/eval/probe.py", *probe, *extra["probes"]],
        ),
        (
            "Write the report",
            ["-m", "eval.report", run, "--results", workdir / "results.jsonl"]
            + ["--out", workdir / "report.html"],
        ),
    ]


def newer(result: Path, source: Path) -> bool:
    """Whether a result is there and was made from the source as it is now."""
    return result.exists() and source.exists() and result.stat().st_mtime >= source.stat().st_mtime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", default="runs/quickstart", help="where results go (default: %(default)s)"
    )
    parser.add_argument(
        "--config", default="configs/quickstart.py", help="what to train (default: %(default)s)"
    )
    parser.add_argument(
        "--short", action="store_true", help="a smoke run of a few minutes; learns next to nothing"
    )
    options = parser.parse_args()
    workdir = Path(options.workdir)
    began = time.time()
    steps = steps_of(workdir, options.config, options.short)
    checkpoints, results = workdir / "pretrain" / "checkpoints", workdir / "results.jsonl"
    outcomes = {
        3: (results, checkpoints),
        4: (workdir / "report.html", results),
    }  # the others see for themselves
    for number, (title, arguments) in enumerate(steps, 1):
        words = [str(a) for a in arguments]
        print(f"\n[{number}/{len(steps)}] {title} ({time.time() - began:.0f} s so far)", flush=True)
        print(f"$ python {shlex.join(words)}", flush=True)
        if number in outcomes and newer(*outcomes[number]):
            print(f"done before: {outcomes[number][0]}")
            continue
        code = subprocess.run([sys.executable, *words], cwd=ROOT, env=os.environ).returncode
        if code:
            print(f"error: step {number} ended with exit code {code}; see its message above", file=sys.stderr)
            return code
    minutes = (time.time() - began) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {workdir / 'report.html'} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
