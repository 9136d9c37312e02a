"""The whole way in one command: make the data set, pretrain, probe the frozen encoder, write the report.

    python -m scripts.quickstart --workdir runs/quickstart
    python -m scripts.quickstart --workdir runs/quickstart --full

--full goes on with two more stages: the encoder is aligned with captions, then a language model learns to tell what it
sees; all three are measured. Each step is an ordinary command of this repository and is printed before it runs, so that
it can be run alone. A finished step is not repeated: after an interruption the same command goes on where it stopped.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scripts.commands import run, unfinished
from vfm.train.config import replace_text

STAGES = "configs/quickstart_stages.py"
ENCODERS = {  # config of the first stage, and what chooses the encoder in those of the others
    "vit": ("configs/quickstart.py", ""),
    "mamba": ("configs/quickstart_mamba.py", ",mamba"),
}
SHORT = {  # a smoke run of some minutes: the same path, but too few steps to learn motion
    "videos": ["--train", "600", "--validation", "240", "--test", "240"],
    "training": ["--config.total_steps=120", "--config.log_every=20 steps"],
    "aligning": ["--config.total_steps=40", "--config.log_every=20 steps"],
    "probes": ["--config.attentive.epochs=2", "--config.linear.epochs=5"],
    "texts": ["--config.data.limit=40"],
}


@dataclass(frozen=True)
class Step:
    """One command. It is done if `result` is there and newer than all `sources`; without a result it sees for itself.

    minutes: on two idle CPU cores.
    run: folder of a training run, which may have been told to stop.
    """

    title: str
    words: list
    minutes: float
    result: Path | None = None
    sources: list[Path] = field(default_factory=list)
    run: Path | None = None

    def done(self) -> bool:
        return self.result is not None and all(newer(self.result, source) for source in self.sources)


class Plan:
    """The steps of a quickstart in its folder."""

    def __init__(self, workdir: Path, encoder: str, short: bool):
        self.workdir, self.encoder = workdir, encoder
        self.data = Path("data") / ("digits-short" if short else "digits")
        self.tokenizer = self.data / "captions.model"
        self.extra = SHORT if short else dict.fromkeys(SHORT, ())
        self.results: list[Path] = []  # of the evaluations so far

    def steps(self, full: bool) -> Iterator[Step]:
        yield Step(
            "Make the data set of moving digits",
            ["-m", "input_pipeline.embedded", self.data, *self.extra["videos"]],
            minutes=0.6,
        )
        yield self.train("Pretrain a video encoder by masked video modelling", "stage1", "stage1", 6.5)
        random = {"pretrained": "stage1", "random": "random:stage1"}
        yield self.probe("Probe the frozen encoder, and a randomly initialised one", "probes", random, 2.0)
        if full:
            yield from self.stages()
        yield Step(
            "Write the report",
            ["-m", "eval.report", self.workdir / "stage1", "--out", self.workdir / "report.html"]
            + [word for place in self.results for word in ("--results", place)],
            minutes=0.3,
            result=self.workdir / "report.html",
            sources=self.results,
        )

    def stages(self) -> Iterator[Step]:
        """What --full adds: the encoder is aligned with captions, and a language model tells what it sees."""
        yield Step(
            "Train a tokenizer on the captions",
            ["-m", "scripts.train_tokenizer", self.data / "train.csv", "--out", self.tokenizer]
            + ["--kind", "bpe", "--vocab_size", 128, "--force"],
            minutes=0.1,
            result=self.tokenizer,
            sources=[self.data / "train.csv"],
        )
        yield self.train("Align the encoder with captions", "stage2", "stage2", 3, "stage1")
        yield self.train("The same from scratch, to compare", "stage2", "stage2_scratch", 3)
        yield self.train("Teach a language model to tell what it sees", "stage3", "stage3", 4.5, "stage2")
        later = {"stage2": "stage2", "stage3": "stage3"}
        yield self.probe("Probe the encoder after each stage", "probes_stages", later, 2.0)
        pair = {"stage2": "stage2", "scratch": "stage2_scratch"}
        yield self.ask("Classify without labels, by prompts", "zero_shot", pair, 0.5)
        yield self.ask("Find videos by captions, and captions by videos", "retrieval", pair, 0.5)
        yield self.ask("Write captions", "captions", {"stage3": "stage3"}, 1.5)

    def train(self, title: str, stage: str, name: str, minutes: float, source: str = "") -> Step:
        folder = self.workdir / name
        first, argument = ENCODERS[self.encoder]
        config = first if stage == "stage1" else f"{STAGES}:{stage}{argument}"
        words = ["main.py", "--config", config, "--workdir", folder]
        words += [f"--config.data.train={self.data / 'train.csv'}"]
        if name == "stage1":
            words += self.extra["training"]
        else:
            words += [f"--config.data.text.tokenizer={self.tokenizer}", *self.extra["aligning"]]
        if source:
            words += [f"--config.init.encoder={self.workdir / source}"]
        return Step(title, words, minutes, run=folder)

    def probe(self, title: str, name: str, encoders: dict[str, str], minutes: float) -> Step:
        words = [
            f"--config.data.{split}={self.data / split}.csv" for split in ("train", "validation", "test")
        ]
        return self.evaluate(title, "probe", name, encoders, minutes, [*words, *self.extra["probes"]])

    def ask(self, title: str, protocol: str, encoders: dict[str, str], minutes: float) -> Step:
        words = [f"--config.data.test={self.data / 'test'}.csv", *self.extra["texts"]]
        return self.evaluate(title, protocol, protocol, encoders, minutes, words)

    def evaluate(
        self, title: str, config: str, name: str, encoders: dict[str, str], minutes: float, more: list
    ) -> Step:
        folder = self.workdir / "eval" / name
        words = ["-m", "eval", "--config", f"configs/eval/{config}.py", "--workdir", folder, *more]
        sources = []
        for label, encoder in encoders.items():
            random, _, run_name = encoder.rpartition(":")
            words += ["--encoder", f"{label}={random + ':' if random else ''}{self.workdir / run_name}"]
            sources.append(self.workdir / run_name / "checkpoints")
        self.results.append(folder / "results.jsonl")
        return Step(title, words, minutes, result=folder / "results.jsonl", sources=sources)


def newer(result: Path, source: Path) -> bool:
    """Whether a result is there and was made from the source as it is now."""
    return result.exists() and source.exists() and result.stat().st_mtime >= source.stat().st_mtime


def collect(results: list[Path], place: Path) -> None:
    """All rows of all evaluations in one file."""
    replace_text(place, "".join(file.read_text(encoding="utf-8") for file in results))


def work(plan: Plan, full: bool, short: bool) -> int:
    """Take all steps that are not done; gives the exit code."""
    began, steps = time.time(), list(plan.steps(full))
    for number, step in enumerate(steps, 1):
        minutes = sum(s.minutes for s in steps[number - 1 :] if not s.done())
        left = "" if short else f", about {minutes:.0f} minutes left on two CPU cores"
        print(
            f"\n[{number}/{len(steps)}] {step.title} ({time.time() - began:.0f} s so far{left})", flush=True
        )
        words = [str(word) for word in step.words]
        print(f"$ python {shlex.join(words)}", flush=True)
        if number == len(steps):
            collect(plan.results, plan.workdir / "results.jsonl")
        if step.done():
            print(f"done before: {step.result}")
            continue
        code = run(words)
        problem = unfinished(step.run) if step.run and not code else ""
        if code or problem:
            message = problem or f"step {number} ended with exit code {code}; see its message above"
            print(f"error: {message}", file=sys.stderr)
            return code if code > 0 else 1
    minutes = (time.time() - began) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {plan.workdir / 'report.html'} in a browser.")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", help="where results go (default: runs/quickstart, or runs/quickstart-short)"
    )
    parser.add_argument(
        "--encoder", choices=ENCODERS, default="vit", help="what to train (default: %(default)s)"
    )
    parser.add_argument("--full", action="store_true", help="all three stages; about half an hour")
    parser.add_argument(
        "--short", action="store_true", help="a smoke run of a few minutes; learns next to nothing"
    )
    options = parser.parse_args()
    workdir = Path(options.workdir or ("runs/quickstart-short" if options.short else "runs/quickstart"))
    return work(Plan(workdir, options.encoder, options.short), options.full, options.short)


if __name__ == "__main__":
    sys.exit(main())
