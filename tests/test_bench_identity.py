"""Results belong to the kernels that they were measured with: other names keep them, another sum loses them."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from bench import identity
from bench.results import RESULTS, evidence
from tests.processes import ROOT, python
from tritonconv.geometry import OPERATORS

HASH_OF_SNIPPET = "7f4e4e360316"
# Where the known TTIR can be compared with what is compiled here.
pinned = pytest.mark.skipif(
    version("triton") != identity.read()[-1]["triton"], reason="TTIR is known of another version of Triton"
)


def compiled(root: Path = ROOT) -> Any:
    """The hashes of the source texts and of the TTIR of the repository at `root`: not in a process that interprets."""
    code = "import json; from bench import identity; from bench.lowering import ttir; "
    code += "print(json.dumps([identity.source_hashes(), ttir.hashes()]))"
    done = python("-c", code, cwd=root, PYTHONPATH=str(root))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository, to be changed."""
    for name in ("tritonconv", "reference", "bench", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def replace(folder: Path, old: str, new: str) -> None:
    """Write `new` for `old` in every file of Python in a folder. It must be in one of them."""
    texts = {path: path.read_text() for path in folder.rglob("*.py")}
    assert any(old in text for text in texts.values())
    for path, text in texts.items():
        path.write_text(text.replace(old, new))


@pinned
def test_the_kernels_of_the_checkout_are_known() -> None:
    """They are in `kernels.json` as they are, or else nobody can tell whether the results are theirs."""
    known = identity.read()
    found, _ = identity.identified(known, *compiled(), version("triton"))
    assert found == known, "python -m bench lowering --identify says what changed"


@pinned
def test_other_names_keep_the_results(checkout: Path) -> None:
    """Of arguments, of functions between kernels, and of a file."""
    kernels = checkout / "tritonconv"
    replace(kernels, "stride_xb", "pitch_xb")
    replace(kernels, "first_position", "start_position")
    replace(kernels, "multiply_sum", "add_products")
    replace(kernels, "kernels.index", "kernels.arithmetic")
    (kernels / "kernels" / "index.py").rename(kernels / "kernels" / "arithmetic.py")
    sources, ttir = compiled(checkout)
    assert not set(sources.values()) & set(identity.source_hashes().values())
    found, said = identity.identified(identity.read(), sources, ttir, version("triton"))
    assert [line.split(", ")[1] for line in said] == ["the same TTIR"] * 3
    assert identity.names(checkout / "tritonconv" / "kernels", found) == identity.names()


@pinned
def test_another_sum_loses_the_results(checkout: Path) -> None:
    """Of the kernel that was changed, and of no other."""
    replace(checkout / "tritonconv", "y_columns = y_ptr + (g * F + f) * stride_yf", "y_columns = y_ptr + f * stride_yf")
    found, _ = identity.identified(identity.read(), *compiled(checkout), version("triton"))
    names, before = identity.names(checkout / "tritonconv" / "kernels", found), identity.names()
    assert {operator for operator in OPERATORS if names[operator] != before[operator]} == {"wgrad"}
    assert identity.names(known=found) == before


def test_every_result_names_known_kernels() -> None:
    """The results of an H200 are those of the kernels as they are."""
    known = {(entry["operator"], entry["name"]) for entry in identity.read()}
    measured = [row["kernels"] for run in evidence() for row in run["rows"] if row.get("kernels")]
    assert len(measured) >= 45
    for kernels in measured:
        assert set(kernels.items()) <= known
    tuned = json.loads((ROOT / "tritonconv/gpus/nvidia-h200.json").read_text())["rows"]
    assert {(row["key"][0], row["kernel"]) for row in tuned} <= known
    assert identity.KNOWN.parent == RESULTS


def entry(name: str, ttir: str, triton: str = "1") -> identity.Entry:
    return dict(operator="fprop", name=name, sources=[name], triton=triton, ttir={"a": ttir})


def identified(known: list[identity.Entry], source: str, ttir: str, triton: str = "1") -> Any:
    return identity.identified(known, {"fprop": source}, {"fprop": {"a": ttir}}, triton)[0]


def test_a_name_stands_for_what_is_compiled() -> None:
    known = identified([], "first", "x")
    assert known == [entry("first", "x")]
    renamed = identified(known, "second", "x")
    assert renamed == [entry("first", "x") | {"sources": ["first", "second"]}]
    assert identified(renamed, "second", "x") == renamed
    changed = identified(renamed, "third", "y")
    assert changed == [*renamed, entry("third", "y")]
    assert identified(changed, "fourth", "x")[0]["sources"] == ["first", "second", "fourth"]
    # A variant that is gone could hide a change.
    assert [each["name"] for each in identity.identified(known, {"fprop": "b"}, {"fprop": {"c": "x"}}, "1")[0]] == [
        "first",
        "b",
    ]


def test_another_triton_must_know_the_source() -> None:
    known = [entry("first", "x")]
    assert identified(known, "first", "z", "2") == [entry("first", "z", "2")]
    with pytest.raises(ValueError, match="identify it with Triton 1 first, and then with 2"):
        identified(known, "second", "x", "2")


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tritonconv" / "kernels", tmp_path / "kernels"))


def changed(folder: Path, name: str, old: str, new: str) -> set[str]:
    """The operators whose source hash another text in the file of that name changes."""
    before, path = identity.source_hashes(folder), folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = identity.source_hashes(folder)
    return {operator for operator in before if before[operator] != after[operator]}


CODE = ("import triton\n", "import triton\n\nx = 1\n")


def test_the_hash_is_of_the_code(kernels: Path) -> None:
    assert identity.source_hashes(kernels) == identity.source_hashes()
    assert len(set(identity.source_hashes().values())) == 3
    assert changed(kernels, "wgrad.py", "\nimport triton\n", "\n# a comment\nimport triton\n") == set()
    assert changed(kernels, "wgrad.py", "rows are filters", "rows are the filters") == set()
    assert changed(kernels, "wgrad.py", *CODE) == {"wgrad"}


def test_the_hash_follows_imports(kernels: Path) -> None:
    assert changed(kernels, "gemm.py", *CODE) == {"fprop", "dgrad"}
    assert changed(kernels, "index.py", *CODE) == set(OPERATORS)
    assert changed(kernels, "dgrad.py", *CODE) == {"dgrad"}


def test_every_kernel_belongs_to_an_operator() -> None:
    files = {path for operator in OPERATORS for path in identity.files(operator)}
    assert files == set(identity.KERNELS.rglob("*.py")) - set(identity.KERNELS.rglob("__init__.py"))


def test_the_hash_is_the_same_in_every_python(tmp_path: Path) -> None:
    """3.12 and 3.13 have other syntax trees than 3.11."""
    path = tmp_path / "some.py"
    path.write_text("def f(x, *, y: int = 1) -> str:\n    return f'{x}' + \"y\"  # words\n")
    assert identity.source_hash([path, path]) == HASH_OF_SNIPPET
