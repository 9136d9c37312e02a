"""The parts of a report as HTML text."""

import json
from html import escape

import numpy as np

from eval import charts, pictures, results
from eval.report_data import Evaluation, Run
from vfm.train import shown

FPS = 8  # of moving pictures
PROBE_NAMES = {"linear": "linear", "attentive": "attentive", "knn": "kNN"}


def reconstructions(clips: list[dict[str, np.ndarray]], run: Run, unseen: bool, why_not: str = "") -> str:
    """Pictures of what the model fills in; `unseen`: it was not trained on them; `why_not`: why there are none."""
    if not clips:
        return f'<p class="soft">No pictures of clips: {escape(why_not)}</p>' if why_not else ""
    cards = []
    for clip in clips:
        moving = "".join(
            f'<figure><img alt="{title}" src="{pictures.data_uri(pictures.animated_png(clip[key], FPS))}">'
            f"<figcaption>{title}</figcaption></figure>"
            for key, title in (("masked", "sees"), ("predicted", "fills in"), ("original", "was there"))
        )
        strip = pictures.png(pictures.strip([clip[k] for k in ("masked", "predicted", "original")]))
        cards.append(
            f'<div class="card clip"><div class="moving">{moving}</div>'
            f'<img class="strip" alt="frames: masked, predicted, original" src="{pictures.data_uri(strip)}"></div>'
        )
    ratio = run.config.objective.get("mask", {}).get("ratio")
    hidden = f"{100 * ratio:.0f} % of every clip was hidden. " if ratio else ""
    new = "These clips were never trained on; visible" if unseen else "Visible"
    return (
        f"<section><h2>What it imagines</h2><p>{hidden}From the visible patches alone the model fills in the rest. "
        f"{new} patches are shown as given. Rows of each strip: what it sees, "
        f'what it fills in, what was there.</p><div class="clips">{"".join(cards)}</div></section>'
    )


def _best_known(found: dict[tuple[str, str], dict[str, dict]]) -> tuple[str, str]:
    """The probe that a headline names: linear with all labels where there is one."""
    return next((key for key in (("linear", "all"), ("knn", "all")) if key in found), next(iter(found)))


def _labels(text: str) -> str:
    return "all labels" if text == "all" else f"{text} labels a class"


def headline(evaluation: Evaluation, run: Run) -> str:
    """Big numbers of each task, then one sentence."""
    names = evaluation.encoders
    first, base = names[0], names[-1] if len(names) > 1 else None
    cards = []
    for task in evaluation.tasks():
        found = evaluation.of(task)
        probe, labels = _best_known(found)
        row = found[probe, labels].get(first)
        if row is None:
            continue
        below = ""
        if base and base in found[probe, labels]:
            other = found[probe, labels][base]["accuracy"]
            gain = 100 * (row["accuracy"] - other)
            below = (
                f'<span class="gain {"up" if gain >= 0 else "down"}">{gain:+.0f} points</span> '
                f"against {escape(base)} ({100 * other:.0f} %)"
            )
        bar = charts.dumbbell(
            [(e, r["accuracy"], r["std"]) for e in names if (r := found[probe, labels].get(e))],
            row.get("majority"),
        )
        cards.append(
            f'<div class="card big"><h3>{escape(task)}</h3><div class="huge">{100 * row["accuracy"]:.0f}'
            f"<small>%</small></div>{bar}<p>{below}<br><span class=soft>{PROBE_NAMES.get(probe, probe)} probe, "
            f"{_labels(labels)}, {row['n']:,} {'test ' if row['split'] == 'test' else ''}clips</span></p></div>"
        )
    sentence = "The frozen encoder's features, judged by simple probes."
    pairs = [
        f for t in evaluation.tasks() for f in evaluation.of(t).values() if base and {first, base} <= f.keys()
    ]
    if pairs:
        won = sum(f[first]["accuracy"] > f[base]["accuracy"] for f in pairs)
        other = "the same network before training" if evaluation.untrained(base) else escape(base)
        sentence = (
            f"{run.step:,} steps of watching videos, and not one label. Then the encoder was frozen, and simple probes "
            f"asked what it knows: it beats {other} in {won} of {len(pairs)} comparisons."
        )
    return f'<p class="lead">{sentence}</p><div class="bigs">{"".join(cards)}</div>'


def probe_table(evaluation: Evaluation) -> str:
    names = evaluation.encoders
    compared = len(names) > 1
    legend = "".join(
        f'<span><i class="{"base" if compared and n == names[-1] else f"s{i % 4}"}"></i>{escape(n)}</span>'
        for i, n in enumerate(names)
    )
    parts = []
    for task in evaluation.tasks():
        rows = []
        for (probe, labels), found in evaluation.of(task).items():
            points = [(n, found[n]["accuracy"], found[n]["std"]) for n in names if n in found]
            cells = "".join(
                f'<td class="num">{100 * found[n]["accuracy"]:.1f}<small> ± {100 * found[n]["std"]:.1f}</small></td>'
                if n in found
                else "<td></td>"
                for n in names
            )
            gain = ""
            if compared:
                both = names[0] in found and names[-1] in found
                value = 100 * (found[names[0]]["accuracy"] - found[names[-1]]["accuracy"]) if both else None
                gain = "<td></td>" if value is None else (
                    f'<td class="num"><span class="gain {"up" if value >= 0 else "down"}">{value:+.1f}</span></td>'
                )  # fmt: skip
            bar = charts.dumbbell(points, next(iter(found.values())).get("majority"))
            rows.append(
                f"<tr><th>{PROBE_NAMES.get(probe, escape(probe))}<small>{_labels(labels)}</small></th>"
                f'<td class="wide">{bar}</td>{cells}{gain}</tr>'
            )
        any_row = next(r for r in evaluation.scores if r["task"] == task)
        heads = "".join(f"<th class=num>{escape(n)}</th>" for n in names)
        ahead = "<th class=num>ahead</th>" if compared else ""
        parts.append(
            f'<div class="card table"><h3>{escape(task)} <small>{any_row["n"]:,} clips, {escape(any_row["split"])}; '
            f'{any_row["seeds"]} seeds</small></h3><table><thead><tr><th></th><td class="wide axis"><span>0</span>'
            f"<span>50</span><span>100 %</span></td>{heads}{ahead}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    pooling = sorted({r.get("pooling") for r in evaluation.scores if r["probe"] != "attentive"} - {None})
    if not parts:
        return f"<section>{_diagnostics(evaluation)}{_notes(evaluation)}</section>"
    return (
        f'<section><h2>What simple probes find in it</h2><div class="legend">{legend}<span><i class="chanced"></i>'
        f"always the largest class</span></div>{''.join(parts)}<p class=soft>Accuracy in %, mean ± spread over "
        f"seeds. The encoder is frozen; linear and kNN probes see features pooled by {', '.join(pooling) or '-'}, the "
        f"attentive probe learns where to look. {_choice(evaluation)}</p>"
        f"{_diagnostics(evaluation)}{_notes(evaluation)}</section>"
    )


def _choice(evaluation: Evaluation) -> str:
    """How hyper-parameters were chosen, and on what clips are judged."""
    if any(r.get("protocol") == "leave_one_group_out" for r in evaluation.scores):
        return "Each clip is judged by the clips of all other groups, with a number of neighbours fixed beforehand."
    return "Hyper-parameters were chosen on validation clips, never on test."


def _diagnostics(evaluation: Evaluation) -> str:
    """How strongly features tell groups apart: neither good nor bad, so without a gain."""
    rows = "".join(
        f"<tr><th>{escape(r['encoder'])}</th><td>{escape(r['task'])}</td>"
        f'<td class="num">{100 * r["accuracy"]:.1f}</td><td class="num">{100 * r.get("majority", 0):.1f}</td></tr>'
        for r in evaluation.diagnostics
    )
    return (
        '<div class="card table"><h3>Nearest clip of the same group <small>in % of clips; high = the features tell '
        "groups apart</small></h3><table><thead><tr><th>encoder</th><th>group</th><th class=num>found</th>"
        f"<th class=num>by chance</th></tr></thead><tbody>{rows}</tbody></table></div>"
        if rows
        else ""
    )


def _notes(evaluation: Evaluation) -> str:
    notes = evaluation.about.get("notes", [])
    return f'<ul class="soft">{"".join(f"<li>{escape(n)}</li>" for n in notes)}</ul>' if notes else ""


def details(evaluation: Evaluation) -> str:
    """Per-class bars and confusion matrices, for the probe that the headline names."""
    names = evaluation.encoders
    first, base = names[0], names[-1] if len(names) > 1 else None
    parts = []
    for task in evaluation.tasks():
        found = evaluation.of(task)
        probe, labels = _best_known(found)
        row = found[probe, labels].get(first)
        if not row or not row.get("per_class"):
            continue
        other = found[probe, labels].get(base) if base else None
        classes = evaluation.class_names.get(task) or [str(i) for i in range(len(row["per_class"]))]
        bars = charts.class_bars(classes, row["per_class"], other and other.get("per_class"))
        title = f"{PROBE_NAMES.get(probe, probe)} probe, {_labels(labels)}"
        name = escape(task[:1].upper() + task[1:])
        mark = f", the line marks {escape(base)}" if other else ""
        cards = [
            f'<figure class="card"><figcaption>{name} by class <small>{title}{mark}</small></figcaption>'
            f"{bars}</figure>"
        ]
        for r in filter(None, (row, other)):
            matrix = evaluation.confusions.get(results.key(r))
            if matrix is not None and len(matrix) <= 60:
                cards.append(
                    charts.confusion(matrix, classes, f"{r['encoder']}: truth in rows, answers in columns")
                )
        parts.append(f'<div class="grid">{"".join(cards)}</div>')
    return f"<section><h2>Class by class</h2>{''.join(parts)}</section>" if parts else ""


def curves(run: Run) -> str:
    def series(key: str):
        points = [(m["step"], m[key]) for m in run.metrics if isinstance(m.get(key), int | float)]
        return [p[0] for p in points], [p[1] for p in points]

    shown = [
        charts.line_chart("Training loss", [("loss", *series("train/loss"))]),
        charts.line_chart("Learning rate", [("lr", *series("lr"))], zero=True),
        charts.line_chart("Clips per second", [("clips/s", *series("clips_per_s"))], zero=True),
        charts.line_chart("Gradient norm", [("norm", *series("grad_norm"))], zero=True),
    ]
    shares = [("step", *series("step_time")), ("waiting for data", *series("data_wait"))]
    shown.append(charts.line_chart("Seconds of a step", shares, zero=True))
    probes = sorted({k for m in run.metrics for k in m if k.startswith("eval/")})
    if probes:
        shown.append(
            charts.line_chart("Probes while training", [(k[5:], *series(k)) for k in probes[:4]], zero=True)
        )
    shown = [c for c in shown if c]
    return f'<section><h2>Training</h2><div class="grid">{"".join(shown)}</div></section>' if shown else ""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _flat(value, prefix: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in _flat(v, f"{prefix}.{k}" if prefix else str(k))]
    return [(prefix, value)]


def _pairs(values: dict) -> str:
    rows = "".join(
        f"<tr><th>{escape(k)}</th><td>{escape(json.dumps(v, default=str) if not isinstance(v, str) else v)}</td></tr>"
        for k, v in _flat(values)
    )
    return f'<table class="pairs">{rows}</table>'


def facts(run: Run, evaluation: Evaluation) -> str:
    seconds = run.environment.get("seconds") or max((m.get("time", 0) for m in run.metrics), default=0)
    spent = evaluation.about.get("seconds", {})
    facts = [
        ("encoder", f"{run.parameters.get('encoder', 0) / 1e6:.2f} M parameters"),
        ("trained", f"{run.step:,} steps of {run.config.batch_size}"),
        ("training took", _duration(seconds)),
        ("probing took", _duration(sum(spent.values())) if spent else ""),
        ("device", f"{run.environment.get('devices', '')} x {run.environment.get('device', '')}".strip(" x")),
    ]
    chips = "".join(f"<span><b>{escape(v)}</b>{escape(k)}</span>" for k, v in facts if v)
    return f'<div class="facts">{chips}</div>'


def appendix(run: Run, evaluation: Evaluation) -> str:
    bad = {b["path"]: b.get("reason", "") for b in [*run.bad_files, *evaluation.about.get("bad_files", [])]}
    if bad:
        rows = "".join(
            f"<tr><th>{escape(p)}</th><td>{escape(r)}</td></tr>" for p, r in list(bad.items())[:200]
        )
        files = f'<table class="pairs">{rows}</table>'
        more = f"<p>... and {len(bad) - 200} more</p>" if len(bad) > 200 else ""
        skipped = (
            f"<details open><summary>{len(bad)} files or samples could not be used</summary>"
            f"{files}{more}</details>"
        )
    else:
        skipped = '<p class="soft">Every video file could be read.</p>'
    if run.shown:
        account = "".join(f"<li>{escape(line)}</li>" for line in shown.lines(run.shown))
        skipped = f'<h3>What training was shown</h3><ul class="soft">{account}</ul>{skipped}'
    blocks = [
        ("Configuration of the run", run.config.to_dict()),
        ("Configuration of the evaluation", evaluation.about.get("config", {})),
        ("Environment", run.environment),
    ]
    details = "".join(f"<details><summary>{t}</summary>{_pairs(v)}</details>" for t, v in blocks if v)
    return f"<section><h2>To repeat it</h2>{skipped}{details}</section>"
