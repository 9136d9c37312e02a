"""List the checkpoints of a run: steps, sizes on disk and a SHA-256 of the parameters.

python -m scripts.checkpoint DIR [--step N] [--which params|ema]

The digest is over names, types, shapes and bits of the arrays, so it does not depend on how many devices or
processes wrote them: two runs that end in the same digest have the same parameters, bit for bit.
"""

import argparse
from pathlib import Path

import jax

from vfm.errors import UserError
from vfm.train import checkpoint, cli


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("workdir", metavar="DIR", help="folder of a training run")
    parser.add_argument("--step", type=int, help="only this one")
    parser.add_argument(
        "--which", default="params", choices=("params", "ema"), help="which parameters to digest"
    )
    arguments = parser.parse_args()
    listed = checkpoint.steps(arguments.workdir)
    if arguments.step is not None or not listed:
        listed = [arguments.step]  # where there is none, restoring it says so
    print(f"{'step':>10}  {'MiB':>10}  {'parameters':>14}  sha256 of {arguments.which}")
    failed = []
    for step in listed:
        try:
            params, step = checkpoint.restore_params(arguments.workdir, step, arguments.which)
        except UserError as error:
            if len(listed) == 1:
                raise
            print(f"{step:>10}  {error}")  # such as one that a killed run was removing
            failed.append(step)
            continue
        folder = Path(arguments.workdir) / "checkpoints" / str(step)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(f"{step:>10}  {size:>10.1f}  {count:>14,}  {checkpoint.sha256(params)}")
    if listed[-1] in failed:
        raise UserError(
            f"'{arguments.workdir}': {len(failed)} of {len(listed)} checkpoints cannot be read, the newest among them "
            f"(step {listed[-1]}); the lines above say why"
        )


if __name__ == "__main__":
    cli.run(main)
