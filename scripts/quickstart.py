"""The whole way in one command: make the data set, pretrain, probe the frozen encoder, write the report.

    python -m scripts.quickstart --workdir runs/quickstart

Each step is an ordinary command of this repository and is printed before it runs, so that it can be run alone.
A finished step is not repeated: after an interruption the same command goes on where it stopped.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from scripts.commands import run, unfinished

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
        "--workdir", help="where results go (default: runs/quickstart, or runs/quickstart-short)"
    )
    parser.add_argument(
        "--config", default="configs/quickstart.py", help="what to train (default: %(default)s)"
    )
    parser.add_argument(
        "--short", action="store_true", help="a smoke run of a few minutes; learns next to nothing"
    )
    options = parser.parse_args()
    workdir = Path(options.workdir or ("runs/quickstart-short" if options.short else "runs/quickstart"))
    began = time.time()
    steps = steps_of(workdir, options.config, options.short)
    checkpoints, results = workdir / "pretrain" / "checkpoints", workdir / "results.jsonl"
    outcomes = {
        3: (results, checkpoints),
        4: (workdir / "report.html", results),
    }  # the others see for themselves
    minutes_left = [0, 11, 10.5, 2.5, 0.3]  # from each step on, on two CPU cores
    for number, (title, arguments) in enumerate(steps, 1):
        words = [str(a) for a in arguments]
        left = "" if options.short else f", about {minutes_left[number]:g} minutes left on two CPU cores"
        print(f"\n[{number}/{len(steps)}] {title} ({time.time() - began:.0f} s so far{left})", flush=True)
        print(f"$ python {shlex.join(words)}", flush=True)
        if number in outcomes and newer(*outcomes[number]):
            print(f"done before: {outcomes[number][0]}")
            continue
        code = run(words)
        problem = unfinished(workdir / "pretrain") if number == 2 and not code else ""
        if code or problem:
            message = problem or f"step {number} ended with exit code {code}; see its message above"
            print(f"error: {message}", file=sys.stderr)
            return code if code > 0 else 1
    print(f"\nDone in {(time.time() - began) / 60:.1f} minutes. Open {workdir / 'report.html'} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
