"""Charts as HTML and SVG text whose colours are style variables, so that they follow a light or dark page."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 330, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 28


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high]."""
    span = (high - low) or abs(high) or 1.0
    raw = span / count
    base = 10 ** math.floor(math.log10(raw))
    step = next(m * base for m in (1, 2, 5, 10) if m * base >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A short number: 12k, 0.85, 2e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if size >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-4 else f"{value:.0e}"


def _polyline(xs: np.ndarray, ys: np.ndarray, style: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="line {style}" points="{points}"/>'


def _thin(xs: np.ndarray, ys: np.ndarray, most: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: means of neighbours."""
    block = -(-len(xs) // most)
    if block <= 1:
        return xs, ys
    starts = np.arange(0, len(xs), block)
    sizes = np.diff(np.append(starts, len(xs)))
    return np.add.reduceat(xs, starts) / sizes, np.add.reduceat(ys, starts) / sizes


def line_chart(
    title: str,
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    zero: bool = False,
    unit: str = "",
) -> str:
    """Curves over steps: `series` of (name, steps, values); values that are not finite are left out.

    Args:
      zero: let the vertical axis begin at 0.
    """
    clean = []
    for name, xs, ys in series:
        x, y = np.asarray(xs, float), np.asarray(ys, float)
        good = np.isfinite(y)
        if good.sum() >= 2:
            clean.append((name, *_thin(x[good], y[good])))
    if not clean:
        return ""
    x0, x1 = min(x.min() for _, x, _ in clean), max(x.max() for _, x, _ in clean)
    y0, y1 = min(y.min() for *_, y in clean), max(y.max() for *_, y in clean)
    y0 = min(y0, 0.0) if zero else y0
    pad = 0.06 * ((y1 - y0) or abs(y1) or 1)
    y0, y1 = (y0 if zero else y0 - pad), y1 + pad
    across = lambda x: LEFT + (x - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    up = lambda y: HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in ticks(y0, y1):
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        out.append(f'<text x="{LEFT - 7}" y="{up(y) + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in ticks(x0, x1):
        out.append(f'<text x="{across(x):.1f}" y="{HEIGHT - 9}" text-anchor="middle">{number(x)}</text>')
    for index, (_, x, y) in enumerate(clean):
        out.append(_polyline(across(x), up(y), f"s{index % 4}"))
    _, x, y = clean[0]
    out.append(f'<circle class="dot s0" cx="{across(x[-1]):.1f}" cy="{up(y[-1]):.1f}" r="3.5"/></svg>')
    legend = ""
    if len(clean) > 1:
        names = "".join(
            f'<span><i class="s{i % 4}"></i>{escape(n)}</span>' for i, (n, *_) in enumerate(clean)
        )
        legend = f'<div class="legend">{names}</div>'
    end = f"<b>{number(float(y[-1]))}{escape(unit)}</b>" if len(clean) == 1 else ""
    return f'<figure class="card chart"><figcaption>{escape(title)} {end}</figcaption>{"".join(out)}{legend}</figure>'


def dumbbell(points: list[tuple[str, float, float]], chance: float | None = None) -> str:
    """Accuracies (name, mean, std; 0..1) on one scale from 0 to 100 %: the last is the baseline, the first leads."""
    out = ['<div class="track">']
    if chance is not None:
        out.append(
            f'<span class="chance" style="left:{100 * chance:.2f}%" title="largest class {100 * chance:.1f} %"></span>'
        )
    if len(points) > 1:
        low, high = sorted((points[0][1], points[-1][1]))
        better = "up" if points[0][1] >= points[-1][1] else "down"
        out.append(
            f'<span class="span {better}" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></span>'
        )
    for index, (name, mean, std) in reversed(list(enumerate(points))):
        last = len(points) > 1 and index == len(points) - 1
        style = "base" if last else f"s{index % 4}"
        tip = f"{escape(name)}: {100 * mean:.1f} ± {100 * std:.1f} %"
        if std:
            out.append(
                f'<span class="spread {style}" style="left:{100 * max(0, mean - std):.2f}%;'
                f'width:{200 * std:.2f}%"></span>'
            )
        out.append(f'<span class="knob {style}" style="left:{100 * mean:.2f}%" title="{tip}"></span>')
    return "".join([*out, "</div>"])


def class_bars(
    names: Sequence[str], first: Sequence[float | None], base: Sequence[float | None] | None
) -> str:
    """A bar for each class (accuracy 0..1), with a mark where the baseline stands; best first."""
    order = sorted(range(len(names)), key=lambda i: -(first[i] if first[i] is not None else -1))
    rows = []
    for i in order:
        value = first[i]
        mark = ""
        if base is not None and base[i] is not None:
            mark = f'<span class="mark" style="left:{100 * base[i]:.1f}%"></span>'
        fill = "" if value is None else f'<span class="fill" style="width:{100 * value:.1f}%"></span>'
        shown = "–" if value is None else f"{100 * value:.0f}"
        rows.append(
            f'<div class="bar"><span class="name">{escape(str(names[i]))}</span>'
            f'<span class="rail">{fill}{mark}</span><span class="value">{shown}</span></div>'
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> str:
    """Heat map of a confusion matrix: rows are the truth, columns follow the same order; shares of each row."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    named = len(matrix) <= 24
    out = []
    for i, row in enumerate(share):
        if named:
            out.append(f"<b>{escape(str(names[i]))}</b>")
        for j, value in enumerate(row):
            kind = ' class="hit"' if i == j else ""
            tip = f"{escape(str(names[i]))} taken for {escape(str(names[j]))}: {100 * value:.0f} %"
            out.append(f'<i{kind} style="--v:{100 * value:.0f}%" title="{tip}"></i>')
    columns = ("minmax(0,max-content) " if named else "") + f"repeat({len(matrix)},minmax(0,1fr))"
    return (
        f'<figure class="card"><figcaption>{escape(title)}</figcaption>'
        f'<div class="confusion" style="grid-template-columns:{columns}">{"".join(out)}</div></figure>'
    )
