"""The fast path in training: under DDP, FSDP2 and DTensor, and with hooks on tensors, gradients and modules.

Each training takes three steps with other images, and must give the same bits as one that only takes the long way.
"""

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.processes import ran
from tests.support.ways import without_fast_path
from tritonconv.fast_path import forward, function
from tritonconv.launch import bounded_cache
from tritonconv.operators import autograd

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

STEPS = 3
# For each step, how many calls of the two layers of `network` go the long way forward, and how many backward. A
# backward pass is kept in the second step, because only a call on the fast path has a backward pass to keep.
FAST = [[2, 2], [0, 2], [0, 0]]
LONG = [[2, 2]] * STEPS


def network(device: str = "cpu") -> nn.Sequential:
    """Return two layers with an activation between them, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(tritonconv.Conv2d(3, 4, 3), nn.ReLU(), tritonconv.ConvTranspose2d(4, 2, 2)).to(device)


def images(number: int, device: str = "cpu") -> Tensor:
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(number)).to(device)


class Trained(NamedTuple):
    """What a training gave: after each step, its tensors, and how many calls took the long way (as in `FAST`)."""

    tensors: list[list[Tensor]]
    long_ways: list[list[int]]

    def same_bits(self, other: "Trained") -> bool:
        pairs = [pair for steps in zip(self.tensors, other.tensors, strict=True) for pair in zip(*steps, strict=True)]
        return len(pairs) > STEPS and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


# Takes a step by its number, and returns its result and all weights after it.
Step = Callable[[int], list[Tensor]]


def trained(begin: Callable[[], Step], fast: bool = True) -> Trained:
    """Take three steps with what `begin` returns, from empty caches, by the fast path where it may be taken, or not."""
    found, counts = Trained([], []), [0, 0]

    def counted(way: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[place] += 1
            return way(*arguments)

        return call

    bounded_cache.clear()
    with pytest.MonkeyPatch.context() as patch, nullcontext() if fast else without_fast_path():
        patch.setattr(forward, "checked_and_computed", counted(forward.checked_and_computed, 0))
        for module in (function, autograd):
            patch.setattr(module, "pull_back", counted(module.pull_back, 1))
        step = begin()
        for number in range(STEPS):
            counts[:] = 0, 0
            found.tensors.append([each.detach().clone() for each in step(number)])
            found.long_ways.append(counts.copy())
    return found


def stepping(model: nn.Module, device: str = "cpu", optimizer: torch.optim.Optimizer | None = None) -> Step:
    """Return a step of a model: forward, backward and an optimizer, which is SGD with momentum unless one is passed."""
    chosen = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(number: int) -> list[Tensor]:
        y = model(images(number, device))
        y.square().mean().backward()
        chosen.step()
        chosen.zero_grad()
        return [y, *model.parameters()]

    return step


def in_process(expression: str, tmp_path: Path) -> Any:
    """Return the value of an expression in the names of this file, in a process of its own with a process group."""
    code = f"""
import json
import torch
from torch import distributed
from tests.fast_path import test_distributed
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method="file://{tmp_path}/group", rank=0, world_size=1)
print(json.dumps(eval({expression!r}, vars(test_distributed))))
distributed.destroy_process_group()
"""
    done = ran(code, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def compared(begin: Callable[..., Step], **arguments: Any) -> list[Any]:
    """Train by the fast path and by the long way. Return whether the bits are the same, and the `long_ways` of both."""
    fast, slow = trained(partial(begin, **arguments)), trained(partial(begin, **arguments), fast=False)
    return [fast.same_bits(slow), fast.long_ways, slow.long_ways]


def ddp(compressed: bool = False, accumulates: bool = False, **more: Any) -> Step:
    """Return a step under DistributedDataParallel.

    If `compressed`, gradients are reduced in float16. If `accumulates`, those of another batch are added to them.
    """
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(network(), **more)
    if compressed:
        model.register_comm_hook(None, fp16_compress_hook)
    step = stepping(model)

    def two_batches(number: int) -> list[Tensor]:
        with model.no_sync():
            model(images(STEPS + number)).square().mean().backward()
        return step(number)

    return two_batches if accumulates else step


def test_ddp(tmp_path: Path) -> None:
    ways: list[dict[str, bool]] = [
        {},
        {"compressed": True},
        {"gradient_as_bucket_view": True},
        {"static_graph": True},
        {"find_unused_parameters": True},
    ]
    assert in_process(f"[compared(ddp, **way) for way in {ways}]", tmp_path) == [[True, FAST, LONG]] * len(ways)


def test_ddp_without_sync(tmp_path: Path) -> None:
    """The second batch of the first step already takes the fast path, so its backward pass is kept."""
    fast, slow = [[2, 4], [0, 0], [0, 0]], [[4, 4]] * STEPS
    assert in_process("compared(ddp, accumulates=True)", tmp_path) == [True, fast, slow]


def fsdp(dtype: str | None = None, reshard: bool = True) -> Step:
    """Return a step under FSDP2, which computes in the dtype of this name, and reduces gradients in float32.

    If `reshard`, the gathered weights are freed after forward, and gathered anew for backward.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model, mesh = network(), init_device_mesh("cpu", (1,))
    policy = MixedPrecisionPolicy(param_dtype=dtype and getattr(torch, dtype), reduce_dtype=torch.float32)
    for each in (model[0], model[2], model):
        fully_shard(each, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    return in_full(stepping(model))


def in_full(step: Step) -> Step:
    """Return a step like this one that gathers the tensors that it returns."""

    def gathered(number: int) -> list[Tensor]:
        return [each.full_tensor() if hasattr(each, "full_tensor") else each for each in step(number)]

    return gathered


def test_fsdp2(tmp_path: Path) -> None:
    """The weights are sharded DTensors between steps, and tensors of torch's own type in forward and backward."""
    ways: list[dict[str, Any]] = [{}, {"reshard": False}, {"dtype": "bfloat16"}]
    assert in_process(f"[compared(fsdp, **way) for way in {ways}]", tmp_path) == [[True, FAST, LONG]] * len(ways)


def local() -> Step:
    """Return a step on the local parts of weights that are DTensors, replicated on all processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.replicated = distribute_module(network(), init_device_mesh("cpu", (1,)))

        def forward(self, x: Tensor) -> Tensor:
            weights = {name: each.to_local() for name, each in self.replicated.named_parameters()}
            return torch.func.functional_call(unused, weights, (x,))

    unused = network()
    return in_full(stepping(Local()))


def test_local_parts_of_dtensors(tmp_path: Path) -> None:
    assert in_process("compared(local)", tmp_path) == [True, FAST, LONG]


def refusals() -> list[str]:
    """Return the errors of calls whose weights, and whose image too, are DTensors with the same numbers and sizes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module, distribute_tensor

    mesh, found = init_device_mesh("cpu", (1,)), []
    model = distribute_module(network(), mesh)
    for image in (images(0), distribute_tensor(images(0), mesh)):
        with pytest.raises(Exception) as refused:  # noqa: PT011
            model(image)
        found.append(f"{type(refused.value).__name__}: {refused.value}")
    return found


def refused_later() -> list[Any]:
    """Return the `refusals` before and after a training on torch's own tensors, with its `long_ways` between them."""
    return [refusals(), trained(lambda: stepping(network())).long_ways, refusals()]


def test_dtensors_are_seen_by_torch(tmp_path: Path) -> None:
    """The operators have no rules for DTensors, and torch says so, also after equal calls on its own tensors."""
    before, long_ways, after = in_process("refused_later()", tmp_path)
    assert long_ways == FAST
    assert before == after
    mixed, alike = after
    assert "tritonconv.fprop.default got mixed torch.Tensor and DTensor" in mixed
    assert "tritonconv.fprop.default does not have a sharding strategy registered" in alike


# Adds hooks to a model, which may append tensors to the list. A step then returns these, too.
Adding = Callable[[nn.Sequential, list[Tensor]], object]


def on_weights(model: nn.Sequential, _: list[Tensor]) -> None:
    """Change each gradient of a weight before it is added up."""
    for each in model.parameters():
        each.register_hook(lambda gradient: 2 * gradient)


def on_accumulation(model: nn.Sequential, seen: list[Tensor]) -> Any:
    """Note what the nodes that add up gradients are given, and have added up."""
    nodes = [each.expand_as(each).grad_fn.next_functions[0][0] for each in model.parameters()]  # type: ignore[union-attr]
    for node, each in zip(nodes, model.parameters(), strict=True):
        node.register_prehook(lambda gradients: seen.append(gradients[0].clone()))
        node.register_hook(lambda *_, of=each: seen.append(of.grad.clone()))
    return nodes  # a leaf's node lives only as long as something refers to it


def after_accumulation(model: nn.Sequential, seen: list[Tensor]) -> None:
    for each in model.parameters():
        each.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.clone()))


def optimizer_in_backward(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Change each weight as soon as its gradient is added up, while backward goes on."""

    def optimize(weight: Tensor) -> None:
        assert weight.grad is not None
        seen.append(weight.grad)
        with torch.no_grad():
            weight -= weight.grad
        weight.grad = None

    for each in model.parameters():
        each.register_post_accumulate_grad_hook(optimize)


def of_modules(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Note all gradients of modules, and change those of their results and images."""

    def before(_: nn.Module, gradients: Any) -> Any:
        seen.extend(gradients)
        return tuple(2 * each for each in gradients)

    def after(_: nn.Module, of_inputs: Any, of_results: Any) -> Any:
        seen.extend(each for each in (*of_inputs, *of_results) if each is not None)
        return tuple(None if each is None else -each for each in of_inputs)

    for layer in model:
        layer.register_full_backward_pre_hook(before)
        layer.register_full_backward_hook(after)


def of_results(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Note the gradients of results, and change them to tensors with other strides."""

    def turned(gradient: Tensor) -> Tensor:
        seen.append(gradient.clone())
        return gradient.transpose(2, 3).contiguous().transpose(2, 3)

    def add(_: nn.Module, images: Any, y: Tensor) -> None:
        y.register_hook(turned)

    for layer in model:
        layer.register_forward_hook(add)


def of_nodes(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Note what the nodes of autograd's graph are given and return: a gradient for each tensor of a layer."""

    def add(layer: nn.Module, images: Any, y: Tensor) -> None:
        assert y.grad_fn is not None
        y.grad_fn.register_prehook(lambda gradients: tuple(3 * each for each in gradients))
        y.grad_fn.register_hook(lambda found, given: seen.extend(each for each in (*found, *given) if each is not None))
        y.grad_fn.register_hook(lambda found, _: seen.append(torch.tensor(len(found))))

    for layer in model:
        layer.register_forward_hook(add)


ADDING = (on_weights, on_accumulation, after_accumulation, optimizer_in_backward, of_modules, of_results, of_nodes)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed:UserWarning")
@pytest.mark.parametrize("add", ADDING, ids=lambda add: add.__name__)
def test_hooks(add: Adding, device: str) -> None:
    """They are called in the same order, with the same bits, and what they return takes effect."""

    def begin() -> Step:
        model, seen = network(device), list[Tensor]()
        kept, step = add(model, seen), stepping(model, device)

        def noting(number: int) -> list[Tensor]:
            seen.clear()
            found = step(number)
            assert kept is None or kept
            return [*found, *seen]

        return noting

    fast, slow = trained(begin), trained(begin, fast=False)
    assert fast.same_bits(slow)
    assert (fast.long_ways, slow.long_ways) == (FAST, LONG)
