"""Results belong to the kernels that they were measured with: renaming keeps them, changing a sum loses them."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from bench import kernel_identity, results
from bench.results import RESULTS, evidence
from bench.tune.table import Table
from tests.support.processes import ROOT, python
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import Gpu

HASH_OF_SNIPPET = "7f4e4e360316"
# Another version of Triton makes other TTIR of the same kernels.
pinned = pytest.mark.skipif(version("triton") != kernel_identity.pinned(), reason="TTIR is known of the pinned Triton")


def compiled(root: Path = ROOT) -> Any:
    """Return the hashes of the kernels' source texts and of their TTIR in the repository at `root`.

    Kernels are compiled in a process of their own, because a process that interprets kernels cannot compile them.
    """
    code = "import json; from bench import kernel_identity; from bench.lowering import ttir; "
    code += "print(json.dumps([kernel_identity.source_hashes(), ttir.hashes()]))"
    done = python("-c", code, cwd=root, PYTHONPATH=str(root))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository that a test may change."""
    for name in ("tritonconv", "reference", "bench", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def replace(folder: Path, old: str, new: str) -> None:
    """Replace `old` by `new` in every Python file in a folder and its subfolders. At least one must contain `old`."""
    texts = {path: path.read_text() for path in folder.rglob("*.py")}
    assert any(old in text for text in texts.values())
    for path, text in texts.items():
        path.write_text(text.replace(old, new))


@pinned
def test_the_kernels_of_the_checkout_are_known() -> None:
    """`kernels.json` lists the kernels as they are, so that it is known which results are theirs."""
    known = kernel_identity.read()
    found, _ = kernel_identity.identified(known, *compiled(), version("triton"))
    assert found == known, "python -m bench lowering --identify says what changed"


@pinned
def test_other_names_keep_the_results(checkout: Path) -> None:
    """Renaming arguments, functions that kernels call, and a file, and adding a constant without effect."""
    kernels = checkout / "tritonconv"
    replace(kernels, " DEPENDENT_LAUNCH: tl.constexpr,", " DEPENDENT_LAUNCH: tl.constexpr,\n    UNUSED: tl.constexpr,")
    replace(kernels, " DEPENDENT_LAUNCH=False,", " DEPENDENT_LAUNCH=False,\n        UNUSED=False,")
    replace(kernels, "stride_xb", "pitch_xb")
    replace(kernels, "first_position", "start_position")
    replace(kernels, "multiply_sum", "add_products")
    replace(kernels, "kernels.index", "kernels.arithmetic")
    (kernels / "kernels" / "index.py").rename(kernels / "kernels" / "arithmetic.py")
    sources, ttir = compiled(checkout)
    assert not set(sources.values()) & set(kernel_identity.source_hashes().values())
    found, said = kernel_identity.identified(kernel_identity.read(), sources, ttir, version("triton"))
    assert [line.split(", ")[1] for line in said] == ["the same TTIR"] * 3
    assert kernel_identity.names(checkout / "tritonconv" / "kernels", found) == kernel_identity.names()


@pinned
@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("y_columns = y_ptr + (g * F + f) * stride_yf", "y_columns = y_ptr + f * stride_yf", {"wgrad"}),
        ("start_h + i * stride_h,", "start_h + i * stride_w,", {"dgrad"}),
        # TTIR does not show what Triton specializes, because values are known only when a kernel is launched.
        ('@triton.jit(do_not_specialize=[*INTEGERS, "splits"])', "@triton.jit", {"wgrad"}),
    ],
    ids=["a sum", "an axis", "specialization"],
)
def test_another_computation_loses_the_results(old: str, new: str, lost: set[str], checkout: Path) -> None:
    """The operator whose kernel was changed loses its results, and no other does."""
    replace(checkout / "tritonconv", old, new)
    found, _ = kernel_identity.identified(kernel_identity.read(), *compiled(checkout), version("triton"))
    names, before = kernel_identity.names(checkout / "tritonconv" / "kernels", found), kernel_identity.names()
    assert {operator for operator in OPERATORS if names[operator] != before[operator]} == lost
    assert kernel_identity.names(known=found) == before


def test_every_result_names_known_kernels() -> None:
    """The committed results may be of older kernels than today's, but `kernels.json` lists these."""
    known = {(entry["operator"], entry["name"]) for entry in kernel_identity.read()}
    measured = [row["kernels"] for run in evidence() for row in run["rows"] if row.get("kernels")]
    assert len(measured) >= 45
    for kernels in measured:
        assert set(kernels.items()) <= known
    tuned = json.loads((ROOT / "tritonconv/tiling/measured_tiles/nvidia-h200.json").read_text())["rows"]
    for row in tuned:
        assert set(kernel_identity.canonical({row["key"][0]: row["kernel"]}).items()) <= known
    assert kernel_identity.KNOWN.parent == RESULTS


def test_the_table_is_of_the_pinned_triton() -> None:
    """If the table were of another Triton, the tests above would compare nothing.

    Each name and each source text is in one entry only.
    """
    entries = kernel_identity.read()
    named = kernel_identity.source_hashes()
    for entry in entries:
        if named[entry["operator"]] in entry["sources"]:
            assert entry["triton"] == kernel_identity.pinned()
    for field in ("name", "sources"):
        found = [(e["operator"], text) for e in entries for text in ([e["name"]] if field == "name" else e["sources"])]
        assert len(found) == len(set(found))


def test_nothing_is_identified_with_another_triton() -> None:
    code = "from bench import kernel_identity; kernel_identity.pinned = lambda: '0.0.0'; "
    code += "from bench.lowering import command; command.identify()"
    before = kernel_identity.KNOWN.read_bytes()
    done = python("-c", code)
    assert "kernels are identified with Triton 0.0.0, not with" in done.stderr
    assert kernel_identity.KNOWN.read_bytes() == before


def entry(name: str, ttir: str, triton: str = "1") -> kernel_identity.Entry:
    return dict(operator="fprop", name=name, sources=[name], triton=triton, ttir={"a": ttir})


def identified(known: list[kernel_identity.Entry], source: str, ttir: str, triton: str = "1") -> Any:
    """Return the entries after fprop was compiled from the source text `source` to the TTIR `ttir`."""
    return kernel_identity.identified(known, {"fprop": source}, {"fprop": {"a": ttir}}, triton)[0]


def test_a_name_stands_for_what_is_compiled() -> None:
    known = identified([], "first", "x")
    assert known == [entry("first", "x")]
    renamed = identified(known, "second", "x")
    assert renamed == [entry("first", "x") | {"sources": ["first", "second"]}]
    assert identified(renamed, "second", "x") == renamed
    changed = identified(renamed, "third", "y")
    assert changed == [*renamed, entry("third", "y")]
    assert identified(changed, "fourth", "x")[0]["sources"] == ["first", "second", "fourth"]
    # A variant that is gone could hide a change, so it makes a new entry.
    assert [
        each["name"] for each in kernel_identity.identified(known, {"fprop": "b"}, {"fprop": {"c": "x"}}, "1")[0]
    ] == [
        "first",
        "b",
    ]


def test_a_source_text_has_one_name() -> None:
    """One source text may compile to two TTIRs over time, because TTIR depends on the launch's arguments too."""
    known = identified(identified([], "first", "x"), "second", "x")
    changed = identified(known, "second", "y")
    (old, new) = changed
    assert (old["sources"], new["sources"]) == (["first"], ["second"])
    assert new["name"] not in ("first", "second")
    assert kernel_identity.canonical({"fprop": "second"}, changed) == {"fprop": new["name"]}
    back, said = kernel_identity.identified(changed, {"fprop": "second"}, {"fprop": {"a": "x"}}, "1")
    assert said == ["fprop: first, the same TTIR"]
    assert kernel_identity.canonical({"fprop": "second"}, back) == {"fprop": "first"}
    assert kernel_identity.canonical({"fprop": new["name"]}, back) == {"fprop": new["name"]}


def test_results_from_before_a_source_text_was_known_count_afterwards() -> None:
    known = identified([], "first", "x")
    assert kernel_identity.canonical({"fprop": "second"}, known) == {"fprop": "second"}
    assert kernel_identity.canonical({"fprop": "second"}, identified(known, "second", "x")) == {"fprop": "first"}


def test_another_triton_must_know_the_source() -> None:
    known = [entry("first", "x")]
    assert identified(known, "first", "z", "2") == [entry("first", "z", "2")]
    with pytest.raises(ValueError, match="identify it with Triton 1 first, and then with 2"):
        identified(known, "second", "x", "2")


def test_records_and_tables_know_a_source_text_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [entry("first", "x") | {"sources": ["first", "second"]}]
    monkeypatch.setattr(kernel_identity, "read", lambda: known)
    row = {"kernels": {"fprop": "second"}}
    path = tmp_path / "record.json"
    results.save(path, {"environment": {}, "ceilings": {}, "rows": [row]})
    assert results.read(path)["rows"] == [{"kernels": {"fprop": "first"}}]
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"gpu": "a", "rows": [{"key": ["fprop"], "kernel": "second"}]}))
    assert Table(table, Gpu.of("sm_90", 132, "a"), {"fprop": "first"}).has(("fprop",), "fprop")
    assert not Table(table, Gpu.of("sm_90", 132, "a"), {"fprop": "other"}).has(("fprop",), "fprop")
    assert not Table(table, Gpu.of("sm_90", 132, "a"), {"fprop": "first"}).has(("another",), "fprop")


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tritonconv" / "kernels", tmp_path / "kernels"))


def changed(folder: Path, name: str, old: str, new: str) -> set[str]:
    """Replace `old` by `new` in the file `name`, and return the operators whose source hash has changed."""
    before, path = kernel_identity.source_hashes(folder), folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = kernel_identity.source_hashes(folder)
    return {operator for operator in before if before[operator] != after[operator]}


CODE = ("import triton\n", "import triton\n\nx = 1\n")


def test_the_hash_is_of_the_code(kernels: Path) -> None:
    assert kernel_identity.source_hashes(kernels) == kernel_identity.source_hashes()
    assert len(set(kernel_identity.source_hashes().values())) == 3
    assert changed(kernels, "gather/wgrad.py", "\nimport triton\n", "\n# a comment\nimport triton\n") == set()
    assert changed(kernels, "gather/wgrad.py", "rows are filters", "rows are the filters") == set()
    assert changed(kernels, "tma/wgrad.py", *CODE) == {"wgrad"}


def test_the_hash_follows_imports(kernels: Path) -> None:
    assert changed(kernels, "tma/gemm.py", *CODE) == {"fprop", "dgrad"}
    assert changed(kernels, "index.py", *CODE) == set(OPERATORS)
    assert changed(kernels, "stride_phases.py", *CODE) == {"dgrad"}
    assert changed(kernels, "partial_sums.py", *CODE) == {"wgrad"}


def test_every_kernel_belongs_to_an_operator() -> None:
    files = {path for operator in OPERATORS for path in kernel_identity.files(operator)}
    assert files == set(kernel_identity.KERNELS.rglob("*.py")) - set(kernel_identity.KERNELS.rglob("__init__.py"))


def test_the_hash_is_the_same_in_every_python(tmp_path: Path) -> None:
    """Syntax trees of Python 3.12 and 3.13 differ from those of 3.11, but the hash must not."""
    path = tmp_path / "some.py"
    path.write_text("def f(x, *, y: int = 1) -> str:\n    return f'{x}' + \"y\"  # words\n")
    assert kernel_identity.source_hash([path, path]) == HASH_OF_SNIPPET
