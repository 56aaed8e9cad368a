"""The fast path in training: under DDP, FSDP2 and DTensor.

Each training takes three steps with other images, and must give the same bits as one that only takes the long way.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.processes import ran
from tests.support.training import FAST, LONG, STEPS, Step, images, network, stepping, trained

pytest.importorskip("triton")

pytestmark = pytest.mark.oldest


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
