"""What the documentation says is there: its examples run as they stand, and the files that it names exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tritonconv

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run(example: str) -> None:
    with tritonconv.using("reference"):
        exec(compile(example, str(README), "exec"), {})


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4
    assert EXAMPLES[0].count("\n") <= 12


# A file or folder of the repository, perhaps with a * in it.
NAMED = re.compile(
    r"(?<![\w/.])(?:tritonconv|reference|tests|bench|examples|docs)/[\w/*.-]*?(?:\.(?:py|md|csv|json)\b|/(?=[`\s,)]))"
)


# Those that tests make up.
MADE_UP = {"tests/test_a.py", "tests/test_c.py", "tests/test_x.py", "tests/nonsense.py"}
MADE_UP |= {"tritonconv/no_such_file.py", "tritonconv/kernels/some.py"}


def named() -> Iterator[tuple[str, str]]:
    """Each place that names a file, and the file."""
    code = [
        path
        for folder in ("tritonconv", "reference", "bench", "examples", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "bench/NOTES.md", ROOT / "Makefile", *code]:
        for found in NAMED.findall(path.read_text()):
            if found not in MADE_UP:
                yield path.relative_to(ROOT).as_posix(), found


def test_files_that_are_named_exist() -> None:
    found = set(named())
    assert len(found) >= 50
    assert [(place, name) for place, name in found if not list(ROOT.glob(name))] == []
