"""Fixtures that every room shares."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with golden numbers and real videos: `../shared`, or the one that VFM_SHARED names."""
    folder = Path(os.environ.get("VFM_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        reason = (
            f"needs the folder of golden numbers and real videos, not found at '{folder}' (set VFM_SHARED)"
        )
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
