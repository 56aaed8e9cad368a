"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest

import tritonconv

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run(example: str) -> None:
    with tritonconv.using("reference"):
        exec(compile(example, str(README), "exec"), {})


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4
    assert EXAMPLES[0].count("\n") <= 12
