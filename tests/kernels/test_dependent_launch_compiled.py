"""What a programmatic dependent launch (PDL) is compiled to and how it is started, for a GPU that is not there."""

import json
from pathlib import Path

import pytest

from tests.support.processes import ran, seen

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest

COMPILED = """
import json, re
from triton.backends.compiler import GPUTarget
from bench.lowering import assembly
from bench.lowering.offline import Memory, compiled, plan_for, small_geometry
from tritonconv.gpu import INTERPRETER
from tests.support.dependent_launch import EXACT, GATHER, TMA

def described(launch):
    binary = compiled(launch.kernel, launch.arguments, GPUTarget("cuda", {capability}, 32))
    listing, usage = assembly.read_cubin(binary.asm["cubin"])
    opcodes = [one.opcode for one in listing.instructions]
    return dict(
        kernel=launch.kernel.__name__,
        option=binary.metadata.launch_pdl,
        ptx=re.findall(r"griddepcontrol\\.\\w+|(?:ld|st)\\.global|cp\\.async\\S*global", binary.asm["ptx"]),
        machine=[opcode for opcode in opcodes if re.match("ACQBULK|PREEXIT|LDG|STG|UTMA", opcode)],
        spills=assembly.spill_bytes(listing, usage),
        loop=len(listing.main_loop()),
    )

geometry = small_geometry("", Memory(8, 8), 2)
gpus = [INTERPRETER.switched(dependent_launch=on) for on in (False, True)]
plans = [plan_for("wgrad", "{dtype}", geometry, gpu, {tile}, bias=True) for gpu in gpus]
print(json.dumps([[described(launch) for launch in plan.launches] for plan in plans]))
"""


@pytest.mark.parametrize(
    ("capability", "dtype", "tile", "kernel"),
    [
        (90, "bfloat16", "GATHER", "wgrad_kernel"),
        (90, "bfloat16", "TMA", "wgrad_tma_kernel"),
        pytest.param(90, "float32", "EXACT", "wgrad_kernel", marks=pytest.mark.slow),
        pytest.param(90, "float16", "TMA", "wgrad_tma_kernel", marks=pytest.mark.slow),
        pytest.param(100, "bfloat16", "GATHER", "wgrad_kernel", marks=pytest.mark.slow),
        pytest.param(100, "float32", "EXACT", "wgrad_kernel", marks=pytest.mark.slow),
        pytest.param(100, "bfloat16", "TMA", "wgrad_tma_kernel", marks=pytest.mark.slow),
    ],
)
def test_the_second_kernel_waits_before_it_loads_or_stores(
    capability: int, dtype: str, tile: str, kernel: str, tmp_path: Path
) -> None:
    """The first kernel lets the second start as its first instruction. The second waits as its first instruction.

    The loop of the first does not grow, and nothing is spilled.
    """
    done = ran(COMPILED.format(capability=capability, dtype=dtype, tile=tile), TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    off, (multiply, add) = json.loads(done.stdout)
    for one, other in zip(off, (multiply, add), strict=True):
        assert not one["option"]
        assert not [each for each in one["ptx"] if each.startswith("griddepcontrol")]
        assert not {"ACQBULK", "PREEXIT"} & {*one["machine"]}
        assert (other["kernel"], other["loop"], other["spills"]) == (one["kernel"], one["loop"], 0)
    assert multiply["loop"] > 0
    assert [multiply["kernel"], add["kernel"]] == [kernel, "sum_partials_kernel"]
    assert [multiply["option"], add["option"]] == [False, True]
    assert [each for each in multiply["ptx"] if "griddep" in each] == ["griddepcontrol.launch_dependents"]
    assert [each for each in add["ptx"] if "griddep" in each] == ["griddepcontrol.wait"]
    assert multiply["machine"].count("PREEXIT") == add["machine"].count("ACQBULK") == 1
    assert [each["ptx"][0] for each in (multiply, add)] == ["griddepcontrol.launch_dependents", "griddepcontrol.wait"]
    assert [each["machine"][0] for each in (multiply, add)] == ["PREEXIT", "ACQBULK"]
    assert {"ld.global", "st.global"} <= {*add["ptx"]}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triton's disk cache for the tests below, which then compile each kernel once."""
    return tmp_path_factory.mktemp("cache")


def test_an_ordinary_launch_if_a_dependent_one_does_not_compile(tmp_path: Path) -> None:
    """One warning says so, and later calls do not try it."""
    code = """
from triton.backends.nvidia.compiler import CUDABackend
from tests.support.triton_launchers import *
gpu = recording_gpu()
switched = runtime.gpu_of(torch.device("cpu")).switched(dependent_launch=True)
runtime.gpu_of = lambda device: switched
make_ttir = CUDABackend.make_ttir
def fails(mod, metadata, options, *rest):
    if options.launch_pdl:
        raise RuntimeError("planted")
    return make_ttir(mod, metadata, options, *rest)
CUDABackend.make_ttir = staticmethod(fails)
observe(*[lambda: same(trained(gather), expected(gather))] * 2, gpu=gpu)
"""
    found = seen(code, tmp_path)
    assert found["results"] == [True, True]
    (warning,) = found["warnings"]
    assert "wgrad has no dependent launch, because its kernels can not be compiled for one: " in warning
    assert sum("sum_partials" in name for name in found["started"]) == 2


@pytest.mark.parametrize("on", [False, True])
def test_every_start_passes_the_option(on: bool, cache: Path) -> None:
    """Triton's launcher passes it to CUDA with the first start of a kernel, and with each start of the kept plan."""
    code = f"""
from tests.support.triton_launchers import *
from tests.support.dependent_launch import with_dependent_launch
from tritonconv import runtime
gpu = recording_gpu()
switched = with_dependent_launch(runtime.gpu_of(torch.device("cpu")), {on})
runtime.gpu_of = lambda device: switched
def step():
    gpu.passed.clear(), gpu.events.clear(), looked_up.clear()
    right = same(trained(gather), expected(gather))
    launches = [[name, passed[6]] for (_, name, _), passed in zip(gpu.events, gpu.passed, strict=True)]
    return [right, len(looked_up), launches]
def started():
    found = []
    for way in (public, direct):
        way()
        found.append([step() for _ in range(3)])
    return found
observe(started)
"""
    publicly, directly = seen(code, cache)["results"][0]
    kernels = ["fprop_kernel", "wgrad_kernel", "sum_partials_kernel", "dgrad_kernel"]
    launches = [[name, f"bool {on and name == 'sum_partials_kernel'}"] for name in kernels]
    assert publicly == [[True, 0, launches], *[[True, 4, launches]] * 2]
    assert directly == [[True, 0, launches]] * 3


def test_the_comparison_finds_launches_without_effect(cache: Path) -> None:
    """It finds nothing on a GPU that orders kernels, and finds each problem if dependent launches have no effect."""
    code = """
from tests.support.dependent_launch import EXACT, TMA, Problem, differences
from tritonconv.geometry import ConvGeometry
problems = [Problem(torch.bfloat16, TMA, True), Problem(torch.float32, EXACT, False, channels_last=False)]
geometry = ConvGeometry(B=2, C=8, H=4, W=4, F=8, P=4, Q=4, R=1, S=1)

class Unordered(Gpu):
    ordered = True

    def launcher(self, src, metadata):
        start = super().launcher(src, metadata)
        return lambda *passed: start(*passed) if self.ordered or not metadata.launch_pdl else None

def compared():
    return differences(torch.device("cpu"), problems, geometry, 2)

def compared_unordered():
    gpu.ordered = False
    return compared()

gpu = install(Unordered())
observe(compared, compared_unordered)
"""
    ordered, unordered = seen(code, cache)["results"]
    assert ordered == []
    # 8 filters, and 8 x 8 elements of the weight. Where the sum is not split, TMA kernels write the weight themselves.
    assert unordered == [
        "torch.bfloat16 64x64x32w4s3:32.1.1 with a bias: 16 elements of 2 results differ with dependent launches",
        "torch.float32 64x32x16w8s3: 128 elements of 2 results differ with dependent launches",
    ]
