"""Try out every video of a set, and write down the bad ones.

    python -m scripts.validate_data SPEC --out bad.csv
    python -m scripts.validate_data train.csv --out bad.csv --level all --samples 10000 --workers 16

bad.csv has a line `path,reason` for each video that gives no frames (with --strict also for those that are damaged but
can be used in part). It is a list of what to leave out: --config.data.skip=bad.csv. The exit code is 0 whatever the
videos are like; with --fail it is 1 where something is listed.
"""

import argparse
import collections
import os
import re
import sys
from pathlib import Path

import numpy as np

from input_pipeline.check import LEVELS, SECONDS, check
from input_pipeline.progress import Progress
from input_pipeline.records import reasons_csv, write_text
from input_pipeline.sources import Source, open_source
from scripts import options
from scripts.options import counted
from vfm.train.cli import check_file, run


def main() -> None:
    arguments = _parse()
    out = Path(arguments.out).expanduser()
    check_file(out)
    source = open_source(options.spec_of(arguments), arguments.root, "SPEC", medium=arguments.medium)
    indices = _distinct(source, arguments.samples)
    bad, damaged, frames = {}, {}, 0
    with Progress(len(indices), f"checking {source.name}") as progress:
        results = check(source, arguments.level, arguments.workers, arguments.timeout, indices)
        for index, reason, found in results:
            name = source.clip_name(index)
            if reason:
                bad[name] = reason
            elif found.get("damage"):
                damaged[name] = found["damage"]
            frames += found.get("frames", 0)
            progress.add(bool(reason))
    write_text(out, reasons_csv(_named(source, bad | damaged if arguments.strict else bad)))
    print(
        f"{counted(len(indices), 'video')} of {source.name} ({counted(len(source), 'sample')}), {frames:,} frames: "
        f"{len(indices) - len(bad) - len(damaged):,} good, {len(damaged):,} damaged but of use, {len(bad):,} bad"
    )
    for what, reasons in (("bad", bad), ("damaged", damaged)):
        for reason, names in _grouped(reasons):
            print(f"  {what}: {len(names):,} x {reason}, e.g. {names[0]}")
    listed = len(bad) + len(damaged) * arguments.strict
    print(f"{out}: {listed:,} listed" + (f"; leave them out with --config.data.skip={out}" if listed else ""))
    if arguments.level == "first":
        print("only the first frame of each was decoded; --level all looks at every frame")
    if arguments.fail and listed:
        sys.exit(1)


def _distinct(source: Source, samples: int) -> list[int]:
    """A sample of each video (or part of one); `samples` of them, spread evenly, where that is not 0."""
    first: dict[str, int] = {}
    for i in range(len(source)):
        first.setdefault(source.clip_name(i), i)
    indices = list(first.values())
    if not 0 < samples < len(indices):
        return indices
    return [indices[i] for i in np.linspace(0, len(indices) - 1, samples).round().astype(int)]


def _named(source: Source, reasons: dict[str, str]) -> dict[str, str]:
    """With names of files that do not depend on the folder that the command was given in."""
    files = source.media is None
    return {
        os.path.abspath(name) if files and "://" not in name else name: why for name, why in reasons.items()
    }


def _grouped(reasons: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Reasons that differ in numbers only, together: the most frequent first."""
    groups = collections.defaultdict(list)
    for name, reason in reasons.items():
        groups[re.sub(r"\d+(\.\d+)?", "N", reason)].append((reason, name))
    found = [
        (members[0][0] if len(members) == 1 else kind, [name for _, name in members])
        for kind, members in groups.items()
    ]
    return sorted(found, key=lambda group: -len(group[1]))[:10]


def _parse() -> argparse.Namespace:
    parser = options.Parser("validate_data", __doc__)
    add = parser.add_argument
    options.add_source(parser)
    add("--out", required=True, metavar="CSV", help="the file to write")
    add("--level", choices=LEVELS, default="first", help="decode the first frame, or all of them (first)")
    add("--samples", type=int, default=0, help="videos to try, spread evenly over the set; 0 = all (0)")
    options.add_workers(parser)
    add("--timeout", type=float, default=SECONDS, help=f"seconds that one video may take ({SECONDS:g})")
    add("--strict", action="store_true", help="list damaged videos too, which can be used in part")
    add("--fail", action="store_true", help="end with exit code 1 where something is listed")
    arguments = parser.parse_all()
    options.check_numbers(arguments, samples=0, workers=0, above={"timeout": 0})
    return arguments


if __name__ == "__main__":
    sys.exit(run(main))
