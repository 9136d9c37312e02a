"""Clips a second from videos to batches: decoding alone, with transforms, the whole loader; originals and prepared.

    python -m scripts.bench.input [VIDEO...] [--cores 1 --clips 16 --rounds 5] [--out input.json]

A clip is 16 frames, 4 apart, of 224 x 224 pixels (multi-scale crop, random flip). For each video the contenders take
turns in short rounds, so that whatever else the machine does meets all of them; a contender's speed is the median over
its rounds. All have the same cores, and read the same frames:

  decode only   PyAV, the frames left as the decoder gives them
  raw decode    PyAV, frames as arrays of the stored size: what `loader/raw decode` is relative to
  decord, torchcodec   the same, where installed
  transform     our decoding with resizing, cropping and flipping, without a loader
  loader        batches from `train_batches` with one process for each core
  prepared ...  the same on the video as `scripts.prepare_data` makes it

Without VIDEO: three real clips of ../shared/data (or of the folder that VFM_SHARED names).
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from input_pipeline import open_source, train_batches
from input_pipeline.decode import Video
from input_pipeline.encode import CODECS, Encoding
from input_pipeline.plan import Plan
from input_pipeline.prepare import prepare
from input_pipeline.transforms import whole_window
from scripts.bench.readers import Job, Pool, Seconds, Stopwatch, peers
from scripts.options import check_numbers
from vfm.errors import UserError
from vfm.train import cli

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ("intel_asl/book.mkv", "videoprism/water_bottle_drumming.mp4", "sam2/05_default_juggle.mp4")
TITLES = {
    "decode only": "decode only",
    "pyav": "raw decode",
    "decord": "decord",
    "torchcodec": "torchcodec",
    "original chunk": "transform",
    "original loader": "loader",
    "prepared chunk": "prepared transform",
    "prepared loader": "prepared loader",
}
_BATCH = 4
_WARM = 2  # batches that the loader gives before it is timed


def main() -> None:
    arguments = _parse()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if arguments.cores > len(cores):
            raise UserError(
                f"--cores {arguments.cores}: this process may use {len(cores)}; choose at most those"
            )
        os.sched_setaffinity(0, cores[: arguments.cores])
    names = ["decode only", "pyav", *peers(), "original chunk", "original loader"]
    names += ["prepared chunk", "prepared loader"]
    encoding = Encoding(arguments.short_side, gop=arguments.gop, crf=arguments.crf, codec=arguments.codec)
    results = [_race(path, names, encoding, arguments) for path in _videos(arguments.videos)]
    versions = _versions(names)
    print(_table(results, names, arguments, versions))
    for result in results:
        for what, one, other in (
            ("loader/raw decode", "original loader", "pyav"),
            ("prepared/original", "prepared loader", "original loader"),
        ):
            ratios = [
                result["clips_per_s"][k][one] / result["clips_per_s"][k][other] for k in Seconds._fields
            ]
            print(f"{result['name']}: {what}: {ratios[0]:.2f} (in processor time {ratios[1]:.2f})")
    if arguments.out:
        about = dict(settings=vars(arguments), date=str(datetime.date.today()), versions=versions)
        Path(arguments.out).write_text(json.dumps(about | dict(results=results), indent=1) + "\n")


def _parse() -> argparse.Namespace:
    usual = Encoding()
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.input",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("videos", nargs="*", metavar="VIDEO", help="video files (default: three of ../shared/data)")
    add("--cores", type=int, default=1, help="processor cores for each contender (1)")
    add("--clips", type=int, default=16, help="clips of a round (16)")
    add("--rounds", type=int, default=5, help="turns of each contender (5)")
    add("--frames", type=int, default=16, help="of a clip (16)")
    add("--stride", type=int, default=4, help="from frame to frame of a clip (4)")
    add("--sampling", default="dense", help="as data.sampling (dense)")
    add("--size", type=int, default=224, help="pixels (224)")
    add("--short_side", type=int, default=usual.short_side, help=f"of prepared videos ({usual.short_side})")
    add("--gop", type=int, default=usual.gop, help=f"of prepared videos ({usual.gop})")
    add("--crf", type=int, default=usual.crf, help=f"of prepared videos ({usual.crf})")
    add("--codec", default=usual.codec, choices=CODECS, help=f"of prepared videos ({usual.codec})")
    add("--out", default="", metavar="JSON", help="also write the results to this file")
    arguments = parser.parse_args()
    check_numbers(arguments, cores=1, clips=1, rounds=1, frames=1, stride=1, size=1)
    arguments.clips = -(-arguments.clips // _BATCH) * _BATCH
    return arguments


def _videos(given: list[str]) -> list[str]:
    folder = Path(os.environ.get("VFM_SHARED", ROOT.parent / "shared")) / "data"
    paths = given or [str(folder / clip) for clip in CLIPS]
    for path in paths:
        if not os.path.isfile(path):
            advice = "give other VIDEOs" if given else "name your own: python -m scripts.bench.input VIDEO..."
            raise UserError(f"'{path}': no such file; {advice}")
    return paths


def _config(spec: str, arguments: argparse.Namespace) -> ConfigDict:
    data = config_flags.ConfigFileFlagParser("config").parse(f"{ROOT}/configs/common.py").data
    data.train, data.workers, data.check, data.cache = spec, arguments.cores, False, False
    for key in ("frames", "stride", "sampling", "size"):
        data[key] = getattr(arguments, key)
    return data


def _race(path: str, names: list[str], encoding: Encoding, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one video gives: clips a second of each contender, and what preparing it did."""
    rounds, clips = arguments.rounds + 1, arguments.clips  # the first round warms up
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(path)
        prepare(Plan.of(source, encoding, 1), Path(folder) / "set", workers=1)
        configs = {"original": _config(path, arguments), "prepared": _config(f"{folder}/set", arguments)}
        chunks = {}
        for kind, data in configs.items():
            with train_batches(data, batch_size=_BATCH, seed=0) as batches:
                chunks[kind] = batches._streams[0].chunks
        with Video(path) as video:
            listing = video.listing
        frames = list(_frames_of(chunks["original"], rounds * clips + _WARM * _BATCH))
        seconds: dict[str, list[Seconds]] = {name: [] for name in names}
        steps = tqdm(total=rounds * len(names), desc=os.path.basename(path), disable=None, leave=False)
        with Pool(arguments.cores, chunks) as pool, steps:
            for turn in range(rounds):
                numbers = range(turn * clips + _WARM * _BATCH, (turn + 1) * clips + _WARM * _BATCH)
                for name in names:
                    kind, _, what = name.partition(" ")
                    if what == "loader":
                        taken = _load(configs[kind], turn, arguments)
                    elif what == "chunk":
                        taken = pool.time([Job("chunk", kind, chunk=i) for i in numbers])
                    else:
                        taken = pool.time([Job(name, path, frames[i], listing) for i in numbers])
                    seconds[name].append(taken)
                    steps.update()
        quality = _quality(path, f"{folder}/set")
    speeds = {
        field: {
            name: clips / statistics.median(getattr(s, field) for s in seconds[name][1:]) for name in names
        }
        for field in Seconds._fields
    }
    rounds_of = {name: [s._asdict() for s in some[1:]] for name, some in seconds.items()}
    return dict(name="/".join(Path(path).parts[-2:]), clips_per_s=speeds, seconds=rounds_of, prepared=quality)


def _load(data: ConfigDict, turn: int, arguments: argparse.Namespace) -> Seconds:
    """Batches of the whole loader, once it runs: as much lies ready before as afterwards."""
    steps = arguments.clips // _BATCH
    with train_batches(data, batch_size=_BATCH, seed=0, start_step=turn * steps) as batches:
        for _ in range(_WARM):
            next(batches)
        with Stopwatch(batches.processes()) as watch:
            for _ in range(steps):
                next(batches)
    return watch.seconds


def _frames_of(chunks: Any, count: int) -> Iterator[tuple[int, ...]]:
    """The frames that our chunks read; nothing is decoded for that."""
    read: list[tuple[int, ...]] = []

    def note(self: Video, indices: Any, window_of: Any = None) -> np.ndarray:
        read.append(tuple(int(i) for i in indices))
        window = window_of(*self.size)
        return np.zeros((len(indices), window.rows, window.columns, 3), np.uint8)

    with mock.patch.object(Video, "read", note):
        for i in range(count):
            read.clear()
            chunks[i]
            yield read[0]


def _quality(path: str, prepared: str) -> dict[str, Any]:
    """What preparing kept: decibels and structural similarity of frames in the prepared size, and bytes."""
    manifest = json.loads(Path(prepared, "manifest.json").read_text())
    with Video(path) as original, open_source(prepared).open(0) as record:
        places = np.linspace(0, record.num_frames - 1, min(record.num_frames, 24)).round().astype(int)
        one = original.read(places, lambda height, width: whole_window(*record.size))
        other = record.read(places)
        size = record.size
    error = np.mean((one.astype(np.float32) - other) ** 2)
    return dict(
        height=size[0],
        width=size[1],
        psnr=float(10 * np.log10(255**2 / max(error, 1e-9))),
        ssim=float(np.mean([_similarity(a, b) for a, b in zip(one, other, strict=True)])),
        bytes=manifest["bytes"],
        original_bytes=os.path.getsize(path),
    )


def _similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of two pictures' brightness (Wang et al. 2004: Gaussian windows, sigma 1.5)."""
    a, b = (picture.astype(np.float64) @ (0.299, 0.587, 0.114) for picture in (one, other))
    mean_a, mean_b = gaussian_filter(a, 1.5), gaussian_filter(b, 1.5)
    var_a = gaussian_filter(a * a, 1.5) - mean_a**2
    var_b = gaussian_filter(b * b, 1.5) - mean_b**2
    both = gaussian_filter(a * b, 1.5) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(
        np.mean(
            (2 * mean_a * mean_b + c1)
            * (2 * both + c2)
            / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        )
    )


def _versions(names: list[str]) -> str:
    packages = ["av", "numpy", *(name for name in names if name in ("decord", "torchcodec"))]
    found = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join([f"Python {platform.python_version()}", *found])


def _table(results: list[dict], names: list[str], arguments: argparse.Namespace, versions: str) -> str:
    """Clips a second as a table in Markdown."""
    lines = [
        f"Clips a second of {arguments.frames} x {arguments.size}^2, stride {arguments.stride}, on {arguments.cores} "
        f"core(s), {platform.machine()}; median of {arguments.rounds} rounds of {arguments.clips} clips by the clock "
        f"(in brackets: by processor time); {versions}.",
        "",
        "| video | " + " | ".join(TITLES[name] for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for result in results:
        wall, processor = (result["clips_per_s"][field] for field in Seconds._fields)
        cells = [f"{wall[name]:.1f} ({processor[name]:.1f})" for name in names]
        lines.append(f"| {result['name']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| video | prepared size | of the original's bytes | PSNR, dB | SSIM |",
        "| --- |" + " ---: |" * 4,
    ]
    for result in results:
        kept = result["prepared"]
        share = kept["bytes"] / kept["original_bytes"]
        size = f"{kept['width']} x {kept['height']}"
        lines.append(f"| {result['name']} | {size} | {share:.0%} | {kept['psnr']:.1f} | {kept['ssim']:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
