"""Files are tried out in processes that may die, before training relies on them."""

import os
import shutil

import pytest

from input_pipeline.check import check
from input_pipeline.sources import Source

from .conftest import FRAMES
from .troubled import Troubled


@pytest.fixture
def damaged(video_set, tmp_path) -> Source:
    """Ten files: text, nothing, one that hangs, one that crashes, one cut in its last frames, the rest whole."""
    names = ["0", "hangs", "2", "crashes", "text", "empty", "6", "7", "8", "9"]
    for i, name in enumerate(names):
        shutil.copy(video_set / f"{i}.mp4", tmp_path / f"{name}.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    paths = [str(tmp_path / f"{name}.mp4") for name in names]
    return Source(name=str(tmp_path), paths=paths, media=Troubled(paths))


@pytest.mark.parametrize("level", ["first", "all"])
def test_every_file_is_tried_whatever_the_others_do(damaged, level):
    found = list(check(damaged, level, workers=2, seconds=8))
    assert [index for index, _, _ in found] == list(range(10))
    reasons = {os.path.basename(damaged.paths[i]): reason for i, reason, _ in found if reason}
    assert set(reasons) == {"hangs.mp4", "crashes.mp4", "text.mp4", "empty.mp4"}
    assert reasons["hangs.mp4"] == "no answer within 8 s" and "died: signal SIGKILL" in reasons["crashes.mp4"]
    assert "cannot be opened" in reasons["text.mp4"] and "0 bytes" in reasons["empty.mp4"]
    assert all(info["frames"] == FRAMES and info["fps"] == 8 for _, reason, info in found if not reason)
