"""The import rules of the design: arrows point down only."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the surface to the metal. A module may import only what stands below it.
ORDER = [
    "tritonconv",
    "tritonconv.tools.warmup",
    "tritonconv.tools.parallel_compile",
    "tritonconv.tools.explain",
    "tritonconv.tools.verify",
    "tritonconv.tools.tolerance",
    "tritonconv.tools",
    "tritonconv.layers",
    "tritonconv.functional",
    "tritonconv.operators",
    "tritonconv.operators.vmap",
    "tritonconv.operators.autograd",
    "tritonconv.operators.compute",
    "tritonconv.operators.decision",
    "tritonconv.operators.library",
    "tritonconv.dispatch",
    "tritonconv.launch.recovery",
    "tritonconv.launch.planners",
    "tritonconv.launch.split_k",
    "tritonconv.launch.tile_choice",
    "tritonconv.launch.failures",
    "tritonconv.launch.plan_cache",
    "tritonconv.launch.start",
    "tritonconv.launch.plan",
    "tritonconv.launch.kernel_arguments",
    "tritonconv.launch.layout",
    "tritonconv.launch",
    "tritonconv.call",
    "tritonconv.bias",
    "tritonconv.runtime",
    "tritonconv.fallback_warning",
    "tritonconv.kernels.tma.fprop",
    "tritonconv.kernels.tma.dgrad",
    "tritonconv.kernels.tma.wgrad",
    "tritonconv.kernels.tma.gemm",
    "tritonconv.kernels.tma.store",
    "tritonconv.kernels.tma.descriptors",
    "tritonconv.kernels.tma.index",
    "tritonconv.kernels.tma",
    "tritonconv.kernels.gather.fprop",
    "tritonconv.kernels.gather.dgrad",
    "tritonconv.kernels.gather.wgrad",
    "tritonconv.kernels.gather.gemm",
    "tritonconv.kernels.gather.index",
    "tritonconv.kernels.gather",
    "tritonconv.kernels.partial_sums",
    "tritonconv.kernels.store",
    "tritonconv.kernels.stride_phases",
    "tritonconv.kernels.index",
    "tritonconv.kernels",
    "tritonconv.tiling.pick",
    "tritonconv.tiling.cost",
    "tritonconv.tiling.fits",
    "tritonconv.tiling.catalogue",
    "tritonconv.tiling.measured",
    "tritonconv.tiling.block_shapes",
    "tritonconv.tiling.tile",
    "tritonconv.tiling",
    "tritonconv.gpu",
    "tritonconv.geometry",
    "tritonconv.reference",
    "tritonconv.reference.local_layers",
    "tritonconv.reference.local_layers.lazy",
    "tritonconv.reference.local_layers.layers",
    "tritonconv.reference.local_layers.conversions",
    "tritonconv.reference.local_layers.keras_and_flax",
    "tritonconv.reference.layers",
    "tritonconv.reference.local",
    "tritonconv.reference.functional",
    "tritonconv.reference.torch_rules.arguments",
    "tritonconv.reference.torch_rules.checks",
    "tritonconv.reference.torch_rules.formats",
    "tritonconv.reference.torch_rules",
]
# The libraries that a module, or those in a folder, may import. All others may import torch.
THIRD_PARTY = {
    "tritonconv.reference": {"torch", "einops"},
    "tritonconv.kernels": {"triton"},
    "tritonconv.tiling": set(),
    "tritonconv.geometry": set(),
    "tritonconv.gpu": set(),
    "tritonconv.fallback_warning": set(),
    "tritonconv.runtime": {"torch", "triton"},
    "tritonconv.launch.start": {"torch", "triton"},
    "tritonconv.launch.kernel_arguments": {"torch", "triton"},
    "tritonconv.launch.recovery": {"torch", "triton"},
    "tritonconv.tools.parallel_compile": {"torch", "triton"},
}


def modules() -> dict[str, Path]:
    """The files of the package by the names that they are imported by. A link leads to those of the reference."""
    files = {f.relative_to(ROOT): f for f in ROOT.glob("tritonconv/**/*.py")}
    files = {name: f for name, f in files.items() if name.parts[1] != "reference"}
    files |= {Path("tritonconv") / f.relative_to(ROOT): f for f in ROOT.glob("reference/**/*.py")}
    return {".".join(name.with_suffix("").parts).removesuffix(".__init__"): f for name, f in files.items()}


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
    assert sorted(ORDER) == sorted(MODULES)


def test_no_rule_is_about_what_is_gone() -> None:
    for prefix in THIRD_PARTY:
        assert any(name == prefix or name.startswith(f"{prefix}.") for name in MODULES), prefix


@pytest.mark.parametrize("module", ORDER)
def test_arrows_point_down(module: str) -> None:
    ours = {name for name in imports(MODULES[module]) if name.split(".")[0] == "tritonconv"}
    assert ours <= set(ORDER[ORDER.index(module) + 1 :])


@pytest.mark.parametrize("module", MODULES)
def test_third_parties(module: str) -> None:
    allowed = next((names for prefix, names in THIRD_PARTY.items() if f"{module}.".startswith(f"{prefix}.")), {"torch"})
    others = {name.split(".")[0] for name in imports(MODULES[module])} - set(sys.stdlib_module_names)
    assert others - {"tritonconv"} <= allowed


def inside(folder: str) -> dict[str, set[str]]:
    """What of the package each module in a folder imports."""
    found = {name: imports(path) for name, path in MODULES.items() if f"{name}.".startswith(f"{folder}.")}
    assert found
    return {name: {each for each in imported if each.split(".")[0] == "tritonconv"} for name, imported in found.items()}


@pytest.mark.parametrize("folder", ["tritonconv.reference", "tritonconv.kernels"])
def test_folders_that_stand_alone(folder: str) -> None:
    for name, imported in inside(folder).items():
        assert all(f"{each}.".startswith(f"{folder}.") for each in imported), name


# What of operators/ and launch/ is not on the way of a call: values, what planners call, and how torch maps.
LEFT_OUT = {"launch.kernel_arguments", "launch.layout", "launch.plan", "launch.split_k", "operators.vmap"}


def drawn(text: str) -> dict[str, set[str]]:
    """The way of a call: each module of the table in docs/design.md, and what the table says that it imports."""
    table = text.partition("| module | does | imports |\n")[2].partition("\n\n")[0]
    rows = [row.strip("|").split("|") for row in table.splitlines()[1:]]
    return {module.strip(" `"): {*re.findall(r"`([\w.]+)`", imported)} for module, _, imported in rows}


def test_the_way_of_a_call_is_what_the_imports_say() -> None:
    way = drawn((ROOT / "docs/design.md").read_text())
    passed = {name.removeprefix("tritonconv.") for name in MODULES}
    passed = {name for name in passed if name.startswith(("operators.", "launch."))}
    assert passed - set(way) == LEFT_OUT
    for module, said in way.items():
        found = {name.removeprefix("tritonconv.") for name in imports(MODULES[f"tritonconv.{module}"])}
        assert found & set(way) == said, module


def test_the_two_families_of_kernels_do_not_import_each_other() -> None:
    for family, other in (("gather", "tma"), ("tma", "gather")):
        for name, imported in inside(f"tritonconv.kernels.{family}").items():
            assert not any(f"kernels.{other}" in each for each in imported), name


def test_tiles_are_chosen_without_looking_at_launches() -> None:
    for name, imported in inside("tritonconv.tiling").items():
        rooms = {".".join(each.split(".")[:2]) for each in imported}
        assert rooms <= {"tritonconv.tiling", "tritonconv.gpu", "tritonconv.geometry"}, name


def test_only_one_module_starts_kernels() -> None:
    """`kernel[grid](...)`: a call of a subscript."""
    for name, path in MODULES.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        starts = [call for call in calls if isinstance(call.func, ast.Subscript) and "kernel" in ast.unparse(call.func)]
        assert bool(starts) == (name == "tritonconv.launch.start"), name


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
    kernels = [path.read_text() for path in (ROOT / "tritonconv/kernels").rglob("*.py")]
    assert [fault for kernel in kernels for fault in faults(kernel)] == []
    assert sum(kernel.count("tl.load(") for kernel in kernels) > 5
    assert faults("a = tl.load(p, mask=m)\nb = tl.load(p, m)\nc = tl.load(p)\nd = tl.load(p, mask=m, other=0.0)") == [
        "tl.load(p, mask=m)",
        "tl.load(p, m)",
    ]
    assert faults("tl.dot(a, b)") == ["tl.dot(a, b)"]


def test_no_atomics() -> None:
    for path in (ROOT / "tritonconv/kernels").rglob("*.py"):
        assert "atomic" not in path.read_text(), path
