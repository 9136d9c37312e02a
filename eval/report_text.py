"""The parts of a report that come from evaluations with text, as HTML text: zero-shot, retrieval, choices, captions,
and what each stage of training gave."""

from html import escape

from eval import pictures, results
from eval.report_data import Evaluation

CONTROL_NAMES = {
    "none": "as it is",
    "shuffled": "frames shuffled",
    "reversed": "reversed",
    "single_frame": "one frame",
    "blind": "blind",
}
SECTIONS = (  # protocol, heading, metrics that are shown, what they are
    (
        "zero_shot", "What it recognises by name alone", ("top-1", "top-5"),
        "Clips are compared with prompts that name the classes; no probe was trained and no label seen. In %.",
    ),
    (
        "retrieval", "Finding clips by text, and texts by clip", ("R@1", "R@5", "R@10", "MdR"),
        "R@k: the right one is among the first k, in %; MdR: the median rank. Ties count as chance would break them.",
    ),
    (
        "choice", "Questions with answers", ("choice accuracy", "exact answer"),
        "How often the right option has the largest score, or the answer is the true one, in %.",
    ),
    (
        "captions", "How good its captions are", ("named", "exact", "BLEU-4", "ROUGE-L", "CIDEr-D", "METEOR"),
        "named: the first class that a caption names is the clip's. All in %, but CIDEr-D (0 to 10).",
    ),
)  # fmt: skip


def _is_shown(metric: str, known: tuple[str, ...]) -> bool:
    """A metric of the list, also after something was done to its scores: "R@1 (dual softmax, 100)"."""
    return metric.partition(" (")[0] in known


def _cell(row: dict | None, best: bool) -> str:
    if row is None:
        return "<td></td>"
    text = results.number(row, row["value"])
    error = f"<small> ± {100 * row['se']:.1f}</small>" if best and "se" in row and row["chance"] else ""
    return f'<td class="num">{f"<b>{text}</b>" if best else text}{error}</td>'


def _table(rows: list[dict], title: str) -> str:
    """One encoder's figures: lines are tasks and metrics, columns controls."""
    controls = [c for c in CONTROL_NAMES if any(r["control"] == c for r in rows)]
    lines: dict[tuple[str, str], dict[str, dict]] = {}
    for r in rows:
        lines.setdefault((r["task"], r["metric"]), {})[r["control"]] = r
    body = []
    for (task, metric), found in sorted(lines.items(), key=lambda line: line[0][0]):
        any_row = next(iter(found.values()))
        cells = "".join(_cell(found.get(c), c == "none") for c in controls)
        chance = results.number(any_row, any_row["chance"])
        body.append(
            f"<tr><th>{escape(task.replace('_', ' '))}<small>{escape(metric)}</small></th>{cells}"
            f'<td class="num">{chance}</td><td class="num">{any_row["n"]:,}</td></tr>'
        )
    heads = "".join(f"<th class=num>{CONTROL_NAMES[c]}</th>" for c in controls)
    return (
        f'<div class="card table"><h3>{escape(title)}</h3><table><thead><tr><th></th>{heads}'
        f"<th class=num>by chance</th><th class=num>n</th></tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def tables(evaluation: Evaluation) -> str:
    """A section for each protocol that there are results of, controls beside the figures."""
    parts = []
    for protocol, heading, metrics, meaning in SECTIONS:
        mine = [
            r for r in evaluation.text if r.get("protocol") == protocol and _is_shown(r["metric"], metrics)
        ]
        if not mine:
            continue
        names = results.ordered(mine, evaluation.specs)
        shown = "".join(
            _table(of, f"{name} ({of[0]['stage']})" if of[0]["stage"] not in (name, "") else name)
            for name in names
            if (of := [r for r in mine if r["encoder"] == name])
        )
        parts.append(
            f"<section><h2>{heading}</h2>{shown}<p class=soft>{meaning} Frames shuffled, reversed or reduced to one, "
            "and blind answers, show how much comes from the video and its order.</p></section>"
        )
    return "".join(parts)


def probe_controls(evaluation: Evaluation) -> str:
    """Accuracies of probes on test clips as they are and under controls; "" where there are none."""
    parts = []
    for name in evaluation.encoders:
        mine = [
            r | {"metric": f"{r['probe']}, labels: {r['labels']}"}
            for r in evaluation.judged
            if r["encoder"] == name
        ]
        if any(not results.is_plain(r) for r in mine):
            parts.append(_table(mine, name))
    if not parts:
        return ""
    return (
        f"<section><h2>What is left without motion or order</h2>{''.join(parts)}<p class=soft>Accuracy in % of the "
        "probes above on test clips whose frames were shuffled, reversed or reduced to one; the probes saw clips as "
        "they are.</p></section>"
    )


def captions(evaluation: Evaluation) -> str:
    """Generated captions under the frames of their clips, beside the true ones."""
    parts = []
    for name, samples in evaluation.samples.items():
        cards = []
        for clip in samples.get("shown", []):
            video = evaluation.frames.get(f"{name}/{clip['id']}")
            if video is None:
                continue
            strip = pictures.data_uri(pictures.png(pictures.strip([video])))
            true = " · ".join(clip["references"])
            lines = "".join(
                f'<tr><th>{CONTROL_NAMES.get(control, escape(control))}</th><td class="{_match(said, clip)}">'
                f"{escape(said) or '<i>nothing</i>'}</td></tr>"
                for control, said in clip["generated"].items()
            )
            cards.append(
                f'<div class="card clip"><img class="strip" alt="frames of the clip" src="{strip}">'
                f'<table class="said"><tr><th>true</th><td>{escape(true)}</td></tr>{lines}</table></div>'
            )
        if cards:
            parts.append(
                f"<h3>{escape(name)}</h3>" * (len(evaluation.samples) > 1)
                + f'<div class="clips">{"".join(cards)}</div>'
            )
    if not parts:
        return ""
    return (
        "<section><h2>What it says</h2><p>Written by the model, word by word, for clips that it was not trained on; "
        f"below, what it says when the clip's frames are shuffled, reversed or withheld.</p>{''.join(parts)}</section>"
    )


def _match(said: str, clip: dict) -> str:
    same = " ".join(said.lower().split()) in {" ".join(r.lower().split()) for r in clip["references"]}
    return "hit" if same else "other"


def stages(evaluation: Evaluation) -> str:
    """Frozen probes after each stage of training, in one table; "" where there is one stage only."""
    mine = [r for r in evaluation.scores if r.get("stage")]
    columns = list(dict.fromkeys((r["encoder"], r["stage"]) for r in mine))
    columns.sort(key=lambda c: c[1] == "untrained")
    if len([c for c in columns if c[1] != "untrained"]) < 2:
        return ""
    lines: dict[tuple[str, str, str], dict[tuple[str, str], dict]] = {}
    for r in mine:
        lines.setdefault((r["task"], r["probe"], str(r["labels"])), {})[r["encoder"], r["stage"]] = r
    body = []
    for (task, probe, labels), found in lines.items():
        best = max(r["accuracy"] for r in found.values())
        texts = {
            c: f"<b>{results.percent(r)}</b>" if r["accuracy"] == best else results.percent(r)
            for c, r in found.items()
        }
        cells = "".join(f'<td class="num">{texts.get(c, "")}</td>' for c in columns)
        chance = next(iter(found.values())).get("chance")
        body.append(
            f"<tr><th>{escape(task)}<small>{escape(probe)}, {escape(labels)} labels</small></th>{cells}"
            f'<td class="num">{"" if chance is None else f"{100 * chance:.1f}"}</td></tr>'
        )
    heads = "".join(
        f"<th class=num>{escape(n)}{f'<small> {escape(s)}</small>' if s != n else ''}</th>"
        for n, s in columns
    )
    return (
        '<section><h2>What each stage gave</h2><div class="card table"><table><thead><tr><th></th>'
        f"{heads}<th class=num>by chance</th></tr></thead><tbody>{''.join(body)}</tbody></table></div><p class=soft>"
        "Accuracy of frozen probes in %, mean ± spread over seeds, after each stage of training.</p></section>"
    )
