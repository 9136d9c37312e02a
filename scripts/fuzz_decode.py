"""Damage videos in many ways and see that decoding never ends in anything but frames or a reason.

    python -m scripts.fuzz_decode ../shared/data --count 2000
    python -m scripts.fuzz_decode clips/ --count 500 --seed 7 --out mutants.csv

Each mutant is a copy in memory of one of the files with bytes flipped, the end cut off, the header damaged, a piece
taken out or overwritten. Worker processes list its frames and read eight of them, its size, its times and a second of
sound. The same seed gives the same mutants. The exit code is 0 if no worker crashed, no mutant took longer than
--timeout or more than --memory, and no error came that is no BadVideo.
"""

import argparse
import collections
import contextlib
import csv
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from input_pipeline.check import check
from input_pipeline.progress import Progress
from input_pipeline.sources import Source
from input_pipeline.suffixes import VIDEO_SUFFIXES
from scripts import options
from scripts.mutants import FAILURES, MUTATIONS, OUTCOMES, Mutants, Result, results
from scripts.options import counted
from vfm.errors import UserError
from vfm.train.cli import check_file, run

MEMORY = 1024  # MiB that a mutant may take
_SHOWN = 25  # reasons in the table
_CPU_SHARE = 0.5  # of --timeout: the decoder's own limit comes first


def table(found: Sequence[Result]) -> str:
    """Outcomes by mutation, and the reasons."""
    lines = ["mutation".ljust(14) + "".join(word.rjust(9) for word in ("all", *OUTCOMES))]
    for mutation in (*MUTATIONS, "all"):
        rows = [result for result in found if mutation in (result.mutation, "all")]
        counts = collections.Counter(result.outcome for result in rows)
        lines.append(
            mutation.ljust(14) + f"{len(rows):>9,}" + "".join(f"{counts[word]:>9,}" for word in OUTCOMES)
        )
    reasons = collections.defaultdict(list)
    for result in found:
        if result.reason:
            reasons[result.outcome, re.sub(r"\d+(\.\d+)?", "N", result.reason)].append(result)
    ordered = sorted(reasons.items(), key=lambda item: (item[0][0] not in FAILURES, -len(item[1])))
    for (outcome, reason), members in ordered[:_SHOWN]:
        example = f"{Path(members[0].name).name}, {members[0].mutation}"
        lines.append(f"  {len(members):>6,} x {outcome}: {reason[:140]} (e.g. {example})")
    if len(ordered) > _SHOWN:
        rest = sum(len(members) for _, members in ordered[_SHOWN:])
        lines.append(f"  {rest:>6,} x {len(ordered) - _SHOWN} other reasons")
    slowest, largest = (max(found, key=lambda r: r.seconds), max(found, key=lambda r: r.mebibytes))
    slow, large = (f"({Path(r.name).name}, {r.mutation})" for r in (slowest, largest))
    lines.append(
        f"slowest {slowest.seconds:.1f} s of processor time {slow}, most memory {largest.mebibytes:.0f} MiB {large}"
    )
    return "\n".join(lines)


def _files(folders: Sequence[str], largest: float) -> list[str]:
    """Videos below some folders (files that are named count as they are), small ones only, in a fixed order."""
    found = []
    for folder in map(Path, folders):
        if not folder.exists():
            raise UserError(f"'{folder}': no such file or folder")
        paths = (
            [folder]
            if folder.is_file()
            else sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        )
        found += [str(path) for path in paths if 0 < path.stat().st_size <= largest * 2**20]
    if not found:
        raise UserError(f"no videos of at most {largest:g} MiB below {', '.join(folders)}; see --largest")
    return found


def _look_at_undamaged(paths: Sequence[str], workers: int) -> None:
    """Opens files until one gives a frame. Raises UserError where none does: their mutants would show nothing."""
    with contextlib.closing(check(Source(name="", paths=paths), workers=workers)) as results:
        reasons = []
        for _, reason, _ in results:
            if not reason:
                return
            reasons.append(reason)
    raise UserError(
        f"none of {counted(len(paths), 'file')} can be read before any damage, e.g. {paths[0]}: {reasons[0]}; give "
        f"videos that can be"
    )


def main() -> None:
    arguments = _parse()
    paths = _files(arguments.files, arguments.largest)
    mutants = Mutants(paths, arguments.seed, arguments.timeout * _CPU_SHARE, arguments.memory)
    workers = arguments.workers or os.cpu_count() or 1
    _look_at_undamaged(paths, workers)
    found = []
    with Progress(arguments.count, f"mutants of {counted(len(paths), 'file')}", "mutants") as progress:
        for result in results(mutants, arguments.count, workers, arguments.timeout):
            found.append(result)
            progress.add(result.outcome in FAILURES)
    if arguments.out:
        with open(arguments.out, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("mutant", *Result._fields))
            writer.writerows((i, *result) for i, result in enumerate(found))
    print(table(found))
    failures = sum(result.outcome in FAILURES for result in found)
    print(
        f"{counted(len(found), 'mutant')}: {failures:,} crashes, hangs, excesses of memory or unknown errors"
    )
    if failures:
        sys.exit(1)


def _parse() -> argparse.Namespace:
    parser = options.Parser("fuzz_decode", __doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILES", help="videos, or folders with videos below them")
    add("--count", type=int, default=2000, help="mutants (2000)")
    add("--seed", type=int, default=0, help="of the mutations (0)")
    options.add_workers(parser)
    add("--timeout", type=float, default=120.0, help="seconds after which a mutant counts as a hang (120)")
    add("--memory", type=float, default=MEMORY, help=f"MiB that a mutant may take ({MEMORY})")
    add("--largest", type=float, default=0.5, help="MiB of the largest file that is mutated (0.5)")
    add("--out", default="", metavar="CSV", help="write what became of each mutant to this file")
    arguments = parser.parse_all()
    options.check_numbers(
        arguments, count=1, seed=0, workers=0, above={"timeout": 0, "memory": 0, "largest": 0}
    )
    if arguments.out:
        check_file(arguments.out)
    return arguments


if __name__ == "__main__":
    sys.exit(run(main))
