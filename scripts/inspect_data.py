"""Say what a source of videos holds, and draw a contact sheet of it.

python -m scripts.inspect_data SPEC [--set KEY=VALUE] [--samples 100] [--out sheet.png]

SPEC is what --config.data.train takes: a list, a folder, shards, one video, or a Python file FILE.py[:arg]; --set adds
an option of its format, and may be repeated. Prints which format that is, how many samples there are, their classes,
captions and parts; opens some of them (evenly spread; --samples 0 = all) in processes of their own, and prints their
lengths, sizes, codecs and the first problems. The picture shows frames of some of those that can be read.

  python -m scripts.inspect_data kinetics-400_val.csv --root videos --set template={youtube_id}.mp4
  python -m scripts.inspect_data MSRVTT_data.json --set split=test --out msrvtt.png
"""

import argparse
import collections
import contextlib
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from input_pipeline import BadVideo, Source, open_source
from input_pipeline.atomic import appearing
from input_pipeline.check import check
from input_pipeline.clips import Recipe
from input_pipeline.decode import FewerFrames
from input_pipeline.formats import FORMATS
from input_pipeline.labels import MultiLabel
from input_pipeline.progress import lasting
from input_pipeline.spec import describe, resolve
from input_pipeline.stores import STORES
from input_pipeline.transforms import resize, whole_window
from scripts import options
from scripts.options import counted
from vfm.errors import UserError
from vfm.train.cli import run

SHOWN = 5  # of classes, values, problems
FAR = 3  # times the middle rate
CELL = (90, 120)  # height and width of a picture's frames
GAP, TITLE = 4, 20  # pixels between frames and around the picture; height of a line of text


@dataclass
class Opened:
    """What was found in the samples that were opened."""

    tried: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    facts: dict[str, dict[int, Any]] = field(default_factory=lambda: collections.defaultdict(dict))

    @property
    def stills(self) -> bool:
        """Whether all that could be opened have a single frame, and so no duration that means anything."""
        return set(self.facts["frames"].values()) == {1}

    @property
    def readable(self) -> list[int]:
        return [index for index in self.tried if index not in self.bad]


def spread(count: int, most: int) -> list[int]:
    """At most `most` indices (0 = all), evenly over 0 ... count - 1."""
    if not most or most >= count:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def contents(source: Source) -> list[str]:
    """Lines about what the annotations say; nothing is opened."""
    distinct = len(set(source.paths))
    lines = [f"format: {source.format}"]
    lines.append(
        f"samples: {len(source):,}" + (f", of {counted(distinct, 'video')}" if distinct < len(source) else "")
    )
    lines.append(f"first: {source.clip_name(0)}")
    lines.append(f"last: {source.clip_name(len(source) - 1)}")
    for name, column in source.labels.items():
        lines.append(f"label '{name}': {_classes(column, source.label_names.get(name))}")
    if source.captions:
        lines.append(_captions(source.captions))
    if source.turns:
        asked = [len(turns) for turns in source.turns]
        lines.append(f"conversations: {sum(asked):,} questions, {_range(asked)} a sample")
    if source.spans is not None:
        parts = source.spans[~np.isnan(source.spans[:, 0])]
        closed = parts[np.isfinite(parts[:, 1])]
        lengths = f", {_range(closed[:, 1] - closed[:, 0], 's')}" if len(closed) else ""
        lines.append(f"parts of videos: {len(parts):,} samples{lengths}")
    for name, values in source.words.items():
        if name not in source.labels and not name.startswith("caption"):
            counts = collections.Counter(value for value in values if value)
            some = dict.fromkeys(_cut(value, 40) for value, _ in counts.most_common(20 * SHOWN))
            line = f"text '{name}': {len(counts):,} different, such as {', '.join(map(repr, list(some)[:SHOWN]))}"
            lines.append(
                line + (f" (--column {name} makes captions of it)" if _captionable(source, counts) else "")
            )
    if source.skipped:
        lines.append(f"left out by a skip list: {counted(len(source.skipped), 'sample')}")
    return lines


def _captionable(source: Source, counts: Mapping[str, int]) -> bool:
    """Whether a column reads like captions (most have several words), where there are none and they can be chosen."""
    known = FORMATS.get(source.format)
    chosen = "column" in known.OPTIONS if known else source.format in STORES
    return chosen and not source.captions and 2 * sum(" " in text for text in counts) > len(counts)


def _classes(column: Any, names: Sequence[str] | None) -> str:
    """Classes with their counts, most frequent first."""
    if isinstance(column, MultiLabel):
        numbers = [number for some in column.classes for number in some]
        total, kind = column.count, f"several a sample ({_range([len(some) for some in column.classes])}), "
    else:
        numbers = column.tolist()
        total, kind = (len(names) if names else max(numbers) + 1), ""
    counts = collections.Counter(numbers).most_common()
    if not counts:
        return f"{kind}{counted(total, 'class')}, none of which occurs"
    said = [f"{names[number] if names else number} ({count:,})" for number, count in counts]
    listed = said if len(said) <= 2 * SHOWN else [*said[:SHOWN], "...", *said[-SHOWN:]]
    absent = f"; {total - len(counts)} never occur" if total > len(counts) else ""
    return f"{kind}{counted(total, 'class')}{absent}: {', '.join(listed)}"


def _captions(captions: Sequence[Sequence[str]]) -> str:
    texts = [text for some in captions for text in some if text.strip()]
    silent = sum(not any(text.strip() for text in some) for some in captions)
    if not texts:
        return "captions: all are empty"
    words = [len(text.split()) for text in texts]
    each = _range([len(some) for some in captions])
    line = f"captions: {len(texts):,} ({each} a sample), {len(set(texts)):,} different, {_range(words)} words"
    line += f"; {counted(silent, 'sample')} without" if silent else ""
    return f"{line}, such as {_cut(texts[0], 80)!r}"


def _range(values: Iterable[float], unit: str = "") -> str:
    """Smallest, middle and largest of some numbers."""
    values = np.sort(np.asarray(list(values), float))
    low, middle, high = values[0], values[len(values) // 2], values[-1]
    if low == high:
        return f"{low:.4g} {unit}".strip()
    return f"{low:.4g} ... {middle:.4g} ... {high:.4g} {unit}".strip()


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def open_some(source: Source, most: int, level: str, workers: int) -> Opened:
    """Opens samples in processes of their own; a progress bar on a terminal."""
    chosen = [index for index in spread(len(source), most) if index not in source.skipped]
    found = Opened(tried=chosen)
    missing = source.store.missing(chosen)
    found.bad.update(missing)
    here = [index for index in chosen if index not in missing]
    if not here:
        return found
    results = check(source, level, workers, indices=here)
    with contextlib.closing(results):
        for index, reason, facts in tqdm(
            results, "opening", len(here), unit=" files", disable=None, leave=False
        ):
            if reason:
                found.bad[index] = reason
                continue
            if facts.get("damage"):
                found.damaged[index] = facts.pop("damage")
            for name, value in facts.items():
                found.facts[name][index] = value
    return found


def findings(source: Source, found: Opened) -> list[str]:
    """Lines about the samples that were opened."""
    good = len(found.readable)
    lines = [f"opened: {len(found.tried):,} of {counted(len(source), 'sample')}, {good:,} can be read"]
    facts = {name: list(values.values()) for name, values in found.facts.items()}
    timed = () if found.stills else (("duration", "s"), ("fps", "frames a second"))
    for name, unit in (("frames", ""), *timed):
        values = [value for value in facts.get(name, ()) if value]
        if values:
            lines.append(f"{name}: {_range(values, unit)}{_outlier(source, found, name)}")
    seconds = [value for value in facts.get("duration", ()) if value]
    if seconds and source.spans is None and not found.stills:
        lines.append(f"in all: about {lasting(np.mean(seconds) * len(source))}")
    sizes = [f"{width}x{height}" for height, width in facts.get("size", ())]
    for name, values in (("size", sizes), *((name, facts.get(name, [])) for name in ("codec", "rotation"))):
        counts = collections.Counter(values).most_common()
        if counts and (name != "rotation" or set(values) != {0}):
            more = f", and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
            lines.append(f"{name}: {', '.join(f'{value} ({n:,})' for value, n in counts[:SHOWN])}{more}")
    for title, problems in (("problems", found.bad), ("damaged, used in part", found.damaged)):
        if problems:
            lines.append(f"{title}: {len(problems):,} of {len(found.tried):,}")
            lines += [f"  {source.clip_name(i)}: {why}" for i, why in list(problems.items())[:SHOWN]]
    return lines


def _outlier(source: Source, found: Opened, name: str) -> str:
    """The sample whose rate is far above those of the others: more often a wrong header than a fast camera."""
    values = {i: value for i, value in found.facts[name].items() if value}
    most = max(values, key=values.get)
    odd = name == "fps" and values[most] > FAR * np.median(list(values.values()))
    return f" (the most: {source.clip_name(most)})" if odd else ""


def missing_all(source: Source, found: Opened) -> str:
    """What to try where not one file is there, "" where some are."""
    if found.readable or not all("no such f" in why for why in found.bad.values()):
        return ""
    advice = "not one file is there: say which folder they are in by --root FOLDER"
    known = FORMATS.get(source.format)
    template = known.OPTIONS.get("template") if known else ""
    return advice + (f", or how they are called by --set template=... ({template} now)" if template else "")


def strip(source: Source, index: int, count: int) -> UInt8[np.ndarray, "H W 3"]:
    """Frames of a sample side by side, evenly spread from its first to its last, each in a cell of one size."""
    height, width = CELL
    with source.open(index) as video:
        try:
            frames = _frames(video, count)
        except FewerFrames:  # the video now knows how many there are
            frames = _frames(video, count)
    share = min(height / frames.shape[1], width / frames.shape[2])
    inside = [max(1, round(side * share)) for side in frames.shape[1:3]]
    small = resize(frames, whole_window(*inside))
    top, left = (height - inside[0]) // 2, (width - inside[1]) // 2
    cells = np.full((count, height, width + GAP, 3), 255, np.uint8)
    cells[:, :, :width] = 225  # beside frames of another shape
    cells[:, top : top + inside[0], left : left + inside[1]] = small
    return cells.transpose(1, 0, 2, 3).reshape(height, count * (width + GAP), 3)[:, :-GAP]


def _frames(video: Any, count: int) -> UInt8[np.ndarray, "T H W 3"]:
    def reduced(height: int, width: int):
        share = min(1.0, max(CELL[0] / height, CELL[1] / width))
        return whole_window(max(1, round(height * share)), max(1, round(width * share)))

    return video.read(np.linspace(0, video.num_frames - 1, count).round().astype(int), reduced)


def title(source: Source, index: int) -> str:
    """What is known about a sample, in a line."""
    labels = []
    for name, column in source.labels.items():
        names = source.label_names.get(name)
        numbers = column.classes[index] if isinstance(column, MultiLabel) else [int(column[index])]
        labels.append(f"{name} {', '.join(names[n] if names else str(n) for n in numbers[:3]) or 'none'}")
    caption = source[index].caption
    start = "" if source.spans is None else source.clip_name(index).removeprefix(source.paths[index])
    said = [f"{index}: {Path(source.paths[index]).name}{start}", *labels, *([caption] if caption else [])]
    return " | ".join(said)


def contact_sheet(source: Source, indices: Sequence[int], file: Path, count: int, columns: int = 1) -> int:
    """Draws `count` frames of each sample, `columns` samples in a row; gives how many samples there are."""
    from matplotlib.figure import Figure

    rows = []
    for index in indices:
        with contextlib.suppress(BadVideo):
            rows.append((title(source, index), strip(source, index, count)))
    if not rows:
        return 0
    height, width = rows[0][1].shape[:2]
    columns, lines = min(columns, len(rows)), -(-len(rows) // columns)
    wide, high = columns * (width + GAP) + GAP, lines * (height + TITLE) + GAP
    figure = Figure((wide / 100, high / 100), dpi=100, facecolor="white")
    for number, (text, pixels) in enumerate(rows):
        bottom = GAP + (lines - 1 - number // columns) * (height + TITLE)
        left = GAP + number % columns * (width + GAP)
        axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high))
        axes.imshow(pixels, aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        short = _cut(text, width // 5)  # letters of this size are about 5 pixels wide
        axes.set_title(short.replace("$", r"\$"), fontsize=7, loc="left", pad=3)
    with appearing(file) as draft, warnings.catch_warnings():
        # What the font has no letter for is drawn as a box, and nobody can do anything about it here.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(draft, format=file.suffix[1:])
    return len(rows)


def sources_of(found: dict[str, Any], arguments: argparse.Namespace) -> list[Source]:
    """The source of a resolved spec, or those of a mixture, of which only what says where they are counts."""
    key = "SPEC"
    parts = {"": found}
    if "sources" in found:
        other = {"weight", "medium"} | {part.name for part in fields(Recipe)}
        resolved = {name: resolve(part, f"{key}.sources.{name}") for name, part in found["sources"].items()}
        parts = {name: {k: v for k, v in part.items() if k not in other} for name, part in resolved.items()}
    return [
        open_source(part, arguments.root, f"{key}.sources.{name}" if name else key, arguments.column,
                    arguments.medium, arguments.skip)
        for name, part in parts.items()
    ]  # fmt: skip


def _main() -> None:
    parser = options.Parser("inspect_data", __doc__)
    options.add_source(parser)
    parser.add_argument("--column", default="caption", help="the column of captions (caption)")
    parser.add_argument("--skip", default="", help="a CSV path,reason of samples to leave out")
    parser.add_argument("--samples", type=int, default=100, help="samples that are opened, 0 = all (100)")
    parser.add_argument(
        "--level", choices=("first", "all"), default="first", help="frames decoded of each (first)"
    )
    options.add_workers(parser)
    parser.add_argument(
        "--out", default="contact_sheet.png", help="the picture, '' = none (contact_sheet.png)"
    )
    parser.add_argument("--rows", type=int, default=12, help="samples in the picture (12)")
    parser.add_argument("--frames", type=int, default=6, help="frames of each in the picture (6)")
    arguments = parser.parse_all()
    out = Path(arguments.out)
    if arguments.out and (out.suffix not in (".png", ".pdf", ".svg") or not out.parent.is_dir()):
        raise UserError(
            f"--out='{out}': expected a name in an existing folder that ends in .png, .pdf or .svg"
        )
    options.check_numbers(arguments, rows=1, frames=1, samples=0, workers=0)
    sources = sources_of(options.spec_of(arguments), arguments)
    for source in sources:
        print(
            f"{source.name}"
            if len(sources) == 1
            else f"{source.key.removeprefix('SPEC.sources.')}: {source.name}"
        )
        print("\n".join(f"  {line}" for line in contents(source)), flush=True)
        found = open_some(source, arguments.samples, arguments.level, arguments.workers)
        print("\n".join(f"  {line}" for line in findings(source, found)), flush=True)
        readable = found.readable
        if arguments.out and readable:
            place = out if len(sources) == 1 else out.with_stem(f"{out.stem}_{source.key.rpartition('.')[2]}")
            # Of images one picture says all: as many of them in a row as there would be frames.
            count, columns = (1, arguments.frames) if found.stills else (arguments.frames, 1)
            chosen = [readable[i] for i in spread(len(readable), arguments.rows * columns)]
            drawn = contact_sheet(source, chosen, place, count, columns)
            print(f"  picture: {place} ({counted(drawn, 'sample')})")
        if not readable:
            advice = missing_all(source, found) or "see the problems above"
            print(f"  nothing of {describe(arguments.spec)} can be read; {advice}")
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(run(_main))
