"""What was found in a compiled kernel is kept, and used again only for exactly the same kernel."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from bench.lowering import kept, machine_code, offline, rows
from bench.lowering.machine_code import Code, Loop
from tests.support.processes import python
from tritonconv.tiling.tile import Tile

CODE = Code(120, 8, 2048, 4, "HGMMA.64x64x16.F32.BF16", 0, None, Loop(98, 4, 0, 131072))
JOB = offline.Job("fprop", "bfloat16", offline.Memory(8, 8), Tile(128, 128, 64, 8, 3), "sm_90")


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert kept.read("a", folder) is None
    kept.write("a", CODE, folder)
    assert kept.read("a", folder) == CODE
    assert kept.read("b", folder) is None
    kept.write("a", CODE._replace(registers=64), folder)
    assert kept.read("a", folder) == CODE._replace(registers=64)
    assert [path.name for path in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("damage", ["", "{}", "half", "digit", "other key", "bytes"])
def test_a_damaged_file_is_not_used(damage: str, tmp_path: Path) -> None:
    kept.write("a", CODE, tmp_path)
    path = tmp_path / "a"
    text = path.read_text()
    changed = {"half": text[: len(text) // 2], "digit": text.replace("120", "121"), "other key": text}
    path.write_bytes(b"\xff\xfe" if damage == "bytes" else changed.get(damage, damage).encode())
    assert kept.read("a", tmp_path) == (CODE if damage == "other key" else None)
    path.rename(tmp_path / "b")
    assert kept.read("b", tmp_path) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    kept.write("a", CODE, tmp_path / "file")
    assert kept.read("a", tmp_path / "file") is None


def test_each_part_changes_the_key() -> None:
    assert kept.hashed("ab", "c") == kept.hashed("ab", "c")
    assert len({kept.hashed("ab", "c"), kept.hashed("a", "bc"), kept.hashed("abc"), kept.hashed("ab", "d")}) == 4


def test_only_what_is_not_kept_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A failure is compiled again. `fresh` compiles everything. Rows come in the order of the jobs."""
    jobs = [replace(JOB, kernel=kernel) for kernel in ("fprop", "dgrad")]
    compiled: list[str] = []

    class Pool:
        """Stands for ProcessPoolExecutor, in this process."""

        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None: ...

        map = staticmethod(map)

    def code_of(job: offline.Job) -> Code:
        compiled.append(job.kernel)
        if job.kernel == "dgrad" and len(compiled) < 3:
            raise RuntimeError("no")
        return CODE

    monkeypatch.setattr(rows, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(rows, "code_of", code_of)
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    monkeypatch.setattr(kept, "key_of", lambda job: job.kernel)
    first = list(rows.lower_all(jobs, []))
    assert (isinstance(first[1][0], rows.Failure), [new for _, new in first]) == (True, [True, True])
    second = list(rows.lower_all(jobs, []))
    assert ([row["kernel"] for row, _ in second], [new for _, new in second]) == (["fprop", "dgrad"], [False, True])
    assert second[0] == (first[0][0], False)
    assert [new for _, new in rows.lower_all(jobs, [])] == [False, False]
    assert compiled == ["fprop", "dgrad", "dgrad"]
    assert [new for _, new in rows.lower_all(jobs, [], fresh=True)] == [True, True]


# Prints what the test below looks at. A process that interprets kernels has no keys and cannot compile.
KEYS = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import triton
from bench.lowering import kept, offline, rows
from bench.lowering.machine_code import code_of
from tritonconv.kernels.gather import fprop
from tritonconv.kernels.gather.fprop import fprop_kernel as kernel
from tritonconv.tiling.tile import Tile

folder = Path(sys.argv[1])
job = offline.Job("fprop", "bfloat16", offline.Memory(8, 8), Tile(16, 16, 16, 1, 2), "sm_80")
key = kept.key_of(job)
row = rows.row_of(job, code_of(job))
kept.write(key, code_of(job), folder)
found = {"same": kept.key_of(job) == key, "row": rows.row_of(job, kept.read(kept.key_of(job), folder)) == row}
found["registers"] = row["registers"]

other = {
    "target": replace(job, arch="sm_90"),
    "tile": replace(job, tile=Tile(16, 16, 16, 1, 3)),
    "options": replace(job, tile=Tile(16, 16, 16, 2, 2)),
    "memory": replace(job, memory=offline.Memory(8, 1)),
    "dtype": replace(job, dtype="float16"),
    "geometry": replace(job, geometry=replace(offline.small_geometry("", job.memory, 2), stride_h=3, P=2)),
}
keys = {name: kept.key_of(each) for name, each in other.items()}
triton.__version__, version = "99", triton.__version__
keys["version"], triton.__version__ = kept.key_of(job), version
os.environ["TRITON_DEFAULT_FP_FUSION"] = "0"
keys["environment"] = kept.key_of(job)
del os.environ["TRITON_DEFAULT_FP_FUSION"]
counting, kept.counting = kept.counting, lambda: "another count"
keys["counting"], kept.counting = kept.key_of(job), counting
tools, kept.tools = kept.tools, lambda: [("nvdisasm", "99")]
keys["tools"], kept.tools = kept.key_of(job), tools

functions = [value for value in vars(fprop).values() if isinstance(value, triton.JITFunction)]
called = next(each for each in functions if each is not kernel and each.__name__ in kernel.src)
for name, function in (("kernel", kernel), ("a function that it calls", called)):
    text = function.src
    function._unsafe_update_src(text + "\\n    another = 1\\n")
    kernel.hash = None
    keys[name] = kept.key_of(job)
    function._unsafe_update_src(text)
    kernel.hash = None
found["changed"] = {name: each != key for name, each in keys.items()}
found["different"] = len(set(keys.values())) == len(keys)
found["again"] = kept.key_of(job) == key
print(json.dumps(found))
"""


@pytest.mark.long
def test_the_same_kernel_has_the_same_key_and_every_change_another(tmp_path: Path) -> None:
    """The row of what is kept is that of what is compiled."""
    done = python("-c", KEYS, str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert all(found["changed"].values()), found
    assert len(found.pop("changed")) == 12
    assert found.pop("registers") > 0
    assert found == dict.fromkeys(("same", "row", "different", "again"), True)
    assert kept.counting() == kept.hashed(*(Path(m.__file__ or "").read_text() for m in (kept.assembly, machine_code)))
