"""A chain of stages hands the encoder on, goes on where it stopped and repeats nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import embedded
from scripts import stages
from vfm.errors import UserError
from vfm.train import checkpoint

ROOT = Path(__file__).parents[2]
CONFIG = """
from ml_collections import ConfigDict
from configs import common, quickstart

HANDOVER = {"first": {}, "second": {"encoder": "first"}}

def get_config(stage):
    c = quickstart.get_config()
    c.total_steps, c.batch_size, c.optim.warmup = 2, 8, ""
    c.data.size = c.data.cache_size = 16
    c.model.encoder = ConfigDict(common.vit(width=24, depth=1, heads=1, image_size=16, patch=8))
    c.objective.predictor.width = 16
    if stage == "second":
        c.optim.lr_rules = (("encoder/.*", 0.0), (".*", 1.0))
    return c
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    home = tmp_path_factory.mktemp("stages")
    data = embedded.make(home / "data", sizes=dict(train=8, validation=1, test=1), workers=1)
    (home / "chain.py").write_text(CONFIG)

    def call(*words):
        command = ["-m", "scripts.stages", "--config", str(home / "chain.py"), "--workdir", str(home / "run")]
        return subprocess.run(
            [sys.executable, *command, f"--config.data.train={data / 'train.csv'}", *words],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip

    return home, call


def test_the_encoder_is_handed_on_and_finished_stages_are_not_repeated(chain):
    home, call = chain
    first = call("--only", "first")
    assert first.returncode == 0 and "left out (--only)" in first.stdout, first
    done = call()
    assert done.returncode == 0 and "done before" in done.stdout, done
    assert "missing here: none; unused there: none" in done.stdout + done.stderr
    (one, _), (two, _) = (checkpoint.restore_params(home / "run" / s) for s in ("first", "second"))
    np.testing.assert_array_equal(one["encoder"]["norm"]["scale"], two["encoder"]["norm"]["scale"])
    kernels = [tree["encoder"]["blocks"]["attn"]["qkv"]["kernel"] for tree in (one, two)]
    np.testing.assert_array_equal(*kernels)
    again = call()
    assert again.returncode == 0 and again.stdout.count("done before") == 2 and "main.py" not in again.stdout

    moved = call("--config.log_every=1 steps")
    assert moved.returncode == 0 and moved.stdout.count("main.py") == 2, (
        moved
    )  # same parameters: nothing is blocked

    longer = call("--first.total_steps=3", "--only", "first")
    assert longer.returncode == 0 and "resume from step 2" in longer.stdout + longer.stderr, longer
    stale = call("--first.total_steps=3")
    assert stale.returncode == 1 and "started from an earlier first than there is now" in stale.stderr


def test_a_stage_waits_for_those_it_takes_parts_of(chain):
    home, call = chain
    alone = call("--only", "second", "--workdir", str(home / "other"))
    assert alone.returncode == 1 and "second takes parts of first: training has not begun" in alone.stderr, (
        alone
    )


def test_mistakes_are_named(chain, tmp_path):
    home, call = chain
    assert "did you mean 'second'" in call("--secnd.total_steps=3").stderr
    (tmp_path / "plain.py").write_text("")
    with pytest.raises(UserError, match="describes no stages"):
        stages.handover_of(tmp_path / "plain.py")
    with pytest.raises(UserError, match="does not exist"):
        stages.handover_of(tmp_path / "nothing.py")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("list.csv", "path,label", "is no Python file"),
        ("half.py", "HANDOVER = {", "cannot be loaded: SyntaxError"),
        ("list.py", "HANDOVER = ['one']", "expected a mapping of each stage"),
        ("late.py", "HANDOVER = {'one': {'encoder': 'two'}, 'two': {}}", "expected a mapping of each stage"),
    ],
)
def test_a_file_that_describes_no_stages_is_refused(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        stages.handover_of(tmp_path / name)


@pytest.mark.parametrize("text", ['{"first": ', "[1]", '{"first": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(UserError, match="stages.json' is damaged .*restore it, or remove it"):
        stages.read_record(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--config.seed", "'--config.seed' has no value; write --config.seed=VALUE"),
        ("--first.seed", "'--first.seed' has no value"),
        ("--siz", "did you mean 'size'"),
        ("--onyl=first", "did you mean 'only'"),
        ("--fist.seed=3", "did you mean 'first'"),
    ],
)
def test_a_mistaken_word_is_told_what_it_may_have_been(text, says):
    with pytest.raises(UserError, match=says):
        stages.check_overrides([text, "3"], {"first": {}, "second": {"encoder": "first"}})
