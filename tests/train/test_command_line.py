"""Mistakes on the command line: one line that names the key, the value and what to do, and exit code 1."""

import json

import pytest

from vfm.errors import UserError
from vfm.train import cli

# Each command line is parsed in a fork of one process, because flags are global and imports are slow.
PARSE = """
import json, os, sys
import main as program
from vfm.train import cli
program.define_flags()
for arguments in json.loads(sys.argv.pop()):
    sys.stdout.flush()
    if os.fork() == 0:
        os.dup2(1, 2)
        sys.argv = ["main.py", *arguments]
        cli.run(lambda: print("parsed", cli.parse(sys.argv).config.batch_size))
        sys.stdout.flush()
        os._exit(0)
    print("exit code", os.waitstatus_to_exitcode(os.wait()[1]))
"""
COMMON = "--config=configs/common.py"
CASES = {
    "an override": ("--config.batch_size=7", "parsed 7"),
    "an unknown flag": ("--workdri=x", "error: unknown flag --workdri (did you mean 'workdir'?)"),
    "an unknown key": (
        "--config.batchsize=3",
        "error: unknown key 'config.batchsize' (did you mean 'batch_size'?)",
    ),
    "an unknown group": ("--config.mdel.x=b", "error: unknown key 'config.mdel' (did you mean 'model'?)"),
    "a key deep down": (
        "--config.objective.mask.ration=.5",
        "error: unknown key 'config.objective.mask.ration' (did you mean 'ratio'?)",
    ),
    "a key below a value": ("--config.seed.x=1", "error: unknown key 'config.seed.x'"),
    "a wrong type": ("--config.batch_size=abc", "error: config.batch_size=abc: expected int, such as 256"),
    "a wrong type of none": ("--config.total_steps=abc", "error: config.total_steps=abc: expected int"),
    "a value for a group": ("--config.data=3", "error: config.data=3: expected a group of keys"),
    "a stray word": ("now", "error: unexpected argument 'now'"),
    "an unknown file": (
        "--config=configs/commn.py",
        "error: config file 'configs/commn.py' does not exist (did you",
    ),
    "an unknown size": (
        "--config=configs/videomae.py:q",
        "error: config 'configs/videomae.py:q' cannot be loaded",
    ),
    "a size": ("--config=configs/videomae.py:b", "parsed"),
    "overrides first": (
        "--config.ema=.5 --config=configs/common.py",
        "error: '--config.ema=.5' stands before --config configs/common.py; put --config FILE first",
    ),
    "a folder": ("--config=configs", "error: --config='configs' is a folder; give a file in it"),
    "a module without a config": (
        "--config=input_pipeline/suffixes.py",
        "error: 'input_pipeline/suffixes.py' is no config: it has no function get_config",
    ),
    "no module": ("--config=README.md", "error: config 'README.md' cannot be loaded"),
}


def command_line(text: str) -> list[str]:
    """`text` after a config, if it does not give one itself."""
    return text.split() if "--config=" in text else ["--config", "configs/common.py", text]


@pytest.fixture(scope="module")
def answers(toy):
    done = toy.run("-c", PARSE, json.dumps([command_line(text) for text, _ in CASES.values()]))
    assert done.returncode == 0, done.stderr
    answers, lines = [], []
    for line in done.stdout.splitlines():
        if line.startswith("exit code"):
            answers.append(([text for text in lines if "Warning" not in text], int(line.split()[-1])))
            lines = []
        else:
            lines.append(line)
    return dict(zip(CASES, answers, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_that_says_what_to_do(answers, case):
    lines, code = answers[case]
    expected = CASES[case][1]
    assert len(lines) == 1 and lines[0].startswith(expected), lines
    assert code == (1 if expected.startswith("error") else 0)


def test_what_is_missing_is_named(toy, tmp_path):
    workdir = tmp_path / "run"
    done = toy.run("main.py", "--config=configs/videomae.py:s", f"--workdir={workdir}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: config.data.train is not set")
    assert not workdir.exists()


def test_a_dry_run_needs_no_data_and_writes_nothing(toy, tmp_path):
    small = [
        "--config.batch_size=4",
        "--config.model.encoder.depth=2",
        "--config.objective.predictor.depth=1",
    ]
    command = ["main.py", "--config=configs/videomae.py:s", f"--workdir={tmp_path / 'run'}", "--dry_run"]
    mesh = ["--config.mesh.fsdp=2", "--config.data.size=32", "--config.model.encoder.image_size=32"]
    done = toy.run(*command, *mesh, *small, devices=2)
    assert done.returncode == 0, done.stderr
    for text in ("encoder/blocks/attn/qkv/kernel", "-, fsdp, tensor", "parameters", "FLOPs", "a device: "):
        assert text in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_config_of_another_kind_is_sent_to_its_program(toy, tmp_path):
    run, evaluation = str(toy.root / "configs/common.py"), str(toy.root / "configs/eval/probe.py")
    cli.check_kind(cli.load(run), run, "a training run")
    cli.check_kind(cli.load(evaluation), evaluation, "an evaluation")
    with pytest.raises(UserError, match="describes an evaluation, not a training run; use python -m eval"):
        cli.check_kind(cli.load(evaluation), evaluation, "a training run")
    with pytest.raises(UserError, match="describes a training run, not an evaluation; use main.py"):
        cli.check_kind(cli.load(run), run, "an evaluation")
    (tmp_path / "none.py").write_text("def get_config():\n    return 3\n")
    with pytest.raises(UserError, match="get_config gives a int; expected a ConfigDict"):
        cli.load(str(tmp_path / "none.py"))


def test_what_the_system_refuses_is_a_sentence(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    for act, says in (
        (lambda: file.mkdir(), "is a file, and a folder is expected"),
        (lambda: (file / "x").mkdir(), "is below a file"),
        (lambda: tmp_path.read_text(), "is a folder, and a file is expected"),
        (lambda: (tmp_path / "gone" / "x").write_text(""), "does not exist"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.run(act)
        error = capsys.readouterr().err
        assert left.value.code == 1 and error.startswith(f"error: '{tmp_path}") and says in error
    with pytest.raises(BrokenPipeError):
        cli.run(lambda: (_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe")))


def test_places_are_looked_at_before_the_work(tmp_path):
    file = tmp_path / "file"
    file.touch()
    cli.check_folder(tmp_path / "new" / "one")
    cli.check_file(file)
    for folder in (file, file / "run"):
        with pytest.raises(UserError, match=f"--workdir='{folder}': '{file}' is a file; give a folder"):
            cli.check_folder(folder)
    with pytest.raises(UserError, match="there is no folder"):
        cli.check_file(tmp_path / "gone" / "report.html")
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        cli.check_file(tmp_path)
