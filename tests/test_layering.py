"""The import rules of the design: arrows point down only."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the surface to the metal. A module may import only what stands below it.
ORDER = [
    "tritonconv",
    "tritonconv.warmup",
    "tritonconv.compiling",
    "tritonconv.explain",
    "tritonconv.layers",
    "tritonconv.functional",
    "tritonconv.batching",
    "tritonconv.autograd",
    "tritonconv.ops",
    "tritonconv.verify",
    "tritonconv.tolerance",
    "tritonconv.recovery",
    "tritonconv.dispatch",
    "tritonconv.kept",
    "tritonconv.launch",
    "tritonconv.operands",
    "tritonconv.processor",
    "tritonconv.kernels.fprop_tiled",
    "tritonconv.kernels.dgrad_tiled",
    "tritonconv.kernels.wgrad_tiled",
    "tritonconv.kernels.tiled",
    "tritonconv.kernels.fprop",
    "tritonconv.kernels.dgrad",
    "tritonconv.kernels.wgrad",
    "tritonconv.kernels.gemm",
    "tritonconv.kernels.index",
    "tritonconv.kernels",
    "tritonconv.layout",
    "tritonconv.notices",
    "tritonconv.tiles",
    "tritonconv.measured",
    "tritonconv.model",
    "tritonconv.tile",
    "tritonconv.geometry",
]
THIRD_PARTY = {
    "reference": {"torch", "einops"},
    "tritonconv.kernels": {"triton"},
    "tritonconv.geometry": set(),
    "tritonconv.tiles": set(),
    "tritonconv.measured": set(),
    "tritonconv.model": set(),
    "tritonconv.tile": set(),
    "tritonconv.launch": {"torch", "triton"},
    "tritonconv.operands": {"torch", "triton"},
    "tritonconv.processor": {"torch", "triton"},
    "tritonconv.compiling": {"torch", "triton"},
    "tritonconv.recovery": {"torch", "triton"},
    "tritonconv.notices": set(),
}


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("tritonconv/**/*.py"), *ROOT.glob("reference/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(path: Path) -> set[str]:
    """Every module that `path` imports, `from package import module` counted as package.module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules())
            names |= found or {str(node.module)}
    return names


MODULES = modules()


def test_the_order_names_every_module() -> None:
    assert sorted(ORDER) == sorted(name for name in MODULES if name.startswith("tritonconv"))


@pytest.mark.parametrize("module", ORDER)
def test_arrows_point_down(module: str) -> None:
    ours = {name for name in imports(MODULES[module]) if name.split(".")[0] == "tritonconv"}
    assert ours <= set(ORDER[ORDER.index(module) + 1 :])


@pytest.mark.parametrize("module", MODULES)
def test_third_parties(module: str) -> None:
    allowed = next((names for prefix, names in THIRD_PARTY.items() if module.startswith(prefix)), {"torch"})
    others = {name.split(".")[0] for name in imports(MODULES[module])} - set(sys.stdlib_module_names)
    assert others - {"tritonconv", "reference"} <= allowed


def test_the_reference_stands_alone() -> None:
    for name, path in MODULES.items():
        if name.startswith("reference"):
            assert not any(imported.startswith("tritonconv") for imported in imports(path)), name


def test_only_launch_starts_kernels() -> None:
    """`kernel[grid](...)`: a call of a subscript."""
    for name, path in MODULES.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        starts = [call for call in calls if isinstance(call.func, ast.Subscript) and "kernel" in ast.unparse(call.func)]
        assert bool(starts) == (name == "tritonconv.launch"), name


def test_no_convolution_of_torch_is_called() -> None:
    """torch.nn is the yardstick in tests and benchmarks; its convolutions run in neither implementation."""
    forbidden = {
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose2d",
        "convolution",
        "convolution_backward",
        "_convolution",
    }
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("torch"):
                assert not forbidden & {alias.name for alias in node.names}, path
            if isinstance(node, ast.Attribute) and node.attr in forbidden:
                assert ast.unparse(node.value) == "arguments", f"{path}: {ast.unparse(node)}"


def faults(kernel: str) -> list[str]:
    """The loads of a kernel's source that are masked and do not say what stands for the rest, and the products that do
    not say how exact they are.
    """
    found = []
    for node in ast.walk(ast.parse(kernel)):
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
        if called == "tl.load" and ("mask" in given or len(node.args) > 1) and "other" not in given:
            found.append(ast.unparse(node))
        if called == "tl.dot" and "input_precision" not in given:
            found.append(ast.unparse(node))
    return found


def test_every_masked_load_says_other() -> None:
    kernels = [path.read_text() for path in (ROOT / "tritonconv/kernels").glob("*.py")]
    assert [fault for kernel in kernels for fault in faults(kernel)] == []
    assert sum(kernel.count("tl.load(") for kernel in kernels) > 5
    assert faults("a = tl.load(p, mask=m)\nb = tl.load(p, m)\nc = tl.load(p)\nd = tl.load(p, mask=m, other=0.0)") == [
        "tl.load(p, mask=m)",
        "tl.load(p, m)",
    ]
    assert faults("tl.dot(a, b)") == ["tl.dot(a, b)"]


def test_no_atomics() -> None:
    for path in (ROOT / "tritonconv/kernels").glob("*.py"):
        assert "atomic" not in path.read_text(), path
