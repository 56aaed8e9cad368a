"""The design's rules, checked on the source: what a module may import, and what kernels must not do.

docs/design.md explains the order of the modules. A failing test names the rule, the reason and the remedy.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# All modules, from the public surface down to the kernels and the reference. A module may import only modules below it.
ORDER = [
    "tritonconv",
    "tritonconv.tools.warmup",
    "tritonconv.tools.parallel_compile",
    "tritonconv.tools.worker_process",
    "tritonconv.tools.explain",
    "tritonconv.tools.explanation",
    "tritonconv.tools.verify",
    "tritonconv.tools.tolerance",
    "tritonconv.tools",
    "tritonconv.layers",
    "tritonconv.functional",
    "tritonconv.fast_path",
    "tritonconv.fast_path.forward",
    "tritonconv.fast_path.function",
    "tritonconv.fast_path.backward",
    "tritonconv.fast_path.guards",
    "tritonconv.fast_path.long_way",
    "tritonconv.operators",
    "tritonconv.operators.vmap",
    "tritonconv.operators.autograd",
    "tritonconv.operators.compute",
    "tritonconv.operators.composite",
    "tritonconv.operators.decision",
    "tritonconv.operators.library",
    "tritonconv.dispatch",
    "tritonconv.launch.recovery",
    "tritonconv.launch.remedies",
    "tritonconv.launch.planners",
    "tritonconv.launch.split_k",
    "tritonconv.launch.tile_choice",
    "tritonconv.launch.failures",
    "tritonconv.launch.plan_cache",
    "tritonconv.launch.start",
    "tritonconv.launch.launchers",
    "tritonconv.launch.scratch",
    "tritonconv.launch.kept_descriptors",
    "tritonconv.launch.kept_plan",
    "tritonconv.launch.bounded_cache",
    "tritonconv.launch.plan",
    "tritonconv.launch.descriptors",
    "tritonconv.launch.kernel_arguments",
    "tritonconv.launch.layout",
    "tritonconv.launch",
    "tritonconv.call",
    "tritonconv.settings",
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
    "tritonconv.tiling.descriptors",
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
    "tritonconv.reference.torch_rules.overrides",
    "tritonconv.reference.torch_rules.parametrizations",
    "tritonconv.reference.torch_rules.arguments",
    "tritonconv.reference.torch_rules.columns",
    "tritonconv.reference.torch_rules.checks",
    "tritonconv.reference.torch_rules.formats",
    "tritonconv.reference.torch_rules",
]
# The third-party libraries that a module, or each module in a folder, may import. All others may import torch.
THIRD_PARTY = {
    "tritonconv.reference": {"torch", "einops"},
    "tritonconv.kernels": {"triton"},
    "tritonconv.tiling": set(),
    "tritonconv.geometry": set(),
    "tritonconv.gpu": set(),
    "tritonconv.fallback_warning": set(),
    "tritonconv.runtime": {"torch", "triton"},
    "tritonconv.launch.launchers": {"torch", "triton"},
    "tritonconv.launch.kept_descriptors": {"triton"},
    "tritonconv.launch.descriptors": {"torch", "triton"},
    "tritonconv.launch.kernel_arguments": {"torch", "triton"},
    "tritonconv.launch.recovery": {"torch", "triton"},
    "tritonconv.launch.remedies": {"torch", "triton"},
    "tritonconv.tools.parallel_compile": {"torch", "triton"},
}


def modules() -> dict[str, Path]:
    """Return the file of each module, by the name that it is imported by.

    `tritonconv/reference` is a link, so its files are taken from `reference/`.
    """
    files = {f.relative_to(ROOT): f for f in ROOT.glob("tritonconv/**/*.py")}
    files = {name: f for name, f in files.items() if name.parts[1] != "reference"}
    files |= {Path("tritonconv") / f.relative_to(ROOT): f for f in ROOT.glob("reference/**/*.py")}
    return {".".join(name.with_suffix("").parts).removesuffix(".__init__"): f for name, f in files.items()}


def imports(path: Path) -> set[str]:
    """Return every module that `path` imports. For ours, `from package import module` counts as package.module.

    Raise AssertionError if an import is relative.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name, from tritonconv. on"
            found = {f"{node.module}.{alias.name}" for alias in node.names} & set(modules())
            names |= found or {str(node.module)}
    return names


MODULES = modules()


def test_the_order_names_every_module() -> None:
    missing, gone = sorted(set(MODULES) - set(ORDER)), sorted(set(ORDER) - set(MODULES))
    assert (missing, gone) == ([], []), (
        f"ORDER in tests/test_layering.py must list every module once. Missing: {missing}. No longer there: {gone}. "
        "Insert a new module above all that it imports and below all that import it."
    )
    assert len(ORDER) == len(MODULES), "a module is listed twice in ORDER"


def test_no_rule_is_about_what_is_gone() -> None:
    for prefix in THIRD_PARTY:
        assert any(name == prefix or name.startswith(f"{prefix}.") for name in MODULES), (
            f"THIRD_PARTY in tests/test_layering.py has a rule for {prefix}, which does not exist: rename or remove it"
        )


@pytest.mark.parametrize("module", ORDER)
def test_arrows_point_down(module: str) -> None:
    ours = {name for name in imports(MODULES[module]) if name.split(".")[0] == "tritonconv"}
    wrong = sorted(ours - set(ORDER[ORDER.index(module) + 1 :]))
    assert not wrong, (
        f"{module} imports {', '.join(wrong)}, which stands above it in ORDER of tests/test_layering.py. "
        "A module imports only modules below it, so that it can be read and tested without those above "
        "(docs/design.md). "
        "Move the code that both need into a lower module, or pass it as an argument."
    )


@pytest.mark.parametrize("module", MODULES)
def test_third_parties(module: str) -> None:
    allowed = next((names for prefix, names in THIRD_PARTY.items() if f"{module}.".startswith(f"{prefix}.")), {"torch"})
    others = {name.split(".")[0] for name in imports(MODULES[module])} - set(sys.stdlib_module_names)
    wrong = sorted(others - {"tritonconv"} - allowed)
    assert not wrong, (
        f"{module} imports {', '.join(wrong)}, but beside the standard library it may import only: "
        f"{', '.join(sorted(allowed)) or 'nothing'} (THIRD_PARTY in tests/test_layering.py). Each folder has a reason: "
        "tiles must be chosen without torch and Triton, and the reference must be readable without Triton. "
        "Move the code to a module that may import this library."
    )


def inside(folder: str) -> dict[str, set[str]]:
    """Return the modules of tritonconv that each module inside `folder` imports, by the importing module's name.

    `folder` is a dotted name, "tritonconv.kernels" for example. The package itself and modules of its subpackages count
    as inside. Raise AssertionError if there is no such module.
    """
    found = {name: imports(path) for name, path in MODULES.items() if f"{name}.".startswith(f"{folder}.")}
    assert found, f"there is no module in {folder}: correct its name in this test"
    return {name: {each for each in imported if each.split(".")[0] == "tritonconv"} for name, imported in found.items()}


@pytest.mark.parametrize("folder", ["tritonconv.reference", "tritonconv.kernels"])
def test_folders_that_stand_alone(folder: str) -> None:
    for name, imported in inside(folder).items():
        wrong = [each for each in imported if not f"{each}.".startswith(f"{folder}.")]
        assert not wrong, f"{name} imports {', '.join(wrong)}: a module in {folder} may import only others in it"


# The modules of operators/, launch/ and fast_path/ that the table in docs/design.md leaves out. They define the values
# that are passed on and kept, or are called by `launch.planners` only, or have the rules for `torch.vmap`.
LEFT_OUT = {
    "launch.descriptors",
    "launch.kept_plan",
    "launch.kernel_arguments",
    "launch.layout",
    "launch.plan",
    "launch.split_k",
    "operators.vmap",
}


def drawn(text: str) -> dict[str, set[str]]:
    """Return the modules in the table of docs/design.md, whose text is given, with the imports that the table states.

    It is the table of the modules that a call passes through. Its names lack "tritonconv.".
    """
    table = text.partition("| module | does | imports |\n")[2].partition("\n\n")[0]
    rows = [row.strip("|").split("|") for row in table.splitlines()[1:]]
    return {module.strip(" `"): {*re.findall(r"`([\w.]+)`", imported)} for module, _, imported in rows}


def test_the_way_of_a_call_is_what_the_imports_say() -> None:
    way = drawn((ROOT / "docs/design.md").read_text())
    passed = {name.removeprefix("tritonconv.") for name in MODULES}
    passed = {name for name in passed if name.startswith(("operators.", "launch.", "fast_path."))}
    assert passed - set(way) == LEFT_OUT, (
        "the table in docs/design.md, 'The way of a call', must have a row for each module of operators/, launch/ and "
        f"fast_path/ that is not in LEFT_OUT of this test. Rows to add: {sorted(passed - set(way) - LEFT_OUT)}. "
        f"Modules in LEFT_OUT that have a row or are gone: {sorted(LEFT_OUT - (passed - set(way)))}"
    )
    for module, said in way.items():
        found = {name.removeprefix("tritonconv.") for name in imports(MODULES[f"tritonconv.{module}"])}
        assert found & set(way) == said, (
            f"docs/design.md, 'The way of a call', says that {module} imports {sorted(said)}. "
            f"Of the modules in that table it imports {sorted(found & set(way))}: correct the table, or the imports"
        )


# The arrows of the picture that are no imports: a call passes on there, but by torch's dispatcher or by a value.
DOTTED = {("operators.library", "operators.compute"), ("launch.start", "kernels"), ("operators.composite", "reference")}


def test_the_picture_of_a_call_shows_imports() -> None:
    text = (ROOT / "docs/design.md").read_text()
    picture, way = text.partition("```mermaid\n")[2].partition("```")[0], drawn(text)
    arrows = set(re.findall(r"^ *([\w.]+) --(?: [^\n>]* --)?> ([\w.]+)$", picture, re.MULTILINE))
    dotted = set(re.findall(r"^ *([\w.]+) -\.(?: [^\n>]* \.)?-> ([\w.]+)$", picture, re.MULTILINE))
    assert len(arrows) + len(dotted) == picture.count("->"), "an arrow of the picture in docs/design.md was not read"
    wrong = {(start, end) for start, end in arrows if end not in way.get(start, ())}
    assert not wrong, f"the picture in docs/design.md has arrows that the table below it does not have: {sorted(wrong)}"
    assert {start for start, _ in arrows} | {end for _, end in arrows} == set(way), (
        "the picture in docs/design.md must show each module of the table below it"
    )
    assert dotted == DOTTED


def test_the_two_families_of_kernels_do_not_import_each_other() -> None:
    for family, other in (("gather", "tma"), ("tma", "gather")):
        for name, imported in inside(f"tritonconv.kernels.{family}").items():
            assert not any(f"kernels.{other}" in each for each in imported), (
                f"{name} imports from kernels/{other}/. The two families of kernels do not import each other, so that "
                "each can be read alone. Move code that both need to tritonconv/kernels/."
            )


def test_tiles_are_chosen_without_looking_at_launches() -> None:
    for name, imported in inside("tritonconv.tiling").items():
        rooms = {".".join(each.split(".")[:2]) for each in imported}
        wrong = sorted(rooms - {"tritonconv.tiling", "tritonconv.gpu", "tritonconv.geometry"})
        assert not wrong, (
            f"{name} imports {', '.join(wrong)}. Tiles are chosen from the geometry and facts about the GPU only, so "
            "that they can be chosen and tested for a GPU that is not there. Pass what it needs as an argument."
        )


def test_only_one_module_starts_kernels() -> None:
    """A start is a call `kernel[grid](...)`, which is the call of a subscript. `start` calls what is in `launchers`."""
    for name, path in MODULES.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        starts = [call for call in calls if isinstance(call.func, ast.Subscript) and "kernel" in ast.unparse(call.func)]
        if name in ("tritonconv.launch.start", "tritonconv.launch.launchers"):
            assert starts, f"{name} starts no kernel, though it is a module that should"
        else:
            assert not starts, (
                f"{name} starts a kernel: {ast.unparse(starts[0])}. Only tritonconv/launch/start.py does, so that its "
                "lock and choice of device hold for all. Add a `Launch` to the plan instead, in launch/planners.py."
            )


def test_no_convolution_of_torch_is_called() -> None:
    """Neither implementation may call torch's convolutions, which tests and benchmarks compare them with."""
    forbidden = {
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose2d",
        "convolution",
        "convolution_backward",
        "_convolution",
    }
    why = "is a convolution of torch. Tests and benchmarks compare with it, so neither implementation calls it"
    for path in MODULES.values():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("torch"):
                names = forbidden & {alias.name for alias in node.names}
                assert not names, f"{path}: {', '.join(names)} from {node.module} {why}"
            if isinstance(node, ast.Attribute) and node.attr in forbidden:
                # Only `arguments.conv2d` and its like, the checks of reference/torch_rules/arguments.py.
                assert ast.unparse(node.value) == "arguments", f"{path}: {ast.unparse(node)} {why}"


def faults(kernel: str) -> list[str]:
    """Return the masked loads without `other=` and the products without `input_precision=` in a kernel's source."""
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
    found = [fault for kernel in kernels for fault in faults(kernel)]
    assert not found, (
        f"calls in tritonconv/kernels/ that leave a choice to Triton: {found}. A masked tl.load must say other=: "
        "without it masked elements are undefined on a GPU, though the interpreter makes them zero. A tl.dot must say "
        "input_precision=: the default for float32 is TF32 on NVIDIA's GPUs."
    )
    assert sum(kernel.count("tl.load(") for kernel in kernels) > 5
    assert faults("a = tl.load(p, mask=m)\nb = tl.load(p, m)\nc = tl.load(p)\nd = tl.load(p, mask=m, other=0.0)") == [
        "tl.load(p, mask=m)",
        "tl.load(p, m)",
    ]
    assert faults("tl.dot(a, b)") == ["tl.dot(a, b)"]


def test_no_atomics() -> None:
    for path in (ROOT / "tritonconv/kernels").rglob("*.py"):
        assert "atomic" not in path.read_text(), (
            f"{path} mentions atomics. Their order changes from run to run, but the same inputs must give the same "
            "bits. Store partial sums, and add them up in a fixed order (tritonconv/kernels/partial_sums.py)."
        )
