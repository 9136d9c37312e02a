"""Probe frozen encoders and report what they have learned; or ask models that know text (config.protocol).

    python -m eval --config configs/eval/probe.py --encoder RUN_DIR --encoder random:RUN_DIR --workdir DIR
    python -m eval --config configs/eval/retrieval.py --encoder RUN_DIR --workdir DIR

Writes DIR/results.jsonl and DIR/evaluation.json (the config and what was evaluated), and prints a table. Probes write
DIR/confusion.npz too, and keep features in DIR/features, so that another probe on the same encoder starts at once. The
protocols with text are zero_shot, retrieval, captions and choice; they write DIR/samples.json (prompts, captions,
answers).
"""

import logging
import sys
import time
from pathlib import Path

import jax
from absl import flags

from eval import features, groups, protocol, results, sources, text
from eval.encoder import load_encoders
from eval.model import load_models
from vfm.errors import UserError
from vfm.train import cli
from vfm.train.config import write_json

flags.DEFINE_multi_string(
    "encoder", [], "[NAME=]RUN_DIR or [NAME=]random:RUN_DIR; may be given several times"
)
flags.DEFINE_string("workdir", None, "folder of the results and of cached features")


def evaluate(config, encoder_specs: list[str], workdir: Path) -> list[dict]:
    """The whole evaluation; returns the rows that it also wrote.

    Raises:
      UserError: a mistake in the config, an encoder or the data.
    """
    if config.protocol in text.PROTOCOLS:
        return evaluate_text(config, encoder_specs, workdir)
    began = time.perf_counter()
    protocol.check(config)
    encoders = load_encoders(encoder_specs, config.weights, config.step)
    about = {
        e.name: {"step": e.step, "params_sha256": e.sha256, "stage": config.stage or e.stage}
        for e in encoders
    }
    by_group = config.protocol == "leave_one_group_out"
    specs = sources.specs_of(config.data, encoders, only_train=by_group)
    features.check(config, encoders, specs)
    workdir.mkdir(parents=True, exist_ok=True)
    sets = features.collect(encoders, config, workdir / "features", specs)
    extracted = time.perf_counter()
    if by_group:
        one = {name: splits["train"] for name, splits in sets.items()}
        rows, confusions, class_names, notes = groups.run(one, config, about)
    else:
        rows, confusions, class_names, notes = protocol.run(sets, config, about)
    bad = {f["path"]: f for splits in sets.values() for s in splits.values() for f in s.bad_files}
    finished = time.perf_counter()
    evaluation = {
        "config": config.to_dict(),
        "specs": specs,
        "encoders": {
            e.name: {"spec": s, **about[e.name]} for e, s in zip(encoders, encoder_specs, strict=True)
        },
        "seconds": {"features": round(extracted - began, 1), "probes": round(finished - extracted, 1)},
        "device": jax.devices()[0].device_kind,
        "bad_files": list(bad.values()),
        "notes": notes,
    }
    # Last of all results.jsonl: where there is one, the evaluation is complete.
    (workdir / "results.jsonl").unlink(missing_ok=True)
    write_json(workdir / "evaluation.json", evaluation)
    results.save(workdir, rows, confusions, class_names)
    results.print_table(rows, specs={e.name: s for e, s in zip(encoders, encoder_specs, strict=True)})
    for note in notes:
        print(f"note: {note}")
    for path, found in list(bad.items())[:10]:
        print(f"skipped: {path}: {found.get('reason', 'unreadable')}")
    print(f"{workdir / 'results.jsonl'}: {len(rows)} rows in {finished - began:.0f} s")
    return rows


def evaluate_text(config, encoder_specs: list[str], workdir: Path) -> list[dict]:
    """An evaluation with text; as `evaluate`."""
    began = time.perf_counter()
    text.check(config)
    models = load_models(encoder_specs, config.weights, config.step, config.stage)
    rows, extras, notes, bad = text.run(models, config)
    evaluation = {
        "config": config.to_dict(),
        "encoders": {
            m.name: {"spec": s, "step": m.step, "params_sha256": m.sha256, "stage": m.stage}
            for m, s in zip(models, encoder_specs, strict=True)
        },
        "seconds": {config.protocol: round(time.perf_counter() - began, 1)},
        "device": jax.devices()[0].device_kind,
        "bad_files": bad,
        "notes": notes,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    # Last of all results.jsonl: where there is one, the evaluation is complete.
    (workdir / "results.jsonl").unlink(missing_ok=True)
    write_json(workdir / "evaluation.json", evaluation)
    text.save(workdir, extras)
    results.save(workdir, rows, {}, {})
    results.print_text_table(rows, specs={m.name: s for m, s in zip(models, encoder_specs, strict=True)})
    for note in notes:
        print(f"note: {note}")
    for found in bad[:10]:
        print(f"skipped: {found['path']}: {found.get('reason', 'unreadable')}")
    print(f"{workdir / 'results.jsonl'}: {len(rows)} rows in {time.perf_counter() - began:.0f} s")
    return rows


def main() -> None:
    options = cli.parse(sys.argv, "an evaluation")
    if options.config is None:
        raise UserError("--config is missing; for instance --config configs/eval/probe.py")
    if not options.workdir:
        raise UserError("--workdir is missing: the folder that results are written to")
    cli.check_folder(options.workdir)
    logging.getLogger("absl").setLevel(logging.WARNING)
    evaluate(options.config, options.encoder, Path(options.workdir))


if __name__ == "__main__":
    cli.define_config()
    cli.run(main)
