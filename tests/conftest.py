"""Fixtures that every room shares."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Toys compile far longer than they run: the compiler need not try hard.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


# Files that take longest, these first: begun last, one of them would keep one process busy when the others are done.
LONGEST = (
    "test_shipped_configs",
    "test_meshes",
    "test_resume",
    "test_stages",
    "test_contrast",
    "test_validate",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


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
