"""The embedded data set: short videos of moving handwritten digits, made on the spot from scikit-learn's scans.

    python -m input_pipeline.embedded data/digits

In each clip a bright digit (the labelled one) performs one of 12 motions before a textured background that
drifts; something else moves too: a second, smaller and darker digit or a blob. A motion runs symmetrically through
a random state in the middle of the clip, so that a motion and its reverse show the same stills and only their order
tells them apart. Splits are by the underlying scan: no handwriting of the test clips occurs in training.

T frames, S canvas side in pixels; directions as seen: x to the right, y down.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from input_pipeline.atomic import appearing, remove_stale
from input_pipeline.encode import write_mp4
from input_pipeline.progress import Progress
from vfm.errors import UserError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MOTIONS = {  # caption verb: (x, y, turn, zoom) per unit of speed
    "moves left": (-1, 0, 0, 0),
    "moves right": (1, 0, 0, 0),
    "moves up": (0, -1, 0, 0),
    "moves down": (0, 1, 0, 0),
    "moves to the upper left": (-1, -1, 0, 0),
    "moves to the upper right": (1, -1, 0, 0),
    "moves to the lower left": (-1, 1, 0, 0),
    "moves to the lower right": (1, 1, 0, 0),
    "turns clockwise": (0, 0, 1, 0),
    "turns counter-clockwise": (0, 0, -1, 0),
    "grows": (0, 0, 0, 1),
    "shrinks": (0, 0, 0, -1),
}
SPLITS = {"train": 5000, "validation": 1000, "test": 1000}
FRAMES, SIDE, FPS = 16, 64, 8
_VERSION = 1  # of the drawing: a change makes existing folders stale


@cache
def _scans() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """split -> (scans float32 [n, 32, 32] in 0..1, digit int [n]); 70/15/15% of each digit's scans."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    data = load_digits()
    images = zoom(np.pad(data.images / 16.0, ((0, 0), (1, 1), (1, 1))), (1, 3.2, 3.2), order=3)
    images = np.clip(images, 0, 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for digit in range(10):
        mine = [i for i in order if data.target[i] == digit]
        a, b = int(0.7 * len(mine)), int(0.85 * len(mine))
        for split, part in zip(SPLITS, (mine[:a], mine[a:b], mine[b:]), strict=True):
            rows[split] += part
    return {split: (images[r], data.target[r]) for split, r in rows.items()}


def _sample(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear values of `image` at fractional pixel positions; 0 outside."""
    height, width = image.shape
    inside = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    y, x = np.clip(y, 0, height - 1.001), np.clip(x, 0, width - 1.001)
    top, left = y.astype(np.int32), x.astype(np.int32)
    dy, dx = (y - top).astype(np.float32), (x - left).astype(np.float32)
    upper = image[top, left] * (1 - dx) + image[top, left + 1] * dx
    lower = image[top + 1, left] * (1 - dx) + image[top + 1, left + 1] * dx
    return (upper * (1 - dy) + lower * dy) * inside


def _texture(rng: np.random.Generator) -> np.ndarray:
    """A soft periodic texture [S, S, 3] in 0..1 that can be rolled without a seam."""
    frequency = np.fft.fftfreq(SIDE) * SIDE
    radius = np.hypot(frequency[:, None], frequency[None])
    band = np.exp(-(((radius - rng.uniform(1, 3)) / 1.0) ** 2))
    noise = np.fft.ifft2(
        np.fft.fft2(rng.standard_normal((SIDE, SIDE, 2)), axes=(0, 1)) * band[..., None], axes=(0, 1)
    )
    noise = noise.real / noise.real.std((0, 1))
    base = rng.uniform(0.15, 0.4) + rng.uniform(-0.08, 0.08, 3)
    first, second = rng.uniform(-0.03, 0.03, (2, 3))
    return np.clip(base + noise[..., :1] * first + noise[..., 1:] * second, 0, 1).astype(np.float32)


def _shift(images: np.ndarray, y: np.ndarray, x: np.ndarray, wrap: bool) -> np.ndarray:
    """Frame t of [T, S, S, ...] (or one for all) moved by (y[t], x[t]) whole pixels; `wrap` = around the border."""
    rows = np.arange(SIDE) - np.round(y).astype(int)[:, None]
    columns = np.arange(SIDE) - np.round(x).astype(int)[:, None]
    rows, columns = ((i % SIDE) if wrap else np.clip(i, 0, SIDE - 1) for i in (rows, columns))
    frame = np.arange(len(rows))[:, None, None] if images.shape[0] == len(rows) else 0
    return images[frame, rows[:, :, None], columns[:, None, :]]


def _move(rng: np.random.Generator, shape: np.ndarray, motion: str, size: float, roam: float) -> np.ndarray:
    """Opacity [T, S, S] of `shape` (an image in 0..1, `size` pixels wide on the canvas) that performs `motion`.

    The state in the middle of the clip is drawn at random, `roam` pixels around the centre of the canvas; the motion
    runs symmetrically through it.
    """
    dx, dy, turn, grow = MOTIONS[motion]
    time = np.arange(FRAMES) - (FRAMES - 1) / 2
    speed = rng.uniform(1.6, 2.2) / max(np.hypot(dx, dy), 1)
    x, y = rng.uniform(-roam, roam, 2)
    angles = rng.uniform(-0.3, 0.3) + turn * rng.uniform(0.11, 0.15) * time
    scales = size * rng.uniform(0.9, 1.1) * np.exp(grow * rng.uniform(0.045, 0.06) * time)
    still = not (turn or grow)
    steps = slice(0, 1) if still else slice(None)  # an unchanging shape is drawn once
    grid = np.arange(SIDE) - SIDE / 2 + 0.5
    cos, sin = (f(angles[steps])[:, None, None] for f in (np.cos, np.sin))
    per_pixel = shape.shape[0] / scales[steps][:, None, None]
    u = (cos * grid[None, None] + sin * grid[None, :, None]) * per_pixel + shape.shape[1] / 2 - 0.5
    v = (-sin * grid[None, None] + cos * grid[None, :, None]) * per_pixel + shape.shape[0] / 2 - 0.5
    return _shift(_sample(shape, v, u), y + dy * speed * time, x + dx * speed * time, wrap=False)


def _blob(rng: np.random.Generator) -> np.ndarray:
    """A soft ellipse [32, 32] in 0..1."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    radius = np.hypot(x / rng.uniform(0.5, 0.9), y / rng.uniform(0.5, 0.9))
    return np.clip((1 - radius) * 6, 0, 1).astype(np.float32)


def _article(digit: int) -> str:
    return f"{'an' if digit == 8 else 'a'} {DIGITS[digit]}"


def draw(split: str, index: int, seed: int = 0) -> tuple[np.ndarray, dict]:
    """Clip `index` of a split: frames uint8 [T, S, S, 3] and its row {digit, motion, caption}."""
    scans, digits = _scans()[split]
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    motions = list(MOTIONS)
    motion = motions[index % len(motions)]  # balanced classes
    scan = rng.integers(len(scans))
    caption = f"{_article(digits[scan])} {motion}"

    drift = rng.uniform(-1.0, 1.0, 2)
    time = np.arange(FRAMES)
    frames = _shift(_texture(rng)[None], drift[0] * time, drift[1] * time, wrap=True)
    other_motion = motions[rng.integers(len(motions))]
    if rng.uniform() < 0.5:
        other_scan = rng.integers(len(scans))
        other = _move(rng, scans[other_scan], other_motion, rng.uniform(20, 26), roam=24)
        caption += f" while {_article(digits[other_scan])} {other_motion}"
    else:
        other = _move(rng, _blob(rng), other_motion, rng.uniform(14, 22), roam=24)
    frames = frames + other[..., None] * (rng.uniform(0.35, 0.65, 3) - frames)
    this = _move(rng, scans[scan], motion, rng.uniform(40, 46), roam=9)
    frames = frames + this[..., None] * (rng.uniform(0.85, 1.0, 3) - frames)
    row = {"digit": int(digits[scan]), "motion": motions.index(motion), "caption": caption}
    return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8), row


def _write(task: tuple[str, str, int, int, int]) -> list[dict]:
    """Draw and encode clips [start, stop) of a split; gives their rows (the work of one process)."""
    folder, split, start, stop, seed = task
    rows = []
    for index in range(start, stop):
        frames, row = draw(split, index, seed)
        name = f"{split}/{index:05d}.mp4"
        write_mp4(Path(folder, name), frames, fps=FPS, crf=14)
        rows.append({"path": name, **row})
    return rows


def make(
    folder: str | Path, sizes: dict[str, int] | None = None, seed: int = 0, workers: int | None = None
) -> Path:
    """Write the data set to `folder`: {split}/*.mp4, {split}.csv (path, digit, motion, caption), classes.json.

    Does nothing where the same set is there already. A new one appears under its name only when it is complete.

    Raises:
      UserError: the folder holds something else.
    """
    folder, sizes = Path(folder), {**SPLITS, **(sizes or {})}
    if seed < 0 or min(sizes.values()) < 0:
        raise UserError(f"seed={seed}, sizes={sizes}: expected no negative numbers")
    recipe = {"version": _VERSION, "seed": seed, "sizes": sizes, "frames": FRAMES, "side": SIDE}
    recipe["fingerprint"] = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    done = folder / "recipe.json"
    if done.exists() and json.loads(done.read_text()) == recipe:
        return folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file; name a folder that is new or empty")
    if folder.exists() and any(folder.iterdir()) and not done.exists():
        raise UserError(f"'{folder}' exists and holds something else; name a folder that is new or empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent, f"{folder.name}.")
    with appearing(folder) as draft:
        _write_all(draft, sizes, seed, workers)
        (draft / "recipe.json").write_text(json.dumps(recipe, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
    return folder


def _write_all(draft: Path, sizes: dict[str, int], seed: int, workers: int | None) -> None:
    """The splits of the set, by several processes, and its lists, in a folder that is made for them."""
    draft.mkdir()
    for split in sizes:
        (draft / split).mkdir()
    block = 50
    tasks = [
        (str(draft), split, start, min(start + block, n), seed)
        for split, n in sizes.items()
        for start in range(0, n, block)
    ]
    rows: dict[str, list[dict]] = {split: [] for split in sizes}
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of a process that runs jax
    with (
        ProcessPoolExecutor(workers or os.cpu_count(), mp_context=spawn) as pool,
        Progress(sum(sizes.values()), "embedded data set") as progress,
    ):
        for task, part in zip(tasks, pool.map(_write, tasks), strict=True):
            rows[task[1]] += part
            progress.to(progress.done + len(part))
    for split, lines in rows.items():
        with open(draft / f"{split}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["path", "digit", "motion", "caption"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    (draft / "classes.json").write_text(json.dumps({"digit": DIGITS, "motion": list(MOTIONS)}, indent=1))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.embedded",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="where the videos go")
    parser.add_argument("--seed", type=int, default=0)
    for name, size in SPLITS.items():
        parser.add_argument(f"--{name}", type=int, default=size, help=f"clips (default {size})")
    options = vars(parser.parse_args(arguments))
    try:
        sizes = {name: options[name] for name in SPLITS}
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"--{name}={size}: expected at least 1 clip")
        folder = make(options["folder"], sizes, options["seed"])
        print(f"{folder}: {', '.join(f'{size:,} {name}' for name, size in sizes.items())} clips")
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if not error.filename:
            raise
        sys.exit(f"error: cannot write '{error.filename}': {error.strerror}; give another folder")


if __name__ == "__main__":
    main()
