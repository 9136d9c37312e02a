"""The quickstart's own decisions: what is done already, what is unfinished, and passing signals on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import commands, quickstart
from vfm.errors import UserError
from vfm.train.processes import alone_in

ROOT = Path(__file__).parents[2]


def test_a_run_that_was_told_to_stop_is_not_probed(tmp_path):
    assert "has not begun" in commands.unfinished(tmp_path)
    for step, expected in ((30, "stopped at step 30 of 40"), (40, "")):
        (tmp_path / "environment.json").write_text(json.dumps({"step": step, "total_steps": 40}))
        assert expected in commands.unfinished(tmp_path) and bool(commands.unfinished(tmp_path)) == (
            step < 40
        )


def test_a_result_older_than_its_source_is_made_again(tmp_path):
    result, source = tmp_path / "result", tmp_path / "source"
    assert not quickstart.newer(result, source)
    for name, age in ((result, 10), (source, 20)):
        name.touch()
        os.utime(name, (time.time() - age,) * 2)
    assert quickstart.newer(result, source)
    os.utime(source)
    assert not quickstart.newer(result, source)


def test_a_signal_reaches_the_command_and_waits_for_it(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        "import signal, sys, time\n"
        "def leave(*_):\n    time.sleep(0.5); print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    code = f"from scripts import commands; print(commands.run([{str(child)!r}]))"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGTERM)
    assert parent.communicate(timeout=60)[0] == "saved\n0\n"


def test_two_runs_do_not_share_a_folder(tmp_path):
    with alone_in(tmp_path), pytest.raises(UserError, match="another run is training"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):  # free again
        pass


@pytest.mark.parametrize(
    "command", [["main.py"], ["-m", "eval"], ["-m", "scripts.quickstart"], ["-m", "scripts.checkpoint"]]
)
def test_help_is_help(command):
    found = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0 and "python" in found.stdout and "--" in found.stdout, found
