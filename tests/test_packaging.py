"""Tests of what a user installs: one package, undisturbed by his other modules, and its dependencies."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.support.processes import HANG, ROOT, python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Looking for the modules instead would make setuptools replace distutils, which torch's test suite has imported.
INSTALLED = {distribution.name for distribution in distributions()}


def packages() -> dict[str, str]:
    """Return the folder of each Python package in the repository, by the name that it is imported by."""
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "reference").rglob("*.py")}
    own = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tritonconv").rglob("*.py")}
    named = {f"tritonconv/{folder}": folder for folder in folders} | {folder: folder for folder in own}
    return {name.replace("/", "."): folder for name, folder in named.items()}


def test_every_folder_is_installed() -> None:
    tools = PROJECT["tool"]["setuptools"]
    assert tools["packages"] == sorted(packages()), (
        "list every folder with Python in [tool.setuptools] of pyproject.toml"
    )
    assert tools["package-dir"] == {"tritonconv.reference": "reference"}


def test_a_checkout_has_the_reference_in_the_package() -> None:
    """`tritonconv/reference` is a link, so that the reference has one name, whether the package is installed or not."""
    link = ROOT / "tritonconv" / "reference"
    assert link.is_dir()
    assert link.resolve() == ROOT / "reference"


def test_copies_of_a_checkout_have_it_too(tmp_path: Path) -> None:
    """A copy works with the link, and with a folder in its place, as in the copies of mutation testing."""
    for links in (True, False):
        copy = tmp_path / str(links)
        for name in ("tritonconv", "reference"):
            shutil.copytree(ROOT / name, copy / name, symlinks=links)
        code = "from tritonconv import reference; print(reference.__file__)"
        done = python("-P", "-c", code, cwd=tmp_path, PYTHONPATH=str(copy))
        assert done.stdout.strip() == str(copy / "tritonconv/reference/__init__.py"), done.stderr


@pytest.fixture(params=["link", "text"])
def wheel(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A wheel built from a checkout, or from an archive that has turned the link into a text file."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("tritonconv", "reference"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    if request.param == "text":
        (source / "tritonconv/reference").unlink()
        (source / "tritonconv/reference").write_text("../reference")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path), str(source)], check=True, capture_output=True, timeout=HANG)
    (built,) = tmp_path.glob("*.whl")
    return built


@pytest.mark.skipif(not {"setuptools", "pip"} <= INSTALLED, reason="needs setuptools and pip")
def test_the_wheel_is_one_package(wheel: Path, tmp_path: Path) -> None:
    """The wheel has every file, and works beside a user's own module named `reference`."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = {name for name in archive.namelist() if "dist-info" not in name}
    wanted = {
        f"{name.replace('.', '/')}/{path.name}"
        for name, folder in packages().items()
        for path in (ROOT / folder).glob("*.py")
    }
    tables = {path.name for path in (ROOT / "tritonconv/tiling/measured_tiles").iterdir()}
    assert names == wanted | {"tritonconv/py.typed"} | {f"tritonconv/tiling/measured_tiles/{name}" for name in tables}
    (tmp_path / "reference.py").write_text("raise RuntimeError('this is not the reference of tritonconv')")
    code = "import tritonconv; print(tritonconv.reference.conv2d.__module__, tritonconv.__file__)"
    done = python("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.stdout.split() == ["tritonconv.reference.functional", str(tmp_path / "site/tritonconv/__init__.py")]


def test_pre_commit_does_what_make_lint_does() -> None:
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks == re.findall(r"\$\(BIN\)/(.+)", lint), (
        "the commands of .pre-commit-config.yaml must be those of make lint"
    )


def test_three_runtime_dependencies() -> None:
    project = PROJECT["project"]
    assert [d.split(">")[0] for d in project["dependencies"]] == ["torch", "triton", "einops"]
    assert set(project["optional-dependencies"]) == {"examples", "test", "bench", "train", "dev"}
