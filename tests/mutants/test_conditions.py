"""Tests of the kind `conditions`: what it makes of each form of a condition."""

from pathlib import Path

import pytest

from tests.mutants.test_mutants import found


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("return p and q or Q", {"return q or Q", "return p or Q", "return Q", "return (p and q)"}),
        ("return p - (p == q == Q)", {f"return p - ({left})" for left in ("q == Q", "p == Q", "p == q")}),
        ("return p - (p < q <= Q)", {"return p - ((q <= Q))", "return p - ((p < q))"}),
        ("return p - ((p, q) != (P, Q))", {"return p - ((q,) != (Q,))", "return p - ((p,) != (P,))"}),
        ("return p < q", {"return True", "return False"}),
        ("return not p", {"return p", "return True", "return False"}),
        ("if p: return q", {"if True: return q", "if False: return q"}),
        ("return p if g else q", {"return p if True else q", "return p if False else q"}),
        ("return [n for n in p if n]", {"return [n for n in p if True]"}),
        ("return any(p)", {"return all(p)"}),
        ("return max(p, *q)", {"return max(*q)", "return (p)"}),
        (
            "if p in (0, 1): return q",
            {f"if {p}: return q" for p in ("True", "False", "p in (1,)", "p in (0,)")},
        ),
        ("p = [P, Q]; return max(*p)", {"p = [Q]", "p = [P]"}),
        ("return [p] * q", {"return [p]", "return []"}),
    ],
)
def test_what_is_left_out(line: str, wrong: set[str], tmp_path: Path) -> None:
    assert found(f"def kernel(p, q, P, Q, g):\n    {line}\n", tmp_path)["conditions"] == wrong


def test_conditions_where_a_tile_is_chosen_and_in_kernels(tmp_path: Path) -> None:
    """Where a tile is chosen, only conditions are changed. In kernels, only chains of conditions are."""
    chooses = "def choose(p, q):\n    return p or tile_for(p + q)\n"
    assert found(chooses, tmp_path / "chooses") == {"conditions": {"return p", "return tile_for(p + q)"}}
    kernel = "@jit\ndef kernel(p, q):\n    if p and q:\n        return not p\n"
    assert found(kernel, tmp_path / "kernel")["conditions"] == {"p", "q"}
