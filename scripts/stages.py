"""A chain of training stages that hand parts of the model on, each an ordinary run of main.py.

    python -m scripts.stages --config configs/internvideo2.py --size ti --workdir runs/iv2 [--config.a.b=value ...]

The config file takes "STAGE" or "STAGE,SIZE" as its argument and says in `HANDOVER` which parts of the parameters each
stage takes from which earlier one: {"stage1": {}, "stage2": {"encoder": "stage1"}, ...}. Every stage trains in
WORKDIR/STAGE. Overrides: --config.a.b=value for all stages, --STAGE.a.b=value for one. The same command again goes on
where it stopped; a finished stage is not repeated.
"""

import argparse
import importlib.util
import json
import shlex
import sys
from pathlib import Path

from scripts.commands import run, unfinished
from vfm.errors import UserError
from vfm.parts import nearest
from vfm.train import checkpoint, cli
from vfm.train.config import write_json

RECORD = "stages.json"
OPTIONS = ("config", "size", "workdir", "only")


def handover_of(file: Path) -> dict[str, dict[str, str]]:
    """`HANDOVER` of a config file: stage -> {part: the stage it is taken from}, in the order of training.

    Raises:
      UserError: no such file, or it describes no stages.
    """
    if not file.is_file():
        raise UserError(
            f"config file '{file}' does not exist; stages are in configs/, such as internvideo2.py"
        )
    if file.suffix != ".py":
        raise UserError(
            f"config file '{file}' is no Python file; stages are in configs/, such as internvideo2.py"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is code of the user's
        raise UserError(f"config '{file}' cannot be loaded: {type(error).__name__}: {error}") from error
    stages = getattr(module, "HANDOVER", None)
    if stages and not _describes_stages(stages):
        raise UserError(
            f"'{file}': HANDOVER={stages!r}: expected a mapping of each stage to the parts that it takes from earlier "
            'ones, such as {"one": {}, "two": {"encoder": "one"}}'
        )
    if not stages:
        raise UserError(f"'{file}' describes no stages: it has no HANDOVER; for a single run use main.py")
    return stages


def _describes_stages(stages: object) -> bool:
    """Whether each stage takes its parts from stages before it."""
    if not isinstance(stages, dict) or not all(isinstance(parts, dict) for parts in stages.values()):
        return False
    names = list(stages)
    return all(set(parts.values()) <= set(names[:i]) for i, parts in enumerate(stages.values()))


def arguments_of(stage: str, options: argparse.Namespace, overrides: list[str], stages: dict) -> list[str]:
    """What main.py is called with for a stage, but for its --workdir."""
    argument = f"{stage},{options.size}" if options.size else stage
    words = ["--config", f"{options.config}:{argument}"]
    words += [f"--config.init.{part}={options.workdir / source}" for part, source in stages[stage].items()]
    for text in overrides:
        place, _, rest = text.removeprefix("--").partition(".")
        if place in ("config", stage):
            words.append(f"--config.{rest}")
    return words


def check_overrides(overrides: list[str], stages: dict) -> None:
    """Every unknown word has to be an override of all stages or of one.

    Raises:
      UserError: it is not; the message names the nearest stage.
    """
    for text in overrides:
        place, dot, rest = text.removeprefix("--").partition(".")
        if text.startswith("--") and dot and "=" not in rest and place in ("config", *stages):
            raise UserError(f"'{text}' has no value; write {text}=VALUE, in one word")
        if not text.startswith("--") or not dot or "=" not in rest or place not in ("config", *stages):
            known = ("config", *stages) if dot else (*OPTIONS, *stages)
            raise UserError(
                f"unknown argument '{text}'{nearest(place.partition('=')[0], known)}; overrides are written "
                f"--config.a.b=value, or --STAGE.a.b=value with one of {', '.join(stages)}"
            )


def read_record(workdir: Path) -> dict:
    """What is known of each stage: the arguments it was called with, the parameters it began from (`from`, by their
    SHA-256), and once it is finished its last step and the SHA-256 of its own."""
    try:
        record = json.loads((workdir / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        record = error
    if not isinstance(record, dict) or not all(isinstance(stage, dict) for stage in record.values()):
        raise UserError(
            f"'{workdir / RECORD}' is damaged ({str(record)[:100]}); restore it, or remove it and the folders of the "
            "stages to train all of them again"
        )
    return record


def _write(workdir: Path, record: dict) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / RECORD, record)


def train(options: argparse.Namespace, overrides: list[str]) -> None:
    """Train all stages that are not finished.

    Raises:
      UserError: a stage failed or was told to stop, or a finished one started from something else.
    """
    stages = handover_of(Path(options.config))
    check_overrides(overrides, stages)
    if options.only and options.only not in stages:
        raise UserError(f"--only={options.only}: no such stage; there are {', '.join(stages)}")
    options.workdir = options.workdir.expanduser().absolute()
    cli.check_folder(options.workdir)
    record = read_record(options.workdir)
    for number, stage in enumerate(stages, 1):
        folder = options.workdir / stage
        words = arguments_of(stage, options, overrides, stages)
        sources = {source: record.get(source, {}).get("sha256") for source in stages[stage].values()}
        wanted = {"arguments": words, "from": sources}
        print(f"\n[{number}/{len(stages)}] {stage}", flush=True)
        done = record.get(stage, {})
        same = all(done.get(key) == value for key, value in wanted.items())
        if same and "sha256" in done and not unfinished(folder):
            print(f"done before: '{folder}', parameters {done['sha256'][:12]}", flush=True)
            continue
        if options.only and stage != options.only:
            print("left out (--only)", flush=True)
            continue
        if done and done.get("from") != sources:
            raise UserError(
                f"'{folder}' started from an earlier {' and '.join(sources)} than there is now; remove the folder to "
                "train the stage again, or give another --workdir"
            )
        for source, known in sources.items():
            problem = unfinished(options.workdir / source) or (
                "" if known else "it was not trained by this chain"
            )
            if problem:
                raise UserError(f"{stage} takes parts of {source}: {problem}; train {source} first")
        _write(options.workdir, record | {stage: wanted})
        command = ["main.py", *words, "--workdir", str(folder)]
        print(f"$ python {shlex.join(command)}", flush=True)
        code = run(command)
        problem = f"it ended with exit code {code}; see its message above" if code else unfinished(folder)
        if problem:
            raise UserError(f"{stage}: {problem}")
        params, step = checkpoint.restore_params(folder)
        record[stage] = wanted | {"step": step, "sha256": checkpoint.sha256(params)}
        _write(options.workdir, record)
    print(f"\nAll stages are in '{options.workdir}'.")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.stages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="config file with stages, such as configs/internvideo2.py"
    )
    parser.add_argument("--size", default="", help="size of the encoder, as the config file knows it")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the stages' folders")
    parser.add_argument("--only", default="", help="train this stage alone; those before it have to be there")
    train(*parser.parse_known_args())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    cli.run(main)
