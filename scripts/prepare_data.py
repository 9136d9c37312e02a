"""Prepare a set of videos for training: small frames, near key frames, in a few large files.

    python -m scripts.prepare_data SPEC --out DIR
    python -m scripts.prepare_data train.csv --out prepared --short_side 256 --gop 8 --workers 16
    python -m scripts.prepare_data train.csv --out packed --as_is

DIR is a source like any other (--config.data.train=DIR): the same samples with the same ids, labels and captions.
Videos are encoded anew, upright, without sound; where samples show parts of files, only those. --as_is packs files as
they are. Bad videos are counted and listed in DIR/bad.csv, those that were used in part in DIR/damaged.csv.

A run that was ended goes on where it was when the same command is given again. The files are the same for any number
of --workers. --runner RUNNER runs the same as an Apache Beam graph (pip install 'video-foundation[beam]', see
docs/data.md); options that this command does not know are Beam's, and DIR has to be a folder that all machines share.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from input_pipeline.encode import CODECS, Encoding
from input_pipeline.plan import Plan
from input_pipeline.prepare import prepare, read_manifest
from input_pipeline.progress import Progress
from input_pipeline.sources import open_source
from scripts import options
from scripts.options import counted
from vfm.errors import UserError
from vfm.train.cli import run


def main() -> None:
    arguments, others = _parse()
    out = Path(arguments.out).expanduser()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out='{out}': is a file; expected a folder, or one that is to be made")
    encoding = _encoding(arguments)
    source = open_source(
        options.spec_of(arguments), arguments.root, "SPEC", arguments.column, arguments.medium, arguments.skip
    )
    plan = Plan.of(source, encoding, arguments.shard_size, arguments.root)
    if arguments.runner:
        from input_pipeline.beam import run_beam

        new = run_beam(plan, out, arguments.runner, others, arguments.timeout)
    else:
        with Progress(len(plan.videos), f"preparing {plan.source.name}") as progress:
            new = prepare(
                plan, out, arguments.workers, arguments.timeout, lambda note: progress.add("bad" in note)
            )
    manifest = read_manifest(out)
    print(_summary(out, manifest) + ("" if new else "; already complete, nothing was done"))
    if not manifest["videos"]:
        print(f"nothing could be prepared; {out / 'bad.csv'} says why, of the first: {_first_reason(out)}")
        sys.exit(1)


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    videos, frames, samples = (counted(manifest[f"{word}s"], word) for word in ("video", "frame", "sample"))
    text = (
        f"{out}: {videos} ({frames}, {manifest['bytes'] / 2**20:,.1f} MiB) in "
        f"{counted(len(manifest['shards']), 'shard')}; {samples}"
    )
    if manifest["damaged"]:
        text += f"; {manifest['damaged']:,} damaged, used in part: {out / 'damaged.csv'}"
    return text + (f"; {manifest['bad']:,} BAD: {out / 'bad.csv'}" if manifest["bad"] else "; none bad")


def _first_reason(out: Path) -> str:
    """Why the first of the bad videos is bad."""
    with open(out / "bad.csv", newline="", encoding="utf-8") as file:
        return next(csv.DictReader(file))["reason"]


def _encoding(arguments: argparse.Namespace) -> Encoding | None:
    given = {key: getattr(arguments, key) for key in ("short_side", "fps", "gop", "crf", "codec", "preset")}
    given = {key: value for key, value in given.items() if value is not None}
    if arguments.as_is and given:
        raise UserError(
            f"--as_is and --{next(iter(given))}: files that are packed as they are, are not encoded"
        )
    try:
        return None if arguments.as_is else Encoding(**given)
    except UserError as error:  # which begins with the option's name
        raise UserError(f"--{error}") from error


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = options.Parser("prepare_data", __doc__)
    usual = Encoding()
    add = parser.add_argument
    options.add_source(parser)
    add("--out", required=True, metavar="DIR", help="a new folder, or that of a run that was ended")
    add("--short_side", type=int, help=f"larger frames are reduced to it; 0 = kept ({usual.short_side})")
    add("--gop", "--keyint", type=int, help=f"frames from key frame to key frame; 1 = all are ({usual.gop})")
    add("--fps", type=float, help="frames a second that are kept; 0 = all (0)")
    add("--crf", type=int, help=f"constant rate factor; 0 = lossless, higher = smaller ({usual.crf})")
    add("--codec", choices=CODECS, help=f"({usual.codec})")
    add("--preset", help=f"of x264 and x265 ({usual.preset})")
    add("--as_is", action="store_true", help="pack the files without encoding them")
    add("--shard_size", type=int, default=128, help="videos of one shard (128)")
    options.add_workers(parser)
    add("--timeout", type=float, default=3600.0, help="seconds that one video may take; 0 = any time (3600)")
    add("--column", default="caption", help="the column of captions (caption)")
    add("--skip", default="", help="list of samples to leave out, as data.skip")
    add("--runner", default="", help="run as an Apache Beam graph: direct, flink, dataflow, spark, ...")
    arguments, others = parser.parse_some("runner", "Beam")
    options.check_numbers(arguments, shard_size=1, workers=0, timeout=0)
    return arguments, others


if __name__ == "__main__":
    sys.exit(run(main))
