"""The benchmark of the input, on a video of a moment."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from input_pipeline import write_mp4

ROOT = Path(__file__).parents[2]


def bench(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.bench.input", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_contender_is_timed_on_the_same_frames(tmp_path):
    rng = np.random.default_rng(0)
    write_mp4(tmp_path / "a.mp4", rng.integers(0, 256, (12, 48, 64, 3), dtype=np.uint8).repeat(2, 0))
    options = ["--rounds", 1, "--clips", 4, "--frames", 4, "--size", 32, "--short_side", 32]
    done = bench(tmp_path / "a.mp4", *options, "--out", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    name = f"{tmp_path.name}/a.mp4"
    ratios = re.findall(
        rf"^{re.escape(name)}: (\S+(?: decode)?): (\d+\.\d+) \(", done.stdout, flags=re.MULTILINE
    )
    assert [what for what, _ in ratios] == ["loader/raw decode", "prepared/original"]
    assert all(float(ratio) > 0 for _, ratio in ratios)
    (found,) = json.loads((tmp_path / "o.json").read_text())["results"]
    speeds = found["clips_per_s"]["wall"]
    for contender in ("pyav", "decode only", "original chunk", "original loader", "prepared loader"):
        assert speeds[contender] > 0 and len(found["seconds"][contender]) == 1
    assert (found["prepared"]["height"], found["prepared"]["width"]) == (32, 42)
    assert 0 < found["prepared"]["ssim"] <= 1 and found["prepared"]["psnr"] > 10
    header = next(line for line in done.stdout.splitlines() if line.startswith("| video | decode only"))
    assert "| raw decode |" in header and "| prepared loader |" in header


def test_a_missing_video_is_one_line(tmp_path):
    done = bench(tmp_path / "none.mp4")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
