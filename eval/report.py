"""The report of a run: one HTML file without any outside reference, to look at rather than to read.

    python -m eval.report RUN_DIR --results DIR/results.jsonl [--results OTHER ...] --out report.html

It shows what was learned, how the model fills in what it does not see, the probes beside their baseline, the course of
training, and what anyone needs to repeat it.
"""

import argparse
from html import escape
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from eval import pictures, report_parts, report_style, report_text, sources
from eval.report_data import Evaluation, Run, read_evaluations, read_run
from input_pipeline.chunks import EvaluationChunks, Videos
from input_pipeline.clips import Recipe
from input_pipeline.spec import Spec, describe, is_mapping
from vfm import objectives
from vfm.errors import UserError
from vfm.train import cli
from vfm.train.config import replace_text

CLIPS = 6  # that are reconstructed
TRIES = 4  # clips beside one another that are tried for a picture
LARGEST = 112  # pixels of a picture's side


def reconstruct(run: Run, params: dict, spec: Spec, data: ConfigDict) -> list[dict[str, np.ndarray]]:
    """Some clips of `spec` as uint8 videos original, masked, predicted; [] where the objective makes no pictures.

    Args:
      data: data config to read them with.
    """
    objective = objectives.build(run.config)
    if not hasattr(objective, "reconstruct"):
        return []
    data.cache = False  # a few clips are not worth decoding the whole set for
    chunks = EvaluationChunks(
        Videos(data, spec, "clips of the report", 1.0), Recipe.from_config(data), (1, 1)
    )
    spread = max(1, len(chunks) // CLIPS)
    videos = []
    # Evenly spread clips, then those beside them where files do not decode.
    for number in [n for first in range(min(spread, TRIES)) for n in range(first, len(chunks), spread)]:
        batch = chunks[number]
        if batch["mask"][0]:
            videos.append({k: v[:, 0] if k == "video" else v for k, v in batch.items()})
        if len(videos) == CLIPS:
            break
    if not videos:
        return []
    batch = {k: np.concatenate([v[k] for v in videos]) for k in ("video", "label", "id")}
    found = jax.jit(objective.reconstruct)(params, batch, jax.random.key(0))
    found = {k: pictures.to_bytes(v) for k, v in found.items()}
    return [{k: pictures.shrink(v[i], LARGEST) for k, v in found.items()} for i in range(len(videos))]


def _place(spec: Spec) -> tuple[Path, str]:
    """Tells sources apart: the file, and which split of it."""
    return Path(describe(spec)).resolve(), str(dict(spec.items()).get("split", "")) if is_mapping(
        spec
    ) else ""


def _pictures(run: Run, params: dict, evaluation: Evaluation, clips: str) -> str:
    """The section of pictures; where they cannot be made, a line that says why: the numbers are worth a report."""
    specs = evaluation.about.get("specs", {})
    try:
        spec = (
            clips or specs.get("test") or specs.get("train") or sources.sibling(run.config.data.train, "test")
        )
        loading = {} if clips else evaluation.about.get("config", {}).get("data", {})
        data = sources.data_config(run.config, spec, loading.get("root", ""), loading)
        found = reconstruct(run, params, spec, data)
        unseen = _place(spec) != _place(run.config.data.train or "")
        return report_parts.reconstructions(found, run, unseen)
    except Exception as error:
        print(f"the report has no pictures of clips: {error}")
        return report_parts.reconstructions([], run, False, str(error))


def write_report(
    run_dir: str | Path,
    results_file: str | Path | list[str | Path],
    out_html: str | Path,
    clips: str = "",
) -> Path:
    """Write the report of a run.

    Args:
      run_dir: the run's folder.
      results_file: results.jsonl of an evaluation, or the folder that holds it; or several of them, that of the probes
        first.
      out_html: the file to write.
      clips: SPEC of the clips to reconstruct; "" = the evaluation's test clips.

    Raises:
      UserError: the folder is no run, or there are no results.
    """
    cli.check_file(out_html)
    run, params = read_run(Path(run_dir))
    places = results_file if isinstance(results_file, list) else [results_file]
    evaluation = read_evaluations([Path(place) for place in places])
    if not evaluation.rows:
        raise UserError(f"'{places[0]}' holds no result; run python -m eval first")
    title = run.folder.resolve().name
    kicker = f"{run.config.objective.name} · {run.config.model.encoder.name} · {title}"
    body = [
        f'<header><p class="kicker">{escape(kicker)}</p><h1>What the encoder learned</h1>',
        report_parts.headline(evaluation, run),
        report_parts.facts(run, evaluation) + "</header>",
        _pictures(run, params, evaluation, clips),
        report_text.stages(evaluation),
        report_text.captions(evaluation),
        report_text.tables(evaluation),
        report_parts.probe_table(evaluation) if evaluation.scores or evaluation.diagnostics else "",
        report_text.probe_controls(evaluation),
        report_parts.details(evaluation),
        report_parts.curves(run),
        report_parts.appendix(run, evaluation),
    ]
    replace_text(Path(out_html), report_style.page(title, "".join(body)))
    return Path(out_html)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m eval.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="folder of the training run")
    parser.add_argument(
        "--results",
        required=True,
        action="append",
        help="results.jsonl of python -m eval, or its folder; may be given several times, that of the probes first",
    )
    parser.add_argument("--out", default="report.html", help="file to write (default: %(default)s)")
    parser.add_argument("--clips", default="", help="SPEC of clips to reconstruct (default: the test clips)")
    options = parser.parse_args()
    out = write_report(options.run, options.results, options.out, options.clips)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.run(main)
