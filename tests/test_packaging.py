"""What a user installs: the wheel's contents and its dependencies."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.processes import HANG, ROOT

# Not by looking for the modules: that makes setuptools replace distutils, which torch's test suite has imported.
INSTALLED = {distribution.name for distribution in distributions()}


@pytest.mark.skipif(not {"setuptools", "pip"} <= INSTALLED, reason="needs setuptools and pip")
def test_the_wheel_carries_both_packages(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "tritonconv", "reference"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path), str(source)], check=True, capture_output=True, timeout=HANG)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"tritonconv/py.typed", "reference/py.typed", "tritonconv/kernels/fprop.py"} <= set(names)
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"tritonconv", "reference"}


def test_three_runtime_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [d.split(">")[0] for d in project["dependencies"]] == ["torch", "triton", "einops"]
    assert set(project["optional-dependencies"]) == {"examples", "test", "bench", "dev"}
