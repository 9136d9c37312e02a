"""Memory of the loader while it reads: does it grow?

    python -m scripts.bench.memory                                 10,000 clips of small videos of many sizes
    python -m scripts.bench.memory --spec clips.csv --clips 2000   clips of a set of your own
    python -m scripts.bench.memory --workers 2                     with two processes that read

Prints the resident memory of this process and of those that read after every tenth of the clips, then the growth from
the second tenth (when caches are full) to the end. Ends with exit code 1 where that is more than a tenth.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags
from tqdm import tqdm

from input_pipeline import train_batches, write_mp4
from scripts.options import check_numbers
from vfm.train.cli import run

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
MOST = 0.10  # growth that is an error
_PARTS = 10
_VIDEOS = 48


def make_videos(folder: Path, count: int = _VIDEOS) -> None:
    """Small videos of many sizes and lengths."""
    rng = np.random.default_rng(0)
    for i in range(count):
        height, width = (rng.integers(24, 90, 2) * 2).tolist()
        frames = rng.integers(0, 256, (int(rng.integers(8, 40)), height // 8, width // 8, 3), dtype=np.uint8)
        write_mp4(folder / f"{i}.mp4", frames.repeat(8, 1).repeat(8, 2))


def resident(pid: int | str) -> int:
    """Bytes that a process holds in memory, what it shares with others counted fully."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(data: Any, clips: int, batch_size: int, parts: int = _PARTS) -> Iterator[tuple[int, int, int]]:
    """(clips read so far, bytes of this process, bytes of those that read for it), `parts` times."""
    with train_batches(data, batch_size=batch_size, seed=0) as batches:
        steps = max(1, clips // batch_size // parts)
        with tqdm(total=steps * parts * batch_size, unit=" clips", disable=None, leave=False) as bar:
            for part in range(1, parts + 1):
                for _ in range(steps):
                    next(batches)
                    bar.update(batch_size)
                readers = sum(map(resident, batches.processes()))
                yield part * steps * batch_size, resident("self"), readers


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.memory",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--spec", default="", help="a source of videos; default: small ones that are made for this"
    )
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that read; 0 = threads")
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    check_numbers(options, clips=1, batch_size=1, workers=0, size=1)
    with tempfile.TemporaryDirectory() as folder:
        if not options.spec:
            make_videos(Path(folder))
        data = config(options.spec or folder, options.size, options.workers)
        print(f"{'clips':>8} {'this process':>14} {'processes':>11} {'together':>10}")
        together = []
        for clips, here, there in measure(data, options.clips, options.batch_size):
            together.append(here + there)
            print(
                f"{clips:8,} {here / MIB:10.1f} MiB {there / MIB:7.1f} MiB {together[-1] / MIB:6.1f} MiB",
                flush=True,
            )
    grown = together[-1] / together[1] - 1
    print(f"grown by {grown:+.1%} from {2 * options.clips // _PARTS:,} to {options.clips:,} clips")
    sys.exit(int(grown > MOST))


def config(spec: str, size: int, workers: int) -> ConfigDict:
    """`config.data` of clips of 8 frames of a source."""
    data = config_flags.ConfigFileFlagParser("config").parse(f"{ROOT}/configs/common.py").data
    data.train, data.frames, data.stride, data.size, data.workers = spec, 8, 1, size, workers
    return data


if __name__ == "__main__":
    sys.exit(run(main))
