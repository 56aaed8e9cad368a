"""Memory that an allocator did not align: kept plans are not used for it, and copies that must be aligned are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.gpus import H200
from tests.support.kept import find
from tests.support.neighbours import shifted
from tests.support.plans import planned
from tritonconv.call import Call
from tritonconv.geometry import ConvGeometry
from tritonconv.launch import kept_plan, layout
from tritonconv.operators.compute import compute

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


def shifting(make: Callable[..., Tensor], *of: Tensor) -> Callable[..., Tensor]:
    """Return a function that returns what `make` returns, `shifted` unless it is the first argument itself."""

    def making(*arguments: Any, **more: Any) -> Tensor:
        made = make(*arguments, **more)
        first = arguments[0] if arguments else None
        return made if isinstance(first, Tensor) and made.data_ptr() == first.data_ptr() else shifted(made)

    return making


@contextmanager
def misaligned_copies() -> Iterator[None]:
    """Within this block, no copy of a tensor and no memory for one is aligned. Results and workspaces are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "clone", shifting(Tensor.clone))
        patch.setattr(Tensor, "contiguous", shifting(Tensor.contiguous))
        patch.setattr(layout, "pad", shifting(layout.pad))
        patch.setattr(torch, "empty", shifting(torch.empty))
        yield


def ints(*shape: int, device: str) -> Tensor:
    return torch.randint(-2, 3, shape, device=device).float()


LAID_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "adjacent_channels": partial(layout.adjacent_channels, channels=8),
    "dense_rows": layout.dense_rows,
    "weight_channels_last": layout.weight_channels_last,
    "weight_filters_last": partial(layout.weight_filters_last, groups=2),
    "weight_filters_last_and_padded": partial(layout.weight_filters_last, groups=2, multiple=8),
    "aligned": lambda tensor: layout.aligned(shifted(tensor)),
    "aligned_channels_last": lambda tensor: layout.aligned(shifted(tensor.to(memory_format=torch.channels_last))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("how", LAID_OUT)
def test_copies_that_kernels_load_by_vectors_are_aligned(how: str, dtype: torch.dtype, device: str) -> None:
    tensor = torch.randn(8, 8, 3, 2, device=device).to(dtype)
    expected = LAID_OUT[how](tensor)
    with misaligned_copies():
        assert tensor.clone().data_ptr() % 16 == 8
        found = LAID_OUT[how](tensor)
    assert found.data_ptr() % 16 == 0
    assert found.data_ptr() != tensor.data_ptr()
    assert found.stride() == expected.stride()
    assert torch.equal(found, expected)


def test_memory_for_descriptors_is_aligned(device: str) -> None:
    for size in (0, 1, 100):
        for alignment in (1, 16, 128, 4096):
            for context in (misaligned_copies, torch.no_grad):
                with context():
                    memory = layout.aligned_bytes(torch.device(device), size, alignment)
                assert (memory.shape, memory.element_size()) == ((size,), 1)
                assert memory.data_ptr() % alignment == 0
    assert layout.aligned_bytes(torch.device(device), 100, 16).untyped_storage().nbytes() == 100


def folded(device: str) -> Call:
    """Return a call that TMA kernels compute, whose image and weight are copied: each by one function of `layout`."""
    geometry = ConvGeometry(B=2, C=64, H=8, W=8, F=64, P=4, Q=4, R=2, S=2, stride_h=2, stride_w=2)
    wide = torch.zeros(2, 8, 8, 128, device=device).half().movedim(-1, 1)
    return Call.of_geometry("fprop", geometry, (wide[:, :64], torch.zeros(geometry.weight_shape, device=device).half()))


def test_descriptors_are_of_aligned_memory(device: str) -> None:
    with misaligned_copies():
        plan = planned(folded(device), gpu=H200)
    (launch,) = plan.launches
    assert plan.tile.uses_tma
    assert launch.arguments["LOADS_FOLDED"]
    assert len(plan.copies) == 2
    assert [launch.arguments[name].data_ptr() % 16 for name in ("x_ptr", "weight_ptr")] == [0, 0]


def test_results_that_are_not_aligned_are_stored_one_by_one(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = folded(device)
    for allocate, vector in ((layout.allocate, 8), (shifting(layout.allocate), 1)):
        monkeypatch.setattr(layout, "allocate", allocate)
        (launch,) = planned(call, gpu=H200).launches
        assert launch.arguments["VECTOR_Y"] == vector


def with_bias_gradient(device: str) -> Call:
    """Return a call with two results and two workspaces."""
    geometry = ConvGeometry(B=2, C=4, H=5, W=5, F=4, P=3, Q=3, R=3, S=3)
    x, y = ints(*geometry.image_shape, device=device), ints(*geometry.feature_shape, device=device)
    return Call.of_geometry("wgrad", geometry, (x, y), finds_bias=True)


def right(call: Call) -> bool:
    x, y = (each.double() for each in call.factors)
    weight, bias = compute(call)
    expected = torch.nn.grad.conv2d_weight(x, weight.shape, y)
    return torch.equal(weight.double(), expected) and torch.equal(bias.double(), y.sum((0, 2, 3)))


def found_if_shifted(call: Call, which: int) -> bool:
    """Whether the kept plan of `call` is found if, of all that is allocated for it, only number `which` is shifted."""
    numbers, again = count(), kept_plan.allocators[call.device.type]
    shift = shifting(again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            kept_plan.allocators, call.device.type, lambda *of: (shift if next(numbers) == which else again)(*of)
        )
        return find(call) is not None


def test_a_kept_plan_is_not_used_for_memory_of_another_alignment(device: str) -> None:
    """Each result and each workspace counts. With -1, none is shifted."""
    call = with_bias_gradient(device)
    assert right(call)
    assert [found_if_shifted(call, which) for which in range(-1, 4)] == [True] + [False] * 4


def test_a_plan_is_kept_for_the_alignment_that_it_was_made_for(device: str) -> None:
    """An allocator that aligns nothing has kept plans, too. When it is replaced, they are not used again."""
    call = with_bias_gradient(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "allocate", shifting(layout.allocate))
        patch.setitem(kept_plan.allocators, call.device.type, shifting(kept_plan.allocators[call.device.type]))
        for _ in range(2):
            assert right(call)
            assert find(call) is not None
    assert find(call) is None
    assert right(call)
    assert find(call) is not None


def test_a_copy_of_another_alignment_counts(device: str) -> None:
    """Here it is the copy of a bias with gaps. Kernels load it element by element, so nothing else aligns it."""
    geometry = ConvGeometry(B=1, C=4, H=3, W=3, F=4, P=1, Q=1, R=3, S=3)
    x, weight = ints(*geometry.image_shape, device=device), ints(*geometry.weight_shape, device=device)
    call = Call.of_geometry("fprop", geometry, (x, weight), ints(4, 2, device=device)[:, 0])
    compute(call)
    assert find(call) is not None
    with misaligned_copies():
        assert find(call) is None
