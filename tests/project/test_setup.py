"""`make setup`: makes the environment once, mends a half-made one, says in one sentence what is in the way.

The script is run for real on a toy project without dependencies, in folders with spaces in their names.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = "awk bash cat cksum cut df dirname env grep ls mkdir rm sed sleep tail touch tr uname wc".split()
TOY = """
[build-system]
requires = {requires}
build-backend = "backend"
backend-path = ["."]
[project]
name = "toy"
version = "1"
[project.optional-dependencies]
dev = []
"""
# The least that pip accepts as a build backend of an editable install.
BACKEND = """
import zipfile
FILES = {
    "toy.pth": ".",
    "toy-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: toy\\nVersion: 1\\nProvides-Extra: dev\\n",
    "toy-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "toy-1.dist-info/RECORD": "",
}
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
    return name
"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A toy project with the true setup script."""
    folder = tmp_path / "a folder with spaces" / "toy"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    (folder / "pyproject.toml").write_text(TOY.format(requires="[]"))
    (folder / "backend.py").write_text(BACKEND)
    (folder / "constraints.txt").touch()
    return folder


@pytest.fixture
def programs(tmp_path) -> Path:
    """A folder for the PATH with the tools that setup needs, and no Python."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def write_program(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def setup(project: Path, programs: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {"PATH": str(programs), "HOME": str(project), "PIP_CONFIG_FILE": os.devnull} | variables
    command = ["bash", "scripts/setup.sh"]
    return subprocess.run(
        command, cwd=project, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def one_sentence(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_environment_is_made_once_and_mended_when_half_made(project, programs):
    (programs / "python3.12").symlink_to(
        "/nonexistent"
    )  # a name on the PATH that does not run is passed over
    (programs / "python3").symlink_to(sys.executable)
    first = setup(project, programs)
    assert first.returncode == 0, first.stderr + (project / ".venv-setup.log").read_text()
    assert "making .venv with Python" in first.stdout
    assert (project / ".venv" / "bin" / "python").exists()

    again = setup(project, programs)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    # As a kill in the middle of the installation leaves it.
    (project / ".venv" / "setup-stamp").unlink()
    (project / ".venv" / "setup-unfinished").touch()
    (project / ".venv" / "bin" / "pip").unlink()
    mended = setup(project, programs)
    assert mended.returncode == 0 and "making .venv" in mended.stdout
    assert (project / ".venv" / "bin" / "pip").exists()

    # Other versions are installed into the environment that is there.
    (project / "constraints.txt").write_text("other==1\n")
    changed = setup(project, programs)
    assert changed.returncode == 0 and "making .venv" not in changed.stdout and "installing" in changed.stdout


def test_python_too_old(project, programs):
    for name in ("python3", "python3.12", "python"):
        write_program(programs / name, 'case "$2" in *platform*) echo 3.8.18;; *) exit 1;; esac')
    line = one_sentence(setup(project, programs))
    assert "Python 3.12 or newer is needed, found only Python 3.8.18" in line
    assert "PYTHON=" in line and not (project / ".venv").exists()


def test_no_python_at_all(project, programs):
    assert "Python 3.12 or newer is needed; install it" in one_sentence(setup(project, programs))


def test_python_is_found_in_pyenv(project, programs):
    home = project / "pyenv root" / "versions" / "3.12.99" / "bin"
    home.mkdir(parents=True)
    (home / "python").symlink_to(sys.executable)
    write_program(programs / "df", 'echo; echo "disk 1 1 1 1% /"')  # ends after the choice, before the work
    line = one_sentence(setup(project, programs, PYENV_ROOT=str(project / "pyenv root")))
    assert "too full" in line


def test_disk_full(project, programs):
    (programs / "python3").symlink_to(sys.executable)
    write_program(programs / "df", "echo header; echo 'disk 900000 800000 102400 90% /'")
    line = one_sentence(setup(project, programs))
    assert "too full: 100 MB free, about 2000 MB needed" in line and "a folder with spaces" in line
    assert not (project / ".venv").exists()


def test_package_index_out_of_reach(project, programs):
    (programs / "python3").symlink_to(sys.executable)
    (project / "pyproject.toml").write_text(TOY.format(requires='["setuptools>=77"]'))
    nobody = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    line = one_sentence(setup(project, programs, **nobody))
    assert "the package index is out of reach" in line and ".venv-setup.log" in line
    assert (project / ".venv-setup.log").read_text()
