"""If two calls have the same key, the kept plan of the first starts what planning the second anew would start.

Random problems of the sweep are planned, for a GPU or for the interpreter. Nothing is computed.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.cases import DTYPES, LAYOUTS, Case, laid_out
from tests.support.gpus import A100, H200, MI300
from tests.support.kept import Found, Started, find, keep, newly_started, started
from tests.support.oracle import convolution_precision
from tests.support.plans import planned
from tests.sweep.problems import drawn_tile, problem
from tritonconv.bias import shape_beside
from tritonconv.call import ADD_BIAS, OPERATOR_OF, Call
from tritonconv.geometry import LEAVES_OUT, TAKES, ConvGeometry, Operator
from tritonconv.gpu import INTERPRETER, Gpu
from tritonconv.launch import bounded_cache, kept_plan, plan_cache, tile_choice
from tritonconv.launch.plan import Plan
from tritonconv.tiling.tile import Operands, Tile

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

PROBLEMS = 400
GPUS = (INTERPRETER, H200, A100, MI300)


def drawn_case(seed: int, rng: random.Random) -> Case:
    """Return the random problem of this seed. Every third has channels that TMA can copy, and a shared weight."""
    case = problem(seed)
    if seed % 3:
        return case
    into, out = (8 * case.groups * rng.choice([1, 1, 2, 4]) for _ in range(2))
    return replace(case, channels=(into, out), varies="", bias_varies="")


def drawn_calls(case: Case, rng: random.Random, device: str) -> Iterator[Call]:
    """Yield a call of each operator for the case, with random layouts of its tensors and a random format of the result.

    Those of weights that vary do not include `wgrad_with_bias`.
    """
    geometry, dtype = case.geometry, DTYPES[case.dtype]
    for name, operator in OPERATOR_OF.items():
        if name == "wgrad_with_bias" and geometry.varies:
            continue
        first, second = (draw(geometry.shape_of(factor), dtype, rng, device) for factor in TAKES[operator])
        bias = None
        if name in ADD_BIAS and case.bias:
            letters = case.bias_varies if set(case.bias_varies) <= set(geometry.varies) else ""
            shape = shape_beside(geometry.shape_of(LEAVES_OUT[operator]), letters)
            bias = draw((1, 1, *shape), dtype, rng, device)[0, 0]
        finds_bias, last = name == "wgrad_with_bias", rng.random() < 0.5
        yield Call.of_geometry(operator, geometry, (first, second), bias, finds_bias=finds_bias, channels_last=last)


def draw(shape: tuple[int, ...], dtype: torch.dtype, rng: random.Random, device: str) -> Tensor:
    """Return a tensor of this shape in a random layout; every second is channels_last, so that TMA is possible."""
    layout = rng.choice(["channels_last"] * len(LAYOUTS) + list(LAYOUTS))
    return laid_out(torch.randn(shape, dtype=torch.float32, device=device).to(dtype), layout)


def elsewhere(tensor: Tensor, rng: random.Random) -> Tensor:
    """Return a tensor with other numbers, whose address differs by a multiple of 16 bytes, and nothing else."""
    span = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    bytes_before = tensor.data_ptr() % 16 + 16 * rng.randrange(5)
    before = bytes_before // tensor.element_size()
    memory = torch.randn(before + span, dtype=torch.float32, device=tensor.device).to(tensor.dtype)
    return memory.as_strided(tensor.shape, tensor.stride(), before)


def moved(call: Call, rng: random.Random) -> Call:
    """Return the same call on other numbers at other addresses."""
    arguments = [elsewhere(each, rng) if isinstance(each, Tensor) else each for each in call.arguments]
    return Call(call.name, arguments)


def filled_in(call: Call, monkeypatch: pytest.MonkeyPatch) -> tuple[Found | None, list[Tensor], list[Tensor]]:
    """Return what `find` returns, with the results and workspaces that it allocates, and the copies that it makes."""
    allocated: list[Tensor] = []
    copies: list[Tensor] = []

    def noted(make: Callable[..., Tensor], list_of: list[Tensor]) -> Callable[..., Tensor]:
        def making(*arguments: Any) -> Tensor:
            list_of.append(make(*arguments))
            return list_of[-1]

        return making

    key = plan_cache.key(call)
    kept = plan_cache.plans.entries[key]
    with monkeypatch.context() as patch:
        for kind, allocate in kept_plan.allocators.items():
            patch.setitem(kept_plan.allocators, kind, noted(allocate, allocated))
        watched = replace(kept, copies=[(original, noted(how, copies)) for original, how in kept.copies])
        patch.setitem(plan_cache.plans.entries, key, watched)  # type: ignore[arg-type]
        return find(call), allocated, copies


def by_role(launches: list[Started], roles: dict[int, str]) -> list[tuple[int, dict[str, Any]]]:
    """Return the launches, with the roles of tensors in the place of tensors. Each role belongs to an address."""
    return [
        (programs, {n: roles[v.data_ptr()] if isinstance(v, Tensor) else v for n, v in arguments.items()})
        for programs, arguments in launches
    ]


def roles_of(call: Call, allocated: list[Tensor], copies: list[Tensor]) -> dict[int, str]:
    """Return what each tensor of a plan is, by its address: an operand, what was allocated, or a copy."""
    groups = dict(operand=[*call.factors, *([] if call.bias is None else [call.bias])], new=allocated, copy=copies)
    return {each.data_ptr(): f"{role} {i}" for role, tensors in groups.items() for i, each in enumerate(tensors)}


def looks(tensors: list[Tensor]) -> list[Any]:
    return [(each.shape, each.stride(), each.dtype, each.device, each.data_ptr() % 16) for each in tensors]


def compare(call: Call, other: Call, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Plan | None:
    """Keep the plan of `call`, and assert that `other` gets what it would get if it were planned anew.

    Return that plan, or None if none was kept.
    """
    keep(call, gpu=gpu)
    assert plan_cache.key(other) == plan_cache.key(call)
    if not plan_cache.plans.entries:
        return None
    found, allocated, copies = filled_in(other, monkeypatch)
    assert found is not None
    new = planned(other, gpu=gpu)
    new_copies, new_memory = [copy for copy, *_ in new.copies], [*new.results, *new.workspaces]
    assert (found.plan.tile, found.plan.request) == (new.tile, new.request)
    assert by_role(started(found, new), roles_of(other, allocated, copies)) == by_role(
        newly_started(new), roles_of(other, new_memory, new_copies)
    )
    assert looks(allocated) == looks(new_memory)
    assert looks(list(found.results)) == looks(list(new.results))
    assert looks(copies) == looks(new_copies)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(copies, new_copies, strict=True))
    return new


@pytest.mark.parametrize("block", range(4))
def test_a_kept_plan_is_what_planning_anew_gives(block: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the problems have random small tiles, and the others those that are picked for a random GPU."""
    met: Counter[str] = Counter()
    for seed in range(block, PROBLEMS, 4):
        rng = random.Random(f"equal keys {seed}")
        case = drawn_case(seed, rng)
        if case.batch == 0:
            continue  # plans without a launch are not kept
        with monkeypatch.context() as patch, convolution_precision(rng.choice(["ieee", "tf32"])):
            if rng.random() < 0.5:
                patch.setattr(tile_choice, "pick", partial(small_tile, seed))
            gpu = rng.choice(GPUS)
            for call in drawn_calls(case, rng, device):
                bounded_cache.clear()
                plan = compare(call, moved(call, rng), gpu, monkeypatch)
                if plan is not None:
                    met.update({call.name: 1, "tma": plan.tile.uses_tma, "varies": call.settings.varies != ""})
                    met.update({"copies": len(plan.copies) > 0, "workspaces": len(plan.workspaces) > 0})
    assert min(met.values()) >= 10, met
    assert sum(met[name] for name in OPERATOR_OF) >= 300


def small_tile(seed: int, geometry: ConvGeometry, operator: Operator, operands: Operands, _: Gpu) -> Tile:
    """Return the small tile that the sweep draws. It takes the place of `pick`."""
    return drawn_tile(seed, operator, geometry, operands.tma_possible)
