"""What holds for the files of the repository: pinned versions, nothing of one machine, house measures."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OPTIONAL = {
    "decord",
    "torch",
    "torchcodec",
    "transformers",
}  # compared with where they happen to be installed
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@cache
def tracked() -> list[Path]:
    """Files that git tracks, or would (new and not ignored)."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this copy is not a git checkout")
    return [ROOT / name for name in sorted(set(listed.splitlines())) if (ROOT / name).is_file()]


APART = {"constraints-beam.txt": {"beam"}}  # extras that need an environment of their own, and its versions
CONSTRAINTS = ["constraints.txt", *APART]


@cache
def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def requirements(file: str = "") -> list[Requirement]:
    """What is installed together with the versions of a file; all that there are if none is given."""
    extras = PROJECT["optional-dependencies"]
    names = APART.get(file, extras.keys() - set().union(*APART.values())) if file else extras
    return [Requirement(text) for text in sum((extras[name] for name in names), PROJECT["dependencies"])]


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_constraints_hold_names_and_exact_versions_only(file):
    for line in (ROOT / file).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(file):
    versions = {canonicalize_name(name): version for name, version in pinned(file).items()}
    for requirement in requirements(file):
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{file} does not pin {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but =={version}"


@pytest.mark.parametrize(("file", "names"), APART.items())
def test_an_extra_apart_and_its_versions_agree(file, names):
    """Neither is changed without the other, and the documents name both."""
    pins = {canonicalize_name(name) for name in pinned(file)}
    asked = {canonicalize_name(Requirement(text).name) for text in extras_of(names)}
    assert asked and asked <= pins, f"{file} lacks {asked - pins}"
    assert not asked & {canonicalize_name(name) for name in pinned("constraints.txt")}
    others = set(PROJECT["optional-dependencies"]) - names - {"dev"}
    foreign = {canonicalize_name(Requirement(text).name) for text in extras_of(others)} - {"jax"}
    assert not foreign & pins, f"{file} pins {foreign & pins} of other extras"
    assert all(f"`{name}`" in (ROOT / file).read_text().splitlines()[0] for name in names)
    assert f"-c {file} -e '.[{','.join(sorted(names))}]'" in (ROOT / "docs" / "data.md").read_text()


def extras_of(names) -> list[str]:
    return [text for name in names for text in PROJECT["optional-dependencies"][name]]


def test_every_import_is_a_declared_dependency():
    """So that nothing works only because another package happens to bring it."""
    modules = {"absl": "absl-py", "sklearn": "scikit-learn", "orbax": "orbax-checkpoint", "PIL": "pillow"}
    declared = {canonicalize_name(requirement.name) for requirement in requirements()} | {"packaging"}
    ours = {path.name.removesuffix(".py") for path in ROOT.iterdir()} | {"tests"}
    for path in (path for path in tracked() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - ours - set(sys.stdlib_module_names):
                package = canonicalize_name(modules.get(top, top))
                assert package in declared or top in OPTIONAL, f"{path.relative_to(ROOT)} imports {top}"


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w.{}])/(home|root|Users|work|tmp|opt)/"),
        (
            "the host or option of a package index",
            r"pypi[.]|pythonhosted|find-links|index-url|files[.]python",
        ),
    ],
)
def test_no_file_holds(what, pattern):
    for path in tracked():
        if path.suffix in {".png", ".mp4", ".npz", ".gif"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if path != Path(__file__):
                assert not re.search(pattern, line), f"{path.relative_to(ROOT)}:{number} holds {what}: {line}"


def test_modules_are_short_and_say_what_they_hold():
    for path in (path for path in tracked() if path.suffix == ".py"):
        text, name = path.read_text(), path.relative_to(ROOT)
        assert len(text.splitlines()) <= 400, f"{name} is longer than 400 lines: it is two modules"
        assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name} has no docstring"


def test_functions_fit_a_screen():
    for path in (path for path in tracked() if path.suffix == ".py"):
        if path.is_relative_to(ROOT / "configs"):  # a table of keys, not code
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 80, f"{path.relative_to(ROOT)}: {node.name} has {lines} lines"


def test_python_version_file_satisfies_the_project():
    asked = (ROOT / ".python-version").read_text().strip()
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(asked)


def test_make_without_a_target_lists_all_targets():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"setup", "test", "test-all", "lint", "quickstart", "quickstart-full", "clean"} <= set(rules)
    assert re.findall(r"^  make ([a-z-]+)  +\S", shown, flags=re.MULTILINE) == rules


def test_links_in_the_documents_lead_somewhere():
    for path in (path for path in tracked() if path.suffix == ".md"):
        text = re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / link).exists(), f"{path.relative_to(ROOT)} links to {link}"


def test_tfds_works_without_tensorflow():
    code = "import sys, tensorflow_datasets; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
