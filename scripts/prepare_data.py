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
import sys
from pathlib import Path
from typing import Any

from input_pipeline.encode import CODECS, Encoding
from input_pipeline.plan import Plan
from input_pipeline.prepare import prepare, read_manifest
from input_pipeline.sources import open_source
from scripts import options
from scripts.progress import Progress
from vfm.errors import UserError
from vfm.train.cli import run


def main() -> None:
    arguments, others = _parse()
    if others and not arguments.runner:
        raise UserError(f"unknown option {others[0]}; see --help (options of Beam need --runner)")
    out = Path(arguments.out).expanduser()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out='{out}': is a file; expected a folder, or one that is to be made")
    settings = {
        "spec": options.local(arguments.spec),
        "root": arguments.root,
        "medium": arguments.medium,
        "column": arguments.column,
        "skip": arguments.skip,
    }
    plan = open_plan(settings, _encoding(arguments), arguments.shard_size)
    if arguments.runner:
        from input_pipeline.beam import run_beam

        run_beam(plan, out, arguments.runner, others, arguments.timeout)
    else:
        with Progress(len(plan.videos), f"preparing {plan.source.name}") as progress:
            prepare(plan, out, arguments.workers, arguments.timeout, lambda note: progress.add("bad" in note))
    print(_summary(out, read_manifest(out)))


def open_plan(settings: dict[str, Any], encoding: Encoding | None, shard_size: int) -> Plan:
    """The plan for what the command line names."""
    spec, root = settings["spec"], settings["root"]
    source = open_source(
        spec, root, "SPEC", settings["column"], medium=settings["medium"], skip=settings["skip"]
    )
    return Plan.of(source, encoding, shard_size, root)


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    text = (
        f"{out}: {manifest['videos']:,} videos ({manifest['frames']:,} frames, {manifest['bytes'] / 2**20:,.1f} MiB) "
        f"in {len(manifest['shards'])} shards; {manifest['samples']:,} samples"
    )
    if manifest["damaged"]:
        text += f"; {manifest['damaged']:,} damaged, used in part: {out / 'damaged.csv'}"
    return text + (f"; {manifest['bad']:,} BAD: {out / 'bad.csv'}" if manifest["bad"] else "; none bad")


def _encoding(arguments: argparse.Namespace) -> Encoding | None:
    given = {key: getattr(arguments, key) for key in ("short_side", "fps", "gop", "crf", "codec", "preset")}
    given = {key: value for key, value in given.items() if value is not None}
    if arguments.as_is and given:
        raise UserError(
            f"--as_is and --{next(iter(given))}: files that are packed as they are, are not encoded"
        )
    return None if arguments.as_is else Encoding(**given)


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    arguments, others = parser.parse_known_args()
    options.check_numbers(arguments, shard_size=1, workers=0, timeout=0)
    return arguments, others


if __name__ == "__main__":
    sys.exit(run(main))
