"""What the timed slices of `bench device` time: which passes of which layers, and whose contenders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from bench.device import estimates
from bench.device.current import OURS, PROCESSES, Evidence
from bench.device.work import Planned, Scene
from bench.layers import SMOKE, Layer, select
from bench.results import kernels_of
from bench.run.contenders import PASSES, Pass, operators_of
from bench.run.timing import BUDGET
from tritonconv.geometry import OPERATORS
from tritonconv.gpu import INTERPRETER, Gpu

# The layers that `step` times: a large and a small one, 1x1, strided, depthwise, and one of many channels.
STEPS = (
    *("rn50_c3_3x3", "rn50_c5_3x3", "rn50_c2_1x1_expand", "rn50_c3_3x3_s2", "convnext_t_dw7_384_at_14"),
    "sd15_unet_1280_at_16",
)
# The families that `varying` times, and what stands beside our kernels where torch has no layer.
VARYING = ("local", "per sample", "dynamic")
BESIDE = ("triton", "reference", "grouped")
# torch.compile takes long, so it is timed last, and only in the passes that users run.
COMPILED: tuple[Pass, ...] = ("forward", "step")
COMPILERS = ("compile", "unfold-compile")
# Every layer, with those that are held out.
EVERY = "all,held-out"
LATER = {"forward": 1, "step": 2}
# The dtypes that a GPU is timed in.
ON_GPU = ("bfloat16", "float16", "tf32")


@dataclass(frozen=True)
class Unit:
    """One pass of one layer in one dtype, by some contenders side by side."""

    layer: Layer
    of: Pass
    dtype: str
    contenders: tuple[str, ...]

    @property
    def name(self) -> str:
        compiled = any(name in COMPILERS for name in self.contenders)
        return f"{self.layer.name} {self.of} {self.dtype}" + " compiled" * compiled


def units(layers: Sequence[Layer], dtypes: Sequence[str], contenders: Sequence[str]) -> list[Unit]:
    """Return all passes of the layers, the most valuable first, because the time may not suffice for all.

    They are sorted by dtype, then by pass: operators, forward passes with a bias, whole steps. Among equals, the layers
    of the smoke set come first.
    """
    ordered = sorted(layers, key=lambda layer: layer.name not in SMOKE)
    every = [Unit(layer, of, dtype, tuple(contenders)) for dtype in dtypes for layer in ordered for of in PASSES]
    return sorted(every, key=lambda unit: (dtypes.index(unit.dtype), LATER.get(unit.of, 0)))


def dtypes(scene: Scene, *wanted: str) -> list[str]:
    """Return the dtypes to time. On a CPU it is float32."""
    return list(wanted) if scene.machine.device.type == "cuda" else ["float32"]


def torch_alone(scene: Scene) -> list[Unit]:
    """Return the operators of the layers that torch has, by torch alone. Those that no record has a time of come first.

    `layers` times all passes of torch beside ours. So this need not repeat forward passes and steps.
    """
    layers = [layer for layer in chosen(scene) if layer.family not in VARYING]
    found = [unit for unit in units(layers, dtypes(scene, "bfloat16"), ("torch",)) if unit.of in OPERATORS]
    return sorted(found, key=lambda unit: (unit.layer.name, unit.of, "torch", unit.dtype) in estimates.committed())


def steps(scene: Scene) -> list[Unit]:
    """Return whole steps of six layers."""
    layers = [layer for layer in chosen(scene) if layer.name in STEPS]
    return [unit for unit in units(layers, dtypes(scene, "bfloat16"), ("torch", "triton")) if unit.of == "step"]


def dense(scene: Scene) -> list[Unit]:
    """Return all passes of the layers that `varying` leaves out, and last those of the smoke set with torch.compile."""
    layers = [layer for layer in chosen(scene) if layer.family not in (*VARYING, "depthwise")]
    smoke = [layer for layer in layers if layer.name in SMOKE]
    found = units(layers, dtypes(scene, "bfloat16"), ("torch", "triton"))
    return found + compiled(scene, smoke, ("torch", "triton", "compile"))


def varying(scene: Scene) -> list[Unit]:
    """Return all passes of layers whose weight varies and of depthwise layers, and last those with torch.compile."""
    there, about = chosen(scene), dtypes(scene, "bfloat16")
    own = [layer for layer in there if layer.family in VARYING]
    found = units(own, about, BESIDE) + units(
        [layer for layer in there if layer.family == "depthwise"], about, ("torch", "triton")
    )
    found.sort(key=lambda unit: (LATER.get(unit.of, 0), unit.layer.name not in SMOKE))
    return found + compiled(scene, own, ("triton", "reference", "unfold-compile"))


def compiled(scene: Scene, layers: Sequence[Layer], contenders: Sequence[str]) -> list[Unit]:
    """Return the passes that users run, by contenders of which torch.compile compiles one. A CPU takes too long."""
    if scene.machine.device.type != "cuda":
        return []
    return [unit for unit in units(layers, dtypes(scene, "bfloat16"), contenders) if unit.of in COMPILED]


def precision(scene: Scene) -> list[Unit]:
    """Return all passes of the smoke layers in other dtypes, and last in bfloat16, each in both memory formats."""
    layers = [layer for layer in chosen(scene) if layer.name in SMOKE and layer.family not in VARYING]
    both = ("torch", "triton", "torch-nchw", "triton-nchw")
    return units(layers, dtypes(scene, "float16", "tf32", "bfloat16"), both)


def chosen(scene: Scene) -> list[Layer]:
    """Return the layers that the option --rows names."""
    return select(scene.options.rows)


def planned(scene: Scene, unit: Unit) -> Planned:
    """Return a unit with what is missing of it, and with what it takes."""
    gpu, ours = scene.machine.gpu, [name for name in unit.contenders if name in OURS]
    budget = BUDGET / PROCESSES
    calls = [estimates.seconds_of_call(unit.layer, unit.of, name, unit.dtype, budget) for name in unit.contenders]
    return Planned(
        unit.name,
        PROCESSES - min(measured(scene.evidence, unit, name, gpu) for name in unit.contenders),
        estimates.DRAW * (1 + len(operators_of(unit.of, unit.layer)) / 3) + sum(calls),
        len(ours) * (1 + (unit.of == "step") * 2),
        unit,
    )


def measured(evidence: Evidence, unit: Unit, contender: str, gpu: Gpu) -> int:
    """Return how many processes have a current row of this contender: at most PROCESSES."""
    kernels = kernels_of(operators_of(unit.of, unit.layer), evidence.now["kernels"])

    def tile() -> dict[str, str]:
        layer = unit.layer.scaled_down() if gpu == INTERPRETER else unit.layer
        return tiles(layer, unit.of, unit.dtype, gpu, contender == "triton")

    key = (unit.layer.name, unit.of, contender, unit.dtype)
    return min(PROCESSES, evidence.processes(key, kernels, tile))


@cache
def tiles(layer: Layer, of: Pass, dtype: str, gpu: Gpu, channels_last: bool) -> dict[str, str]:
    """Return the tile that each operator of a pass would run with on this GPU, without a bias."""
    from bench.lowering.offline import plan_for

    return {
        operator: str(plan_for(operator, dtype, layer.geometry, gpu, channels_last=channels_last).tile)
        for operator in operators_of(of, layer)
    }


def every(units_of: Callable[[Scene], list[Unit]]) -> Callable[[Scene], list[Planned]]:
    """Return a function that plans all units of a slice. Those that failed with this code are the last."""

    def plan(scene: Scene) -> list[Planned]:
        return [planned(scene, unit) for unit in sorted(units_of(scene), key=lambda unit: failed(scene, unit))]

    return plan


def failed(scene: Scene, unit: Unit) -> bool:
    """Whether a contender failed in a record of the package as it is now. It may have lost the GPU."""
    package = scene.evidence.now["package"]
    keys = [(unit.layer.name, unit.of, name, unit.dtype) for name in unit.contenders]
    found = [each for key in keys for each in scene.evidence.timed.get(key, ())]
    return any(row["status"] == "failed" and run["environment"].get("package") == package for row, _, run in found)
