"""One VideoMAE pretraining step of ours (forward, backward, AdamW), beside the torch model of `transformers`.

    python -m scripts.bench.step [--size s --batch 2 --precision float32,bfloat16_dots] [--torch_python PYTHON]

Contenders are processes of their own that take turns in short rounds, so that whatever else the machine does meets
all of them; a contender's speed is the median over its rounds. Both get the same number of threads, the same model
and optimiser, and are credited with the same model FLOPs (ours, counted by `vfm.train.flops`).
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.bench.protocol import Contender, Failed
from vfm.errors import UserError
from vfm.train import cli

ROOT = Path(__file__).resolve().parents[2]
# glibc gives large arrays back to the system when they are freed, and every step takes them anew, page by page; with
# large pages that costs next to nothing. Both frameworks get it, where the caller has not chosen otherwise.
MALLOC = "glibc.malloc.hugetlb=1"
CLIP = ("size", "frames", "image_size", "batch")


def main() -> None:
    arguments = _parse()
    threads = _limit_threads(arguments.threads)
    settings = {key: getattr(arguments, key) for key in (*CLIP, "unroll", "remat")} | {"threads": threads}
    peer = _peer(arguments.torch_python)
    names = [("ours", p) for p in arguments.precision.split(",")]
    names += [("torch", p) for p in arguments.torch_precision.split(",") if peer]
    results = _race(names, peer, settings, arguments.rounds, arguments.steps)

    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(_table(results, settings, arguments))
    if peer is None:
        console.print(
            "Ours alone: this interpreter cannot import torch and transformers; for the comparison name one that can "
            "with --torch_python (python -m venv VENV; VENV/bin/pip install torch transformers numpy).",
            soft_wrap=True,
        )
    else:
        for precision in ("float32", "bfloat16"):
            same = {r["framework"]: r["clips_per_s"] for r in results if r["precision"].startswith(precision)}
            if len(same) == 2:
                print(f"ours/torch in {precision}: {same['ours'] / same['torch']:.3f}")
        best = {
            side: max(r["clips_per_s"] for r in results if r["framework"] == side)
            for side in ("ours", "torch")
        }
        # The last line: the fastest precision of each.
        print(f"ours/torch: {best['ours'] / best['torch']:.3f}")
    if arguments.json:
        about = dict(
            settings=settings, date=str(datetime.date.today()), machine=platform.machine(), results=results
        )
        Path(arguments.json).write_text(json.dumps(about, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--size", default="s", choices=("s", "b", "l", "h", "g"), help="of configs/videomae.py (default s)")
    add("--frames", type=int, default=16)
    add("--image_size", type=int, default=224)
    add("--batch", type=int, default=2)
    add("--rounds", type=int, default=5, help="turns of each contender (default 5)")
    add("--steps", type=int, default=2, help="steps of one turn (default 2)")
    add(
        "--precision",
        default="float32,bfloat16_dots",
        help="of ours (default %(default)s; on a GPU bfloat16)",
    )
    add("--torch_precision", default="float32,bfloat16", help="float32, bfloat16 = autocast (default both)")
    add("--torch_python", help="interpreter with torch and transformers (default: this one)")
    add("--threads", type=int, default=0, help="CPU cores for each contender (default: all there are)")
    add("--unroll", type=int, default=0, help="layers in one turn of our loop over layers (default 0 = all)")
    add("--remat", default="none", choices=("none", "dots", "full"), help="what our layers recompute")
    add("--json", help="also write the results to this file")
    arguments = parser.parse_args()
    for key in ("frames", "image_size", "batch", "rounds", "steps"):
        if getattr(arguments, key) < 1:
            raise UserError(f"--{key} {getattr(arguments, key)}: expected a number from 1 on")
    for precision in arguments.torch_precision.split(","):
        if precision not in ("float32", "bfloat16"):
            raise UserError(f"--torch_precision '{precision}': expected float32 or bfloat16 (autocast)")
    return arguments


def _limit_threads(wanted: int) -> int:
    """Bind this process, and so its children, to `wanted` cores (0 = those it has); both frameworks heed that."""
    if not hasattr(os, "sched_setaffinity"):
        return wanted or os.cpu_count()
    cores = sorted(os.sched_getaffinity(0))
    if wanted > len(cores):
        raise UserError(f"--threads {wanted}: this process may use {len(cores)} cores; choose at most those")
    if wanted:
        os.sched_setaffinity(0, cores[:wanted])
    return wanted or len(cores)


def _peer(torch_python: str | None) -> str | None:
    """The interpreter of the peer, None where there is none and nobody asked for it."""
    python = torch_python or sys.executable
    try:
        subprocess.run([python, "-c", "import torch, transformers"], check=True, capture_output=True)
        return python
    except (OSError, subprocess.CalledProcessError) as error:
        if torch_python is None:
            return None
        raise UserError(
            f"--torch_python {torch_python}: it cannot import torch and transformers; name an interpreter that can"
        ) from error


def _race(
    names: list[tuple[str, str]], peer: str | None, settings: dict, rounds: int, steps: int
) -> list[dict]:
    """One result for each (framework, precision), in that order; rounds alternate between all of them."""
    environment = dict(
        GLIBC_TUNABLES=os.environ.get("GLIBC_TUNABLES", MALLOC),
        PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS=str(settings["threads"]),
        TRANSFORMERS_VERBOSITY="error",
        # Contenders share a GPU: neither may take all of its memory beforehand.
        XLA_PYTHON_CLIENT_PREALLOCATE="false",
    )
    commands = dict(
        ours=[sys.executable, "-m", "scripts.bench.ours"], torch=[peer, "-m", "scripts.bench.torch_videomae"]
    )
    running: list[Contender] = []
    with contextlib.ExitStack() as leave:
        for framework, precision in names:
            asked = settings | {"precision": precision}
            if framework == "torch":
                first = running[0].about
                device = "cpu" if "cpu" in first["device"].lower() else "cuda"
                asked |= {"architecture": first["architecture"], "device": device}
            try:
                contender = Contender(commands[framework], asked, ROOT, environment)
            except Failed as error:
                raise UserError(f"{framework} ({precision}) did not start: {error}") from error
            leave.callback(contender.kill)
            running.append(contender)
        for _ in range(rounds):
            for contender in running:
                contender.round(steps)
        for contender in running:
            contender.close()
    clips, flops = settings["batch"], running[0].about["flops"]
    return [
        dict(
            framework=framework,
            precision=precision,
            name=contender.about["name"],
            device=contender.about["device"],
            parameters=contender.about["parameters"],
            first_loss=contender.about["loss"],
            seconds=contender.seconds,
            clips_per_s=clips / statistics.median(contender.seconds),
            flops_per_s=flops / statistics.median(contender.seconds),
            peak_bytes=contender.peak_bytes,
        )
        for (framework, precision), contender in zip(names, running, strict=True)
    ]


def _table(results: list[dict], settings: dict, arguments: argparse.Namespace) -> Table:
    flops = results[0]["flops_per_s"] / results[0]["clips_per_s"]
    table = Table(
        title=f"VideoMAE ViT-{settings['size'].upper()}, {settings['frames']} x {settings['image_size']}^2, batch "
        f"{settings['batch']}: forward, backward and update, {flops / 1e9:,.1f} GFLOP a clip",
        caption=f"{results[0]['device']}, {settings['threads']} threads; median (spread) of {arguments.rounds} "
        f"alternating rounds of {arguments.steps} steps; bfloat16 of torch = autocast; "
        f"GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', MALLOC)} for all",
    )
    table.add_column("framework")
    table.add_column("precision")
    for column in ("parameters", "step, s", "clips/s", "model GFLOP/s", "peak MiB"):
        table.add_column(column, justify="right")
    for row in results:
        low, high = min(row["seconds"]), max(row["seconds"])
        table.add_row(
            row["name"],
            row["precision"],
            f"{row['parameters']:,}",
            f"{statistics.median(row['seconds']):.3f} ({low:.3f}-{high:.3f})",
            f"{row['clips_per_s']:.2f}",
            f"{row['flops_per_s'] / 1e9:,.1f}",
            f"{row['peak_bytes'] / 2**20:,.0f}",
        )
    return table


if __name__ == "__main__":
    cli.run(main)
